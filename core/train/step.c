/* The life of a training step: forward, backward, step. */
#include "backend/span.h"
#include "data/dataloader.h"
#include "ops/tape.h"
#include "optim/clip.h"
#include "train/engine.h"
#include "train/pipeline_step.h"
#include "train/recorded.h"
#include "train/stretch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- forward and backward */

static ds_status forward(ds_engine *e, const ds_batch *whole, ds_value **out, ds_error *err) {
  ds_value *inputs[DS_MAX_BATCH_TENSORS];
  ds_batch cut, *batch = &cut;
  DS_TRY(ds_stretch_cut(e, whole, &cut, err));
  if (e->begin_next || !e->training) {
    DS_TRY(ds_ctx_begin(e->ctx, err));
    DS_TRY(ds_zero_begin(e->zero, ds_engine_is_gradient_accumulation_boundary(e), err));
  }
  for (int i = 0; i < batch->n; i++) {
    const ds_host_tensor *t = &batch->tensors[i];
    /* Numbers come in the dtype that is computed in, so that a model needn't ask. */
    int32_t dtype = t->dtype == DS_F32 ? ds_ctx_dtype(e->ctx) : t->dtype;
    inputs[i] = ds_input(e->ctx, dtype, t->rank, t->shape, t->data);
  }
  *out = ds_model_forward(e->model, e->ctx, inputs, batch->n);
  return ds_ctx_status(e->ctx, err);
}

static ds_status run_forward(ds_engine *e, const ds_batch *batch, ds_value **out, ds_error *err) {
  ds_span_at(e->backend, e->global_steps + 1, e->micro_in_step);
  ds_span *span = ds_span_begin(e->backend, NULL, DS_SPAN_COMPUTE, "forward");
  ds_status status = forward(e, batch, out, err);
  ds_span_end(span);
  return status;
}

ds_status ds_engine_forward(ds_engine *e, const ds_batch *batch, ds_value **loss, ds_error *err) {
  if (!loss) return ds_fail(err, DS_ERR_INVALID, "ds_engine_forward: loss must not be NULL");
  *loss = NULL;
  if (!batch || batch->n < 0 || batch->n > DS_MAX_BATCH_TENSORS)
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_forward: a batch has 0 to %d tensors",
                   DS_MAX_BATCH_TENSORS);
  DS_TRY(ds_pipeline_step_refuse(e, "ds_engine_forward", err));
  DS_TRY(ds_engine_check(e, "ds_engine_forward", err));
  ds_error inner = {DS_OK, ""};
  ds_status status = run_forward(e, batch, loss, &inner);
  if (status != DS_OK) *loss = NULL;
  /* In training a second forward goes on the same tape; without one nothing keeps old values. */
  e->begin_next = status != DS_OK || !e->training;
  return ds_engine_settle(e, status, &inner, err);
}

static ds_status run_backward(ds_engine *e, ds_value *loss, ds_error *err) {
  size_t nodes = e->ctx->n_nodes;
  double scale = e->scaler.scale / ((double)e->config.batch.accumulation * ds_stretch_share(e));
  e->begin_next = true;
  ds_span *span = ds_span_begin(e->backend, NULL, DS_SPAN_COMPUTE, "backward");
  ds_status status = ds_ctx_backward(e->ctx, loss, scale, err);
  if (status == DS_OK) status = ds_zero_end(e->zero, err);
  ds_span_end(span);
  if (status == DS_OK)
    e->backward_done = true;
  else if (e->ctx->n_nodes != nodes) /* some gradients are added to, some are not */
    ds_engine_drop_gradients(e);
  return status;
}

ds_status ds_engine_backward(ds_engine *e, ds_value *loss, ds_error *err) {
  DS_TRY(ds_pipeline_step_refuse(e, "ds_engine_backward", err));
  DS_TRY(ds_engine_check(e, "ds_engine_backward", err));
  if (!e->training)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_backward: the engine evaluates (ds_engine_train(e, true) first)");
  if (e->begin_next)
    return ds_fail(err, DS_ERR_STATE, "ds_engine_backward: no forward since the last backward");
  if (!loss) return ds_fail(err, DS_ERR_INVALID, "ds_engine_backward: no loss value given");
  const ds_tensor *t = ds_value_tensor(loss);
  if (t->dtype != DS_F32 || ds_tensor_numel(t) != 1) {
    char shape[64];
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_engine_backward: the loss must be f32 of one element, not %s %s",
                   ds_dtype_name(t->dtype), ds_tensor_describe(t, shape, sizeof shape));
  }
  ds_error inner = {DS_OK, ""};
  return ds_engine_settle(e, run_backward(e, loss, &inner), &inner, err);
}

