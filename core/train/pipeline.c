#include "train/pipeline.h"

#include "ops/tape.h"
#include "parallel/pipe_schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A micro batch between its forward and backward pass. */
typedef struct flight {
  ds_ctx *ctx;
  ds_tensor shape; /* of hidden values, without data */
  void *hidden;    /* received ones; not in the arena, which is in use until the gradient that was
                       computed in it is sent */
  size_t hidden_bytes;
  ds_value *in, *out; /* hidden values, or out the loss; NULL where the pass failed */
  ds_mark *hidden_came, *hidden_left, *gradient_came, *gradient_left;
} flight;

/* What all stages sum up at the end of a step, in device memory. */
typedef struct verdict {
  float loss;   /* of the last stage; 0 on others */
  float failed; /* 1 + the stage that failed, or 0; of several the sum says nothing but that */
} verdict;

struct ds_pipeline {
  ds_pipeline_args a;
  int stage, stages;
  ds_group *groups[2]; /* for hidden values, for gradients */
  ds_side *sides[2];
  flight *flights;
  int n_flights;
  ds_pipe_work *work;
  size_t n_work;
  int64_t micros; /* that work is for */
  void *spare;    /* what a stage sends and receives that has no values of its own */
  size_t spare_bytes;
  verdict *verdict;

  /* a step's */
  ds_pipeline_source source;
  void *source_ctx;
  ds_batch batch; /* of micro batch `loaded` */
  int64_t loaded;
  ds_tensor shape; /* of its hidden values; rank 0: none known yet */
  int open, peak;
  ds_error failure; /* of the computation; status DS_OK: none */
};

enum { HIDDEN, GRADIENT };

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

static flight *flight_of(ds_pipeline *p, int64_t micro) {
  return &p->flights[micro % p->n_flights];
}

static bool last_stage(const ds_pipeline *p) {
  return p->stage == p->stages - 1;
}

/* One message after all that is computed so far; done: where its stream is then. */
static ds_status message(ds_pipeline *p, int kind, bool send, void *data, const ds_tensor *shape,
                         ds_mark *done, ds_error *err) {
  ds_side *side = p->sides[kind];
  bool down = (kind == HIDDEN) == send; /* to or from the next stage */
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

static bool sound(const ds_pipeline *p) {
  return p->failure.status == DS_OK;
}

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
  if (status != DS_OK && sound(p)) p->failure = e;
  p->loaded = micro;
  return grow(p, &p->spare, &p->spare_bytes, ds_tensor_bytes(&p->shape), err);
}

static ds_status add_loss(ds_pipeline *p, flight *f, bool first, ds_error *err) {
  ds_tensor in = *ds_value_tensor(f->out);
  if (ds_tensor_numel(&in) != 1 || in.dtype != DS_F32)
    return ds_fail(err, DS_ERR_INVALID,
                   "model %s: its last blocks give no loss (one f32), which train_batch needs: are "
                   "there labels in the batch?",
                   ds_model_name(p->a.model));
  ds_tensor out = ds_tensor_make(&p->verdict->loss, DS_F32, 1, (int64_t[]){1});
  in = ds_tensor_make(in.data, DS_F32, 1, (int64_t[]){1});
  const ds_attr factor = {.f = 1.0 / (double)p->micros};
  return ds_run_raw(f->ctx, DS_OP_SCALE, (const ds_tensor *[]){&in}, 1, (const ds_tensor *[]){&out},
                    1, first ? 0 : 1, &factor, 1, err);
}

static ds_status check_hidden(ds_pipeline *p, flight *f, ds_error *err) {
  const ds_tensor *t = ds_value_tensor(f->out);
  bool same = t->dtype == f->shape.dtype && t->rank == f->shape.rank;
  for (int32_t i = 0; same && i < t->rank; i++) same = t->shape[i] == f->shape.shape[i];
  if (same) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID,
                 "model %s: forward_blocks(%d, %d) gives other values than hidden_shape says",
                 ds_model_name(p->a.model), p->a.first, p->a.last);
}

static ds_status compute_forward(ds_pipeline *p, flight *f, int64_t micro, ds_error *err) {
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
  if (out && !last_stage(p)) out = ds_contiguous(f->ctx, out);
  DS_TRY(ds_ctx_status(f->ctx, err));
  f->out = out;
  return last_stage(p) ? add_loss(p, f, micro == 0, err) : check_hidden(p, f, err);
}

static ds_status compute_backward(ds_pipeline *p, flight *f, ds_error *err) {
  if (last_stage(p)) return ds_ctx_backward(f->ctx, f->out, 1.0 / (double)p->micros, err);
  return ds_ctx_needs_gradient(f->out) ? ds_ctx_backward_from(f->ctx, f->out, err) : DS_OK;
}

