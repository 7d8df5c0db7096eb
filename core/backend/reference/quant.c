/* quant.c - the quant table: groups of 8-bit and 4-bit integers and of fp8 values. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "backend/reference/element.h"
#include "backend/reference/fp8.h"
#include "backend/reference/tables.h"
#include "backend/reference/tile.h"
#include "base/status.h"

/* ---------------------------------------------------------------- checks */

static bool per_tensor(const ds_quant *q) {
  return q->flags & DS_QUANT_PER_TENSOR;
}

static bool asymmetric(const ds_quant *q) {
  return q->flags & DS_QUANT_ASYMMETRIC;
}

static bool is_fp8(const ds_quant *q) {
  return q->qtype == DS_F8E4M3 || q->qtype == DS_F8E5M2;
}

static ds_status check_kind(const ds_quant *q, ds_error *err) {
  const uint32_t known = DS_QUANT_ASYMMETRIC | DS_QUANT_PER_TENSOR;
  if (!DS_HAS(q, zeros)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: size is %u, must be at least %zu (sizeof(ds_quant))", (unsigned)q->size,
                   sizeof(ds_quant));
  }
  if (q->flags & ~known) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "quant: flags are 0x%x; 0x%x are known",
                   (unsigned)q->flags, (unsigned)known);
  }
  if (q->qtype != DS_I8 && q->qtype != DS_I4 && !is_fp8(q)) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "quant: qtype is %d; i8, i4, f8e4m3 and f8e5m2 are offered", (int)q->qtype);
  }
  if (asymmetric(q) && is_fp8(q)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: fp8 has no zero points: asymmetric is for i8 and i4");
  }
  if (q->dtype != DS_F32 && q->dtype != DS_BF16) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "quant: dtype is %d; f32 and bf16 are offered",
                   (int)q->dtype);
  }
  return DS_OK;
}

static ds_status check(const ds_quant *q, ds_error *err) {
  DS_TRY(check_kind(q, err));
  if (q->rows < 0 || q->cols < 0 || (q->cols > 0 && q->rows > INT64_MAX / 64 / q->cols)) {
    return ds_fail(err, DS_ERR_INVALID, "quant: impossible size: rows %lld, cols %lld",
                   (long long)q->rows, (long long)q->cols);
  }
  if (!per_tensor(q) && q->cols > 0 && (q->group < 1 || q->cols % q->group != 0)) {
    return ds_fail(err, DS_ERR_INVALID, "quant: group %lld does not divide cols %lld",
                   (long long)q->group, (long long)q->cols);
  }
  if (q->qtype == DS_I4 && q->cols % 2 != 0) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: cols is %lld; i4 needs an even number, so that rows start at a byte",
                   (long long)q->cols);
  }
  return DS_OK;
}

static ds_status check_gemm(const ds_quant *q, const ds_quant_gemm *g, ds_error *err) {
  if (!DS_HAS(g, c)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: gemm: size is %u, must be at least %zu (sizeof(ds_quant_gemm))",
                   (unsigned)g->size, sizeof(ds_quant_gemm));
  }
  if (g->flags & ~(uint32_t)DS_QUANT_GEMM_DYNAMIC) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "quant: gemm: flags are 0x%x; 0x%x are known",
                   (unsigned)g->flags, (unsigned)DS_QUANT_GEMM_DYNAMIC);
  }
  if (g->flags & DS_QUANT_GEMM_DYNAMIC && q->qtype != DS_I8) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: gemm: dynamic activation scales are for qtype i8 only, this is %d",
                   (int)q->qtype);
  }
  if (g->m < 0) return ds_fail(err, DS_ERR_INVALID, "quant: gemm: m is %lld", (long long)g->m);
  if (g->m > 0 && (g->lda < q->cols || g->ldc < q->rows)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "quant: gemm: lda %lld and ldc %lld must be at least cols %lld and rows %lld",
                   (long long)g->lda, (long long)g->ldc, (long long)q->cols, (long long)q->rows);
  }
  return DS_OK;
}

static int quant_supports(ds_device *dev, const ds_quant *q, const ds_quant_gemm *g) {
  (void)dev;
  return check(q, NULL) == DS_OK && (!g || check_gemm(q, g, NULL) == DS_OK);
}