/* ---- the update */

/* zero_optimization.ignore_unused_parameters false: each must take part. */
static ds_status check_unused(ds_engine *e, ds_error *err) {
  for (int i = 0; i < e->n_params; i++)
    if (!e->frozen[i] && !ds_zero_took_part(e->zero, i) && ds_params_numel(e->local, i) > 0)
      return ds_fail(err, DS_ERR_STATE,
                     "parameter \"%s\" took no part in the loss and has no gradient "
                     "(zero_optimization.ignore_unused_parameters is false)",
                     ds_params_name(e->params, i));
  return DS_OK;
}

/* What every rank has to say at the end of a step. */
typedef struct share {
  double squares;
  int32_t bad; /* the first parameter whose gradient isn't finite, + 1 */
  int32_t reserved;
} share;

/* Sums the ranks' squares, in the order of ranks; *bad: the least that is above 0. */
static ds_status exchange(ds_engine *e, share *mine, ds_error *err) {
  if (!e->world.group) return DS_OK;
  size_t n = (size_t)e->world.size;
  share *all = malloc(n * sizeof *all);
  if (!all) return ds_fail_memory(err, "the ranks' gradient norms");
  ds_status status = ds_world_exchange(&e->world, mine, all, sizeof *mine, err);
  if (status == DS_OK) *mine = (share){0};
  for (size_t r = 0; r < n && status == DS_OK; r++) {
    mine->squares += all[r].squares;
    if (all[r].bad > 0 && (mine->bad == 0 || all[r].bad < mine->bad)) mine->bad = all[r].bad;
  }
  free(all);
  return status;
}

/* Whether this rank's gradients count: where each has all of them, one does. */
static bool counts(const ds_engine *e) {
  return e->config.zero.stage > 0 || e->topology.zero.rank == 0;
}

/* "" when every gradient is finite. */
static ds_status first_nonfinite(ds_engine *e, const char **name, ds_error *err) {
  int param;
  share mine = {0};
  DS_TRY(ds_zero_first_nonfinite(e->zero, &param, err));
  mine.bad = param + 1;
  DS_TRY(exchange(e, &mine, err));
  *name = mine.bad > 0 ? ds_params_name(e->params, mine.bad - 1) : "";
  return DS_OK;
}

static void end_step(ds_engine *e, bool applied) {
  e->global_steps++;
  e->global_samples += e->config.batch.train;
  e->skipped_steps += !applied;
  e->applied = applied;
  ds_engine_drop_gradients(e);
}

static ds_status fail_step(ds_engine *e, double loss, ds_error *err) {
  const char *name;
  DS_TRY(first_nonfinite(e, &name, err));
  end_step(e, false);
  char where[256] = "";
  if (name[0])
    snprintf(where, sizeof where, "; the first parameter with a non-finite gradient is \"%s\"",
             name);
  char scale[96] = "";
  if (e->config.fp16)
    snprintf(scale, sizeof scale, " at the least loss scale, %g (fp16.min_loss_scale)",
             e->scaler.scale);
  bool of_loss = !isfinite(loss);
  return ds_fail(err, DS_ERR_NUMERIC, "step %lld: the %s is %s%s%s; no parameter was changed",
                 (long long)e->global_steps, of_loss ? "loss" : "gradient norm",
                 isnan(of_loss ? loss : e->grad_norm) ? "nan" : "infinite", scale, where);
}

/* fp16: an overflow is no failure while the scale can give way. Every rank decides alike, from the
 * same norm and loss. */
