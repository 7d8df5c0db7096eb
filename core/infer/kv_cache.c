#include "infer/kv_cache.h"

#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

struct ds_kv_cache {
  ds_backend *backend;
  ds_model_info info;
  int32_t dtype;
  int64_t batch, capacity;
  int64_t length;   /* tokens in every row */
  int64_t expected; /* tokens that the decode under way adds */
  void *memory;     /* [L][2][B,S,G,D] */
  size_t bytes;
  int32_t *host;             /* positions, lengths: B * capacity */
  void *positions, *lengths; /* device memory: see follow; or NULL */
};

/* Bytes of the keys (or values) of one layer. */
static size_t plane_bytes(const ds_kv_cache *c) {
  return (size_t)(c->batch * c->capacity * c->info.n_kv_heads * c->info.head_dim) *
         ds_dtype_size(c->dtype);
}

ds_status ds_kv_cache_create(ds_backend *b, const ds_model_info *info, int32_t dtype, int64_t batch,
                             int64_t capacity, ds_kv_cache **out, ds_error *err) {
  *out = NULL;
  if (batch < 1 || capacity < 1)
    return ds_fail(err, DS_ERR_INVALID, "a KV cache of %lld rows with %lld tokens",
                   (long long)batch, (long long)capacity);
  ds_kv_cache *c = calloc(1, sizeof *c);
  if (!c) return ds_fail_memory(err, "a KV cache");
  c->backend = b;
  c->info = *info;
  c->dtype = dtype;
  c->batch = batch;
  c->capacity = capacity;
  c->bytes = plane_bytes(c) * 2 * (size_t)info->n_layers;
  c->host = malloc((size_t)(batch * capacity) * sizeof *c->host);
  ds_status status =
      c->host ? ds_backend_alloc(b, c->bytes, &c->memory, err) : ds_fail_memory(err, "a KV cache");
  if (status != DS_OK) {
    ds_kv_cache_destroy(c);
    return status;
  }
  *out = c;
  return DS_OK;
}

void ds_kv_cache_destroy(ds_kv_cache *c) {
  if (!c) return;
  ds_backend_free(c->backend, c->memory, c->bytes);
  free(c->host);
  free(c);
}

int64_t ds_kv_cache_capacity(const ds_kv_cache *c) {
  return c->capacity;
}
int64_t ds_kv_cache_length(const ds_kv_cache *c) {
  return c->length;
}

void ds_kv_cache_reset(ds_kv_cache *c) {
  c->length = c->expected = 0;
}

void ds_kv_cache_follow(ds_kv_cache *c, void *positions, void *lengths) {
  c->positions = positions;
  c->lengths = lengths;
}

ds_status ds_kv_cache_expect(ds_kv_cache *c, int64_t tokens, ds_error *err) {
  if (tokens < 1 || tokens > c->capacity - c->length)
    return ds_fail(err, DS_ERR_INVALID,
                   "%lld tokens behind %lld don't fit into %lld; raise max_out_tokens",
                   (long long)tokens, (long long)c->length, (long long)c->capacity);
  c->expected = tokens;
  return DS_OK;
}

void ds_kv_cache_advance(ds_kv_cache *c) {
  c->length += c->expected;
  c->expected = 0;
}

/* `count` tokens from token `from` on of one plane: [B,count,G,D], strided over the capacity. */
static ds_tensor window(const ds_kv_cache *c, int layer, int plane, int64_t from, int64_t count) {
  int64_t shape[] = {c->batch, c->capacity, c->info.n_kv_heads, c->info.head_dim};
  char *base = (char *)c->memory + plane_bytes(c) * (size_t)(2 * layer + plane);
  ds_tensor t = ds_tensor_make(base, c->dtype, 4, shape);
  t.data = base + (size_t)(from * t.stride[1]) * ds_dtype_size(c->dtype);
  t.shape[1] = count;
  return t;
}

static ds_status append(ds_kv_cache *c, ds_ctx *ctx, int layer, int plane, const ds_value *x,
                        ds_value **all, ds_error *err) {
  ds_tensor to = window(c, layer, plane, c->length, c->expected);
  const ds_tensor *from = ds_value_tensor(x);
  if (!ds_tensor_same_shape(from, &to)) {
    char a[96], b[96];
    return ds_fail(err, DS_ERR_INVALID, "KV cache: got %s where %s was expected",
                   ds_tensor_describe(from, a, sizeof a), ds_tensor_describe(&to, b, sizeof b));
  }
  ds_tensor whole =
      window(c, layer, plane, 0, c->positions ? c->capacity : c->length + c->expected);
  ds_tensor at = ds_tensor_make(c->positions, DS_I32, 1, &c->batch);
  const ds_op copy = {.size = sizeof copy,
                      .id = DS_OP_COPY,
                      .n_in = 1,
                      .n_out = 1,
                      .in = &from,
                      .out = (const ds_tensor *[]){&to}};
  const ds_op append_rows = {.size = sizeof append_rows,
                             .id = DS_OP_APPEND_ROWS,
                             .n_in = 2,
                             .n_out = 1,
                             .in = (const ds_tensor *[]){from, &at},
                             .out = (const ds_tensor *[]){&whole}};
  DS_TRY(ds_backend_op(c->backend, c->positions ? &append_rows : &copy, err));
  *all = ds_ctx_wrap(ctx, &whole);
  return DS_OK;
}

ds_status ds_kv_cache_append(ds_kv_cache *c, ds_ctx *ctx, int layer, ds_value *k, ds_value *v,
                             ds_value **all_k, ds_value **all_v) {
  ds_error err;
  *all_k = *all_v = NULL;
  DS_TRY(ds_ctx_status(ctx, NULL));
  if (!k || !v) return DS_ERR_INVALID;
  ds_status status = DS_OK;
  if (layer < 0 || layer >= c->info.n_layers)
    status = ds_fail(&err, DS_ERR_INVALID, "KV cache: layer %d of %d", layer, c->info.n_layers);
  if (status == DS_OK) status = append(c, ctx, layer, 0, k, all_k, &err);
  if (status == DS_OK) status = append(c, ctx, layer, 1, v, all_v, &err);
  if (status != DS_OK) ds_ctx_fail(ctx, status, "%s", err.message);
  return status;
}

ds_value *ds_kv_cache_lengths(ds_kv_cache *c, ds_ctx *ctx) {
  ds_tensor there = ds_tensor_make(c->lengths, DS_I32, 1, &c->batch);
  if (c->lengths) return ds_ctx_wrap(ctx, &there);
  for (int64_t b = 0; b < c->batch; b++) c->host[b] = (int32_t)(c->length + c->expected);
  return ds_input(ctx, DS_I32, 1, &c->batch, c->host);
}

ds_value *ds_kv_cache_positions(ds_kv_cache *c, ds_ctx *ctx) {
  ds_tensor there = ds_tensor_make(c->positions, DS_I32, 2, (int64_t[]){c->batch, 1});
  if (c->positions) return ds_ctx_wrap(ctx, &there);
  for (int64_t b = 0; b < c->batch; b++)
    for (int64_t t = 0; t < c->expected; t++)
      c->host[b * c->expected + t] = (int32_t)(c->length + t);
  return ds_input(ctx, DS_I32, 2, (int64_t[]){c->batch, c->expected}, c->host);
}
