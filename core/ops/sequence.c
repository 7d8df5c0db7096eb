#include "ops/sequence.h"

#include "backend/record.h"
#include "ops/tape.h"

void ds_ctx_bind_sequence(ds_ctx *ctx, ds_group *group) {
  ctx->sequence = ds_group_size(group) > 1 ? group : NULL;
}

int64_t ds_sequence_begin(const ds_ctx *ctx, int64_t length) {
  return ctx->sequence ? ds_group_rank(ctx->sequence) * length : 0;
}

bool ds_sequence_check_heads(ds_ctx *ctx, int64_t heads, int64_t kv_heads) {
  int64_t s = ds_group_size(ctx->sequence);
  if (heads % s == 0 && (kv_heads % s == 0 || s % kv_heads == 0)) return true;
  ds_ctx_fail(
      ctx, DS_ERR_INVALID,
      "attention: %lld heads with %lld of keys and values can't be divided over "
      "sequence_parallel_size %lld: it must divide the heads, and divide or be a multiple of "
      "those of keys and values",
      (long long)heads, (long long)kv_heads, (long long)s);
  return false;
}

/* ---- the exchange. What goes between ranks is [s,t,B,W]: for each rank, tokens, batch, and the W
 * elements of some heads. A rank's tokens of all others are then [T,B,W], one stride a
 * dimension. */

typedef struct parts {
  int64_t s, t, batch, width; /* as above; t: tokens here */
  int64_t copies;             /* ranks that get the same heads */
} parts;

/* Of x [B,t,H,D]: the heads are to be divided. */
static parts parts_of(const ds_ctx *ctx, const ds_tensor *x) {
  int64_t s = ds_group_size(ctx->sequence), heads = x->shape[2];
  parts p = {s, x->shape[1], x->shape[0], x->shape[3], 1};
  if (heads < s) p.copies = s / heads;
  if (heads > s) p.width *= heads / s;
  return p;
}

static ds_tensor make(const ds_tensor *like, const int64_t shape[4], const int64_t stride[4]) {
  ds_tensor t = ds_tensor_make(like->data, like->dtype, 4, shape);
  for (int i = 0; i < 4; i++) t.stride[i] = stride[i];
  return t;
}

/* x [B,t,H,D] as [s/copies,t,B,W]; heads lie one after the other. */
static ds_tensor heads_view(const ds_tensor *x, const parts *p) {
  return make(x, (int64_t[]){p->s / p->copies, p->t, p->batch, p->width},
              (int64_t[]){p->width, x->stride[1], x->stride[0], 1});
}

/* A buffer [s,t,B,W] as [s/copies,t,B,W]: every copies-th part, from part `first` on. */
static ds_tensor buffer_view(const ds_tensor *buffer, const parts *p, int64_t first) {
  int64_t part = p->t * p->batch * p->width;
  ds_tensor t = make(buffer, (int64_t[]){p->s / p->copies, p->t, p->batch, p->width},
                     (int64_t[]){p->copies * part, p->batch * p->width, p->width, 1});
  t.data = (char *)t.data + (size_t)(first * part) * ds_dtype_size(t.dtype);
  return t;
}

/* y [B,T,h,D] as [s,t,B,W], where h and D lie one after the other. */
static ds_tensor tokens_view(const ds_tensor *y, const parts *p) {
  return make(y, (int64_t[]){p->s, p->t, p->batch, p->width},
              (int64_t[]){p->t * y->stride[1], y->stride[1], y->stride[0], 1});
}

static ds_status copy(ds_ctx *ctx, const ds_tensor *x, const ds_tensor *y, bool add,
                      ds_error *err) {
  return ds_run_raw(ctx, DS_OP_COPY, &x, 1, &y, 1, add, NULL, 0, err);
}

static ds_status alltoall(ds_ctx *ctx, const ds_tensor *from, const ds_tensor *to, const parts *p,
                          ds_error *err) {
  return ds_group_alltoall(ctx->sequence, NULL, from->data, to->data, p->t * p->batch * p->width,
                           from->dtype, err);
}

static ds_value *new_buffer(ds_ctx *ctx, int32_t dtype, const parts *p) {
  return ds_value_new(ctx, dtype, 4, (int64_t[]){p->s, p->t, p->batch, p->width});
}

/* Work on it has been given; what comes later may have the memory. */
static void drop(ds_ctx *ctx, ds_value *buffer) {
  if (buffer) ds_arena_recycle(ctx->arena, buffer->storage->data, buffer->storage->bytes);
}