static ds_status skip(ds_engine *e, double loss, ds_error *err) {
  double before = e->scaler.scale;
  if (!e->config.fp16 || !ds_loss_scaler_update(&e->scaler, true)) return fail_step(e, loss, err);
  end_step(e, false);
  if (e->world.rank == 0)
    ds_log(&e->logger, DS_LOG_INFO,
           "step %lld overflowed in fp16 and was left out; the loss scale was %g and is %g",
           (long long)e->global_steps, before, e->scaler.scale);
  return DS_OK;
}

static void print_step(const ds_engine *e) {
  int64_t every = e->config.steps_per_print;
  if (every <= 0 || e->global_steps % every != 0 || e->world.rank != 0) return;
  ds_log(&e->logger, DS_LOG_INFO, "step=%lld, skipped=%lld, lr=%g, grad_norm=%g",
         (long long)e->global_steps, (long long)e->skipped_steps, ds_engine_get_lr(e),
         e->grad_norm);
}

typedef struct update_args {
  ds_engine *e;
  double factor;
  int64_t step;
} update_args;

static ds_status update_slice(void *arg, ds_ctx *ctx, const ds_optimizer_slice *s, ds_error *err) {
  const update_args *a = arg;
  ds_optimizer *o = a->e->optimizer;
  return o->vtable->update(o->self, ctx, s, ds_optimizer_lr(o, s->group), a->factor, a->step, err);
}

static ds_status update(ds_engine *e, double factor, ds_error *err) {
  update_args args = {e, factor, ds_engine_updates(e) + 1};
  e->halfway = true;
  DS_TRY(ds_zero_update(e->zero, update_slice, &args, err));
  e->halfway = false;
  return DS_OK;
}

/* The norm is known before the update, which the host then leaves out. */
static ds_status norm_then_update(ds_engine *e, float *loss, bool *sound, ds_error *err) {
  if (loss) DS_TRY(ds_backend_download(e->backend, loss, e->loss_sum, sizeof *loss, err));
  share mine = {0};
  DS_TRY(ds_zero_squares(e->zero, &mine.squares, err));
  if (!counts(e)) mine.squares = 0;
  DS_TRY(exchange(e, &mine, err));
  e->grad_norm = sqrt(mine.squares) / e->scaler.scale;
  *sound = isfinite(e->grad_norm) && (!loss || isfinite(*loss));
  if (e->config.check_grad_overflow && !*sound) return DS_OK;
  return update(e, ds_clip_factor(e->grad_norm, e->config.gradient_clipping) / e->scaler.scale,
                err);
}

/* loss: the world's mean loss lies in e->loss_sum, and is read to there; whether it is a number
 * decides over the update. NULL: it is not known. */
static ds_status boundary_step(ds_engine *e, float *loss, ds_error *err) {
  bool sound;
  if (!e->config.ignore_unused) /* ranks may differ in what they used */
    DS_TRY(ds_world_agree(&e->world, check_unused(e, err), "ds_engine_step", err));
  ds_span_at(e->backend, e->global_steps + 1, -1);
  DS_TRY(ds_zero_finish_gradients(e->zero, err));
  ds_span *span = ds_span_begin(e->backend, NULL, DS_SPAN_COMPUTE, "update");
  ds_status status = ds_recorded_updates(e) ? ds_recorded_update(e, loss, &sound, err)
                                            : norm_then_update(e, loss, &sound, err);
  ds_span_end(span);
  if (status != DS_OK) return status;
  if (e->config.check_grad_overflow && !sound) return skip(e, loss ? (double)*loss : 0, err);
  end_step(e, true);
  if (e->config.fp16) (void)!ds_loss_scaler_update(&e->scaler, false);
  ds_engine_apply_schedule(e);
  print_step(e);
  return DS_OK;
}

static ds_status end_accumulation(ds_engine *e, float *loss, ds_error *err) {
  ds_status status = boundary_step(e, loss, err);
  if (status != DS_OK) ds_engine_drop_gradients(e); /* the step begins again */
  return status;
}

