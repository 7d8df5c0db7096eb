/* quant.c - the quant table: checks, and which way a product goes.
 *
 * A few rows meet the quantized values as they are, at the speed of memory. For more, the values
 * are brought back tile by tile and the product is an ordinary one.
 */
#include "quant.h"
#include "bf16.h"
#include "cpu.h"
#include "gemm_onednn.h"
#include "isa.h"

#include <string.h>

/* FEW_ROWS: up to here, reading the values again for every DS_CPU_QUANT_ROWS rows is faster. */
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

static ds_status check(const ds_quant *q, ds_error *err) {
  if (!DS_HAS(q, zeros))
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu quant: size is %u, which is no ds_quant; set it to sizeof(ds_quant)",
                       q->size);
  if (q->flags != 0 || (q->qtype != DS_I8 && q->qtype != DS_I4) ||
      (q->dtype != DS_F32 && q->dtype != DS_BF16))
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu quant: %s of %s; i8 and i4 of f32 and bf16 are",
                       ds_cpu_dtype_name(q->qtype), ds_cpu_dtype_name(q->dtype));
  if (q->rows < 0 || q->cols < 0 || q->group < 1 || q->cols % q->group != 0)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu quant: rows=%lld cols=%lld group=%lld: the group must divide cols",
                       (long long)q->rows, (long long)q->cols, (long long)q->group);
  if (q->qtype == DS_I4 && q->group % 2 != 0)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu quant: i4 in groups of %lld; two share a byte, so groups are even",
                       (long long)q->group);
  return DS_OK;
}

static int supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  (void)dev;
  return check(q, NULL) == DS_OK &&
         (g == NULL || (DS_HAS(g, c) && g->flags == 0 && g->lda == q->cols && g->ldc == q->rows));
}

static bool empty(const ds_quant *q) {
  return q->rows == 0 || q->cols == 0;
}

static ds_status quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st != DS_OK || empty(q)) return st;
  ds_cpu_quant_rows r = {q, (void *)x, q->values, q->scales, 0};
  kernels_of(s->dev)->quantize(&r, s->dev->threads);
  return DS_OK;
}

static ds_status dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  ds_status st = ds_cpu_ready(s, err);
  if (st == DS_OK) st = check(q, err);
  if (st != DS_OK || empty(q)) return st;
  ds_cpu_quant_rows r = {q, x, q->values, q->scales, 0};
  kernels_of(s->dev)->dequantize(&r, s->dev->threads);
  return DS_OK;
}

/* A as f32 in the order of the values. */
static float *ordered(ds_stream *s, const ds_quant *q, int64_t m, const void *a, ds_error *err) {
  float *out = ds_cpu_scratch(s, DS_CPU_SCRATCH_QUANT, (size_t)(m * q->cols) * sizeof *out, err);
  if (out == NULL) return NULL;
  int64_t half = q->group / 2;
  bool wide = q->dtype == DS_BF16;
  for (int64_t at = 0; at < m * q->cols; at += q->group)
    if (q->qtype == DS_I8)
      for (int64_t i = 0; i < q->group; i++) out[at + i] = ds_cpu_load(a, wide, at + i);
    else
      for (int64_t i = 0; i < half; i++) {
        out[at + i] = ds_cpu_load(a, wide, at + 2 * i);
        out[at + half + i] = ds_cpu_load(a, wide, at + 2 * i + 1);
      }
  return out;
}

static ds_status few_rows(ds_stream *s, const ds_quant *q, int64_t m, const void *a,
                          const void *values, const float *scales, const void *bias, void *c,
                          ds_error *err) {
  float *in_order = ordered(s, q, m, a, err);
  if (in_order == NULL) return DS_ERR_MEMORY;
  for (int64_t i = 0; i < m; i += DS_CPU_QUANT_ROWS) {
    ds_cpu_quant_product p = {q,
                              ds_cpu_min_i64(DS_CPU_QUANT_ROWS, m - i),
                              in_order + i * q->cols,
                              values,
                              bias,
                              scales,
                              (char *)c + ds_cpu_dtype_bytes(q->dtype, i * q->rows)};
    kernels_of(s->dev)->product(&p, s->dev->threads);
  }
  return DS_OK;
}

static ds_status many_rows(ds_stream *s, const ds_quant *q, int64_t m, const void *a,
                           const void *values, const float *scales, const void *bias, void *c,
                           ds_error *err) {
  bool wide = !ds_cpu_onednn_takes(s->dev, q->dtype, q->dtype, q->dtype);
  int32_t type = wide ? DS_F32 : q->dtype;
  int64_t rows = TILE_ELEMENTS / q->cols / 64 * 64;
  rows = ds_cpu_min_i64(q->rows, rows < 64 ? 64 : rows);
  size_t bytes = ds_cpu_dtype_bytes(type, rows * q->cols);
  void *tile = ds_cpu_scratch(s, DS_CPU_SCRATCH_QUANT, bytes, err);
  if (tile == NULL) return DS_ERR_MEMORY;
  ds_gemm g = {.size = sizeof g,
               .flags = DS_GEMM_TRANS_B,
               .m = m,
               .k = q->cols,
               .lda = q->cols,
               .ldb = q->cols,
               .ldc = q->rows,
               .batch = 1,
               .dtype_a = q->dtype,
               .dtype_b = type,
               .dtype_c = q->dtype,
               .dtype_bias = q->dtype,
               .alpha = 1.0f,
               .a = a,
               .b = tile};
  ds_status st = DS_OK;
  for (int64_t at = 0; at < q->rows && st == DS_OK; at += rows) {
    g.n = ds_cpu_min_i64(rows, q->rows - at);
    ds_quant part = {.size = sizeof part,
                     .qtype = q->qtype,
                     .dtype = q->dtype,
                     .rows = g.n,
                     .cols = q->cols,
                     .group = q->group};
    ds_cpu_quant_rows r = {&part, tile, (char *)values + ds_cpu_dtype_bytes(q->qtype, at * q->cols),
                           (float *)scales + at * (q->cols / q->group), wide};
    kernels_of(s->dev)->dequantize(&r, s->dev->threads);
    g.c = (char *)c + ds_cpu_dtype_bytes(q->dtype, at);
    g.bias = bias == NULL ? NULL : (const char *)bias + ds_cpu_dtype_bytes(q->dtype, at);
    st = ds_cpu_gemm_table.run(s, &g, err);
  }
  return st;
}

static ds_status product(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  ds_status st = check(q, err);
  if (st == DS_OK && !DS_HAS(g, c))
    st = ds_cpu_fail(err, DS_ERR_INVALID, "cpu quant: size is %u, which is no ds_quant_gemm",
                     g->size);
  if (st != DS_OK) return st;
  int64_t m = g->m;
  const void *a = g->a, *values = q->values, *bias = g->bias;
  const float *scales = q->scales;
  void *c = g->c;
  if (m < 0)
    st = ds_cpu_fail(err, DS_ERR_INVALID, "cpu quant: a product of m=%lld rows", (long long)m);
  if (st != DS_OK || m == 0 || q->rows == 0) return st;
  if (m <= FEW_ROWS || q->cols == 0) return few_rows(s, q, m, a, values, scales, bias, c, err);
  return many_rows(s, q, m, a, values, scales, bias, c, err);
}

const ds_quant_table ds_cpu_quant_table = {
    .base = {sizeof(ds_quant_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = supports,
    .quantize = quantize,
    .dequantize = dequantize,
    .gemm = product,
};
