/* pipeline_work.c - the pieces of a schedule: messages, and the passes between them. */
#include "backend/span.h"
#include "ops/tape.h"
#include "train/pipeline_impl.h"

/* ---- memory */

/* At least bytes; nothing may be in flight from or to what was there. */
static ds_status grow(ds_pipeline *p, void **block, size_t *have, size_t bytes, ds_error *err) {
  if (*have >= bytes) return DS_OK;
  for (int i = 0; i < 2; i++) DS_TRY(ds_side_sync(p->sides[i], err));
  if (*block) ds_backend_free(p->a.backend, *block, *have);
  *block = NULL;
  *have = 0;
  DS_TRY(ds_backend_alloc(p->a.backend, bytes, block, err));
  *have = bytes;
  return DS_OK;
}

/* ---- messages */

static ds_flight *flight_of(ds_pipeline *p, int64_t micro) {
  return &p->flights[micro % p->n_flights];
}

/* One message after all that is computed so far; done: where its stream is then. */
static ds_status message(ds_pipeline *p, int kind, bool send, void *data, const ds_tensor *shape,
                         ds_mark *done, ds_error *err) {
  ds_side *side = p->sides[kind];
  bool down = (kind == DS_PIPELINE_HIDDEN) == send; /* to or from the next stage */
  int peer = p->stage + (down ? 1 : -1);
  int64_t n = ds_tensor_numel(shape);
  DS_TRY(ds_side_follow(side, err));
  if (send)
    DS_TRY(ds_group_send(p->groups[kind], side, data, n, shape->dtype, peer, err));
  else
    DS_TRY(ds_group_recv(p->groups[kind], side, data, n, shape->dtype, peer, err));
  return ds_mark_set(done, side, err);
}

/* ---- the computation: its failures are kept, and the schedule goes on */

/* The micro batch and the shape of its hidden values. Fails only where no shape is known that the
 * other stages might go on with. */
static ds_status load(ds_pipeline *p, int64_t micro, ds_error *err) {
  if (p->loaded == micro) return DS_OK;
  ds_error e = {DS_OK, ""};
  int64_t shape[DS_MAX_RANK];
  int32_t rank;
  ds_status status = p->source(p->source_ctx, &p->batch, &e);
  if (status == DS_OK) status = ds_model_hidden_shape(p->a.model, &p->batch, &rank, shape, &e);
  if (status == DS_OK) p->shape = ds_tensor_make(NULL, p->a.dtype, rank, shape);
  if (status != DS_OK && p->shape.rank == 0) return ds_fail(err, e.status, "%s", e.message);
  if (status != DS_OK && ds_pipeline_sound(p)) p->failure = e;
  p->loaded = micro;
  return grow(p, &p->spare, &p->spare_bytes, ds_tensor_bytes(&p->shape), err);
}

static ds_status add_loss(ds_pipeline *p, ds_flight *f, bool first, ds_error *err) {
  ds_tensor in = *ds_value_tensor(f->out);
  if (ds_tensor_numel(&in) != 1 || in.dtype != DS_F32)
    return ds_fail(err, DS_ERR_INVALID,
                   "model %s: its last blocks give no loss (one f32), which train_batch needs: are "
                   "there labels in the batch?",
                   ds_model_name(p->a.model));
  ds_tensor out = ds_tensor_make(&p->verdicts[p->stage].loss, DS_F32, 1, (int64_t[]){1});
  in = ds_tensor_make(in.data, DS_F32, 1, (int64_t[]){1});
  const ds_attr factor = {.f = 1.0 / (double)p->micros};
  return ds_run_raw(f->ctx, DS_OP_SCALE, (const ds_tensor *[]){&in}, 1, (const ds_tensor *[]){&out},
                    1, first ? 0 : 1, &factor, 1, err);
}

static ds_status check_hidden(ds_pipeline *p, ds_flight *f, ds_error *err) {
  const ds_tensor *t = ds_value_tensor(f->out);
  bool same = t->dtype == f->shape.dtype && t->rank == f->shape.rank;
  for (int32_t i = 0; same && i < t->rank; i++) same = t->shape[i] == f->shape.shape[i];
  if (same) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID,
                 "model %s: forward_blocks(%d, %d) gives other values than hidden_shape says",
                 ds_model_name(p->a.model), p->a.first, p->a.last);
}

static ds_status compute_forward(ds_pipeline *p, ds_flight *f, int64_t micro, ds_error *err) {
  ds_value *inputs[DS_MAX_BATCH_TENSORS];
  f->in = f->out = NULL;
  DS_TRY(ds_ctx_begin(f->ctx, err));
  for (int i = 0; i < p->batch.n; i++) {
    const ds_host_tensor *t = &p->batch.tensors[i];
    int32_t dtype = t->dtype == DS_F32 ? p->a.dtype : t->dtype;
    inputs[i] = ds_input(f->ctx, dtype, t->rank, t->shape, t->data);
  }
  if (p->stage > 0) {
    ds_tensor t = f->shape;
    t.data = f->hidden;
    f->in = ds_ctx_wrap_leaf(f->ctx, &t);
  }
  ds_value *out =
      ds_model_forward_blocks(p->a.model, f->ctx, p->a.first, p->a.last, f->in, inputs, p->batch.n);
  if (out && !ds_pipeline_last(p)) out = ds_contiguous(f->ctx, out);
  DS_TRY(ds_ctx_status(f->ctx, err));
  f->out = out;
  return ds_pipeline_last(p) ? add_loss(p, f, micro == 0, err) : check_hidden(p, f, err);
}

