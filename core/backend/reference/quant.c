/* quant.c - the quant table: symmetric groups of 8-bit and 4-bit integers. */
#include <math.h>
#include <string.h>

#include "backend/reference/element.h"
#include "backend/reference/tables.h"
#include "backend/reference/tile.h"
#include "base/status.h"

static ds_status check(const ds_quant *q, ds_error *err) {
  if (!DS_HAS(q, zeros)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: size is %u, must be at least %zu (sizeof(ds_quant))", (unsigned)q->size,
                   sizeof(ds_quant));
  }
  if ((q->qtype != DS_I8 && q->qtype != DS_I4) || q->flags != 0) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "quant: qtype is %d; i8 and i4 are offered",
                   (int)q->qtype);
  }
  if (q->dtype != DS_F32 && q->dtype != DS_BF16) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "quant: dtype is %d; f32 and bf16 are offered",
                   (int)q->dtype);
  }
  if (q->rows < 0 || q->cols < 0 || (q->cols > 0 && q->rows > INT64_MAX / 64 / q->cols)) {
    return ds_fail(err, DS_ERR_INVALID, "quant: impossible size: rows %lld, cols %lld",
                   (long long)q->rows, (long long)q->cols);
  }
  if (q->group < 1 || q->cols % q->group != 0) {
    return ds_fail(err, DS_ERR_INVALID, "quant: group %lld does not divide cols %lld",
                   (long long)q->group, (long long)q->cols);
  }
  if (q->qtype == DS_I4 && q->cols % 2 != 0) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "quant: cols is %lld; i4 needs an even number, so that rows start at a byte",
                   (long long)q->cols);
  }
  return DS_OK;
}

static int quant_supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  (void)dev;
  return check(q, NULL) == DS_OK &&
         (!g || (g->flags == 0 && g->lda == q->cols && g->ldc == q->rows));
}

static ds_status check_pointers(const ds_quant *q, const void *x, const void *values,
                                const void *scales, ds_error *err) {
  if (q->rows == 0 || q->cols == 0 || (x && values && scales)) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "quant: %s is NULL",
                 !x        ? "x"
                 : !values ? "values"
                           : "scales");
}

static float read_value(const ds_quant *q, const void *values, int64_t i) {
  if (q->qtype == DS_I8) return (float)((const int8_t *)values)[i];
  int nibble = ((const uint8_t *)values)[i / 2] >> (i % 2 ? 4 : 0) & 0xf;
  return (float)(nibble < 8 ? nibble : nibble - 16);
}

static void write_value(const ds_quant *q, void *values, int64_t i, int v) {
  if (q->qtype == DS_I8) {
    ((int8_t *)values)[i] = (int8_t)v;
    return;
  }
  uint8_t *byte = (uint8_t *)values + i / 2;
  unsigned nibble = (unsigned)v & 0xfu;
  *byte = (uint8_t)(i % 2 ? (*byte & 0x0fu) | nibble << 4 : (*byte & 0xf0u) | nibble);
}

/* A NaN anywhere makes the scale NaN, so that it is seen after dequantization. */
static float group_scale(const ds_quant *q, const void *x, int64_t first, float qmax) {
  float most = 0;
  for (int64_t i = 0; i < q->group; i++) {
    float v = fabsf(ds_element_load(q->dtype, x, first + i));
    if (v > most || isnan(v)) most = v;
    if (isnan(most)) break;
  }
  float s = most / qmax;
  return s == 0 ? 1 : s;
}

static ds_status quant_quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  void *values = q->values;
  float *scales = q->scales;
  (void)s;
  DS_TRY(check(q, err));
  DS_TRY(check_pointers(q, x, values, scales, err));
  float qmax = q->qtype == DS_I8 ? 127 : 7;
  int64_t groups = q->rows * (q->cols / q->group);
  for (int64_t g = 0; g < groups; g++) {
    scales[g] = group_scale(q, x, g * q->group, qmax);
    for (int64_t i = g * q->group; i < (g + 1) * q->group; i++) {
      float v = rintf(ds_element_load(q->dtype, x, i) / scales[g]);
      v = isnan(v) ? 0 : v > qmax ? qmax : v < -qmax ? -qmax : v;
      write_value(q, values, i, (int)v);
    }
  }
  return DS_OK;
}

static ds_status quant_dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  const void *values = q->values;
  const float *scales = q->scales;
  (void)s;
  DS_TRY(check(q, err));
  DS_TRY(check_pointers(q, x, values, scales, err));
  int64_t n = q->rows * q->cols;
  for (int64_t i = 0; i < n; i++) {
    ds_element_store(q->dtype, x, i, read_value(q, values, i) * scales[i / q->group]);
  }
  return DS_OK;
}

static void load_a(const ds_quant *q, const void *a, ds_tile *t, int64_t i0, int64_t m, int64_t p0,
                   int64_t k) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t p = 0; p < k; p++) {
      t->a[i][p] = ds_element_load(q->dtype, a, (i0 + i) * q->cols + p0 + p);
    }
  }
}

static void load_b(const ds_quant *q, const void *values, const float *scales, ds_tile *t,
                   int64_t j0, int64_t n, int64_t p0, int64_t k) {
  for (int64_t j = 0; j < n; j++) {
    for (int64_t p = 0; p < k; p++) {
      int64_t at = (j0 + j) * q->cols + p0 + p;
      t->b[p][j] = read_value(q, values, at) * scales[at / q->group];
    }
  }
}

static void store_c(const ds_quant *q, const ds_tile *t, const void *bias, void *c, int64_t i0,
                    int64_t m, int64_t j0, int64_t n) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      double v = t->c[i][j];
      if (bias) v += (double)ds_element_load(q->dtype, bias, j0 + j);
      ds_element_store(q->dtype, c, (i0 + i) * q->rows + j0 + j, (float)v);
    }
  }
}

static ds_status quant_gemm(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                            ds_error *err) {
  int64_t m = g->m;
  const void *a = g->a, *values = q->values, *bias = g->bias;
  const float *scales = q->scales;
  void *c = g->c;
  (void)s;
  DS_TRY(check(q, err));
  if (m < 0) return ds_fail(err, DS_ERR_INVALID, "quant: gemm: m is %lld", (long long)m);
  if (m == 0 || q->rows == 0) return DS_OK;
  DS_TRY(check_pointers(q, a, values, scales, err));
  if (!c) return ds_fail(err, DS_ERR_INVALID, "quant: gemm: C is NULL");
  ds_tile t;
  for (int64_t i = 0; i < m; i += DS_TILE_M) {
    int64_t mi = ds_tile_part(m - i, DS_TILE_M);
    for (int64_t j = 0; j < q->rows; j += DS_TILE_N) {
      int64_t nj = ds_tile_part(q->rows - j, DS_TILE_N);
      memset(t.c, 0, sizeof t.c);
      for (int64_t p = 0; p < q->cols; p += DS_TILE_K) {
        int64_t kp = ds_tile_part(q->cols - p, DS_TILE_K);
        load_a(q, a, &t, i, mi, p, kp);
        load_b(q, values, scales, &t, j, nj, p, kp);
        ds_tile_product(&t, mi, nj, kp);
      }
      store_c(q, &t, bias, c, i, mi, j, nj);
    }
  }
  return DS_OK;
}

const ds_quant_table ds_reference_quant = {
    .base = DS_REFERENCE_TABLE(ds_quant_table),
    .supports = quant_supports,
    .quantize = quant_quantize,
    .dequantize = quant_dequantize,
    .gemm = quant_gemm,
};