/* What q names must be there; x is the plain matrix, or A. */
static ds_status check_pointers(const ds_quant *q, const void *x, ds_error *err) {
  const char *missing = NULL;
  if (q->rows == 0 || q->cols == 0) return DS_OK;
  if (!x) missing = "x";
  if (!q->values) missing = "values";
  if (!q->scales) missing = "scales";
  if (asymmetric(q) && !q->zeros) missing = "zeros";
  return missing ? ds_fail(err, DS_ERR_INVALID, "quant: %s is NULL", missing) : DS_OK;
}

/* ---------------------------------------------------------------- single values */

static int64_t group_of(const ds_quant *q, int64_t i) {
  return per_tensor(q) ? 0 : i / q->group;
}

/* As stored, the zero point not yet taken off. */
static float read_value(const ds_quant *q, int64_t i) {
  if (q->qtype == DS_I8) return (float)((const int8_t *)q->values)[i];
  if (is_fp8(q)) return ds_fp8_decode(q->qtype, ((const uint8_t *)q->values)[i]);
  int nibble = ((const uint8_t *)q->values)[i / 2] >> (i % 2 ? 4 : 0) & 0xf;
  return (float)(nibble < 8 ? nibble : nibble - 16);
}

static void write_value(const ds_quant *q, int64_t i, float v) {
  uint8_t *byte = (uint8_t *)q->values + (q->qtype == DS_I4 ? i / 2 : i);
  if (q->qtype == DS_I8) {
    *byte = (uint8_t)(int8_t)v;
  } else if (is_fp8(q)) {
    *byte = ds_fp8_encode(q->qtype, v);
  } else {
    unsigned nibble = (unsigned)(int)v & 0xfu;
    *byte = (uint8_t)(i % 2 ? (*byte & 0x0fu) | nibble << 4 : (*byte & 0xf0u) | nibble);
  }
}

/* Weight i of the matrix: s * (q - z). */
static float weight(const ds_quant *q, int64_t i) {
  int64_t g = group_of(q, i);
  float zero = asymmetric(q) ? (float)q->zeros[g] : 0;
  return (read_value(q, i) - zero) * q->scales[g];
}

/* ---------------------------------------------------------------- quantize, dequantize */

/* How a group is scaled, and the bounds of what is stored. */
typedef struct scaling {
  float scale, zero, qmin, qmax;
} scaling;

static float qmax_of(int32_t qtype) {
  if (qtype == DS_I8) return 127;
  return qtype == DS_I4 ? 7 : ds_fp8_of(qtype).max;
}

static float clamp(float v, float low, float high) {
  return v < low ? low : v > high ? high : v;
}

/* The bounds of n elements and 0. A NaN is kept, so that the scale becomes NaN. */
static void bounds(int32_t dtype, const void *x, int64_t first, int64_t n, float *low,
                   float *high) {
  *low = *high = 0;
  for (int64_t i = 0; i < n; i++) {
    float v = ds_element_load(dtype, x, first + i);
    if (isnan(v)) {
      *low = *high = v;
      return;
    }
    if (v < *low) *low = v;
    if (v > *high) *high = v;
  }
}

/* A scale too small for f32 counts as a group of zeros, which is what is left of it. */
static float scale_or_1(float s) {
  return s == 0 ? 1 : s;
}

static scaling symmetric_scaling(int32_t qtype, float low, float high) {
  float qmax = qmax_of(qtype), most = isnan(low) || -low > high ? -low : high;
  return (scaling){scale_or_1(most / qmax), 0, -qmax, qmax};
}

static scaling asymmetric_scaling(int32_t qtype, float low, float high) {
  scaling s = {.qmin = qtype == DS_I8 ? -128 : -8, .qmax = qmax_of(qtype)};
  s.scale = (high - low) / (s.qmax - s.qmin);
  if (s.scale != 0) s.zero = clamp(rintf(s.qmin - low / s.scale), s.qmin, s.qmax);
  if (isnan(s.zero)) s.zero = 0;
  s.scale = scale_or_1(s.scale);
  return s;
}

static float quantized(scaling s, int32_t qtype, float x) {
  float v = x / s.scale;
  if (isnan(v)) return 0; /* the scale says that the group is lost */
  if (qtype == DS_F8E4M3 || qtype == DS_F8E5M2) return v; /* rounds when it is stored */
  return clamp(rintf(v) + s.zero, s.qmin, s.qmax);
}

