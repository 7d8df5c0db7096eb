/* checkpoint_files.h - the tensors of a checkpoint: model.safetensors (f32 masters, a Hugging Face
 * file) and optimizer.safetensors (one tensor per state and optimized parameter, "exp_avg.NAME").
 */
#ifndef DS_TRAIN_CHECKPOINT_FILES_H
#define DS_TRAIN_CHECKPOINT_FILES_H

#include "model/safetensors.h"
#include "train/engine.h"

/* Writes both, and config.json where the model has one, into a folder. */
DS_MUST_USE ds_status ds_checkpoint_files_write(ds_engine *e, const char *folder, ds_error *err);

/* Both files, open. Zero-initialize. */
typedef struct ds_checkpoint_files {
  ds_safetensors *model, *optimizer; /* optimizer: NULL when the engine has no states */
  float *host;                       /* room for the largest parameter, twice */
} ds_checkpoint_files;

/* Opens them and checks that they hold exactly what the engine needs. Finish in any case. */
DS_MUST_USE ds_status ds_checkpoint_files_open(ds_checkpoint_files *f, ds_engine *e,
                                               const char *folder, ds_error *err);
/* Their numbers to the device. After a successful open only the device can fail here. */
DS_MUST_USE ds_status ds_checkpoint_files_read(ds_checkpoint_files *f, ds_engine *e, ds_error *err);
void ds_checkpoint_files_finish(ds_checkpoint_files *f);

/* Gives master weights to ds_model_save_weights: ctx is a ds_engine. */
ds_status ds_checkpoint_files_source(void *ctx, int index, float *out, ds_error *err);

#endif