/* Counts a micro step; *boundary: the accumulation is complete. */
static ds_status count_micro_step(ds_engine *e, bool *boundary, ds_error *err) {
  *boundary = false;
  e->applied = false;
  if (!e->optimizer)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_step: the engine has no optimizer; give ds_initialize one or the "
                   "config an \"optimizer\" section");
  if (!e->backward_done)
    return ds_fail(err, DS_ERR_STATE, "ds_engine_step: no backward since the last step");
  *boundary = ds_engine_is_gradient_accumulation_boundary(e);
  e->backward_done = false;
  e->micro_steps++;
  e->micro_in_step++;
  return DS_OK;
}

ds_status ds_engine_step(ds_engine *e, ds_error *err) {
  bool boundary;
  ds_error inner = {DS_OK, ""};
  DS_TRY(ds_pipeline_step_refuse(e, "ds_engine_step", err));
  DS_TRY(ds_engine_check(e, "ds_engine_step", err));
  DS_TRY(count_micro_step(e, &boundary, err));
  return boundary ? ds_engine_settle(e, end_accumulation(e, NULL, &inner), &inner, err) : DS_OK;
}

/* ---- train_batch */

/* loss_sum += loss / G, on the device: nobody waits for a micro batch. */
static ds_status add_loss(ds_engine *e, const ds_value *loss, bool first, ds_error *err) {
  ds_tensor in = *ds_value_tensor(loss);
  ds_tensor out = ds_tensor_make(e->loss_sum, DS_F32, 1, (int64_t[]){1});
  in = ds_tensor_make(in.data, DS_F32, 1, (int64_t[]){1});
  const ds_attr factor = {.f = 1.0 / (double)e->config.batch.accumulation};
  return ds_run_raw(e->ctx, DS_OP_SCALE, (const ds_tensor *[]){&in}, 1, (const ds_tensor *[]){&out},
                    1, first ? 0 : 1, &factor, 1, err);
}

ds_status ds_step_micro(ds_engine *e, const ds_batch *batch, bool first, ds_error *err) {
  ds_value *loss;
  DS_TRY(ds_engine_forward(e, batch, &loss, err));
  DS_TRY(ds_engine_backward(e, loss, err));
  return add_loss(e, loss, first, err);
}

ds_status ds_step_micro_work(ds_engine *e, const ds_batch *batch, bool first, ds_error *err) {
  ds_value *loss;
  DS_TRY(run_forward(e, batch, &loss, err));
  DS_TRY(run_backward(e, loss, err));
  return add_loss(e, loss, first, err);
}

static ds_status accumulate(ds_engine *e, ds_error *err) {
  bool boundary = e->pipeline != NULL;
  ds_batch batch;
  if (e->pipeline) DS_TRY(ds_pipeline_step_run(e, err));
  for (bool first = true; !boundary; first = false) {
    DS_TRY(ds_dataloader_next(e->loader, &batch, err));
    DS_TRY(ds_recorded_micro(e, &batch, first, err));
    DS_TRY(count_micro_step(e, &boundary, err));
  }
  return ds_world_allreduce(&e->world, e->loss_sum, 1, DS_REDUCE_MEAN, err);
}

ds_status ds_engine_train_batch(ds_engine *e, float *loss, ds_error *err) {
  float mean = NAN;
  if (loss) *loss = mean;
  if (!e->loader)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_train_batch: the engine has no training_data; use forward, backward "
                   "and step");
  if (!e->optimizer || !e->training)
    return ds_fail(err, DS_ERR_STATE, "ds_engine_train_batch: the engine %s",
                   e->optimizer ? "evaluates (ds_engine_train(e, true) first)"
                                : "has no optimizer; give ds_initialize one or the config an "
                                  "\"optimizer\" section: {\"type\": \"AdamW\", \"params\": "
                                  "{\"lr\": 1e-3}}");
  if (e->micro_in_step > 0 || e->backward_done)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_train_batch: amid an accumulation that step() began");
  DS_TRY(ds_engine_check(e, "ds_engine_train_batch", err));
  ds_engine_drop_gradients(e);
  ds_error inner = {DS_OK, ""};
  ds_status status = accumulate(e, &inner);
  if (status == DS_OK)
    status = end_accumulation(e, &mean, &inner);
  else
    ds_engine_drop_gradients(e);
  if (loss) *loss = mean;
  return ds_engine_settle(e, status, &inner, err);
}
