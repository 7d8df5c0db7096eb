/* recorded.c - what can be recorded, and micro batches. */
#include "backend/span.h"
#include "tensor/tensor.h"
#include "train/recorded_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- what can be */

static bool offers_sum(const ds_engine *e) {
  ds_tensor in = ds_tensor_make(e->loss_sum, DS_F32, 1, &ds_zero_layout(e->zero)->trained);
  ds_tensor out = ds_tensor_make(e->norm_sum, DS_F64, 1, (int64_t[]){1});
  const ds_op op = {.size = sizeof op,
                    .id = DS_OP_SUM_SQUARES,
                    .n_in = 1,
                    .n_out = 1,
                    .in = (const ds_tensor *[]){&in},
                    .out = (const ds_tensor *[]){&out}};
  return ds_backend_offers(e->backend, &op);
}

static bool offers_clip(const ds_engine *e) {
  ds_tensor in = ds_tensor_make(e->norm_sum, DS_F64, 1, (int64_t[]){1});
  ds_tensor loss = ds_tensor_make(e->loss_sum, DS_F32, 1, (int64_t[]){1});
  const ds_attr attr[] = {{.f = e->config.gradient_clipping}, {.i = 1}};
  const ds_op op = {.size = sizeof op,
                    .id = DS_OP_CLIP_FACTOR,
                    .n_in = 2,
                    .n_out = 1,
                    .n_attr = 2,
                    .in = (const ds_tensor *[]){&in, &loss},
                    .out = (const ds_tensor *[]){&loss},
                    .attr = attr};
  return ds_backend_offers(e->backend, &op);
}

/* NULL, or why updates can't be recorded. */
static const char *lacks_update(ds_engine *e) {
  const ds_optimizer *o = e->optimizer;
  if (!o->scheduled) return "the optimizer is the host app's own";
  if (!offers_sum(e)) return "the backend lacks the op sum_squares";
  if (!offers_clip(e)) return "the backend lacks the op clip_factor";
  ds_tensor schedule = ds_tensor_make(e->loss_sum, DS_F32, 1, (int64_t[]){3});
  ds_tensor factor = ds_tensor_make(e->loss_sum, DS_F32, 1, (int64_t[]){1});
  int n;
  const ds_optimizer_slice *slices = ds_zero_slices(e->zero, &n);
  for (int i = 0; i < n; i++)
    if (!o->scheduled->offers(o->self, e->ctx, &slices[i], &schedule, &factor))
      return "the backend lacks the op adamw_scheduled";
  return NULL;
}

static ds_status make(ds_engine *e, ds_error *err) {
  ds_recorded *r = e->recorded = calloc(1, sizeof *r);
  if (!r) return ds_fail_memory(err, "what is recorded");
  size_t bytes = (size_t)e->optimizer->n_groups * 3 * sizeof(float);
  void *p;
  for (int i = 0; i < DS_RECORDED_KINDS; i++) {
    r->kinds[i].before = calloc(2 * (size_t)e->n_params, sizeof(bool));
    if (!r->kinds[i].before) return ds_fail_memory(err, "what is recorded");
    r->kinds[i].after = r->kinds[i].before + e->n_params;
  }
  r->host_schedule = malloc(bytes);
  if (!r->host_schedule) return ds_fail_memory(err, "what is recorded");
  DS_TRY(ds_backend_alloc(e->backend, bytes, &p, err));
  r->schedule = p;
  return DS_OK;
}

ds_status ds_recorded_init(ds_engine *e, ds_error *err) {
  const char *why = NULL;
  bool wanted = ds_record_wanted(e->backend);
  if (!e->optimizer) return DS_OK;
  bool offered = ds_record_offered(e->backend, &why);
  bool parts = ds_zero_collective(e->zero),
       joins = ds_zero_in_backward(e->zero) || e->shards || e->topology.sequence.size > 1;
  if (offered && joins)
    why = "weights, gradients or activations are exchanged with other ranks amid the passes";
  if (offered && e->config.fp16) why = "in fp16 the loss scale changes from step to step";
  offered = offered && !joins && !e->config.fp16;
  const char *no_update = !offered ? why
                          : parts  ? "the norm is of gradients on several ranks"
                                   : lacks_update(e);
  if (wanted && no_update)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "\"graph\": true, but %s can't record steps: %s",
                   ds_backend_name(e->backend), no_update);
  if (!offered) return DS_OK;
  DS_TRY(make(e, err));
  e->recorded->micro = wanted || ds_model_built_in(e->model);
  e->recorded->update = !no_update;
  /* Betas that cycle are attributes: another recording each step. */
  e->recorded->record_update = !no_update && !(e->scheduler && e->scheduler->betas);
  return DS_OK;
}

