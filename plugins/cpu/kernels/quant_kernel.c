/* quant_kernel.c - int8 and int4 values in groups that share a scale. */
#include "../quant.h"
#include "kernel.h"
#include "simd.h"

typedef int8_t vb __attribute__((vector_size(VL)));
typedef uint8_t vub __attribute__((vector_size(VL)));

/* ---- single values */

static int level_at(const void *values, int qtype, int64_t i) {
  if (qtype == DS_I8) return ((const int8_t *)values)[i];
  int byte = ((const uint8_t *)values)[i / 2], nibble = i % 2 ? byte >> 4 : byte & 15;
  return (nibble ^ 8) - 8;
}

/* ---- x to levels */

INLINE float largest(const void *x, int64_t at, int64_t n, int dt) {
  vf most = vset(0.0f);
  VLOOP(i, lanes, 0, n, { most = vmax(vabs(ld(x, at + i, lanes, dt)), most); });
  return vhmax(most);
}

/* Adding 1.5 * 2^23 rounds to the nearest integer, half to even, and leaves it in the low bits. */
INLINE vi levels(vf x, float scale, float top) {
  vf clamped = vmin(vmax(x / scale, vset(-top)), vset(top));
  return (vi)(clamped + 12582912.0f) - (vi)vset(12582912.0f);
}

INLINE void put_levels(void *values, int qtype, int64_t at, int n, vi level) {
  if (qtype == DS_I8)
    for (int i = 0; i < n; i++) ((int8_t *)values)[at + i] = (int8_t)level[i];
  else
    for (int i = 0; i < n; i += 2)
      ((uint8_t *)values)[(at + i) / 2] = (uint8_t)((level[i] & 15) | (level[i + 1] & 15) << 4);
}

INLINE void quantize_rows(const ds_cpu_quant_rows *r, int64_t lo, int64_t hi, const int dt) {
  const ds_quant *q = r->q;
  const float top = q->qtype == DS_I8 ? 127.0f : 7.0f;
  int64_t groups = q->cols / q->group;
  for (int64_t g = lo * groups; g < hi * groups; g++) {
    int64_t at = g * q->group;
    float most = largest(r->x, at, q->group, dt);
    float scale = most > 0.0f ? most / top : 1.0f;
    r->scales[g] = scale;
    VLOOP(i, n, 0, q->group, {
      put_levels(r->values, q->qtype, at + i, n, levels(ld(r->x, at + i, n, dt), scale, top));
    });
  }
}

static void quantize_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_rows *r = ctx;
  (void)part;
  if (r->q->dtype == DS_F32)
    quantize_rows(r, lo, hi, DS_F32);
  else
    quantize_rows(r, lo, hi, DS_BF16);
}

/* ---- levels to x */

INLINE vf load_i8(const int8_t *p) {
  vb b;
  memcpy(&b, p, sizeof b);
#if VL == 16
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)b));
#else
  return __builtin_convertvector(__builtin_convertvector(b, vi), vf);
#endif
}

/* 2 VL levels from VL bytes: those of even place and those of odd place. */
INLINE void load_i4(const uint8_t *p, vf *even, vf *odd) {
  vub b;
  memcpy(&b, p, sizeof b);
#if VL == 16
  const __m512 level = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m512i v = _mm512_cvtepu8_epi32((__m128i)b);
  *even = _mm512_permutexvar_ps(v, level); /* looks at the low four bits of a lane */
  *odd = _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), level);
#else
  vi v = (vi) __builtin_convertvector(b, vu);
  *even = __builtin_convertvector((v << 28) >> 28, vf);
  *odd = __builtin_convertvector((v << 24) >> 28, vf);
#endif
}

INLINE void dequantize_rows(const ds_cpu_quant_rows *r, int64_t lo, int64_t hi, const int dt) {
  const ds_quant *q = r->q;
  int64_t groups = q->cols / q->group;
  for (int64_t g = lo * groups; g < hi * groups; g++) {
    int64_t at = g * q->group, i = 0;
    float scale = r->scales[g];
    if (q->qtype == DS_I8)
      for (; i + VL <= q->group; i += VL)
        st(r->x, at + i, VL, dt, load_i8((const int8_t *)r->values + at + i) * scale);
    else
      for (; i + 2 * VL <= q->group; i += 2 * VL) {
        vf even, odd;
        load_i4((const uint8_t *)r->values + (at + i) / 2, &even, &odd);
        vf pair[2] = {even, odd};
#if VL == 16
        const __m512i low =
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        pair[0] = _mm512_permutex2var_ps(even, low, odd);
        pair[1] = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
#else
        for (int k = 0; k < 2 * VL; k++) pair[k / VL][k % VL] = k % 2 ? odd[k / 2] : even[k / 2];
#endif
        st(r->x, at + i, VL, dt, pair[0] * scale);
        st(r->x, at + i + VL, VL, dt, pair[1] * scale);
      }
    for (; i < q->group; i++)
      st1(r->x, at + i, dt, (float)level_at(r->values, q->qtype, at + i) * scale);
  }
}

static void dequantize_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_rows *r = ctx;
  (void)part;
  if (r->wide || r->q->dtype == DS_F32)
    dequantize_rows(r, lo, hi, DS_F32);
  else
    dequantize_rows(r, lo, hi, DS_BF16);
}

/* ---- products of a few rows */

/* One group of `cols` rows of values against `rows` rows of A, added to total with its scale. The
 * group is whole vectors (two for I4). */
