#include "ops/sequence.h"
#include "ops/tape.h"

#include "backend/record.h"

/* Rows of positions begin, ..., begin + length - 1. */
typedef struct rows {
  int64_t begin, length;
} rows;

static void count_up(int32_t *to, int64_t from, int64_t n, const rows *r) {
  for (int64_t i = 0; i < n; i++) to[i] = (int32_t)(r->begin + (from + i) % r->length);
}

/* In stretches from the stack: a step allocates no host memory. */
static ds_status upload_positions(ds_ctx *ctx, ds_value *v, int64_t n, const rows *r,
                                  ds_error *err) {
  int32_t part[4096], *dst = v->t.data;
  void *host;
  ctx->input_bytes += ((size_t)n * sizeof *dst + 63) / 64 * 64;
  if (ds_record_under_way(ctx->backend)) {
    DS_TRY(ds_record_input(ctx->backend, (size_t)n * sizeof *dst, &v->t.data, &host, err));
    count_up(host, 0, n, r);
    return DS_OK;
  }
  const int64_t stretch = sizeof part / sizeof *part;
  for (int64_t at = 0; at < n; at += stretch) {
    int64_t count = n - at < stretch ? n - at : stretch;
    count_up(part, at, count, r);
    DS_TRY(ds_backend_upload(ctx->backend, dst + at, part, (size_t)count * sizeof *part, err));
  }
  return DS_OK;
}

ds_value *ds_positions(ds_ctx *ctx, int64_t batch, int64_t length) {
  if (ctx->failure.status != DS_OK) return NULL;
  int64_t size = ds_group_size(ctx->sequence);
  if (batch < 1 || length < 1 || length > INT32_MAX / size || batch > INT32_MAX)
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "positions of %lld rows of %lld tokens",
                       (long long)batch, (long long)length);
  ds_value *v = ds_value_new(ctx, DS_I32, 2, (int64_t[]){batch, length});
  if (!v) return NULL;
  const rows r = {ds_sequence_begin(ctx, length), length};
  ds_error err;
  if (upload_positions(ctx, v, batch * length, &r, &err) != DS_OK)
    return ds_ctx_take_error(ctx, &err);
  v->id_min = (int32_t)r.begin;
  v->id_max = (int32_t)(r.begin + length - 1);
  return v;
}
