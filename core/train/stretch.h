/* stretch.h - under sequence parallelism, the stretch of a batch's sequences that this rank has. */
#ifndef DS_TRAIN_STRETCH_H
#define DS_TRAIN_STRETCH_H

#include "train/engine.h"

/* Memory for cut batches. Zero-initialize. */
typedef struct ds_stretch {
  char *data[DS_MAX_BATCH_TENSORS];
  size_t capacity[DS_MAX_BATCH_TENSORS];
} ds_stretch;

/* out: of every tensor [B,T,...] the part [B,T/s,...] of this rank; others are as they were. The
 * data is valid until the next call. Without sequence parallelism out is batch. DS_ERR_INVALID,
 * naming the numbers, where T isn't a multiple of sequence_parallel_size, or is more than the model
 * has positions for. */
DS_MUST_USE ds_status ds_stretch_cut(ds_engine *e, const ds_batch *batch, ds_batch *out,
                                     ds_error *err);
/* Ranks with stretches of one sequence give gradients whose mean is the sequence's
 * (ops/sequence.h). Where gradients are summed over ranks, those of a rank are to be divided by
 * this. */
double ds_stretch_share(const ds_engine *e);
void ds_stretch_finish(ds_stretch *s);

#endif
