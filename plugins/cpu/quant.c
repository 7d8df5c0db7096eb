/* quant.c - the quant table: checks, and which way a product goes.
 *
 * A few rows meet the quantized values as they are, at the speed of memory. For more, the values
 * are brought back tile by tile and the product is an ordinary one. With dynamic scales it is
 * whole numbers all the way, for any number of rows.
 */
#include "quant.h"
#include "bf16.h"
#include "cpu.h"
#include "gemm_onednn.h"
#include "isa.h"

#include <math.h>

/* FEW_ROWS: up to here, reading the values again for every few rows is faster. */
enum { TILE_ELEMENTS = 2 << 20, FEW_ROWS = 16 };

static const ds_cpu_quant_kernels *kernels_of(const ds_device *dev) {
  switch (dev->isa) {
#ifdef DS_CPU_HAVE_AVX512_BF16
    case DS_ISA_AVX512_BF16: return &ds_cpu_quant_avx512_bf16;
#endif
#ifdef DS_CPU_HAVE_AVX512
    case DS_ISA_AVX512: return &ds_cpu_quant_avx512;
#endif
#ifdef DS_CPU_HAVE_AVX2
    case DS_ISA_AVX2: return &ds_cpu_quant_avx2;
#endif
    default: return &ds_cpu_quant_base;
  }
}

/* ---------------------------------------------------------------- checks */

static bool is_fp8(int32_t qtype) {
  return qtype == DS_F8E4M3 || qtype == DS_F8E5M2;
}

static ds_status check(const ds_quant *q, ds_error *err) {
  if (!DS_HAS(q, zeros))
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu quant: size is %u, ds_quant has %zu bytes",
                       q->size, sizeof *q);
  if (q->flags & ~(uint32_t)(DS_QUANT_ASYMMETRIC | DS_QUANT_PER_TENSOR))
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu quant: unknown flags 0x%x", q->flags);
  if ((q->qtype != DS_I8 && q->qtype != DS_I4 && !is_fp8(q->qtype)) ||
      (q->dtype != DS_F32 && q->dtype != DS_BF16))
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu quant: %s of %s; i8, i4, f8e4m3 and f8e5m2 of f32 and bf16 are",
                       ds_cpu_dtype_name(q->qtype), ds_cpu_dtype_name(q->dtype));
  if (ds_cpu_quant_asymmetric(q) && is_fp8(q->qtype))
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu quant: %s has no zero points (asymmetric)",
                       ds_cpu_dtype_name(q->qtype));
  if (q->rows < 0 || q->cols < 0 || (q->cols > 0 && q->rows > INT64_MAX / 64 / q->cols))
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu quant: impossible size: rows=%lld cols=%lld",
                       (long long)q->rows, (long long)q->cols);
  if (!ds_cpu_quant_per_tensor(q) && q->cols > 0 && (q->group < 1 || q->cols % q->group != 0))
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu quant: rows=%lld cols=%lld group=%lld: the group must divide cols",
                       (long long)q->rows, (long long)q->cols, (long long)q->group);
  if (q->qtype == DS_I4 && q->cols % 2 != 0)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu quant: i4 with cols=%lld; two share a byte, so cols is even",
                       (long long)q->cols);
  return DS_OK;
}

static ds_status check_gemm(const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  if (!DS_HAS(g, c))
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu quant: size is %u, ds_quant_gemm has %zu bytes",
                       g->size, sizeof *g);
  if (g->flags & ~(uint32_t)DS_QUANT_GEMM_DYNAMIC)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu quant: unknown flags 0x%x of a product",
                       g->flags);
  if (g->flags & DS_QUANT_GEMM_DYNAMIC && q->qtype != DS_I8)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu quant: dynamic activation scales are for i8, these are %s",
                       ds_cpu_dtype_name(q->qtype));
  if (g->m < 0 || (g->m > 0 && (g->lda < q->cols || g->ldc < q->rows)))
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu quant: m=%lld lda=%lld ldc=%lld do not suit rows=%lld cols=%lld",
                       (long long)g->m, (long long)g->lda, (long long)g->ldc, (long long)q->rows,
                       (long long)q->cols);
  return DS_OK;
}

