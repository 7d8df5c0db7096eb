/* The engine's small functions: getters, reading and writing parameters, freeing. */
#include "train/engine.h"

#include "data/dataloader.h"
#include "train/observe.h"
#include "train/parts.h"
#include "train/pipeline.h"
#include "train/recorded.h"
#include "train/stretch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ds_engine_destroy(ds_engine *e) {
  if (!e) return;
  ds_dataloader_destroy(e->loader);
  /* First: a collective that was given up may still write to memory. */
  ds_pipeline_destroy(e->pipeline);
  ds_parts_finish(e);
  ds_topology_finish(&e->topology);
  ds_world_finish(&e->world);
  ds_recorded_finish(e);
  ds_ctx_destroy(e->ctx);
  if (e->owns_scheduler) ds_lr_scheduler_destroy(e->scheduler);
  if (e->owns_optimizer)
    ds_optimizer_destroy(e->optimizer);
  else
    ds_optimizer_unbind(e->optimizer);
  if (e->norm_sum) ds_backend_free(e->backend, e->norm_sum, sizeof(ds_step_scalars));
  ds_zero_destroy(e->zero);
  ds_stretch_finish(e->stretch);
  ds_observe_finish(e);
  if (e->host != e->backend) ds_backend_close(e->host);
  ds_backend_close(e->backend);
  free(e->saved_dir);
  free(e->saved_tag);
  free(e->group_of);
  free(e->frozen);
  ds_params_destroy(e->params);
  ds_config_finish(&e->config);
  free(e);
}

int64_t ds_engine_updates(const ds_engine *e) {
  return e->global_steps - e->skipped_steps;
}

void ds_engine_drop_gradients(ds_engine *e) {
  if (e->zero) ds_zero_drop(e->zero);
  e->micro_in_step = 0;
  e->backward_done = false;
  e->begin_next = true;
}

void ds_engine_apply_schedule(ds_engine *e) {
  if (!e->scheduler || !e->optimizer) return;
  int64_t update = ds_engine_updates(e);
  for (int i = 0; i < e->optimizer->n_groups; i++) {
    ds_optimizer_group *g = &e->optimizer->groups[i];
    g->lr = ds_schedule_lr(e->scheduler, update, g->base_lr);
    if (e->scheduler->betas) e->scheduler->betas(e->scheduler->self, update, &g->beta1, &g->beta2);
  }
}

void ds_engine_train(ds_engine *e, bool training) {
  e->training = training;
  ds_ctx_set_training(e->ctx, training);
}

ds_ctx *ds_engine_ctx(ds_engine *e) {
  return e->ctx;
}

ds_status ds_engine_loss(ds_engine *e, const ds_value *loss, float *out, ds_error *err) {
  ds_error inner = {DS_OK, ""};
  if (!loss || !out) return ds_fail(err, DS_ERR_INVALID, "ds_engine_loss: no loss value given");
  DS_TRY(ds_engine_check(e, "ds_engine_loss", err));
  return ds_engine_settle(e, ds_value_read(e->ctx, loss, out, 1, &inner), &inner, err);
}

ds_status ds_engine_zero_grad(ds_engine *e, ds_error *err) {
  (void)err;
  ds_zero_drop(e->zero);
  return DS_OK;
}

bool ds_engine_is_gradient_accumulation_boundary(const ds_engine *e) {
  return e->micro_in_step + 1 >= e->config.batch.accumulation;
}
int ds_engine_global_rank(const ds_engine *e) {
  return e->world.rank;
}
int ds_engine_world_size(const ds_engine *e) {
  return e->world.size;
}
int64_t ds_engine_global_steps(const ds_engine *e) {
  return e->global_steps;
}
int64_t ds_engine_global_samples(const ds_engine *e) {
  return e->global_samples;
}
int64_t ds_engine_micro_steps(const ds_engine *e) {
  return e->micro_steps;
}
int64_t ds_engine_skipped_steps(const ds_engine *e) {
  return e->skipped_steps;
}
bool ds_engine_was_step_applied(const ds_engine *e) {
  return e->applied;
}
double ds_engine_get_lr(const ds_engine *e) {
  return e->optimizer ? ds_optimizer_lr(e->optimizer, 0) : NAN;
}
double ds_engine_get_global_grad_norm(const ds_engine *e) {
  return e->grad_norm;
}
double ds_engine_loss_scale(const ds_engine *e) {
  return e->scaler.scale;
}
int64_t ds_engine_train_batch_size(const ds_engine *e) {
  return e->config.batch.train;
}
int64_t ds_engine_train_micro_batch_size_per_gpu(const ds_engine *e) {
  return e->config.batch.micro;
}
int64_t ds_engine_gradient_accumulation_steps(const ds_engine *e) {
  return e->config.batch.accumulation;
}
const ds_params *ds_engine_params(const ds_engine *e) {
  return e->params;
}