void ds_recorded_forget(ds_engine *e, ds_recorded_kind *k) {
  ds_recording_destroy(e->backend, k->recording);
  k->recording = NULL;
}

void ds_recorded_finish(ds_engine *e) {
  ds_recorded *r = e->recorded;
  if (!r) return;
  for (int i = 0; i < DS_RECORDED_KINDS; i++) {
    ds_recorded_forget(e, &r->kinds[i]);
    free(r->kinds[i].before);
  }
  for (int i = 0; i < 2; i++) ds_recording_destroy(e->backend, r->updates[i]);
  if (r->schedule)
    ds_backend_free(e->backend, r->schedule,
                    (size_t)e->optimizer->n_groups * 3 * sizeof *r->schedule);
  free(r->host_schedule);
  free(r);
  e->recorded = NULL;
}

ds_status ds_recorded_give_up(ds_engine *e, const char *what, const ds_error *why, bool *on,
                              ds_error *err) {
  if (!ds_record_refused(e->backend)) return ds_fail(err, why->status, "%s", why->message);
  if (ds_record_wanted(e->backend))
    return ds_fail(err, why->status, "\"graph\": true, but %s can't be recorded: %s", what,
                   why->message);
  *on = false;
  ds_log(&e->logger, DS_LOG_INFO, "%s can't be recorded and runs as ever: %s", what, why->message);
  return DS_OK;
}

/* ---- kinds of micro batches */

static bool same_shapes(const ds_recorded_kind *k, const ds_batch *batch) {
  if (k->n != batch->n) return false;
  for (int i = 0; i < k->n; i++) {
    const ds_host_tensor *a = &k->tensors[i], *b = &batch->tensors[i];
    if (a->dtype != b->dtype || a->rank != b->rank ||
        memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) != 0)
      return false;
  }
  return true;
}

static bool same_gradients(const ds_engine *e, const bool *has) {
  for (int i = 0; i < e->n_params; i++)
    if (e->slots[i].has_grad != has[i]) return false;
  return true;
}

static void note_gradients(const ds_engine *e, bool *has) {
  for (int i = 0; i < e->n_params; i++) has[i] = e->slots[i].has_grad;
}

static void set_gradients(ds_engine *e, const bool *has) {
  for (int i = 0; i < e->n_params; i++) e->slots[i].has_grad = has[i];
}

/* The kind of this batch; a new one takes the place of that which was used longest ago. */
static ds_recorded_kind *kind_of(ds_engine *e, const ds_batch *batch, bool first) {
  ds_recorded *r = e->recorded;
  ds_recorded_kind *oldest = &r->kinds[0];
  int64_t accumulation = e->config.batch.accumulation;
  for (int i = 0; i < DS_RECORDED_KINDS; i++) {
    ds_recorded_kind *k = &r->kinds[i];
    if (k->used && k->first == first && k->accumulation == accumulation && same_shapes(k, batch) &&
        same_gradients(e, k->before)) {
      k->used = ++r->clock;
      return k;
    }
    if (k->used < oldest->used) oldest = k;
  }
  ds_recorded_forget(e, oldest);
  bool *before = oldest->before, *after = oldest->after;
  *oldest = (ds_recorded_kind){.n = batch->n,
                               .first = first,
                               .accumulation = accumulation,
                               .before = before,
                               .after = after,
                               .used = ++r->clock};
  memcpy(oldest->tensors, batch->tensors, (size_t)batch->n * sizeof *batch->tensors);
  note_gradients(e, before);
  return oldest;
}

static size_t elements(const ds_host_tensor *t) {
  size_t n = 1;
  for (int32_t i = 0; i < t->rank; i++) n *= (size_t)t->shape[i];
  return n;
}

/* Whether all ids lie where some were found to be good: ops check what the host gives them, which a
 * launch doesn't. A negative one that is good (of a target that doesn't count) is just that. */
