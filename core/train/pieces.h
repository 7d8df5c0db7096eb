/* pieces.h - what a rank keeps of all parameters and optimizer states, to and from safetensors.
 *
 * A checkpoint's tensors are whole, whatever the ranks' layout was when it was written: each rank
 * writes the pieces that are its own to their places in one file, and reads those that it needs. A
 * rank never holds more of them in host memory than one block. Reading goes through a map of the
 * file, of which a rank touches the pages that have its elements: its share, but of a matrix that is
 * stored transposed all, once ranks have fewer rows than a page has elements (1,024).
 */
#ifndef DS_TRAIN_PIECES_H
#define DS_TRAIN_PIECES_H

#include "base/shared_file.h"
#include "model/safetensors.h"
#include "train/extents.h"
#include "zero/zero.h"

/* Elements of a block: what is read or written at once. */
enum { DS_PIECES_BLOCK = 4 << 20 };

/* A rank's pieces (zero/zero.h) and functions that read and write them: host memory, f32; elements
 * [from, from + n) of piece i. */
typedef struct ds_pieces {
  void *ctx;
  int n;
  ds_piece (*at)(void *ctx, int i);
  ds_status (*read)(void *ctx, int kind, int i, int64_t from, int64_t n, float *host,
                    ds_error *err);
  ds_status (*write)(void *ctx, int kind, int i, int64_t from, int64_t n, const float *host,
                     ds_error *err);
} ds_pieces;

/* Elements of the room that save and load need: the largest block of these pieces. */
int64_t ds_pieces_room(const ds_pieces *p);

/* Writes this rank's own pieces of a kind. stored: by parameter. at: by parameter, the byte in the
 * file where its tensor begins; 0 = it has none. dtype: what the file holds, DS_F32 or another float.
 * *elements grows by how many were written. */
DS_MUST_USE ds_status ds_pieces_save(const ds_pieces *p, int kind, const ds_stored *stored,
                                     const uint64_t *at, int32_t dtype, float *room,
                                     ds_shared_file *f, uint64_t *elements, ds_error *err);
/* Reads all pieces of a kind. tensors: by parameter, checked to be DS_F32 and of the stored shape; NULL
 * = it has none. */
DS_MUST_USE ds_status ds_pieces_load(const ds_pieces *p, int kind, const ds_stored *stored,
                                     const ds_safetensor *const *tensors, float *room,
                                     ds_error *err);

#endif