static int supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  (void)dev;
  return check(q, NULL) == DS_OK && (g == NULL || check_gemm(q, g, NULL) == DS_OK);
}

static bool empty(const ds_quant *q) {
  return q->rows == 0 || q->cols == 0;
}

/* ---------------------------------------------------------------- there and back */

static ds_status quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st != DS_OK || empty(q)) return st;
  ds_cpu_quantize t = {.q = q, .x = x};
  size_t bytes = 2 * (size_t)s->dev->threads * sizeof *t.bounds;
  t.bounds = ds_cpu_scratch(s, DS_CPU_SCRATCH_QUANT, bytes, err);
  if (t.bounds == NULL) return DS_ERR_MEMORY;
  kernels_of(s->dev)->quantize(&t, s->dev->threads);
  return DS_OK;
}

static ds_status dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st != DS_OK || empty(q)) return st;
  ds_cpu_dequantize t = {.q = q, .rows = q->rows, .x = x, .dtype = q->dtype};
  kernels_of(s->dev)->dequantize(&t, s->dev->threads);
  return DS_OK;
}

/* ---------------------------------------------------------------- products */

/* Stays as it is where it is f32 already and not to be quantized. */
static const float *plain_a(ds_stream *s, const ds_quant *q, ds_quant_gemm *g, ds_error *err) {
  bool dynamic = g->flags & DS_QUANT_GEMM_DYNAMIC, wide = q->dtype == DS_BF16;
  if (!wide && !dynamic) return g->a;
  size_t count = (size_t)g->m * (size_t)q->cols;
  float *out = ds_cpu_scratch(s, DS_CPU_SCRATCH_QUANT, count * sizeof *out, err);
  if (out == NULL) return NULL;
  for (int64_t i = 0; i < g->m; i++) {
    float *row = out + i * q->cols, most = 0.0f;
    for (int64_t k = 0; k < q->cols; k++) {
      row[k] = ds_cpu_load(g->a, wide, i * g->lda + k);
      if (fabsf(row[k]) > most || isnan(row[k])) most = isnan(most) ? most : fabsf(row[k]);
    }
    float scale = most / 127.0f;
    if (scale == 0.0f) scale = 1.0f;
    for (int64_t k = 0; dynamic && k < q->cols; k++)
      row[k] = fminf(fmaxf(rintf(row[k] / scale), -127.0f), 127.0f) * scale;
  }
  g->lda = q->cols;
  return out;
}

/* In f32, any form of quantization and any number of rows. */
static ds_status plain_product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                               ds_error *err) {
  ds_quant_gemm plain = {.flags = g->flags, .m = g->m, .lda = g->lda, .a = g->a};
  const float *a = plain_a(s, q, &plain, err);
  if (a == NULL && q->cols > 0) return DS_ERR_MEMORY;
  for (int64_t i = 0; i < g->m; i += DS_CPU_QUANT_ROWS) {
    ds_cpu_quant_product p = {.q = q,
                              .m = ds_cpu_min_i64(DS_CPU_QUANT_ROWS, g->m - i),
                              .lda = plain.lda,
                              .ldc = g->ldc,
                              .a = q->cols > 0 ? a + i * plain.lda : NULL,
                              .bias = g->bias,
                              .c = (char *)g->c + ds_cpu_dtype_bytes(q->dtype, i * g->ldc)};
    kernels_of(s->dev)->product(&p, s->dev->threads);
  }
  return DS_OK;
}

