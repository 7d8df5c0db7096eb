/* quant_convert.c - plain values to quantized ones and back. */
#include "quant_kernel.h"
#include "quant_value.h"

/* ---- scales */

/* The least and the largest of some values and 0; NaN where one of them is. */
typedef struct bounds {
  float low, high;
} bounds;

INLINE bounds bounds_of(const void *x, int64_t at, int64_t n, const int dt) {
  vf low = vset(0.0f), high = vset(0.0f);
  vi nan = {0};
  VLOOP(i, k, 0, n, {
    vf v = ld(x, at + i, k, dt);
    low = vmin(v, low);
    high = vmax(v, high);
    nan |= v != v;
  });
  for (int l = 0; l < VL; l++)
    if (nan[l]) return (bounds){__builtin_nanf(""), __builtin_nanf("")};
  return (bounds){-vhmax(-low), vhmax(high)};
}

static bounds join(bounds a, bounds b) {
  if (a.low != a.low || b.low != b.low) return a.low != a.low ? a : b;
  return (bounds){a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
}

/* How a group is stored: round(x / scale) + zero between least and most. */
typedef struct storing {
  float scale, zero, least, most;
} storing;

static float most_of(int32_t qtype) {
  switch (qtype) {
    case DS_I8: return 127.0f;
    case DS_I4: return 7.0f;
    case DS_F8E4M3: return 448.0f;
    default: return 57344.0f;
  }
}

/* A scale too small for f32 counts as that of zeros. */
static storing storing_of(const ds_quant *q, bounds b) {
  float most = most_of(q->qtype), size = -b.low > b.high ? -b.low : b.high;
  storing s = {size / most, 0.0f, -most, most};
  if (ds_cpu_quant_asymmetric(q)) {
    s.least -= 1.0f;
    s.scale = (b.high - b.low) / (most - s.least);
    float zero = s.least - b.low / s.scale;
    if (zero >= s.least && s.scale != 0.0f) /* not for NaN */
      s.zero = zero < most ? __builtin_rintf(zero) : most;
  }
  if (s.scale == 0.0f) s.scale = 1.0f;
  return s;
}

static storing store_scale(const ds_quant *q, int64_t group, bounds b) {
  storing s = storing_of(q, b);
  q->scales[group] = s.scale;
  if (ds_cpu_quant_asymmetric(q)) q->zeros[group] = (int8_t)s.zero;
  return s;
}

static storing stored_scale(const ds_quant *q) {
  storing s = storing_of(q, (bounds){0.0f, 0.0f});
  s.scale = q->scales[0];
  if (ds_cpu_quant_asymmetric(q)) s.zero = (float)q->zeros[0];
  return s;
}

/* ---- values */

/* Adding 1.5 * 2^23 rounds to the nearest integer, half to even, and leaves it in the low bits. */
INLINE vi to_integer(vf x, storing s) {
  vf v = vmin(vmax(x / s.scale, vset(-512.0f)), vset(512.0f));
  vf rounded = (v + 12582912.0f) - 12582912.0f + s.zero;
  vf kept = vmin(vmax(rounded, vset(s.least)), vset(s.most));
  return (vi)(kept + 12582912.0f) - (vi)vset(12582912.0f);
}

/* Normal numbers are rounded at the bit that will be the last; small ones by adding a number whose
 * last place is the smallest step. */
INLINE vi to_fp8(vf x, float scale, const int qtype) {
  const int bits = qtype == DS_F8E4M3 ? 3 : 2, bias = qtype == DS_F8E4M3 ? 7 : 15;
  const int shift = 23 - bits;
  vf v = x / scale, size = vmin(vabs(v), vset(most_of(qtype)));
  vu a = (vu)size;
  vu normal = ((a + ((1u << (shift - 1)) - 1) + ((a >> shift) & 1)) >> shift) -
              ((unsigned)(127 - bias) << bits);
  const vu step = (vu){0} + ((unsigned)(127 + 1 - bias - bits + 23) << 23);
  vu small = (vu)(size + (vf)step) - step;
  vi least = (vi)((vu){0} + ((unsigned)(127 + 1 - bias) << 23));
  return (vi)(vselu((vi)a < least, small, normal) | ((vu)v >> 24 & 0x80));
}

INLINE void put_i4(uint8_t *values, int64_t i, int level) {
  uint8_t *byte = values + i / 2;
  *byte = (uint8_t)(i % 2 ? (*byte & 0x0f) | (level & 15) << 4 : (*byte & 0xf0) | (level & 15));
}

INLINE void put(uint8_t *values, int64_t at, int n, vi level, const int qtype) {
  vb b = __builtin_convertvector(level, vb);
  if (qtype == DS_I4 && (at % 2 != 0 || n % 2 != 0))
    for (int i = 0; i < n; i++) put_i4(values, at + i, b[i]);
  else if (qtype == DS_I4)
    for (int i = 0; i < n; i += 2)
      values[(at + i) / 2] = (uint8_t)((b[i] & 15) | (b[i + 1] & 15) << 4);
  else
    memcpy(values + at, &b, (size_t)n);
}

INLINE void quantize_values(const ds_cpu_quantize *t, int64_t at, int64_t n, storing s,
                            const int qtype, const int dt) {
  VLOOP(i, k, 0, n, {
    vf x = ld(t->x, at + i, k, dt);
    vi v = qtype == DS_I8 || qtype == DS_I4 ? to_integer(x, s) : to_fp8(x, s.scale, qtype);
    put(t->q->values, at + i, k, v, qtype);
  });
}

/* Rows [lo,hi). Per tensor, the scale is there already. */
INLINE void quantize_rows(const ds_cpu_quantize *t, int64_t lo, int64_t hi, const int qtype,
                          const int dt) {
  const ds_quant *q = t->q;
  if (ds_cpu_quant_per_tensor(q)) {
    quantize_values(t, lo * q->cols, (hi - lo) * q->cols, stored_scale(q), qtype, dt);
    return;
  }
  int64_t groups = q->cols / q->group;
  for (int64_t g = lo * groups; g < hi * groups; g++) {
    storing s = store_scale(q, g, bounds_of(t->x, g * q->group, q->group, dt));
    quantize_values(t, g * q->group, q->group, s, qtype, dt);
  }
}

/* Calls rows() with qtype and dtype as constants. */
#define FOR_TYPES(rows, qtype, dtype, ...)                                                         \
  do {                                                                                             \
    bool f32 = (dtype) == DS_F32;                                                                  \
    switch (qtype) {                                                                               \
      case DS_I8: f32 ? rows(__VA_ARGS__, DS_I8, DS_F32) : rows(__VA_ARGS__, DS_I8, DS_BF16);      \
          break;                                                                                   \
      case DS_I4: f32 ? rows(__VA_ARGS__, DS_I4, DS_F32) : rows(__VA_ARGS__, DS_I4, DS_BF16);      \
          break;                                                                                   \
      case DS_F8E4M3:                                                                              \
        f32 ? rows(__VA_ARGS__, DS_F8E4M3, DS_F32) : rows(__VA_ARGS__, DS_F8E4M3, DS_BF16);        \
        break;                                                                                     \
      default: f32 ? rows(__VA_ARGS__, DS_F8E5M2, DS_F32) : rows(__VA_ARGS__, DS_F8E5M2, DS_BF16); \
    }                                                                                              \
  } while (0)

static void quantize_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quantize *t = ctx;
  (void)part;
  FOR_TYPES(quantize_rows, t->q->qtype, t->q->dtype, t, lo, hi);
}

