/* pipeline_step.h - what is different in an engine whose model is a pipeline of stages: micro batches
 * only come all together, by train_batch (as DeepSpeed's PipelineEngine has it). */
#ifndef DS_TRAIN_PIPELINE_STEP_H
#define DS_TRAIN_PIPELINE_STEP_H

#include "train/engine.h"

/* Once the parameters are there. Nothing to do where there is one stage. Collective over the stages. */
DS_MUST_USE ds_status ds_pipeline_step_init(ds_engine *e, ds_error *err);
/* In public functions for single micro batches: DS_ERR_UNSUPPORTED in a pipeline. */
DS_MUST_USE ds_status ds_pipeline_step_refuse(const ds_engine *e, const char *who, ds_error *err);
/* Forward and backward of all micro batches of a step, from the loader: gradients are complete on this
 * rank, e->loss_sum has the mean loss. */
DS_MUST_USE ds_status ds_pipeline_step_run(ds_engine *e, ds_error *err);

#endif
