/* tensor_file.h - a .safetensors file that all ranks write together.
 *
 * Every rank knows all declarations, so each plans the same file: its header, its size and where in it
 * every tensor stands. One rank creates it, then all write their pieces (pieces.h): one file, however
 * many ranks; its bytes depend on the numbers only, not on who wrote which. At 10,000 ranks each
 * writes its share with as many calls as it has long runs in the file. A matrix that is stored
 * transposed (GPT-2's) goes out in runs of as many rows as a rank has of it: the fewer, the slower.
 */
#ifndef DS_TRAIN_TENSOR_FILE_H
#define DS_TRAIN_TENSOR_FILE_H

#include "train/pieces.h"

/* Zero-initialize; to be finished. */
typedef struct ds_tensor_file {
  char *path;
  char *head;
  size_t head_bytes;
  uint64_t bytes; /* of the file */
  int first_kind, n_kinds, n_params;
  int32_t dtype;
  uint64_t *at; /* [n_kinds][n_params]: where a tensor begins; 0 = it isn't in the file */
} ds_tensor_file;

/* w: all tensors are added, in the order kind after kind, parameter after parameter. has: [n_kinds]
 * [n_params], or NULL: all are there. path: "FOLDER/NAME"; as the writer's only for messages. */
DS_MUST_USE ds_status ds_tensor_file_plan(ds_tensor_file *f, const char *path,
                                          const ds_safetensors_writer *w, const ds_stored *stored,
                                          int n_params, int first_kind, int n_kinds,
                                          const bool *has, int32_t dtype, ds_error *err);
void ds_tensor_file_finish(ds_tensor_file *f);

/* One rank, before the others write. DS_ERR_IO when the disk has no room for all of it. */
DS_MUST_USE ds_status ds_tensor_file_create(const ds_tensor_file *f, ds_error *err);
/* Each rank: its own pieces, on the disk afterwards. *elements grows by how many they were: together
 * the ranks must have written ds_tensor_file_elements(). */
DS_MUST_USE ds_status ds_tensor_file_write(const ds_tensor_file *f, const ds_pieces *pieces,
                                           const ds_stored *stored, uint64_t *elements,
                                           ds_error *err);
uint64_t ds_tensor_file_elements(const ds_tensor_file *f);

#endif