static ds_status compute_backward(ds_pipeline *p, ds_flight *f, ds_error *err) {
  double scale = p->scale / ((double)p->micros * p->a.share);
  if (ds_pipeline_last(p)) return ds_ctx_backward(f->ctx, f->out, scale, err);
  return ds_ctx_needs_gradient(f->out) ? ds_ctx_backward_from(f->ctx, f->out, err) : DS_OK;
}

/* One pass, with its span. */
static ds_status pass(ds_pipeline *p, ds_flight *f, int64_t micro, bool backward, ds_error *err) {
  ds_span_at(p->a.backend, p->step, micro);
  ds_span *span =
      ds_span_begin(p->a.backend, NULL, DS_SPAN_COMPUTE, backward ? "backward" : "forward");
  ds_status status = backward ? compute_backward(p, f, err) : compute_forward(p, f, micro, err);
  ds_span_end(span);
  return status;
}

static void keep_failure(ds_pipeline *p, ds_status status, const ds_error *e) {
  if (status != DS_OK && ds_pipeline_sound(p)) p->failure = *e;
}

/* ---- the work of a schedule */

static ds_status receive_hidden(ds_pipeline *p, int64_t micro, ds_error *err) {
  DS_TRY(load(p, micro, err));
  ds_flight *f = flight_of(p, micro);
  size_t bytes = ds_tensor_bytes(&p->shape);
  ds_error e = {DS_OK, ""};
  if (ds_pipeline_sound(p)) keep_failure(p, grow(p, &f->hidden, &f->hidden_bytes, bytes, &e), &e);
  void *to = ds_pipeline_sound(p) ? f->hidden : p->spare;
  return message(p, DS_PIPELINE_HIDDEN, false, to, &p->shape, f->hidden_came, err);
}

static ds_status forward(ds_pipeline *p, int64_t micro, ds_error *err) {
  DS_TRY(load(p, micro, err));
  ds_flight *f = flight_of(p, micro);
  if (++p->open > p->peak) p->peak = p->open;
  f->shape = p->shape; /* not before: the last gradient had to be sent by the old one */
  /* The arena still has what was sent last. */
  DS_TRY(ds_mark_wait(f->gradient_left, NULL, err));
  DS_TRY(ds_mark_wait(f->hidden_came, NULL, err));
  ds_error e = {DS_OK, ""};
  if (ds_pipeline_sound(p)) keep_failure(p, pass(p, f, micro, false, &e), &e);
  return DS_OK;
}

static ds_status send_hidden(ds_pipeline *p, int64_t micro, ds_error *err) {
  ds_flight *f = flight_of(p, micro);
  void *from = ds_pipeline_sound(p) ? ds_value_tensor(f->out)->data : p->spare;
  return message(p, DS_PIPELINE_HIDDEN, true, from, &f->shape, f->hidden_left, err);
}

static ds_status receive_gradient(ds_pipeline *p, int64_t micro, ds_error *err) {
  ds_flight *f = flight_of(p, micro);
  ds_tensor to = f->shape;
  ds_error e = {DS_OK, ""};
  to.data = p->spare;
  if (ds_pipeline_sound(p) && ds_ctx_needs_gradient(f->out))
    keep_failure(p, ds_ctx_gradient(f->ctx, f->out, &to, &e), &e);
  return message(p, DS_PIPELINE_GRADIENT, false, to.data, &f->shape, f->gradient_came, err);
}

static ds_status backward(ds_pipeline *p, int64_t micro, ds_error *err) {
  ds_flight *f = flight_of(p, micro);
  p->open--;
  /* The walk gives the memory of what was sent to others. */
  DS_TRY(ds_mark_wait(f->hidden_left, NULL, err));
  DS_TRY(ds_mark_wait(f->gradient_came, NULL, err));
  ds_error e = {DS_OK, ""};
  if (ds_pipeline_sound(p)) keep_failure(p, pass(p, f, micro, true, &e), &e);
  return DS_OK;
}

static ds_status send_gradient(ds_pipeline *p, int64_t micro, ds_error *err) {
  ds_flight *f = flight_of(p, micro);
  const ds_tensor *g = ds_pipeline_sound(p) ? ds_ctx_leaf_gradient(f->in) : NULL;
  if (!g && ds_pipeline_sound(p)) { /* nothing of this stage depends on the one before */
    for (int i = 0; i < 2; i++) DS_TRY(ds_side_join(p->sides[i], err));
    DS_TRY(ds_backend_fill(p->a.backend, p->spare, 0, ds_tensor_bytes(&f->shape), err));
  }
  return message(p, DS_PIPELINE_GRADIENT, true, g ? g->data : p->spare, &f->shape, f->gradient_left,
                 err);
}

ds_status ds_pipeline_work(ds_pipeline *p, const ds_pipe_work *w, ds_error *err) {
  switch (w->kind) {
    case DS_PIPE_RECV_HIDDEN: return receive_hidden(p, w->micro, err);
    case DS_PIPE_FORWARD: return forward(p, w->micro, err);
    case DS_PIPE_SEND_HIDDEN: return send_hidden(p, w->micro, err);
    case DS_PIPE_RECV_GRADIENT: return receive_gradient(p, w->micro, err);
    case DS_PIPE_BACKWARD: return backward(p, w->micro, err);
    case DS_PIPE_SEND_GRADIENT: return send_gradient(p, w->micro, err);
  }
  return ds_fail(err, DS_ERR_INTERNAL, "pipeline work of kind %d", (int)w->kind);
}