static void bounds_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quantize *t = ctx;
  int64_t at = lo * t->q->cols, n = (hi - lo) * t->q->cols;
  bounds b =
      t->q->dtype == DS_F32 ? bounds_of(t->x, at, n, DS_F32) : bounds_of(t->x, at, n, DS_BF16);
  t->bounds[2 * part] = b.low;
  t->bounds[2 * part + 1] = b.high;
}

static int parts_of(const ds_quant *q, int64_t rows, int threads) {
  return ds_cpu_parts(threads, (double)rows * (double)q->cols);
}

void K(quant_quantize)(const ds_cpu_quantize *t, int threads) {
  int parts = parts_of(t->q, t->q->rows, threads);
  if (ds_cpu_quant_per_tensor(t->q)) {
    bounds b = {0.0f, 0.0f};
    parallel_range(parts, t->q->rows, 1, bounds_range, t);
    for (int p = 0; p < parts; p++) b = join(b, (bounds){t->bounds[2 * p], t->bounds[2 * p + 1]});
    store_scale(t->q, 0, b);
  }
  parallel_range(parts, t->q->rows, 1, quantize_range, t);
}

INLINE void dequantize_rows(const ds_cpu_dequantize *t, int64_t lo, int64_t hi, const int qtype,
                            const int dt) {
  for (int64_t r = lo; r < hi; r++)
    decode_row(t->q, t->row + r, 0, t->q->cols, t->x, r * t->q->cols, qtype, dt);
}

static void dequantize_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_dequantize *t = ctx;
  (void)part;
  FOR_TYPES(dequantize_rows, t->q->qtype, t->dtype, t, lo, hi);
}

void K(quant_dequantize)(const ds_cpu_dequantize *t, int threads) {
  parallel_range(parts_of(t->q, t->rows, threads), t->rows, 1, dequantize_range, t);
}
