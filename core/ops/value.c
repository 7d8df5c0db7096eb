#include "ops/tape.h"

#include "backend/record.h"

#include <stdlib.h>
#include <string.h>

static ds_value *make_value(ds_ctx *ctx, const ds_tensor *t) {
  ds_value *v = ds_pool_alloc(ctx, sizeof *v);
  if (!v) return NULL;
  v->t = *t;
  v->param = -1;
  v->id_max = -1; /* unknown range: id_min > id_max */
  return v;
}

ds_value *ds_value_new(ds_ctx *ctx, int32_t dtype, int32_t rank, const int64_t *shape) {
  ds_tensor t = ds_tensor_make(NULL, dtype, rank, shape);
  ds_value *v = make_value(ctx, &t);
  if (!v) return NULL;
  ds_storage *s = ds_pool_alloc(ctx, sizeof *s);
  if (!s) return NULL;
  ds_error err;
  s->bytes = ds_tensor_bytes(&t);
  s->refs = 1;
  if (ds_arena_alloc(ctx->arena, s->bytes, &s->data, &err) != DS_OK)
    return ds_ctx_take_error(ctx, &err);
  v->storage = s;
  v->t.data = s->data;
  return v;
}

ds_value *ds_value_view(ds_ctx *ctx, ds_value *x, const ds_tensor *t) {
  ds_value *v = make_value(ctx, t);
  if (!v) return NULL;
  v->base = x->base ? x->base : x;
  v->base_offset = (size_t)((char *)t->data - (char *)x->t.data) + x->base_offset;
  v->needs_grad = x->needs_grad;
  v->id_min = x->id_min;
  v->id_max = x->id_max;
  v->part = x->part;
  v->vocab = x->vocab;
  if (ds_tensor_numel(t) == ds_tensor_numel(&x->t)) v->host = x->host;
  return v;
}

ds_value *ds_ctx_wrap(ds_ctx *ctx, const ds_tensor *t) {
  if (ctx->failure.status != DS_OK) return NULL;
  return make_value(ctx, t);
}

ds_value *ds_ctx_wrap_leaf(ds_ctx *ctx, const ds_tensor *t) {
  ds_value *v = ds_ctx_wrap(ctx, t);
  if (v) v->needs_grad = true;
  return v;
}

const ds_tensor *ds_ctx_leaf_gradient(const ds_value *v) {
  return v->grad ? &v->grad->t : NULL;
}

const ds_tensor *ds_value_tensor(const ds_value *v) {
  return &v->t;
}

ds_value *ds_param(ds_ctx *ctx, int index) {
  if (ctx->failure.status != DS_OK) return NULL;
  if (index < 0 || index >= ctx->n_slots)
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "parameter %d of %d", index, ctx->n_slots);
  ds_param_slot *slot = &ctx->slots[index];
  ds_value *v = make_value(ctx, &slot->value);
  if (!v) return NULL;
  v->param = index;
  v->needs_grad = slot->grad != NULL;
  return v;
}

static bool is_half(int32_t dtype) {
  return dtype == DS_BF16 || dtype == DS_F16;
}

static bool check_input(ds_ctx *ctx, int32_t dtype, int32_t rank, const int64_t *shape) {
  if (dtype != DS_I32 && dtype != DS_F32 && !is_half(dtype)) {
    ds_ctx_fail(ctx, DS_ERR_INVALID, "input of dtype %s; f32, bf16, f16 and i32 are allowed",
                ds_dtype_name(dtype));
    return false;
  }
  int64_t n = 1;
  for (int32_t i = 0; i < rank && rank <= DS_MAX_RANK; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n) || n > INT64_MAX / 16) {
      ds_ctx_fail(ctx, DS_ERR_INVALID, "input dimension %d is %lld", i, (long long)shape[i]);
      return false;
    }
  if (rank < 0 || rank > DS_MAX_RANK) {
    ds_ctx_fail(ctx, DS_ERR_INVALID, "input of rank %d; at most %d", rank, DS_MAX_RANK);
    return false;
  }
  return true;
}

/* While work is recorded the value lies in memory of the recording, which a launch finds there. */
static ds_status record_host_data(ds_ctx *ctx, ds_value *v, const void *host, size_t n,
                                  ds_error *err) {
  void *to;
  DS_TRY(ds_record_input(ctx->backend, n * ds_dtype_size(v->t.dtype), &v->t.data, &to, err));
  if (is_half(v->t.dtype))
    ds_convert_from_f32(to, v->t.dtype, host, n);
  else
    memcpy(to, host, 4 * n);
  return DS_OK;
}

