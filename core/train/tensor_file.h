/* tensor_file.h - a .safetensors file that all ranks write together.
 *
 * Every rank knows all declarations, so each plans the same file: its header, its size and where in it
 * every tensor stands. One rank creates it; then all write their pieces (pieces.h); then, when all
 * have, they turn what the file has transposed (turn.h), of which there is none in most models. One
 * file, however many ranks; its bytes depend on the numbers only, not on who wrote which. At 10,000
 * ranks each writes its share, with as many calls as it has runs in the file.
 */
#ifndef DS_TRAIN_TENSOR_FILE_H
#define DS_TRAIN_TENSOR_FILE_H

#include "train/pieces.h"
#include "train/turn.h"

/* Zero-initialize; to be finished. */
typedef struct ds_tensor_file {
  char *path;
  char *head;
  size_t head_bytes;
  uint64_t bytes; /* of the file */
  int first_kind, n_kinds, n_params;
  int32_t dtype;
  uint64_t
      *at; /* [n_kinds][n_params]: where a tensor begins; 0 = it isn't in the file, or turned */
  /* What is turned: */
  char *scratch;
  uint64_t scratch_bytes; /* 0: nothing is, and there is no such file */
  uint64_t *scratch_at;   /* by parameter, as at */
  ds_stored *plain;       /* by parameter: not transposed */
  ds_turn *turns;
  int n_turns;
} ds_tensor_file;

/* ranks: how many write. w: all tensors are added, in the order kind after kind, parameter after parameter. has: [n_kinds]
 * [n_params], or NULL: all are there. path: "FOLDER/NAME"; as the writer's only for messages. */
DS_MUST_USE ds_status ds_tensor_file_plan(ds_tensor_file *f, const char *path,
                                          const ds_safetensors_writer *w, const ds_stored *stored,
                                          int n_params, int first_kind, int n_kinds,
                                          const bool *has, int32_t dtype, int ranks, ds_error *err);
void ds_tensor_file_finish(ds_tensor_file *f);

/* One rank, before the others write. DS_ERR_IO when the disk has no room for all of it. */
DS_MUST_USE ds_status ds_tensor_file_create(const ds_tensor_file *f, ds_error *err);
/* Each rank: its own pieces, on the disk afterwards. *elements grows by how many they were: together
 * the ranks must have written ds_tensor_file_elements(). */
DS_MUST_USE ds_status ds_tensor_file_write(const ds_tensor_file *f, const ds_pieces *pieces,
                                           const ds_stored *stored, uint64_t *elements,
                                           ds_error *err);
uint64_t ds_tensor_file_elements(const ds_tensor_file *f);
/* Each rank, when all have written: its share of what is turned, on the disk afterwards. */
DS_MUST_USE ds_status ds_tensor_file_turn(const ds_tensor_file *f, int rank, int ranks,
                                          ds_error *err);
/* One rank, when all have turned, or given up: the scratch file goes. */
void ds_tensor_file_clean(const ds_tensor_file *f);

#endif
