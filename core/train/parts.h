/* parts.h - which part of the model this rank has, under tensor parallelism and in a pipeline:
 * e->local, e->shards, and what its context knows of it. */
#ifndef DS_TRAIN_PARTS_H
#define DS_TRAIN_PARTS_H

#include "train/engine.h"

/* Once the parameters are declared and the topology is connected. Collective over the model group. */
DS_MUST_USE ds_status ds_parts_init(ds_engine *e, ds_error *err);
void ds_parts_finish(ds_engine *e);
/* After a failure: the stream beside the backend's works again. */
DS_MUST_USE ds_status ds_parts_revive(ds_engine *e, ds_error *err);

/* This rank's part of a parameter's elements, numel(params) floats, to numel(local) of them; they may
 * be the same memory. */
void ds_parts_take(const ds_engine *e, int index, const float *whole, float *here);
/* All of it from what each rank has. Collective over the model group. here and whole may be the same
 * where this rank has all. */
DS_MUST_USE ds_status ds_parts_join(ds_engine *e, int index, const float *here, float *whole,
                                    ds_error *err);

#endif
