/* dispatch_quant.c - quantization goes to the plugin's quant table, and to the reference when the
 * plugin hasn't it: as dispatch.c does with ops and products. */
#include "backend/describe.h"
#include "backend/fallback.h"
#include "backend/stage.h"

/* One call of a quant table: the kind says which function, and which members it looks at. */
typedef struct quant_call {
  uint32_t kind;
  ds_quant q;
  void *x;         /* what is quantized, or dequantized to */
  ds_quant_gemm g; /* of a product */
} quant_call;

static ds_status run(const ds_quant_table *t, ds_stream *s, const quant_call *c, ds_error *e) {
  switch (c->kind) {
    case DS_KIND_QUANTIZE: return t->quantize(s, &c->q, c->x, e);
    case DS_KIND_DEQUANTIZE: return t->dequantize(s, &c->q, c->x, e);
    default: return t->gemm(s, &c->q, &c->g, e);
  }
}

static bool is_gemm(const quant_call *c) {
  return c->kind == DS_KIND_QUANT_GEMM;
}

static ds_tensor matrix(const void *data, int32_t dtype, int64_t rows, int64_t cols, int64_t ld) {
  return (ds_tensor){.data = (void *)(uintptr_t)data,
                     .dtype = dtype,
                     .rank = 2,
                     .shape = {rows, cols},
                     .stride = {ld, 1}};
}

static ds_status stage_quantized(ds_stage *stage, const ds_backend *b, const ds_quant *q,
                                 bool written, ds_error *err) {
  bool one = (q->flags & DS_QUANT_PER_TENSOR) != 0, empty = q->rows == 0 || q->cols == 0;
  /* A row of nothing may have a group of nothing. */
  int64_t groups = one ? 1 : q->cols == 0 ? 0 : q->rows * (q->cols / q->group);
  ds_tensor values = matrix(q->values, q->qtype, q->rows, q->cols, q->cols);
  ds_tensor scales = matrix(q->scales, DS_F32, 1, groups, groups);
  ds_tensor zeros = matrix(q->zeros, DS_I8, 1, groups, groups);
  DS_TRY(ds_stage_add_tensor(stage, b, &values, written, "quant: values", err));
  /* Even of nothing there may be one group, and a place for it. */
  if (q->scales || !empty)
    DS_TRY(ds_stage_add_tensor(stage, b, &scales, written, "quant: scales", err));
  if (!(q->flags & DS_QUANT_ASYMMETRIC) || (!q->zeros && empty)) return DS_OK;
  return ds_stage_add_tensor(stage, b, &zeros, written, "quant: zeros", err);
}

static ds_status stage_call(ds_stage *stage, const ds_backend *b, const quant_call *c,
                            ds_error *err) {
  const ds_quant *q = &c->q;
  const ds_quant_gemm *g = &c->g;
  if (is_gemm(c) && (g->m == 0 || q->rows == 0)) return DS_OK; /* nothing is read */
  DS_TRY(stage_quantized(stage, b, q, c->kind == DS_KIND_QUANTIZE, err));
  if (!is_gemm(c)) {
    ds_tensor x = matrix(c->x, q->dtype, q->rows, q->cols, q->cols);
    return ds_stage_add_tensor(stage, b, &x, c->kind == DS_KIND_DEQUANTIZE, "quant: x", err);
  }
  ds_tensor a = matrix(g->a, q->dtype, g->m, q->cols, g->lda);
  ds_tensor bias = matrix(g->bias, q->dtype, 1, q->rows, q->rows);
  ds_tensor out = matrix(g->c, q->dtype, g->m, q->rows, g->ldc);
  DS_TRY(ds_stage_add_tensor(stage, b, &a, false, "quant gemm: A", err));
  if (g->bias) DS_TRY(ds_stage_add_tensor(stage, b, &bias, false, "quant gemm: bias", err));
  return ds_stage_add_tensor(stage, b, &out, true, "quant gemm: C", err);
}

