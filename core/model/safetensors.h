/* safetensors.h - reading and writing .safetensors files.
 *
 * The format: 8 bytes little-endian header length N, N bytes of JSON {"name": {"dtype", "shape",
 * "data_offsets": [begin, end]}, ..., "__metadata__": {string: string}}, then the data, which the
 * tensors cover without holes or overlaps. Weights of Hugging Face folders and dscore's own
 * checkpoints are such files.
 *
 * A file is a stranger: whatever its bytes are, opening it gives a status and never reads beyond
 * it. Only a file that shrinks while it is open is beyond protection (it is mapped).
 */
#ifndef DS_MODEL_SAFETENSORS_H
#define DS_MODEL_SAFETENSORS_H

#include "base/status.h"

#include <stdbool.h>

/* A tensor of an open file. */
typedef struct ds_safetensor {
  const char *name;
  const char *type; /* as the file calls it: "F32", "BF16", ... */
  int32_t dtype;    /* ds_dtype; -1 for those this library has no use for (BOOL, I16, ...) */
  int32_t rank;
  int64_t shape[DS_MAX_RANK];
  const unsigned char *data; /* as stored, little-endian; may be unaligned */
  size_t bytes;
} ds_safetensor;

typedef struct ds_safetensors ds_safetensors;

/* path: a .safetensors file, or the .safetensors.index.json of one that is split into shards (they
 * must stand in its folder). DS_ERR_NOT_FOUND: no such file; DS_ERR_FORMAT: not a valid one, and
 * the message says what and where. */
DS_MUST_USE ds_status ds_safetensors_open(const char *path, ds_safetensors **out, ds_error *err);
/* As ds_safetensors_open, of bytes in memory, which must stay there. name: for messages. */
DS_MUST_USE ds_status ds_safetensors_parse(const void *data, size_t size, const char *name,
                                           ds_safetensors **out, ds_error *err);
void ds_safetensors_close(ds_safetensors *s);

size_t ds_safetensors_count(const ds_safetensors *s);
/* In order of names; index < count. Valid until close. */
const ds_safetensor *ds_safetensors_at(const ds_safetensors *s, size_t index);
/* NULL when there is none of that name. */
const ds_safetensor *ds_safetensors_find(const ds_safetensors *s, const char *name);
/* A value of the file's metadata (of the first shard); NULL when it has none. Valid until close. */
const char *ds_safetensors_metadata(const ds_safetensors *s, const char *key);
/* The elements as f32. DS_ERR_UNSUPPORTED for a dtype that does not convert. */
DS_MUST_USE ds_status ds_safetensor_read_f32(const ds_safetensor *t, float *out, ds_error *err);

/* Writing: create, metadata and add in any order, begin, the data of all tensors in the order of
 * their adds, commit, destroy. Nothing appears at path before commit (base/file.h's ds_writer). */
typedef struct ds_safetensors_writer ds_safetensors_writer;

DS_MUST_USE ds_status ds_safetensors_writer_create(const char *path, ds_safetensors_writer **out,
                                                   ds_error *err);
/* Drops what was not committed. */
void ds_safetensors_writer_destroy(ds_safetensors_writer *w);
DS_MUST_USE ds_status ds_safetensors_writer_metadata(ds_safetensors_writer *w, const char *key,
                                                     const char *value, ds_error *err);
/* dtype: any but DS_I4. A name that is there already is DS_ERR_INVALID. */
DS_MUST_USE ds_status ds_safetensors_writer_add(ds_safetensors_writer *w, const char *name,
                                                int32_t dtype, int32_t rank, const int64_t *shape,
                                                ds_error *err);
/* What the file begins with, new (free() it), and how many bytes the whole file has. The data
 * follows, tensor after tensor in the order of their adds: whoever knows the declarations knows where
 * each stands, so that several processes can write one file (base/shared_file.h). */
DS_MUST_USE ds_status ds_safetensors_writer_header(const ds_safetensors_writer *w, char **out,
                                                   size_t *bytes, uint64_t *total, ds_error *err);
/* Opens the file and writes the header. */
DS_MUST_USE ds_status ds_safetensors_writer_begin(ds_safetensors_writer *w, ds_error *err);
/* The next bytes of data, in pieces of any size. More than was added is DS_ERR_INVALID. */
DS_MUST_USE ds_status ds_safetensors_writer_write(ds_safetensors_writer *w, const void *data,
                                                  size_t bytes, ds_error *err);
/* DS_ERR_INVALID when data is missing. Afterwards the writer is only good to destroy. */
DS_MUST_USE ds_status ds_safetensors_writer_commit(ds_safetensors_writer *w, ds_error *err);

#endif