static void keep_failure(ds_pipeline *p, ds_status status, const ds_error *e) {
  if (status != DS_OK && sound(p)) p->failure = *e;
}

/* ---- the work of a schedule */

static ds_status receive_hidden(ds_pipeline *p, int64_t micro, ds_error *err) {
  DS_TRY(load(p, micro, err));
  flight *f = flight_of(p, micro);
  size_t bytes = ds_tensor_bytes(&p->shape);
  ds_error e = {DS_OK, ""};
  if (sound(p)) keep_failure(p, grow(p, &f->hidden, &f->hidden_bytes, bytes, &e), &e);
  void *to = sound(p) ? f->hidden : p->spare;
  return message(p, HIDDEN, false, to, &p->shape, f->hidden_came, err);
}

static ds_status forward(ds_pipeline *p, int64_t micro, ds_error *err) {
  DS_TRY(load(p, micro, err));
  flight *f = flight_of(p, micro);
  if (++p->open > p->peak) p->peak = p->open;
  f->shape = p->shape; /* not before: the last gradient had to be sent by the old one */
  /* The arena still has what was sent last. */
  DS_TRY(ds_mark_wait(f->gradient_left, NULL, err));
  DS_TRY(ds_mark_wait(f->hidden_came, NULL, err));
  ds_error e = {DS_OK, ""};
  if (sound(p)) keep_failure(p, compute_forward(p, f, micro, &e), &e);
  return DS_OK;
}

static ds_status send_hidden(ds_pipeline *p, int64_t micro, ds_error *err) {
  flight *f = flight_of(p, micro);
  void *from = sound(p) ? ds_value_tensor(f->out)->data : p->spare;
  return message(p, HIDDEN, true, from, &f->shape, f->hidden_left, err);
}

static ds_status receive_gradient(ds_pipeline *p, int64_t micro, ds_error *err) {
  flight *f = flight_of(p, micro);
  ds_tensor to = f->shape;
  ds_error e = {DS_OK, ""};
  to.data = p->spare;
  if (sound(p) && ds_ctx_needs_gradient(f->out))
    keep_failure(p, ds_ctx_gradient(f->ctx, f->out, &to, &e), &e);
  return message(p, GRADIENT, false, to.data, &f->shape, f->gradient_came, err);
}

static ds_status backward(ds_pipeline *p, int64_t micro, ds_error *err) {
  flight *f = flight_of(p, micro);
  p->open--;
  /* The walk gives the memory of what was sent to others. */
  DS_TRY(ds_mark_wait(f->hidden_left, NULL, err));
  DS_TRY(ds_mark_wait(f->gradient_came, NULL, err));
  ds_error e = {DS_OK, ""};
  if (sound(p)) keep_failure(p, compute_backward(p, f, &e), &e);
  return DS_OK;
}

static ds_status send_gradient(ds_pipeline *p, int64_t micro, ds_error *err) {
  flight *f = flight_of(p, micro);
  const ds_tensor *g = sound(p) ? ds_ctx_leaf_gradient(f->in) : NULL;
  if (!g && sound(p)) { /* nothing of this stage depends on the one before */
    for (int i = 0; i < 2; i++) DS_TRY(ds_side_join(p->sides[i], err));
    DS_TRY(ds_backend_fill(p->a.backend, p->spare, 0, ds_tensor_bytes(&f->shape), err));
  }
  return message(p, GRADIENT, true, g ? g->data : p->spare, &f->shape, f->gradient_left, err);
}