/* x [B,t,H,D] -> to [s,t,B,W], which then has all tokens of this rank's heads. */
static ds_status gather_tokens(ds_ctx *ctx, const ds_tensor *x, const ds_tensor *to, const parts *p,
                               ds_error *err) {
  ds_value *send = new_buffer(ctx, x->dtype, p);
  if (!send) return ds_ctx_status(ctx, err);
  ds_tensor from = heads_view(x, p);
  for (int64_t i = 0; i < p->copies; i++) {
    ds_tensor part = buffer_view(&send->t, p, i);
    DS_TRY(copy(ctx, &from, &part, false, err));
  }
  DS_TRY(alltoall(ctx, &send->t, to, p, err));
  drop(ctx, send);
  return DS_OK;
}

/* from [s,t,B,W] -> x [B,t,H,D], or added to it; what several ranks had the same of is summed. */
static ds_status gather_heads(ds_ctx *ctx, const ds_tensor *from, const ds_tensor *x,
                              const parts *p, bool add, ds_error *err) {
  ds_value *recv = new_buffer(ctx, from->dtype, p);
  if (!recv) return ds_ctx_status(ctx, err);
  DS_TRY(alltoall(ctx, from, &recv->t, p, err));
  ds_tensor to = heads_view(x, p);
  for (int64_t i = 0; i < p->copies; i++) {
    ds_tensor part = buffer_view(&recv->t, p, i);
    DS_TRY(copy(ctx, &part, &to, add || i > 0, err));
  }
  drop(ctx, recv);
  return DS_OK;
}

static bool may_exchange(ds_ctx *ctx) {
  if (ctx->failure.status != DS_OK) return false;
  if (!ds_record_under_way(ctx->backend)) return true;
  ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED, "sequence parallelism: collectives can't be recorded");
  return false;
}

/* ---- tokens to heads, and back: each is the other's gradient */

static ds_status to_heads_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0];
  const parts p = parts_of(ctx, &x->t);
  ds_grad d;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_STRIDED, &d, err));
  DS_TRY(gather_heads(ctx, ds_grad_out(node), &d.t, &p, d.accumulate, err));
  return ds_grad_close(ctx, &d, err);
}

