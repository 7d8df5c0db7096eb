/* gemm_convert.c - products that no library routine takes as they are. */
#include "gemm_convert.h"
#include "f16.h"
#include "gemm_onednn.h"

#include <math.h>

/* Elements of one converted tile: 8 MiB of f32, small against the L3 cache of a server part and
 * large against the cost of a call. Rows or columns come in whole vectors. */
enum { TILE_ELEMENTS = 2 << 20, TILE_STEP = 64 };

float ds_cpu_epilogue(int32_t epilogue, float x) {
  switch (epilogue) {
    case DS_EPILOGUE_GELU_TANH:
      return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case DS_EPILOGUE_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.7071067812f));
    case DS_EPILOGUE_RELU: return x > 0.0f || x != x ? x : 0.0f;
    case DS_EPILOGUE_SILU: return x / (1.0f + expf(-x));
    default: return x;
  }
}

ds_status ds_cpu_gemm_bias_only(ds_stream *s, const ds_gemm *g, ds_error *err) {
  (void)s;
  (void)err;
  for (int64_t b = 0; b < g->batch; b++)
    for (int64_t i = 0; i < g->m; i++)
      for (int64_t j = 0; j < g->n; j++) {
        int64_t at = b * g->stride_c + i * g->ldc + j;
        float y = g->bias == NULL ? 0.0f : ds_cpu_float_load(g->bias, g->dtype_bias, j);
        y = ds_cpu_epilogue(g->epilogue, y);
        if (g->beta != 0.0f) y += ds_cpu_float_load(g->c, g->dtype_c, at);
        ds_cpu_float_store(g->c, g->dtype_c, at, y);
      }
  return DS_OK;
}

/* A row of bf16 or f16 as f32, and back. */
static void widen_row(float *dst, const uint16_t *src, int64_t n, int32_t dtype) {
  if (dtype == DS_BF16)
    for (int64_t c = 0; c < n; c++) dst[c] = ds_cpu_bf16_load(src[c]);
  else
    for (int64_t c = 0; c < n; c++) dst[c] = ds_cpu_f16_load(src[c]);
}

static void narrow_row(uint16_t *dst, const float *src, int64_t n, int32_t dtype) {
  if (dtype == DS_BF16)
    for (int64_t c = 0; c < n; c++) dst[c] = ds_cpu_bf16_store(src[c]);
  else
    for (int64_t c = 0; c < n; c++) dst[c] = ds_cpu_f16_store(src[c]);
}

/* dst[rows][cols], dense, from a block of a matrix in 16 bits. */
static void widen(const ds_stream *s, float *dst, const uint16_t *src, int32_t dtype, int64_t rows,
                  int64_t cols, int64_t ld) {
#pragma omp parallel for schedule(static) num_threads(s->dev->threads)
  for (int64_t r = 0; r < rows; r++) widen_row(dst + r * cols, src + r * ld, cols, dtype);
}

static void narrow(const ds_stream *s, uint16_t *dst, int32_t dtype, int64_t ld, float *src,
                   int64_t rows, int64_t cols, bool accumulate) {
#pragma omp parallel for schedule(static) num_threads(s->dev->threads)
  for (int64_t r = 0; r < rows; r++) {
    uint16_t *to = dst + r * ld;
    float *from = src + r * cols;
    if (accumulate)
      for (int64_t c = 0; c < cols; c++) from[c] += ds_cpu_float_load(to, dtype, c);
    narrow_row(to, from, cols, dtype);
  }
}

/* Rows [at, at+count) of an operand with `depth` columns (columns, where it is stored transposed),
 * as f32: itself, or converted into scratch. */
static const float *operand(const ds_stream *s, const void *data, int32_t dtype, bool transposed,
                            int64_t *ld, int64_t at, int64_t count, int64_t depth, float *scratch) {
  int64_t offset = transposed ? at : at * *ld;
  if (dtype == DS_F32) return (const float *)data + offset;
  int64_t rows = transposed ? depth : count, cols = transposed ? count : depth;
  widen(s, scratch, (const uint16_t *)data + offset, dtype, rows, cols, *ld);
  *ld = cols;
  return scratch;
}

