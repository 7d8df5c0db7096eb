/* parallel_sums.c - gradients that are summed over ranks, and host copies of ids. */
#include "base/str.h"
#include "ops/parallel.h"
#include "ops/tape.h"

#include <string.h>

void ds_parallel_drop(ds_ctx *ctx, ds_value *v) {
  ds_storage *s = v->storage;
  if (s && --s->refs == 0) ds_arena_recycle(ctx->arena, s->data, s->bytes);
  v->storage = NULL;
}

/* ---- gradients summed over ranks: key/value heads that several have, and under sequence
 * parallelism all that is undivided. A gradient so far is the sum already, so this walk's is apart
 * until it is one too. */

ds_status ds_parallel_begin(ds_ctx *ctx, ds_error *err) {
  ctx->tensor.n_ids = 0;
  for (size_t i = 0; i < ctx->tensor.pending_capacity; i++) ctx->tensor.pending[i] = NULL;
  /* A walk failed amid sums, whose memory is used again from here on. */
  if (ctx->tensor.busy) DS_TRY(ds_side_revive(ctx->tensor.side, err));
  ctx->tensor.busy = false;
  return DS_OK;
}

bool ds_parallel_summed(const ds_ctx *ctx, int param) {
  return ctx->tensor.group && ds_group_size(ctx->tensor.splits[param].sum) > 1;
}

ds_status ds_parallel_grad(ds_ctx *ctx, ds_value *param, ds_tensor *out, bool *existed,
                           ds_error *err) {
  size_t had = ctx->tensor.pending_capacity;
  DS_TRY(ds_reserve(&ctx->tensor.pending, &ctx->tensor.pending_capacity, (size_t)ctx->n_slots,
                    sizeof(ds_value *), "gradients to be summed", err));
  for (size_t i = had; i < ctx->tensor.pending_capacity; i++) ctx->tensor.pending[i] = NULL;
  ds_value **place = &ctx->tensor.pending[param->param];
  *existed = *place != NULL;
  if (!*place) *place = ds_value_new(ctx, DS_F32, param->t.rank, param->t.shape);
  if (!*place) return ds_ctx_status(ctx, err);
  *out = (*place)->t;
  return DS_OK;
}

ds_status ds_parallel_done(ds_ctx *ctx, int param, ds_error *err) {
  if (!ds_parallel_summed(ctx, param) || (size_t)param >= ctx->tensor.pending_capacity)
    return DS_OK;
  ds_value *v = ctx->tensor.pending[param];
  ds_param_slot *slot = &ctx->slots[param];
  if (!v) return DS_OK; /* nor has any other rank: the tapes are alike */
  int64_t n = ds_tensor_numel(&v->t);
  DS_TRY(ds_group_allreduce(ctx->tensor.splits[param].sum, NULL, v->t.data, v->t.data, n, DS_F32,
                            DS_REDUCE_SUM, err));
  if (ctx->hooks.grad) DS_TRY(ctx->hooks.grad(ctx->hooks.self, param, err));
  ds_tensor from = ds_tensor_make(v->t.data, DS_F32, 1, &n);
  ds_tensor to = ds_tensor_make(slot->grad, DS_F32, 1, &n);
  DS_TRY(ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1, (const ds_tensor *[]){&to}, 1,
                    slot->has_grad, NULL, 0, err));
  slot->has_grad = true;
  ctx->tensor.pending[param] = NULL;
  ds_parallel_drop(ctx, v);
  return DS_OK;
}

/* ---- ids on the host */

static int32_t *room_for_ids(ds_ctx *ctx, size_t n) {
  ds_error err;
  if (ds_reserve(&ctx->tensor.ids, &ctx->tensor.id_capacity, ctx->tensor.n_ids + n,
                 sizeof *ctx->tensor.ids, "a step's ids", &err) == DS_OK)
    return ctx->tensor.ids + ctx->tensor.n_ids;
  ds_ctx_take_error(ctx, &err);
  return NULL;
}

bool ds_parallel_keep_ids(ds_ctx *ctx, ds_value *v, const int32_t *host, size_t n) {
  int32_t *to = room_for_ids(ctx, n);
  if (!to) return false;
  memcpy(to, host, n * sizeof *to);
  v->host = ctx->tensor.n_ids + 1;
  ctx->tensor.n_ids += n;
  return true;
}

const int32_t *ds_parallel_read_ids(ds_ctx *ctx, ds_value *v) {
  ds_error err;
  if (v->host) return ctx->tensor.ids + v->host - 1;
  size_t n = (size_t)ds_tensor_numel(&v->t);
  int32_t *to = room_for_ids(ctx, n);
  if (!to) return NULL;
  if (ds_backend_download(ctx->backend, to, v->t.data, n * sizeof *to, &err) == DS_OK) return to;
  ds_ctx_take_error(ctx, &err);
  return NULL;
}