ds_status ds_engine_set_train_batch_size(ds_engine *e, int64_t train_batch_size, ds_error *err) {
  if (e->micro_in_step > 0 || e->backward_done || !e->begin_next)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_set_train_batch_size: only between steps, not amid accumulation (or "
                   "between forward and backward)");
  int64_t unit = e->config.batch.micro * e->topology.data.size;
  if (train_batch_size < 1 || train_batch_size % unit != 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "the train batch size must be a positive multiple of micro batch x world size = "
                   "%lld * %d, not %lld",
                   (long long)e->config.batch.micro, e->topology.data.size,
                   (long long)train_batch_size);
  e->config.batch.train = train_batch_size;
  e->config.batch.accumulation = train_batch_size / unit;
  return DS_OK;
}

static ds_status check(const ds_engine *e, const char *who, int index, const void *host, size_t n,
                       ds_error *err) {
  if (index < 0 || index >= e->n_params)
    return ds_fail(err, DS_ERR_INVALID, "%s: parameter %d; there are %d", who, index, e->n_params);
  int64_t numel = ds_params_numel(e->params, index);
  if (!host || n != (size_t)numel)
    return ds_fail(err, DS_ERR_INVALID, "%s: parameter \"%s\" has %lld elements, not %zu", who,
                   ds_params_name(e->params, index), (long long)numel, n);
  return ds_engine_check(e, who, err);
}

enum { GRADIENT = -1 }; /* beside the kinds of zero/zero.h */

static ds_status read_here(ds_engine *e, int kind, int index, float *out, ds_error *err) {
  if (kind == GRADIENT) {
    DS_TRY(ds_zero_read_grad(e->zero, index, out, err));
    int64_t n = ds_params_numel(e->local, index);
    for (int64_t i = 0; e->config.fp16 && i < n; i++)
      out[i] = (float)((double)out[i] / e->scaler.scale);
    return DS_OK;
  }
  return ds_zero_read_all(e->zero, kind, index, out, err);
}

static ds_status read_whole(ds_engine *e, int kind, int index, float *out, ds_error *err) {
  if (!e->shards) return read_here(e, kind, index, out, err);
  float *here = malloc(((size_t)ds_params_numel(e->local, index) + 1) * sizeof *here);
  if (!here) return ds_fail_memory(err, "a parameter's part");
  ds_status status = read_here(e, kind, index, here, err);
  if (status == DS_OK) status = ds_parts_join(e, index, here, out, err);
  free(here);
  return status;
}

static ds_status write_whole(ds_engine *e, int index, const float *in, ds_error *err) {
  if (!e->shards) return ds_zero_write_all(e->zero, index, in, err);
  float *here = malloc(((size_t)ds_params_numel(e->local, index) + 1) * sizeof *here);
  if (!here) return ds_fail_memory(err, "a parameter's part");
  ds_parts_take(e, index, in, here);
  ds_status status = ds_zero_write_all(e->zero, index, here, err);
  free(here);
  return status;
}

ds_status ds_engine_read_param(ds_engine *e, int index, float *out, size_t n, ds_error *err) {
  ds_error inner = {DS_OK, ""};
  DS_TRY(check(e, "ds_engine_read_param", index, out, n, err));
  ds_status status = read_whole(e, DS_ZERO_MASTER, index, out, &inner);
  return ds_engine_settle(e, status, &inner, err);
}

ds_status ds_engine_write_param(ds_engine *e, int index, const float *in, size_t n, ds_error *err) {
  ds_error inner = {DS_OK, ""};
  DS_TRY(check(e, "ds_engine_write_param", index, in, n, err));
  e->halfway = true; /* the master is new, its copy in 16 bits still old */
  ds_status status = write_whole(e, index, in, &inner);
  if (status == DS_OK) e->halfway = false;
  return ds_engine_settle(e, status, &inner, err);
}

ds_status ds_engine_read_grad(ds_engine *e, int index, float *out, size_t n, ds_error *err) {
  ds_error inner = {DS_OK, ""};
  DS_TRY(check(e, "ds_engine_read_grad", index, out, n, err));
  return ds_engine_settle(e, read_whole(e, GRADIENT, index, out, &inner), &inner, err);
}

ds_status ds_engine_backend_stats(const ds_engine *e, ds_backend_stats *out, ds_error *err) {
  return ds_backend_stats_fill(e->backend, out, err);
}
