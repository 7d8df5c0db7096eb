#include "ops/tape.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ds_status ds_ctx_create(ds_backend *b, int32_t dtype, ds_ctx **out, ds_error *err) {
  *out = NULL;
  if (dtype != DS_F32 && dtype != DS_BF16 && dtype != DS_F16)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "compute dtype %s; f32, bf16 and f16 are there",
                   ds_dtype_name(dtype));
  ds_ctx *ctx = calloc(1, sizeof *ctx);
  if (!ctx) return ds_fail_memory(err, "a context");
  ctx->backend = b;
  ctx->dtype = dtype;
  ds_status status = ds_arena_create(b, &ctx->arena, err);
  if (status != DS_OK) {
    free(ctx);
    return status;
  }
  *out = ctx;
  return DS_OK;
}

void ds_ctx_destroy(ds_ctx *ctx) {
  if (!ctx) return;
  ds_ctx_drop_packed(ctx);
  ds_arena_destroy(ctx->arena);
  for (size_t i = 0; i < ctx->pool.n_chunks; i++) free(ctx->pool.chunks[i]);
  free(ctx->pool.chunks);
  free(ctx->nodes);
  free(ctx->uses);
  free(ctx->tensor.ids);
  free(ctx->tensor.pending);
  free(ctx);
}

void ds_ctx_drop_packed(ds_ctx *ctx) {
  for (int i = 0; i < ctx->n_slots; i++) {
    ds_param_slot *slot = &ctx->slots[i];
    ds_backend_free(ctx->backend, slot->packed, slot->packed_bytes);
    slot->packed = NULL;
    slot->packed_bytes = 0;
    slot->pack_tried = false;
  }
}

void ds_ctx_bind_params(ds_ctx *ctx, ds_param_slot *slots, int n) {
  ctx->slots = slots;
  ctx->n_slots = n;
}

void ds_ctx_bind_hooks(ds_ctx *ctx, const ds_param_hooks *hooks) {
  ctx->hooks = *hooks;
}

void ds_ctx_set_constant_weights(ds_ctx *ctx, bool constant) {
  ctx->constant_weights = constant;
}
void ds_ctx_set_training(ds_ctx *ctx, bool training) {
  ctx->training = training;
}
ds_backend *ds_ctx_backend(ds_ctx *ctx) {
  return ctx->backend;
}
size_t ds_ctx_input_bytes(const ds_ctx *ctx) {
  return ctx->input_bytes;
}
int32_t ds_ctx_dtype(const ds_ctx *ctx) {
  return ctx->dtype;
}
bool ds_ctx_training(const ds_ctx *ctx) {
  return ctx->training;
}

ds_status ds_ctx_begin(ds_ctx *ctx, ds_error *err) {
  ds_arena_reset(ctx->arena);
  ctx->pool.chunk = ctx->pool.offset = 0;
  ctx->n_nodes = 0;
  for (size_t i = 0; i < ctx->uses_capacity; i++) ctx->uses[i] = 0;
  ctx->n_scopes = 0;
  ctx->input_bytes = 0;
  ctx->failure.status = DS_OK;
  return ds_parallel_begin(ctx, err);
}

ds_status ds_ctx_status(const ds_ctx *ctx, ds_error *err) {
  if (ctx->failure.status == DS_OK) return DS_OK;
  return ds_fail(err, ctx->failure.status, "%s", ctx->failure.message);
}

ds_value *ds_ctx_fail(ds_ctx *ctx, ds_status status, const char *fmt, ...) {
  if (ctx->failure.status != DS_OK) return NULL;
  va_list args;
  va_start(args, fmt);
  vsnprintf(ctx->failure.message, sizeof ctx->failure.message, fmt, args);
  va_end(args);
  ctx->failure.status = status == DS_OK ? DS_ERR_INTERNAL : status;
  return NULL;
}

ds_value *ds_ctx_take_error(ds_ctx *ctx, const ds_error *err) {
  return ds_ctx_fail(ctx, err->status, "%s", err->message);
}

void ds_scope_begin(ds_ctx *ctx) {
  if (ctx->training || ctx->failure.status != DS_OK) return;
  if (ctx->n_scopes == DS_MAX_SCOPES) {
    ds_ctx_fail(ctx, DS_ERR_INVALID, "scopes nested deeper than %d", DS_MAX_SCOPES);
    return;
  }
  ctx->scopes[ctx->n_scopes].arena = ds_arena_get_mark(ctx->arena);
  ctx->scopes[ctx->n_scopes].pool = (ds_pool_mark){ctx->pool.chunk, ctx->pool.offset};
  ctx->n_scopes++;
}

static bool overlap(const char *a, const char *b, size_t bytes) {
  return a < b + bytes && b < a + bytes;
}

/* keep moves down to where the scope began. The arena hands out rising addresses within a chunk, so
 * a detour above keep never overlaps the new place. */
ds_value *ds_scope_end(ds_ctx *ctx, ds_value *keep) {
  if (ctx->training || !keep || ctx->failure.status != DS_OK) return keep;
  if (ctx->n_scopes == 0)
    return ds_ctx_fail(ctx, DS_ERR_STATE, "ds_scope_end without ds_scope_begin");
  keep = ds_contiguous(ctx, keep);
  if (!keep) return NULL;
  ds_tensor from = keep->t;
  ds_part part = keep->part;
  const ds_param_split *vocab = keep->vocab;
  size_t bytes = ds_tensor_bytes(&from);
  ds_value *detour = ds_value_new(ctx, from.dtype, from.rank, from.shape);
  if (!detour) return NULL;
  void *above = detour->t.data;
  ctx->n_scopes--;
  ds_arena_rewind(ctx->arena, ctx->scopes[ctx->n_scopes].arena);
  ctx->pool.chunk = ctx->scopes[ctx->n_scopes].pool.chunk;
  ctx->pool.offset = ctx->scopes[ctx->n_scopes].pool.offset;
  ds_value *y = ds_value_new(ctx, from.dtype, from.rank, from.shape);
  if (!y) return NULL;
  y->part = part;
  y->vocab = vocab;
  if (bytes == 0 || y->t.data == from.data) return y;
  ds_error err;
  ds_status status = DS_OK;
  if (overlap(y->t.data, from.data, bytes)) {
    status = ds_backend_copy(ctx->backend, above, from.data, bytes, &err);
    from.data = above;
  }
  if (status == DS_OK) status = ds_backend_copy(ctx->backend, y->t.data, from.data, bytes, &err);
  return status == DS_OK ? y : ds_ctx_take_error(ctx, &err);
}