typedef struct tiling {
  int64_t rows, cols; /* of C at a time */
  float *a, *b, *c;   /* scratch */
} tiling;

static int64_t tile_length(int64_t length, int64_t k) {
  int64_t fit = TILE_ELEMENTS / k / TILE_STEP * TILE_STEP;
  return ds_cpu_min_i64(length, fit < TILE_STEP ? TILE_STEP : fit);
}

static ds_status make_tiling(ds_stream *s, const ds_gemm *g, tiling *t, ds_error *err) {
  t->rows = tile_length(g->m, g->k);
  t->cols = tile_length(g->n, g->k);
  int64_t a = t->rows * g->k, b = t->cols * g->k, c = t->rows * t->cols;
  t->a = ds_cpu_scratch(s, DS_CPU_SCRATCH_CONVERT, (size_t)(a + b + c) * sizeof(float), err);
  if (t->a == NULL) return DS_ERR_MEMORY;
  t->b = t->a + a;
  t->c = t->b + b;
  return DS_OK;
}

/* One matrix of the batch: C's rows [i, i+m), columns [j, j+n), with A's rows ready. */
static ds_status run_tile(ds_stream *s, const ds_gemm *g, const tiling *t, ds_gemm *part, int64_t i,
                          int64_t j, ds_error *err) {
  bool narrow_c = g->dtype_c != DS_F32;
  part->n = ds_cpu_min_i64(t->cols, g->n - j);
  part->ldb = g->ldb;
  part->b = operand(s, g->b, g->dtype_b, !(g->flags & DS_GEMM_TRANS_B), &part->ldb, j, part->n,
                    g->k, t->b);
  part->c = narrow_c ? t->c : (float *)g->c + i * g->ldc + j;
  part->ldc = narrow_c ? part->n : g->ldc;
  part->beta = narrow_c ? 0.0f : g->beta;
  if (g->bias != NULL) part->bias = (const char *)g->bias + ds_cpu_dtype_bytes(g->dtype_bias, j);
  ds_status st = ds_cpu_onednn_run(s, part, err);
  if (st == DS_OK && narrow_c)
    narrow(s, (uint16_t *)g->c + i * g->ldc + j, g->dtype_c, g->ldc, t->c, part->m, part->n,
           g->beta != 0.0f);
  return st;
}

static ds_status run_matrix(ds_stream *s, const ds_gemm *g, const tiling *t, ds_error *err) {
  ds_gemm part = *g;
  part.batch = 1;
  part.dtype_a = part.dtype_b = part.dtype_c = DS_F32;
  ds_status st = DS_OK;
  for (int64_t i = 0; i < g->m && st == DS_OK; i += t->rows) {
    part.m = ds_cpu_min_i64(t->rows, g->m - i);
    part.lda = g->lda;
    part.a =
        operand(s, g->a, g->dtype_a, g->flags & DS_GEMM_TRANS_A, &part.lda, i, part.m, g->k, t->a);
    for (int64_t j = 0; j < g->n && st == DS_OK; j += t->cols)
      st = run_tile(s, g, t, &part, i, j, err);
  }
  return st;
}

ds_status ds_cpu_gemm_convert_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  tiling t;
  ds_status st = make_tiling(s, g, &t, err);
  for (int64_t b = 0; b < g->batch && st == DS_OK; b++) {
    ds_gemm one = *g;
    one.a = (const char *)g->a + ds_cpu_dtype_bytes(g->dtype_a, b * g->stride_a);
    one.b = (const char *)g->b + ds_cpu_dtype_bytes(g->dtype_b, b * g->stride_b);
    one.c = (char *)g->c + ds_cpu_dtype_bytes(g->dtype_c, b * g->stride_c);
    st = run_matrix(s, &one, &t, err);
  }
  return st;
}