INLINE void group_product(vf *total, const ds_cpu_quant_product *p, int64_t row, int64_t g,
                          const int rows, const int cols, const int qtype) {
  const ds_quant *q = p->q;
  const int64_t groups = q->cols / q->group, half = q->group / 2;
  const float *a = p->a + g * q->group;
  vf acc[16];
  for (int i = 0; i < rows * cols; i++) acc[i] = vset(0.0f);
  for (int64_t at = 0; at < (qtype == DS_I8 ? q->group : half); at += VL)
    for (int j = 0; j < cols; j++) {
      int64_t from = (row + j) * q->cols + g * q->group;
      vf x, y;
      if (qtype == DS_I8)
        x = y = load_i8((const int8_t *)p->values + from + at);
      else
        load_i4((const uint8_t *)p->values + from / 2 + at, &x, &y);
      for (int i = 0; i < rows; i++) {
        int64_t line = (i < p->m ? i : p->m - 1) * q->cols + at;
        acc[i * cols + j] = x * vload(a + line) + acc[i * cols + j];
        if (qtype == DS_I4) acc[i * cols + j] = y * vload(a + line + half) + acc[i * cols + j];
      }
    }
  for (int j = 0; j < cols; j++) {
    vf scale = vset(p->scales[(row + j) * groups + g]);
    for (int i = 0; i < rows; i++)
      total[i * cols + j] = acc[i * cols + j] * scale + total[i * cols + j];
  }
}

static void put(const ds_cpu_quant_product *p, int64_t i, int64_t row, float sum) {
  if (p->bias != NULL) sum += ld1(p->bias, row, p->q->dtype);
  st1(p->c, i * p->q->rows + row, p->q->dtype, sum);
}

INLINE void whole_groups(const ds_cpu_quant_product *p, int64_t row, const int rows, const int cols,
                         const int qtype) {
  vf total[16];
  int64_t groups = p->q->cols / p->q->group;
  const int64_t ahead = cols * p->q->cols / (qtype == DS_I8 ? 1 : 2);
  for (int i = 0; i < rows * cols; i++) total[i] = vset(0.0f);
  for (int64_t g = 0; g < groups; g++) {
    for (int j = 0; j < cols; j++) {
      int64_t from = (row + j) * p->q->cols + g * p->q->group;
      const char *next = (const char *)p->values + (qtype == DS_I8 ? from : from / 2) + ahead;
      __builtin_prefetch(next);
    }
    group_product(total, p, row, g, rows, cols, qtype);
  }
  for (int i = 0; i < rows && i < p->m; i++)
    for (int j = 0; j < cols; j++) put(p, i, row + j, vhsum(total[i * cols + j]));
}

/* Groups that are no whole vectors: value by value. */
static void odd_groups(const ds_cpu_quant_product *p, int64_t row) {
  const ds_quant *q = p->q;
  int64_t half = q->group / 2;
  for (int64_t i = 0; i < p->m; i++) {
    float sum = 0.0f;
    for (int64_t c = 0; c < q->cols; c++) {
      int64_t g = c / q->group, in = c % q->group;
      int64_t at = q->qtype == DS_I8 ? in : in / 2 + in % 2 * half;
      sum += p->a[i * q->cols + g * q->group + at] * p->scales[row * (q->cols / q->group) + g] *
             (float)level_at(p->values, q->qtype, row * q->cols + c);
    }
    put(p, i, row, sum);
  }
}

INLINE void product_rows(const ds_cpu_quant_product *p, int64_t lo, int64_t hi, const int rows,
                         const int cols, const int qtype) {
  int64_t row = lo;
  if (p->q->group % (qtype == DS_I8 ? VL : 2 * VL) != 0)
    for (; row < hi; row++) odd_groups(p, row);
  for (; row + cols <= hi; row += cols) whole_groups(p, row, rows, cols, qtype);
  for (; row < hi; row++) whole_groups(p, row, rows, 1, qtype);
}

/* One row of int8 values after another is one stream, which memory likes best; the unpacking of
 * int4 rather wants several independent rows. */
#define PRODUCT(name, qtype)                                                                       \
  static void name(const ds_cpu_quant_product *p, int64_t lo, int64_t hi) {                        \
    if (p->m == 1)                                                                                 \
      product_rows(p, lo, hi, 1, (qtype) == DS_I8 ? 1 : 4, qtype);                                 \
    else if (p->m == 2)                                                                            \
      product_rows(p, lo, hi, 2, VL == 16 ? 4 : 2, qtype);                                         \
    else                                                                                           \
      product_rows(p, lo, hi, 4, VL == 16 ? 2 : 1, qtype);                                         \
  }
PRODUCT(product_i8, DS_I8)
PRODUCT(product_i4, DS_I4)

static void product_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const ds_cpu_quant_product *p = ctx;
  (void)part;
  if (p->q->qtype == DS_I8)
    product_i8(p, lo, hi);
  else
    product_i4(p, lo, hi);
}

static int parts(const ds_quant *q, int threads) {
  return ds_cpu_parts(threads, (double)q->rows * (double)q->cols);
}

static void quantize(const ds_cpu_quant_rows *r, int threads) {
  parallel_range(parts(r->q, threads), r->q->rows, 1, quantize_range, r);
}

static void dequantize(const ds_cpu_quant_rows *r, int threads) {
  parallel_range(parts(r->q, threads), r->q->rows, 1, dequantize_range, r);
}

static void product(const ds_cpu_quant_product *p, int threads) {
  parallel_range(parts(p->q, threads), p->q->rows, 16, product_range, p);
}

const ds_cpu_quant_kernels K(quant) = {quantize, dequantize, product};