/* In whole numbers. *done is false where A has no finite scale, which only f32 gets right. */
static ds_status dot_product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g, bool *done,
                             ds_error *err) {
  const ds_cpu_quant_kernels *k = kernels_of(s->dev);
  int64_t chunk = ds_cpu_quant_chunk(q, k->lanes);
  ds_cpu_quant_dot d = {.q = q,
                        .g = g,
                        .dynamic = g->flags & DS_QUANT_GEMM_DYNAMIC,
                        .chunks = (q->cols + chunk - 1) / chunk};
  d.parts = d.dynamic ? 1 : q->dtype == DS_BF16 ? 2 : 3;
  int64_t blocks = g->m * d.chunks, scales = d.dynamic ? g->m : blocks;
  size_t bytes = (size_t)(blocks * ds_cpu_quant_block(q, k->lanes, d.parts));
  d.a = ds_cpu_scratch(s, DS_CPU_SCRATCH_QUANT, bytes + (size_t)scales * sizeof(float), err);
  if (d.a == NULL) return DS_ERR_MEMORY;
  d.scales = (float *)(d.a + bytes);
  k->pack(&d, s->dev->threads);
  *done = true;
  for (int64_t i = 0; i < scales && !d.dynamic; i++) *done = *done && isfinite(d.scales[i]);
  if (*done) k->dot(&d, s->dev->threads);
  return DS_OK;
}

static ds_status many_rows(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  bool wide = !ds_cpu_onednn_takes(s->dev, q->dtype, q->dtype, q->dtype);
  int64_t rows = TILE_ELEMENTS / q->cols / 64 * 64;
  rows = ds_cpu_min_i64(q->rows, rows < 64 ? 64 : rows);
  ds_cpu_dequantize t = {.q = q, .dtype = wide ? DS_F32 : q->dtype};
  size_t bytes = ds_cpu_dtype_bytes(t.dtype, rows * q->cols);
  t.x = ds_cpu_scratch(s, DS_CPU_SCRATCH_QUANT, bytes, err);
  if (t.x == NULL) return DS_ERR_MEMORY;
  ds_gemm p = {.size = sizeof p,
               .flags = DS_GEMM_TRANS_B,
               .m = g->m,
               .k = q->cols,
               .lda = g->lda,
               .ldb = q->cols,
               .ldc = g->ldc,
               .batch = 1,
               .dtype_a = q->dtype,
               .dtype_b = t.dtype,
               .dtype_c = q->dtype,
               .dtype_bias = q->dtype,
               .alpha = 1.0f,
               .a = g->a,
               .b = t.x};
  ds_status st = DS_OK;
  for (; t.row < q->rows && st == DS_OK; t.row += t.rows) {
    t.rows = p.n = ds_cpu_min_i64(rows, q->rows - t.row);
    kernels_of(s->dev)->dequantize(&t, s->dev->threads);
    p.c = (char *)g->c + ds_cpu_dtype_bytes(q->dtype, t.row);
    if (g->bias != NULL) p.bias = (const char *)g->bias + ds_cpu_dtype_bytes(q->dtype, t.row);
    st = ds_cpu_gemm_table.run(s, &p, err);
  }
  return st;
}

static ds_status product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st == DS_OK) st = check_gemm(q, g, err);
  if (st != DS_OK || g->m == 0 || q->rows == 0) return st;
  if (q->cols == 0) return plain_product(s, q, g, err);
  bool dynamic = g->flags & DS_QUANT_GEMM_DYNAMIC, done = false;
  if (g->m > FEW_ROWS && !dynamic) return many_rows(s, q, g, err);
  bool exact = dynamic || q->cols >= DS_CPU_QUANT_SHORT;
  if (exact && ds_cpu_quant_dots(q, kernels_of(s->dev)->lanes))
    st = dot_product(s, q, g, &done, err);
  if (st != DS_OK || done) return st;
  return plain_product(s, q, g, err);
}

const ds_quant_table ds_cpu_quant_table = {
    .base = {sizeof(ds_quant_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = supports,
    .quantize = quantize,
    .dequantize = dequantize,
    .gemm = product,
};