static quant_call translated(const quant_call *c, const ds_stage *stage, const ds_backend *b) {
  quant_call t = *c;
  t.x = ds_stage_host(stage, b, c->x);
  t.q.values = ds_stage_host(stage, b, c->q.values);
  t.q.scales = ds_stage_host(stage, b, c->q.scales);
  t.q.zeros = ds_stage_host(stage, b, c->q.zeros);
  t.g.a = ds_stage_host(stage, b, c->g.a);
  t.g.bias = ds_stage_host(stage, b, c->g.bias);
  t.g.c = ds_stage_host(stage, b, c->g.c);
  return t;
}

/* What the reference has against a call that it does not support. Pointers don't count there, so
 * without them it has the same to say and can touch nothing. */
static ds_status refuse(ds_backend *b, const quant_call *c, ds_error *err) {
  quant_call bare = *c;
  DS_BLANK_ERROR(e);
  bare.x = bare.q.values = NULL;
  bare.q.scales = NULL;
  bare.q.zeros = NULL;
  bare.g.a = bare.g.bias = bare.g.c = NULL;
  ds_status status = run(b->reference->quant, b->reference_stream, &bare, &e);
  if (status == DS_OK) status = DS_ERR_INVALID;
  return ds_device_wrap(b, ds_kind_name(c->kind), &e, status, err);
}

static ds_status fall_back(ds_backend *b, const quant_call *c, const char *why, ds_error *err) {
  const ds_quant_table *t = b->reference ? b->reference->quant : NULL;
  char what[200];
  ds_stage stage = {0};
  DS_BLANK_ERROR(e);
  if (t && !t->supports(b->reference_device, &c->q, is_gemm(c) ? &c->g : NULL))
    return refuse(b, c, err);
  ds_describe_quant(&c->q, is_gemm(c) ? &c->g : NULL, what, sizeof what);
  DS_TRY(ds_fallback_allow(b, c->kind, what, why, err));
  DS_TRY(stage_call(&stage, b, c, err));
  DS_TRY(ds_stage_in(&stage, b, 0, err));
  quant_call call = translated(c, &stage, b);
  ds_status status = run(t, b->reference_stream, &call, &e);
  if (status != DS_OK) return ds_device_wrap(b, ds_kind_name(c->kind), &e, status, err);
  return ds_stage_out(&stage, b, err);
}

static ds_status dispatch(ds_backend *b, const quant_call *c, ds_error *err) {
  DS_BLANK_ERROR(e);
  if (!b->plugin->quant) return fall_back(b, c, "the plugin has no quant table", err);
  ds_status status = run(b->plugin->quant, b->stream, c, &e);
  if (status == DS_OK) return DS_OK;
  if (status == DS_ERR_UNSUPPORTED) return fall_back(b, c, ds_fallback_reason(&e), err);
  return ds_device_wrap(b, ds_kind_name(c->kind), &e, status, err);
}

static ds_status count(ds_backend *b, const quant_call *c, ds_error *err) {
  ds_kind_counter *k = &b->kinds[c->kind];
  int64_t begin = ds_backend_ticks();
  ds_status status = dispatch(b, c, err);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return status;
}

ds_status ds_backend_quantize(ds_backend *b, const ds_quant *q, const void *x, ds_error *err) {
  quant_call c = {.kind = DS_KIND_QUANTIZE, .q = *q, .x = (void *)(uintptr_t)x};
  return count(b, &c, err);
}

ds_status ds_backend_dequantize(ds_backend *b, const ds_quant *q, void *x, ds_error *err) {
  quant_call c = {.kind = DS_KIND_DEQUANTIZE, .q = *q, .x = x};
  return count(b, &c, err);
}

ds_status ds_backend_quant_gemm(ds_backend *b, const ds_quant *q, const ds_quant_gemm *g,
                                ds_error *err) {
  quant_call c = {.kind = DS_KIND_QUANT_GEMM, .q = *q, .g = *g};
  return count(b, &c, err);
}