static ds_status quant_quantize(ds_stream *stream, const ds_quant *q, const void *x,
                                ds_error *err) {
  (void)stream;
  DS_TRY(check(q, err));
  DS_TRY(check_pointers(q, x, err));
  int64_t n = q->rows * q->cols, group = per_tensor(q) ? n : q->group;
  for (int64_t at = 0; at < n; at += group) {
    float low, high;
    bounds(q->dtype, x, at, group, &low, &high);
    scaling s = asymmetric(q) ? asymmetric_scaling(q->qtype, low, high)
                              : symmetric_scaling(q->qtype, low, high);
    q->scales[at / group] = s.scale;
    if (asymmetric(q)) q->zeros[at / group] = (int8_t)s.zero;
    for (int64_t i = at; i < at + group; i++) {
      write_value(q, i, quantized(s, q->qtype, ds_element_load(q->dtype, x, i)));
    }
  }
  return DS_OK;
}

static ds_status quant_dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  (void)s;
  DS_TRY(check(q, err));
  DS_TRY(check_pointers(q, x, err));
  int64_t n = q->rows * q->cols;
  for (int64_t i = 0; i < n; i++) ds_element_store(q->dtype, x, i, weight(q, i));
  return DS_OK;
}

/* ---------------------------------------------------------------- products */

/* A product and how the rows of A in the current tile are scaled: by 1, or quantized. */
typedef struct product {
  const ds_quant *q;
  const ds_quant_gemm *g;
  scaling row[DS_TILE_M];
} product;

static void scale_rows(product *p, int64_t i0, int64_t m) {
  for (int64_t i = 0; i < m; i++) {
    float low, high;
    p->row[i] = (scaling){.scale = 1};
    if (!(p->g->flags & DS_QUANT_GEMM_DYNAMIC)) continue;
    bounds(p->q->dtype, p->g->a, (i0 + i) * p->g->lda, p->q->cols, &low, &high);
    p->row[i] = symmetric_scaling(DS_I8, low, high);
  }
}

/* With dynamic scales the tile holds the integers; the row's scale comes last. */
static void load_a(const product *p, ds_tile *t, int64_t i0, int64_t m, int64_t p0, int64_t k) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < k; j++) {
      float v = ds_element_load(p->q->dtype, p->g->a, (i0 + i) * p->g->lda + p0 + j);
      t->a[i][j] = p->g->flags & DS_QUANT_GEMM_DYNAMIC ? quantized(p->row[i], DS_I8, v) : v;
    }
  }
}

static void load_b(const product *p, ds_tile *t, int64_t j0, int64_t n, int64_t p0, int64_t k) {
  for (int64_t j = 0; j < n; j++) {
    for (int64_t i = 0; i < k; i++) t->b[i][j] = weight(p->q, (j0 + j) * p->q->cols + p0 + i);
  }
}

static void store_c(const product *p, const ds_tile *t, int64_t i0, int64_t m, int64_t j0,
                    int64_t n) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      double v = t->c[i][j] * (double)p->row[i].scale;
      if (p->g->bias) v += (double)ds_element_load(p->q->dtype, p->g->bias, j0 + j);
      ds_element_store(p->q->dtype, p->g->c, (i0 + i) * p->g->ldc + j0 + j, (float)v);
    }
  }
}

static ds_status quant_gemm(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                            ds_error *err) {
  (void)s;
  DS_TRY(check(q, err));
  DS_TRY(check_gemm(q, g, err));
  if (g->m == 0 || q->rows == 0) return DS_OK;
  DS_TRY(check_pointers(q, g->a, err));
  if (!g->c) return ds_fail(err, DS_ERR_INVALID, "quant: gemm: C is NULL");
  product pr = {.q = q, .g = g};
  ds_tile t;
  for (int64_t i = 0; i < g->m; i += DS_TILE_M) {
    int64_t mi = ds_tile_part(g->m - i, DS_TILE_M);
    scale_rows(&pr, i, mi);
    for (int64_t j = 0; j < q->rows; j += DS_TILE_N) {
      int64_t nj = ds_tile_part(q->rows - j, DS_TILE_N);
      memset(t.c, 0, sizeof t.c);
      for (int64_t p = 0; p < q->cols; p += DS_TILE_K) {
        int64_t kp = ds_tile_part(q->cols - p, DS_TILE_K);
        load_a(&pr, &t, i, mi, p, kp);
        load_b(&pr, &t, j, nj, p, kp);
        ds_tile_product(&t, mi, nj, kp);
      }
      store_c(&pr, &t, i, mi, j, nj);
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
