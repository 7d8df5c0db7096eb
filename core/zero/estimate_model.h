/* estimate_model.h - a model's sizes for estimates, from its declaration: nothing is allocated. */
#ifndef DS_ZERO_ESTIMATE_MODEL_H
#define DS_ZERO_ESTIMATE_MODEL_H

#include "model/model.h"
#include "zero/estimate.h"

/* Parameters whose names have a number between dots ("h.3.", "layers.3.") are a block's; all blocks
 * must be alike, at most DS_ESTIMATE_PARAMS each. Tensor parallelism divides them as
 * parallel/shard.h says. DS_ERR_UNSUPPORTED for a model that isn't a stack of such blocks. */
DS_MUST_USE ds_status ds_estimate_model_of(ds_model *model, ds_estimate_model *out, ds_error *err);

#endif