static ds_status work(ds_pipeline *p, const ds_pipe_work *w, ds_error *err) {
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

/* ---- a step */

/* All stages learn the loss, and whether all went well. */
static ds_status conclude(ds_pipeline *p, float *loss, ds_error *err) {
  verdict v = {0, sound(p) ? 0 : 1.0f + (float)p->stage};
  ds_backend *b = p->a.backend;
  if (last_stage(p) && sound(p))
    DS_TRY(ds_backend_upload(b, &p->verdict->failed, &v.failed, sizeof v.failed, err));
  else
    DS_TRY(ds_backend_upload(b, p->verdict, &v, sizeof v, err));
  DS_TRY(ds_group_allreduce(p->a.pipe->group, NULL, p->verdict, p->verdict, 2, DS_F32,
                            DS_REDUCE_SUM, err));
  DS_TRY(ds_backend_download(b, &v.failed, &p->verdict->failed, sizeof v.failed, err));
  if (!sound(p))
    return ds_fail(err, p->failure.status, "pipeline stage %d: %s", p->stage, p->failure.message);
  if (v.failed != 0) {
    char which[32] = "another stage";
    if (v.failed <= (float)p->stages) snprintf(which, sizeof which, "stage %d", (int)v.failed - 1);
    return ds_fail(err, DS_ERR_STATE, "the step failed on %s of the pipeline; its rank says why",
                   which);
  }
  return ds_backend_copy(b, loss, &p->verdict->loss, sizeof *loss, err);
}

static ds_status plan(ds_pipeline *p, int64_t micros, ds_error *err) {
  if (p->micros == micros) return DS_OK;
  free(p->work);
  p->work = NULL;
  p->micros = 0;
  DS_TRY(ds_pipe_schedule(p->stages, p->stage, micros, &p->work, &p->n_work, err));
  p->micros = micros;
  return DS_OK;
}

static ds_status run(ds_pipeline *p, float *loss, ds_error *err) {
  for (size_t i = 0; i < p->n_work; i++) DS_TRY(work(p, &p->work[i], err));
  return conclude(p, loss, err);
}

ds_status ds_pipeline_run(ds_pipeline *p, int64_t micros, ds_pipeline_source source,
                          void *source_ctx, float *loss, ds_error *err) {
  DS_TRY(plan(p, micros, err));
  p->source = source;
  p->source_ctx = source_ctx;
  p->loaded = -1;
  p->open = p->peak = 0;
  p->failure.status = DS_OK;
  return run(p, loss, err);
}

int ds_pipeline_peak(const ds_pipeline *p) {
  return p->peak;
}
const ds_group *ds_pipeline_group(const ds_pipeline *p, int i) {
  return p->groups[i];
}

/* ---- begin and end */

static ds_status make_flight(ds_pipeline *p, flight *f, ds_error *err) {
  ds_mark **marks[] = {&f->hidden_came, &f->hidden_left, &f->gradient_came, &f->gradient_left};
  for (int i = 0; i < 4; i++) DS_TRY(ds_mark_create(p->a.backend, marks[i], err));
  DS_TRY(ds_ctx_create(p->a.backend, p->a.dtype, &f->ctx, err));
  ds_ctx_bind_params(f->ctx, p->a.slots, p->a.n_slots);
  ds_ctx_set_training(f->ctx, true);
  return DS_OK;
}

static ds_status make(ds_pipeline *p, ds_error *err) {
  static const char *const names[] = {"pipe (hidden values)", "pipe (gradients)"};
  void *v;
  for (int i = 0; i < 2; i++) {
    DS_TRY(ds_group_split(p->a.pipe->group, names[i], 0, p->stage, &p->groups[i], err));
    DS_TRY(ds_side_create(p->a.backend, &p->sides[i], err));
  }
  p->flights = calloc((size_t)(p->stages - p->stage), sizeof *p->flights);
  if (!p->flights) return ds_fail_memory(err, "a pipeline stage");
  p->n_flights = p->stages - p->stage;
  for (int i = 0; i < p->n_flights; i++) DS_TRY(make_flight(p, &p->flights[i], err));
  DS_TRY(ds_backend_alloc(p->a.backend, sizeof *p->verdict, &v, err));
  p->verdict = v;
  return DS_OK;
}

ds_status ds_pipeline_create(const ds_pipeline_args *args, ds_pipeline **out, ds_error *err) {
  *out = NULL;
  ds_pipeline *p = calloc(1, sizeof *p);
  if (!p) return ds_fail_memory(err, "a pipeline stage");
  p->a = *args;
  p->stage = args->pipe->rank;
  p->stages = args->pipe->size;
  ds_status status = make(p, err);
  if (status != DS_OK) {
    ds_pipeline_destroy(p);
    return status;
  }
  *out = p;
  return DS_OK;
}

static void finish_flight(ds_pipeline *p, flight *f) {
  ds_ctx_destroy(f->ctx);
  if (f->hidden) ds_backend_free(p->a.backend, f->hidden, f->hidden_bytes);
  ds_mark_destroy(f->hidden_came);
  ds_mark_destroy(f->hidden_left);
  ds_mark_destroy(f->gradient_came);
  ds_mark_destroy(f->gradient_left);
}

void ds_pipeline_destroy(ds_pipeline *p) {
  if (!p) return;
  /* First: a message that was given up may still write to memory. */
  for (int i = 0; i < 2; i++) ds_group_destroy(p->groups[i]);
  for (int i = 0; i < 2; i++) ds_side_destroy(p->sides[i]);
  for (int i = 0; i < p->n_flights; i++) finish_flight(p, &p->flights[i]);
  if (p->spare) ds_backend_free(p->a.backend, p->spare, p->spare_bytes);
  if (p->verdict) ds_backend_free(p->a.backend, p->verdict, sizeof *p->verdict);
  free(p->flights);
  free(p->work);
  free(p);
}

ds_status ds_pipeline_revive(ds_pipeline *p, ds_error *err) {
  for (int i = 0; i < 2; i++) DS_TRY(ds_side_revive(p->sides[i], err));
  return DS_OK;
}