/* bf16 or f16 from the host's f32, a stretch at a time. */
static ds_status upload_half(ds_ctx *ctx, void *dst, int32_t dtype, const float *src, size_t n,
                             ds_error *err) {
  uint16_t part[4096];
  for (size_t at = 0; at < n; at += sizeof part / sizeof *part) {
    size_t count = n - at < sizeof part / sizeof *part ? n - at : sizeof part / sizeof *part;
    ds_convert_from_f32(part, dtype, src + at, count);
    DS_TRY(ds_backend_upload(ctx->backend, (char *)dst + 2 * at, part, 2 * count, err));
  }
  return DS_OK;
}

ds_status ds_input_write(ds_ctx *ctx, void *dst, int32_t dtype, const void *host, size_t n,
                         ds_error *err) {
  if (is_half(dtype)) return upload_half(ctx, dst, dtype, host, n, err);
  return ds_backend_upload(ctx->backend, dst, host, 4 * n, err);
}

ds_status ds_value_fill(ds_ctx *ctx, ds_value *v, const void *host, ds_error *err) {
  size_t n = (size_t)ds_tensor_numel(&v->t);
  if (n == 0) return DS_OK;
  ctx->input_bytes += (n * ds_dtype_size(v->t.dtype) + 63) / 64 * 64;
  if (ds_record_under_way(ctx->backend)) return record_host_data(ctx, v, host, n, err);
  return ds_input_write(ctx, v->t.data, v->t.dtype, host, n, err);
}

void ds_input_range(const int32_t *ids, size_t n, int32_t *least, int32_t *most) {
  *least = *most = ids[0];
  for (size_t i = 1; i < n; i++) {
    if (ids[i] < *least) *least = ids[i];
    if (ids[i] > *most) *most = ids[i];
  }
}

ds_value *ds_input(ds_ctx *ctx, int32_t dtype, int32_t rank, const int64_t *shape,
                   const void *host) {
  if (ctx->failure.status != DS_OK || !check_input(ctx, dtype, rank, shape)) return NULL;
  ds_value *v = ds_value_new(ctx, dtype, rank, shape);
  if (!v) return NULL;
  size_t n = (size_t)ds_tensor_numel(&v->t);
  if (n == 0) return v;
  ds_error err;
  if (ds_value_fill(ctx, v, host, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  if (dtype == DS_I32) ds_input_range(host, n, &v->id_min, &v->id_max);
  if (dtype == DS_I32 && ctx->tensor.group && !ds_parallel_keep_ids(ctx, v, host, n)) return NULL;
  return v;
}

ds_status ds_value_read(ds_ctx *ctx, const ds_value *v, float *out, size_t n, ds_error *err) {
  DS_TRY(ds_ctx_status(ctx, err));
  if (!v) return ds_fail(err, DS_ERR_INVALID, "ds_value_read of no value");
  if (n != (size_t)ds_tensor_numel(&v->t))
    return ds_fail(err, DS_ERR_INVALID, "the value has %lld elements, not %zu",
                   (long long)ds_tensor_numel(&v->t), n);
  if (n == 0) return DS_OK;
  if (!ds_tensor_is_contiguous(&v->t))
    return ds_fail(err, DS_ERR_UNSUPPORTED, "reading a strided view; read its base");
  ds_value here = *v; /* a parameter may have to be fetched first */
  DS_TRY(ds_need(ctx, (ds_value *[]){&here}, 1, err));
  v = &here;
  if (v->t.dtype == DS_F32) return ds_backend_download(ctx->backend, out, v->t.data, 4 * n, err);
  size_t bytes = ds_tensor_bytes(&v->t);
  void *raw = malloc(bytes);
  if (!raw) return ds_fail_memory(err, "a value");
  ds_status status = ds_backend_download(ctx->backend, raw, v->t.data, bytes, err);
  if (status == DS_OK && !ds_convert_to_f32(out, raw, v->t.dtype, n))
    status =
        ds_fail(err, DS_ERR_UNSUPPORTED, "reading a value of dtype %s", ds_dtype_name(v->t.dtype));
  free(raw);
  return status;
}