static bool known_ids(const ds_recorded_kind *k, const ds_batch *batch) {
  int32_t least, most;
  for (int i = 0; i < batch->n; i++) {
    const ds_host_tensor *t = &batch->tensors[i];
    if (t->dtype != DS_I32 || elements(t) == 0) continue;
    ds_input_range(t->data, elements(t), &least, &most);
    if (most > k->most[i] || (least < 0 && least != k->least[i])) return false;
  }
  return true;
}

static void learn_ids(ds_recorded_kind *k, const ds_batch *batch) {
  int32_t least, most;
  for (int i = 0; i < batch->n; i++) {
    const ds_host_tensor *t = &batch->tensors[i];
    if (t->dtype != DS_I32 || elements(t) == 0) continue;
    ds_input_range(t->data, elements(t), &least, &most);
    if (!k->ran || most > k->most[i]) k->most[i] = most;
    if (!k->ran || least < k->least[i]) k->least[i] = least;
  }
}

/* ---- micro batches */

static ds_status run_as_ever(ds_engine *e, ds_recorded_kind *k, const ds_batch *batch,
                             ds_error *err) {
  uint64_t fallbacks = ds_backend_stats_get(e->backend).fallback_ops;
  DS_TRY(ds_step_micro(e, batch, k->first, err));
  if (ds_backend_stats_get(e->backend).fallback_ops == fallbacks) {
    learn_ids(k, batch);
    k->input_bytes = ds_ctx_input_bytes(e->ctx);
    k->ran = true;
    return DS_OK;
  }
  const ds_error why = {DS_ERR_UNSUPPORTED, "work of it falls back to the reference"};
  return ds_recorded_give_up(e, "the forward and backward pass", &why, &e->recorded->micro, err);
}

/* Nothing of it has run, whatever it returns. */
static ds_status record(ds_engine *e, ds_recorded_kind *k, const ds_batch *batch, ds_error *err) {
  int64_t micro_in_step = e->micro_in_step;
  ds_recorded_forget(e, k);
  ds_status status = ds_record_begin(e->backend, k->input_bytes, err);
  if (status == DS_OK) status = ds_step_micro_work(e, batch, k->first, err);
  if (status == DS_OK) status = ds_record_end(e->backend, &k->recording, err);
  note_gradients(e, k->after);
  ds_record_cancel(e->backend);
  set_gradients(e, k->before);
  e->micro_in_step = micro_in_step;
  e->begin_next = true;
  e->backward_done = false;
  return status;
}

static ds_status upload_inputs(ds_engine *e, const ds_recorded_kind *k, const ds_batch *batch,
                               ds_error *err) {
  for (int i = 0, at = 0; i < batch->n; i++) {
    const ds_host_tensor *t = &batch->tensors[i];
    int32_t dtype = t->dtype == DS_F32 ? ds_ctx_dtype(e->ctx) : t->dtype;
    if (elements(t) == 0) continue;
    DS_TRY(ds_input_write(e->ctx, ds_recording_input(k->recording, at++), dtype, t->data,
                          elements(t), err));
  }
  return DS_OK;
}

static ds_status launch(ds_engine *e, const ds_recorded_kind *k, ds_error *err) {
  ds_span_at(e->backend, e->global_steps + 1, e->micro_in_step);
  ds_span *span = ds_span_begin(e->backend, NULL, DS_SPAN_COMPUTE, "forward and backward");
  ds_status status = ds_recording_launch(e->backend, k->recording, err);
  ds_span_end(span);
  if (status != DS_OK) return status;
  set_gradients(e, k->after);
  e->begin_next = true;
  e->backward_done = true;
  return DS_OK;
}

ds_status ds_recorded_micro(ds_engine *e, const ds_batch *batch, bool first, ds_error *err) {
  if (!e->recorded || !e->recorded->micro || batch->n > DS_MAX_BATCH_TENSORS)
    return ds_step_micro(e, batch, first, err);
  ds_recorded_kind *k = kind_of(e, batch, first);
  if (!k->ran || !known_ids(k, batch)) return run_as_ever(e, k, batch, err);
  if (ds_recording_alive(k->recording)) {
    DS_TRY(upload_inputs(e, k, batch, err));
    return launch(e, k, err);
  }
  ds_error why = {DS_OK, ""};
  if (record(e, k, batch, &why) == DS_OK) return launch(e, k, err);
  DS_TRY(ds_recorded_give_up(e, "the forward and backward pass", &why, &e->recorded->micro, err));
  return ds_step_micro(e, batch, first, err);
}
