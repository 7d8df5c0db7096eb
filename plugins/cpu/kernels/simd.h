/* simd.h - vectors of f32 for the instruction set that a file is compiled for.
 *
 * vf holds VL floats. Arithmetic is written with operators; a * b + c becomes a fused multiply-add
 * where there is one. ld and st move n <= VL elements of a dtype (DS_F32, DS_BF16, DS_F16) between
 * memory and a vf: absent lanes load as 0 and are not stored; with n a constant VL and a constant
 * dtype they are single moves. Conversions round to nearest even and keep NaN.
 *
 * Accuracy of the functions (test_simd.c): vexp, vtanh, vsigmoid, verf within 2e-7 relative, and
 * right at 0, infinities and NaN. vexp underflows gradually.
 */
#ifndef DS_CPU_SIMD_H
#define DS_CPU_SIMD_H

#include <stdint.h>
#include <string.h>

#include "ds_abi.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define VL 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define VL 8
#else
#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#define VL 4
#endif

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint16_t vh __attribute__((vector_size(2 * VL)));
typedef double vd __attribute__((vector_size(4 * VL))); /* VL/2 lanes */
typedef float vhalf __attribute__((vector_size(2 * VL)));

/* Runs a body for c = lo, lo + VL, ... below hi with n lanes: n is the constant VL in the main loop
 * and smaller in the last turn. */
