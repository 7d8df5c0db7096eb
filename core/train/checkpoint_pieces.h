/* checkpoint_pieces.h - what a training engine's rank has of the model, as pieces.h wants it. */
#ifndef DS_TRAIN_CHECKPOINT_PIECES_H
#define DS_TRAIN_CHECKPOINT_PIECES_H

#include "train/engine.h"
#include "train/pieces.h"

typedef struct ds_engine_pieces {
  ds_pieces pieces;
  int n_params;
  ds_stored *masters; /* by parameter: as model.safetensors has it */
  ds_stored *states;  /* the same, never transposed */
} ds_engine_pieces;

/* Of the optimizer; 0 without one. */
int ds_engine_n_states(const ds_engine *e);

/* Zero-initialize out; finish it in any case. The engine must outlive it. */
DS_MUST_USE ds_status ds_engine_pieces_init(ds_engine_pieces *out, ds_engine *e, ds_error *err);
void ds_engine_pieces_finish(ds_engine_pieces *p);

#endif
