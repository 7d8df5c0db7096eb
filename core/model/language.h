/* language.h - what language models share around their blocks; all of it over ds.h. */
#ifndef DS_MODEL_LANGUAGE_H
#define DS_MODEL_LANGUAGE_H

#include "base/status.h"
#include "ds.h"

/* Batch and length of ids i32[B,T]. False after recording a failure: no such ids, or more than
 * max_positions tokens behind `before` earlier ones. */
bool ds_language_check(ds_ctx *ctx, const ds_value *ids, int64_t before, int64_t max_positions,
                       int64_t *batch, int64_t *length);
/* [B,T,width] for a batch whose first tensor is ids i32[B,T]; an error as above. */
DS_MUST_USE ds_status ds_language_hidden(const ds_batch *batch, int64_t max_positions,
                                         int64_t width, int32_t *rank, int64_t *shape,
                                         ds_error *err);
/* [B,T,C] -> [B,C], the last position of each row. */
ds_value *ds_language_last(ds_ctx *ctx, ds_value *x);
/* What forward() returns: logits [B,T,V] themselves, or with labels (inputs[1]) the mean loss. */
ds_value *ds_language_output(ds_ctx *ctx, ds_value *logits, ds_value *const *inputs, int n_inputs);

#endif
