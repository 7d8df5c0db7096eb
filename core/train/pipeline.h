/* pipeline.h - this rank's stage of a pipeline of blocks: the forward and backward passes of a step.
 *
 * The ranks of the `pipe` axis each run some neighbouring blocks of the model. A micro batch goes
 * through the stages as hidden values [B,T,C] in the compute dtype, and back as their gradients, in
 * the order of parallel/pipe_schedule.h: of S stages stage s holds the values of at most S-s micro
 * batches, each in a context of its own. All stages read the same batches. Gradients of parameters
 * add up in the slots, micro batch after micro batch, as on one rank; those of parameters that two
 * stages have (tied ones) are parts, to be summed over both (ds_shard.sum).
 *
 * Messages go on two side streams with communicators of their own, one for each direction, so that
 * a stage goes on computing while its results travel.
 */
#ifndef DS_TRAIN_PIPELINE_H
#define DS_TRAIN_PIPELINE_H

#include "model/model.h"
#include "ops/ctx.h"
#include "ops/parallel.h"
#include "parallel/topology.h"

typedef struct ds_pipeline ds_pipeline;

typedef struct ds_pipeline_args {
  ds_backend *backend;
  ds_model *model;      /* that can be split: ds_model_blocks */
  const ds_axis *pipe;  /* of two stages and more; the group stays the caller's */
  int first, last;      /* this stage's blocks, [first,last) */
  ds_param_slot *slots; /* the caller's, as for ds_ctx_bind_params */
  int n_slots;
  int32_t dtype;    /* that is computed in */
  ds_group *tensor; /* as for ds_ctx_bind_tensor, without sequence parallelism; or NULL */
  const ds_param_split *splits; /* the caller's */
  ds_group *sequence;           /* as for ds_ctx_bind_sequence; or NULL */
  double share;                 /* gradients are those of the mean loss, divided by this; > 0 */
} ds_pipeline_args;

/* Collective over the stages. */
DS_MUST_USE ds_status ds_pipeline_create(const ds_pipeline_args *args, ds_pipeline **out,
                                         ds_error *err);
/* Waits for messages in flight. The groups end before the memory. NULL is allowed. */
void ds_pipeline_destroy(ds_pipeline *p);

/* From the next step on gradients are multiplied by this, that of the loss in fp16; 1 at first. */
void ds_pipeline_set_scale(ds_pipeline *p, double scale);

/* Gives the next micro batch; its data stays valid until the next call. */
typedef ds_status (*ds_pipeline_source)(void *ctx, ds_batch *batch, ds_error *err);

/* All micro batches of a step (micros >= 1, on all stages alike); collective over the stages.
 * Gradients are those of the mean loss, added to what the slots have; *loss, in device memory, gets
 * that mean, on every stage. step: its number, for traces. Waits.
 *
 * A stage whose computation fails (out of memory, ids that are out of range) goes on sending and
 * receiving, without meaning, so that the others aren't left waiting; then all fail: it with its
 * own failure, the others naming the stage. Messages that fail are DS_ERR_TIMEOUT and the like at
 * once, and the pipeline can't be used again. Gradients are undefined after a failure. */
DS_MUST_USE ds_status ds_pipeline_run(ds_pipeline *p, int64_t micros, int64_t step,
                                      ds_pipeline_source source, void *source_ctx, float *loss,
                                      ds_error *err);

/* The most micro batches that were between their passes in the last step. */
int ds_pipeline_peak(const ds_pipeline *p);
/* The two communicators, for counting: i is 0 (hidden values) or 1 (gradients). */
const ds_group *ds_pipeline_group(const ds_pipeline *p, int i);

#endif
