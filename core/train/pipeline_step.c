#include "train/pipeline_step.h"

#include "data/dataloader.h"
#include "train/pipeline.h"
#include "train/stretch.h"

ds_status ds_pipeline_step_init(ds_engine *e, ds_error *err) {
  const ds_axis *pipe = &e->topology.pipe;
  if (pipe->size == 1) return DS_OK;
  const int *bounds = e->stages.bounds;
  const ds_pipeline_args args = {.backend = e->backend,
                                 .model = e->model,
                                 .pipe = pipe,
                                 .first = bounds[pipe->rank],
                                 .last = bounds[pipe->rank + 1],
                                 .slots = e->slots,
                                 .n_slots = e->n_params,
                                 .dtype = ds_ctx_dtype(e->ctx),
                                 .tensor = e->topology.tensor.group,
                                 .splits = e->splits,
                                 .sequence = e->topology.sequence.group,
                                 .share = e->config.sum_gradients ? e->topology.sequence.size : 1};
  DS_TRY(ds_pipeline_create(&args, &e->pipeline, err));
  ds_log(&e->logger, DS_LOG_INFO, "pipeline stage %d of %d: blocks %d to %d of %d", pipe->rank,
         pipe->size, args.first, args.last - 1, e->stages.blocks);
  return DS_OK;
}

ds_status ds_pipeline_step_refuse(const ds_engine *e, const char *who, ds_error *err) {
  if (!e->pipeline) return DS_OK;
  return ds_fail(err, DS_ERR_UNSUPPORTED,
                 "%s: in a pipeline (pipeline.stages: %d) micro batches go through all stages "
                 "together; use ds_engine_train_batch",
                 who, e->topology.pipe.size);
}

static ds_status next_batch(void *ctx, ds_batch *batch, ds_error *err) {
  ds_engine *e = ctx;
  ds_batch whole;
  DS_TRY(ds_dataloader_next(e->loader, &whole, err));
  return ds_stretch_cut(e, &whole, batch, err);
}

/* Each of two stages has its part of the gradient of what they share. */
static ds_status sum_tied(ds_engine *e, ds_error *err) {
  for (int i = 0; e->tied && i < e->n_params; i++) {
    ds_param_slot *slot = &e->slots[i];
    int64_t n = ds_params_numel(e->local, i);
    bool tied;
    DS_TRY(ds_stages_tied(&e->stages, e->model, i, &tied, err));
    if (!tied || e->frozen[i]) continue;
    if (!slot->has_grad)
      DS_TRY(ds_backend_fill(e->backend, slot->grad, 0, (size_t)n * sizeof(float), err));
    slot->has_grad = true;
    DS_TRY(
        ds_group_allreduce(e->tied, NULL, slot->grad, slot->grad, n, DS_F32, DS_REDUCE_SUM, err));
  }
  return DS_OK;
}

ds_status ds_pipeline_step_run(ds_engine *e, ds_error *err) {
  int64_t micros = e->config.batch.accumulation;
  e->applied = false;
  /* Stages are summed over ranks at the end: tied gradients aren't complete before. */
  DS_TRY(ds_zero_begin(e->zero, false, err));
  ds_pipeline_set_scale(e->pipeline, e->scaler.scale);
  DS_TRY(
      ds_pipeline_run(e->pipeline, micros, e->global_steps + 1, next_batch, e, e->loss_sum, err));
  DS_TRY(sum_tied(e, err));
  e->micro_steps += micros;
  return DS_OK;
}
