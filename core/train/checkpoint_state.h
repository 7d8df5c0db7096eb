/* checkpoint_state.h - engine.json: everything of a checkpoint that is no tensor. */
#ifndef DS_TRAIN_CHECKPOINT_STATE_H
#define DS_TRAIN_CHECKPOINT_STATE_H

#include "data/dataloader.h"
#include "train/engine.h"

typedef struct ds_checkpoint_state {
  int64_t global_steps, global_samples, micro_steps, skipped_steps;
  uint64_t seed;
  double grad_norm; /* NAN: none yet */
  int n_groups;
  double *lr;      /* of the groups, for the next update */
  bool has_scaler; /* of a dynamic loss scale; its rules are the engine's */
  ds_loss_scaler scaler;
  bool has_loader;
  ds_dataloader_state loader;
  char *client_state; /* NULL = none */
} ds_checkpoint_state;

/* client_state: JSON text or NULL. */
DS_MUST_USE ds_status ds_checkpoint_state_write(const ds_engine *e, const char *folder,
                                                const char *client_state, ds_error *err);
/* Reads it and checks that the engine can go on from it: same optimizer, same number of groups. out
 * is zeroed first; finish in any case. */
DS_MUST_USE ds_status ds_checkpoint_state_read(ds_checkpoint_state *out, const ds_engine *e,
                                               const char *folder, ds_error *err);
void ds_checkpoint_state_finish(ds_checkpoint_state *s);

#endif
