/* checkpoint_files.h - the tensors of a checkpoint: model.safetensors (f32 masters, a Hugging Face
 * file) and optimizer.safetensors (one tensor per state and optimized parameter, "exp_avg.NAME").
 *
 * Tensors are whole whatever the layout of ranks is, so that a checkpoint doesn't know how it was
 * written, and any layout reads it. Ranks write and read their own pieces, side by side: a checkpoint
 * has the same few files for one rank and for 10,000, and no rank holds more of it in memory than one
 * block of a piece (pieces.h).
 */
#ifndef DS_TRAIN_CHECKPOINT_FILES_H
#define DS_TRAIN_CHECKPOINT_FILES_H

#include "train/checkpoint_pieces.h"
#include "train/tensor_file.h"

/* ---- writing */

/* Both files, planned; every rank plans the same. Zero-initialize; finish in any case. */
typedef struct ds_checkpoint_plan {
  ds_engine_pieces pieces;
  int n_files; /* 1 when there are no states */
  ds_tensor_file files[2];
} ds_checkpoint_plan;

DS_MUST_USE ds_status ds_checkpoint_plan_init(ds_checkpoint_plan *p, ds_engine *e,
                                              const char *folder, ds_error *err);
/* model.safetensors alone, at any path: f32, or bf16 (bits16). */
DS_MUST_USE ds_status ds_checkpoint_plan_model(ds_checkpoint_plan *p, ds_engine *e,
                                               const char *path, bool bits16, ds_error *err);
void ds_checkpoint_plan_finish(ds_checkpoint_plan *p);

/* One rank, first. */
DS_MUST_USE ds_status ds_checkpoint_plan_create(const ds_checkpoint_plan *p, ds_error *err);
/* Each rank: its own pieces, on the disk afterwards. *elements: how many were written. */
DS_MUST_USE ds_status ds_checkpoint_plan_write(const ds_checkpoint_plan *p, uint64_t *elements,
                                               ds_error *err);
/* Each rank, when all have written: what is stored transposed (turn.h). */
DS_MUST_USE ds_status ds_checkpoint_plan_turn(const ds_checkpoint_plan *p, const ds_engine *e,
                                              ds_error *err);
/* One rank, when all have done that, or given up: scratch files go. */
void ds_checkpoint_plan_clean(const ds_checkpoint_plan *p);
/* Each rank, with how many it wrote: DS_ERR_STATE where they aren't all there are, since an element
 * that is nobody's would be zero in the file. Collective over the world. */
DS_MUST_USE ds_status ds_checkpoint_plan_count(const ds_checkpoint_plan *p, ds_engine *e,
                                               uint64_t elements, ds_error *err);

/* ---- reading */

/* Both files, open. Zero-initialize. */
typedef struct ds_checkpoint_files {
  ds_engine_pieces pieces;
  ds_safetensors *model, *optimizer; /* optimizer: NULL when the engine has no states */
  const ds_safetensor **tensors;     /* [1 + states][parameters]; NULL: there is none */
  float *room;
} ds_checkpoint_files;

/* Opens them and checks that they hold exactly what the engine needs. Finish in any case. */
DS_MUST_USE ds_status ds_checkpoint_files_open(ds_checkpoint_files *f, ds_engine *e,
                                               const char *folder, ds_error *err);
/* This rank's numbers to the device. After a successful open only the device can fail here.
 * ds_zero_settle() must follow. */
DS_MUST_USE ds_status ds_checkpoint_files_read(ds_checkpoint_files *f, ds_engine *e, ds_error *err);
void ds_checkpoint_files_finish(ds_checkpoint_files *f);

#endif