#define VLOOP(c, n, lo, hi, ...)                                                                   \
  do {                                                                                             \
    int64_t c = (lo);                                                                              \
    const int64_t c##_end = (hi);                                                                  \
    {                                                                                              \
      enum { n = VL };                                                                             \
      for (; c + VL <= c##_end; c += VL) __VA_ARGS__                                               \
    }                                                                                              \
    if (c < c##_end) {                                                                             \
      const int n = (int)(c##_end - c);                                                            \
      __VA_ARGS__                                                                                  \
    }                                                                                              \
  } while (0)

INLINE vf vset(float x) {
#if VL == 16
  return _mm512_set1_ps(x);
#elif VL == 8
  return _mm256_set1_ps(x);
#else
  return (vf){x, x, x, x};
#endif
}

/* m ? a : b, lane by lane; m is the result of a comparison. */
INLINE vf vsel(vi m, vf a, vf b) {
  return (vf)(((vi)a & m) | ((vi)b & ~m));
}

INLINE vu vselu(vi m, vu a, vu b) {
  return (a & (vu)m) | (b & (vu)~m);
}

/* a > b ? a : b: the second when either is NaN. */
INLINE vf vmax(vf a, vf b) {
#if VL == 16
  return _mm512_max_ps(a, b);
#elif VL == 8
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return vsel(a > b, a, b);
#endif
}

/* a < b ? a : b: the second when either is NaN. */
INLINE vf vmin(vf a, vf b) {
#if VL == 16
  return _mm512_min_ps(a, b);
#elif VL == 8
  return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return vsel(a < b, a, b);
#endif
}

INLINE vf vabs(vf x) {
  return (vf)((vi)x & 0x7fffffff);
}

INLINE vf vcopysign(vf magnitude, vf sign) {
  return (vf)(((vi)magnitude & 0x7fffffff) | ((vi)sign & (vi)((vu){0} + 0x80000000u)));
}

INLINE vf vsqrt(vf x) {
#if VL == 16
  return _mm512_sqrt_ps(x);
#elif VL == 8
  return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(x);
#else
  vf y;
  for (int i = 0; i < VL; i++) y[i] = __builtin_sqrtf(x[i]);
  return y;
#endif
}

INLINE vi viota(void) {
#if VL == 16
  return (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif VL == 8
  return (vi){0, 1, 2, 3, 4, 5, 6, 7};
#else
  return (vi){0, 1, 2, 3};
#endif
}

/* The first n lanes of v; 0 elsewhere. */
INLINE vf vfirst(vf v, int n) {
  return n == VL ? v : (vf)((vi)v & (viota() < n));
}

INLINE float vhsum(vf v) {
#if VL == 16
  return _mm512_reduce_add_ps(v);
#else
#if VL == 8
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  typedef float v4 __attribute__((vector_size(16)));
  v4 q = (v4)h;
#else
  vf q = v;
#endif
  return (q[0] + q[2]) + (q[1] + q[3]);
#endif
}

/* The largest lane that is not NaN; -inf when all are. */
INLINE float vhmax(vf v) {
  float m = -__builtin_inff();
  for (int i = 0; i < VL; i++) m = v[i] > m ? v[i] : m;
  return m;
}

INLINE double vhsumd(vd v) {
  double s = 0;
  for (int i = 0; i < VL / 2; i++) s += v[i];
  return s;
}

/* The two halves of v in f64, added. */
INLINE vd vwiden_sum(vf v) {
  union {
    vf v;
    vhalf h[2];
  } u = {v};
  return __builtin_convertvector(u.h[0], vd) + __builtin_convertvector(u.h[1], vd);
}

/* The two halves of v in f64, squared and added. */
INLINE vd vwiden_squares(vf v) {
  union {
    vf v;
    vhalf h[2];
  } u = {v};
  vd a = __builtin_convertvector(u.h[0], vd), b = __builtin_convertvector(u.h[1], vd);
  return a * a + b * b;
}

/* ---- memory */

INLINE vf vload(const float *p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE void vstore(float *p, vf v) {
  memcpy(p, &v, sizeof v);
}

INLINE vf vfrom_bf16(vh h) {
  return (vf)(__builtin_convertvector(h, vu) << 16);
}

INLINE vh vto_bf16(vf x) {
  vu u = (vu)x;
  vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector(vselu(x == x, rounded, (u >> 16) | 0x40), vh);
}

INLINE vf vfrom_f16(vh h) {
#if VL == 16
  return _mm512_cvtph_ps((__m256i)h);
#elif VL == 8 && defined(__F16C__)
  return _mm256_cvtph_ps((__m128i)h);
#else
  vu u = __builtin_convertvector(h, vu), magnitude = u & 0x7fff;
  vu finite = (vu)((vf)(magnitude << 13) * 0x1p112f); /* moves the bias, normal or not */
  vu special = (magnitude << 13) | 0x7f800000;
  return (vf)(vselu(magnitude >= 0x7c00, special, finite) | (u & 0x8000) << 16);
#endif
}

INLINE vh vto_f16(vf x) {
#if VL == 16
  return (vh)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif VL == 8 && defined(__F16C__)
  return (vh)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  vu u = (vu)x, a = u & 0x7fffffff;
  vu normal = (a - (112u << 23) + 0xfff + ((a >> 13) & 1)) >> 13;
  vu small = (vu)((vf)a + 0.5f) - 0x3f000000u; /* the ulp of 0.5 is f16's smallest number */
  vu r = vselu((vi)a < 0x38800000, small, normal);
  r = vselu((vi)a >= 0x47800000, (vu){0} + 0x7c00, r);
  r = vselu(x == x, r, 0x7e00 | ((a >> 13) & 0x3ff));
  return __builtin_convertvector(r | (u >> 16 & 0x8000), vh);
#endif
}

INLINE vh vload_h(const uint16_t *p, int n) {
  vh h = {0};
  if (n == VL) {
    memcpy(&h, p, sizeof h);
    return h;
  }
#if VL == 16
  return (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
  for (int i = 0; i < VL; i++)
    if (i < n) h[i] = p[i];
  return h;
#endif
}

INLINE void vstore_h(uint16_t *p, int n, vh h) {
  if (n == VL) {
    memcpy(p, &h, sizeof h);
    return;
  }
#if VL == 16
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
  for (int i = 0; i < VL; i++)
    if (i < n) p[i] = h[i];
#endif
}

/* Elements i .. i+n-1 of an array of dtype dt. */
INLINE vf ld(const void *p, int64_t i, int n, int dt) {
  if (dt == DS_BF16) return vfrom_bf16(vload_h((const uint16_t *)p + i, n));
  if (dt == DS_F16) return vfrom_f16(vload_h((const uint16_t *)p + i, n));
  const float *f = (const float *)p + i;
  if (n == VL) return vload(f);
#if VL == 16
  return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), f);
#else
  vf v = {0};
  for (int k = 0; k < VL; k++)
    if (k < n) v[k] = f[k];
  return v;
#endif
}

INLINE void st(void *p, int64_t i, int n, int dt, vf v) {
  if (dt == DS_BF16) {
    vstore_h((uint16_t *)p + i, n, vto_bf16(v));
    return;
  }
  if (dt == DS_F16) {
    vstore_h((uint16_t *)p + i, n, vto_f16(v));
    return;
  }
  float *f = (float *)p + i;
  if (n == VL) {
    vstore(f, v);
    return;
  }
#if VL == 16
  _mm512_mask_storeu_ps(f, (__mmask16)((1u << n) - 1), v);
#else
  for (int k = 0; k < VL; k++)
    if (k < n) f[k] = v[k];
#endif
}

/* One element. */
INLINE float ld1(const void *p, int64_t i, int dt) {
  return ld(p, i, 1, dt)[0];
}

INLINE void st1(void *p, int64_t i, int dt, float x) {
  st(p, i, 1, dt, vset(x));
}

INLINE int64_t dtype_size(int dt) {
  return dt == DS_F32 || dt == DS_I32 ? 4 : 2;
}

/* ---- functions. Polynomials are least-maximum fits over the reduced ranges. */

/* 2^n e^r with x = n ln 2 + r, |r| <= ln(2)/2. */
INLINE vf vexp(vf x) {
  x = vmin(vset(89.0f), vmax(vset(-104.0f), x)); /* beyond lie inf and 0; NaN passes */
  vf shifted = x * 1.44269504f + 12582912.0f;    /* adding 1.5 * 2^23 rounds to an integer */
  vf n = shifted - 12582912.0f;
  vf r = n * -0.693359375f + x;
  r = n * 2.12194440e-4f + r;
  vf q = r * 0.00138144579f + 0.00836878084f;
  q = q * r + 0.0416683927f;
  q = q * r + 0.166665196f;
  q = q * r + 0.49999994f;
  vf p = (q * r) * r + r + 1.0f;
#if VL == 16
  return _mm512_scalef_ps(p, n);
#else
  vi k = (vi)shifted - (vi)vset(12582912.0f); /* in two steps, so that it underflows gradually */
  vi half = k >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((k - half + 127) << 23);
#endif
}

INLINE vf vsigmoid(vf x) {
  return 1.0f / (1.0f + vexp(-x));
}

INLINE vf vtanh(vf x) {
  vf a = vabs(x), u = x * x;
  vf p = u * -0.00571701117f + 0.0206505544f;
  p = p * u - 0.0537434854f;
  p = p * u + 0.133314908f;
  p = p * u - 0.333332837f;
  vf small = (p * u) * x + x;
  vf large = vcopysign(1.0f - 2.0f / (vexp(a + a) + 1.0f), x);
  return vsel(a < 0.625f, small, large);
}

/* erf(|x|) for |x| < 0.93 as x P(x^2); 1 - exp(Q(|x|)) beyond. */
INLINE vf erf_small(vf x) {
  vf u = x * x;
  vf p = u * -0.000588676543f + 0.00497311493f;
  p = p * u - 0.0267533325f;
  p = p * u + 0.112814665f;
  p = p * u - 0.37612462f;
  p = p * u + 0.128379151f;
  return p * x + x;
}

INLINE vf erfc_large(vf a) {
  vf q = a * -2.12790019e-5f + 0.000436577626f;
  q = q * a - 0.00418125326f;
  q = q * a + 0.02514611f;
  q = q * a - 0.108321115f;
  q = q * a - 0.633309841f;
  q = q * a - 1.12953317f;
  q = q * a + 0.000178456001f;
  return vexp(q);
}

INLINE vf verf(vf x) {
  vf a = vabs(x);
  return vsel(a < 0.93f, erf_small(x), vcopysign(1.0f - erfc_large(a), x));
}

/* (1 + erf(x / sqrt 2)) / 2, without cancellation on the left. */
INLINE vf vnormal_cdf(vf x) {
  vf z = x * 0.707106781f, a = vabs(z);
  vf tail = 0.5f * erfc_large(a);
  return vsel(a < 0.93f, 0.5f + 0.5f * erf_small(z), vsel(x < 0.0f, tail, 1.0f - tail));
}

#endif