ds_value *ds_sequence_to_heads(ds_ctx *ctx, ds_value *x) {
  ds_error err;
  if (!x || !may_exchange(ctx)) return NULL;
  if (x->t.stride[3] != 1 || (x->t.shape[2] > 1 && x->t.stride[2] != x->t.shape[3]))
    x = ds_contiguous(ctx, x);
  if (!x) return NULL;
  const parts p = parts_of(ctx, &x->t);
  int64_t dim = x->t.shape[3], shape[] = {p.s * p.t, p.batch, p.width / dim, dim};
  ds_value *all = ds_value_new(ctx, x->t.dtype, 4, shape);
  if (!all || ds_need(ctx, &x, 1, &err) != DS_OK) return all ? ds_ctx_take_error(ctx, &err) : NULL;
  if (gather_tokens(ctx, &x->t, &all->t, &p, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  all->part = x->part;
  all = ds_record(ctx, to_heads_backward, &x, 1, &all, 1, NULL, 0);
  if (!all) return NULL;
  ds_tensor view = make(&all->t, (int64_t[]){shape[1], shape[0], shape[2], shape[3]},
                        (int64_t[]){all->t.stride[1], all->t.stride[0], dim, 1});
  ds_value *y = ds_value_view(ctx, all, &view);
  if (y) y->part = x->part;
  return y;
}

/* Of y [B,T,h,D]: as of what to_tokens makes of it. */
static parts parts_of_tokens(const ds_ctx *ctx, const ds_tensor *y) {
  int64_t s = ds_group_size(ctx->sequence);
  return (parts){s, y->shape[1] / s, y->shape[0], y->shape[2] * y->shape[3], 1};
}

static ds_status to_tokens_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *y = node->in[0], *all;
  const parts p = parts_of_tokens(ctx, &y->t);
  ds_grad d;
  DS_TRY(ds_grad_open(ctx, y, y->t.dtype, DS_LAYOUT_CONTIGUOUS, &d, err));
  all = new_buffer(ctx, y->t.dtype, &p);
  if (!all) return ds_ctx_status(ctx, err);
  DS_TRY(gather_tokens(ctx, ds_grad_out(node), &all->t, &p, err));
  ds_tensor to = tokens_view(&d.t, &p);
  DS_TRY(copy(ctx, &all->t, &to, d.accumulate, err));
  drop(ctx, all);
  return ds_grad_close(ctx, &d, err);
}

ds_value *ds_sequence_to_tokens(ds_ctx *ctx, ds_value *y) {
  ds_error err;
  if (!y || !may_exchange(ctx)) return NULL;
  y = ds_contiguous(ctx, y);
  if (!y) return NULL;
  const parts p = parts_of_tokens(ctx, &y->t);
  int64_t dim = y->t.shape[3], shape[] = {p.batch, p.t, p.s * y->t.shape[2], dim};
  ds_value *z = ds_value_new(ctx, y->t.dtype, 4, shape), *send = new_buffer(ctx, y->t.dtype, &p);
  if (!z || !send) return NULL;
  ds_tensor from = tokens_view(&y->t, &p);
  ds_status status = copy(ctx, &from, &send->t, false, &err);
  if (status == DS_OK) status = gather_heads(ctx, &send->t, &z->t, &p, false, &err);
  if (status != DS_OK) return ds_ctx_take_error(ctx, &err);
  drop(ctx, send);
  z->part = y->part;
  return ds_record(ctx, to_tokens_backward, &y, 1, &z, 1, NULL, 0);
}

/* ---- the loss */

/* The i-th element of a value, as f32[1]. */
static ds_tensor element(const ds_value *v, int i) {
  int64_t one = 1;
  return ds_tensor_make((float *)v->t.data + i, DS_F32, 1, &one);
}

/* to = a / b, of f32[1] on the device, for which there is no op: the gradient of a cross entropy is
 * (exp(logit - lse) - [is target]) dloss / count, and with zeros for logits, lse and target that is
 * dloss / count where the target isn't. exp(0) is 1. */
static ds_status divide(ds_ctx *ctx, const ds_tensor *a, const ds_tensor *b, const ds_tensor *to,
                        ds_error *err) {
  enum { LOGITS = 0, TARGET = 16, LSE = 17, RESULT = 32, ALL = 48 }; /* 64 bytes apart */
  int64_t all = ALL, one = 1, row[] = {1, 2};
  ds_value *m = ds_value_new(ctx, DS_F32, 1, &all);
  if (!m) return ds_ctx_status(ctx, err);
  const ds_attr zero = {.f = 0}, ignore = {.i = -1};
  const ds_tensor *whole = &m->t;
  DS_TRY(ds_run_raw(ctx, DS_OP_FILL, NULL, 0, &whole, 1, 0, &zero, 1, err));
  ds_tensor logits = ds_tensor_make((float *)m->t.data + LOGITS, DS_F32, 2, row);
  ds_tensor target = ds_tensor_make((float *)m->t.data + TARGET, DS_I32, 1, &one);
  ds_tensor lse = element(m, LSE), result = logits, quotient = element(m, RESULT + 1);
  result.data = (float *)m->t.data + RESULT;
  DS_TRY(ds_run_raw(ctx, DS_OP_CROSS_ENTROPY_BACKWARD,
                    (const ds_tensor *[]){a, &logits, &target, &lse, b}, 5,
                    (const ds_tensor *[]){&result}, 1, 0, &ignore, 1, err));
  DS_TRY(copy(ctx, &quotient, to, false, err));
  drop(ctx, m);
  return DS_OK;
}

/* With n targets here of N in all, and s ranks, whose gradients are averaged: the rank's gradient
 * is that of its sum of losses times s / N. So its count becomes N / s, and the loss the ranks' sum
 * / N. */
static ds_status mean_loss(ds_ctx *ctx, ds_value *loss, ds_value *count, ds_error *err) {
  int64_t two = 2;
  ds_value *sums = ds_value_new(ctx, DS_F32, 1, &two), *least = ds_value_new(ctx, DS_F32, 1, &two);
  if (!sums || !least) return ds_ctx_status(ctx, err);
  ds_tensor total = element(sums, 0), n = element(sums, 1), above = element(least, 0);
  const ds_attr share = {.f = 1.0 / ds_group_size(ctx->sequence)}, tiny = {.f = 1e-30};
  const ds_tensor *to = &total, *to_count = &count->t, *to_least = &least->t, *to_above = &above;
  DS_TRY(ds_run_raw(ctx, DS_OP_MUL, (const ds_tensor *[]){&loss->t, &count->t}, 2, &to, 1, 0, NULL,
                    0, err));
  DS_TRY(copy(ctx, &count->t, &n, false, err));
  DS_TRY(ds_group_allreduce(ctx->sequence, NULL, sums->t.data, sums->t.data, two, DS_F32,
                            DS_REDUCE_SUM, err));
  DS_TRY(
      ds_run_raw(ctx, DS_OP_SCALE, (const ds_tensor *[]){&n}, 1, &to_count, 1, 0, &share, 1, err));
  /* No target counts anywhere: the loss is 0. */
  DS_TRY(ds_run_raw(ctx, DS_OP_FILL, NULL, 0, &to_least, 1, 0, &tiny, 1, err));
  DS_TRY(ds_run_raw(ctx, DS_OP_ADD, (const ds_tensor *[]){&n, &above}, 2, &to_above, 1, 0, NULL, 0,
                    err));
  return divide(ctx, &total, &above, &loss->t, err);
}

bool ds_sequence_mean_loss(ds_ctx *ctx, ds_value *loss, ds_value *count) {
  ds_error err;
  if (!ctx->sequence) return true;
  if (!may_exchange(ctx)) return false;
  if (mean_loss(ctx, loss, count, &err) == DS_OK) return true;
  ds_ctx_take_error(ctx, &err);
  return false;
}
