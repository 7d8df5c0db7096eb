/* quant_value.h - stored values of the quantized types to f32 and back, a vector at a time. */
#ifndef DS_CPU_QUANT_VALUE_H
#define DS_CPU_QUANT_VALUE_H

#include "../quant.h"
#include "kernel.h"
#include "simd.h"

typedef int8_t vb __attribute__((vector_size(VL)));
typedef uint8_t vub __attribute__((vector_size(VL)));

INLINE vub load_bytes(const uint8_t *p, int n) {
  vub b = {0};
  if (n == VL)
    memcpy(&b, p, sizeof b);
  else
    memcpy(&b, p, (size_t)n);
  return b;
}

INLINE vf from_i8(vub b) {
#if VL == 16
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)b));
#else
  return __builtin_convertvector(__builtin_convertvector((vb)b, vi), vf);
#endif
}

/* Bytes as signed numbers to words. */
INLINE vh widen(vub b) {
#if VL == 16
  return (vh)_mm256_cvtepi8_epi16((__m128i)b);
#else
  typedef int16_t signed_words __attribute__((vector_size(2 * VL)));
  return (vh) __builtin_convertvector((vb)b, signed_words);
#endif
}

/* E5M2 is the upper byte of an f16. E4M3 has f16's fields in other widths: shifted into place, it
 * is the same number with another bias, denormals too; only its NaN has to be told. */
INLINE vf from_fp8(vub b, const int qtype) {
  vh h = widen(b);
  if (qtype == DS_F8E5M2) return vfrom_f16(h << 8);
  vf v = vfrom_f16(h << 7 & 0xbf80) * 256.0f;
  vi magnitude = (vi) __builtin_convertvector(b & 0x7f, vu);
  return vsel(magnitude == 0x7f, v + __builtin_nanf(""), v);
}

/* 2 VL values of 4 bits from VL bytes, in order. */
INLINE void from_i4(const uint8_t *p, vf out[2]) {
  vub b = load_bytes(p, VL);
#if VL == 16
  const __m512 level = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i v = _mm512_cvtepu8_epi32((__m128i)b);
  vf even = _mm512_permutexvar_ps(v, level); /* looks at the low four bits of a lane */
  vf odd = _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), level);
  out[0] = _mm512_permutex2var_ps(even, low, odd);
  out[1] = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
#else
  vi v = (vi) __builtin_convertvector(b, vu);
  vf even = __builtin_convertvector((v << 28) >> 28, vf);
  vf odd = __builtin_convertvector((v << 24) >> 28, vf);
  float both[2 * VL];
  for (int k = 0; k < 2 * VL; k++) both[k] = k % 2 ? odd[k / 2] : even[k / 2];
  out[0] = vload(both);
  out[1] = vload(both + VL);
#endif
}

static inline float one_i4(const void *values, int64_t i) {
  int byte = ((const uint8_t *)values)[i / 2], nibble = i % 2 ? byte >> 4 : byte & 15;
  return (float)((nibble ^ 8) - 8);
}

/* Writes scale * (value - zero) for n values from number `at` on to x[0..n) of dtype dt. */
INLINE void decode(const ds_quant *q, int64_t at, int64_t n, float scale, float zero, void *x,
                   int64_t to, const int qtype, const int dt) {
  const uint8_t *values = q->values;
  if (qtype != DS_I4) {
    VLOOP(i, k, 0, n, {
      vub b = load_bytes(values + at + i, k);
      vf v = qtype == DS_I8 ? from_i8(b) : from_fp8(b, qtype);
      st(x, to + i, k, dt, (v - zero) * scale);
    });
    return;
  }
  int64_t i = 0;
  if (at % 2 != 0 && n > 0) st1(x, to + i++, dt, (one_i4(values, at) - zero) * scale);
  for (; i + 2 * VL <= n; i += 2 * VL) {
    vf v[2];
    from_i4(values + (at + i) / 2, v);
    st(x, to + i, VL, dt, (v[0] - zero) * scale);
    st(x, to + i + VL, VL, dt, (v[1] - zero) * scale);
  }
  for (; i < n; i++) st1(x, to + i, dt, (one_i4(values, at + i) - zero) * scale);
}

/* Columns [col, col + n) of a row to x[to ..]. */
INLINE void decode_row(const ds_quant *q, int64_t row, int64_t col, int64_t n, void *x, int64_t to,
                       const int qtype, const int dt) {
  for (int64_t end = col + n; col < end;) {
    int64_t g = ds_cpu_quant_group(q, row, col), next = end;
    if (!ds_cpu_quant_per_tensor(q)) next = (col / q->group + 1) * q->group;
    if (next > end) next = end;
    float zero = ds_cpu_quant_asymmetric(q) ? (float)q->zeros[g] : 0.0f;
    decode(q, row * q->cols + col, next - col, q->scales[g], zero, x, to, qtype, dt);
    to += next - col;
    col = next;
  }
}

#endif
