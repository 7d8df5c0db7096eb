#include "tensor/tensor.h"

#include <string.h>

float ds_bf16_to_f32(uint16_t x) {
  uint32_t u = (uint32_t)x << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

uint16_t ds_f32_to_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float ds_f16_to_f32(uint16_t x) {
  uint32_t sign = (uint32_t)(x & 0x8000u) << 16, exponent = x >> 10 & 31u, mantissa = x & 1023u;
  uint32_t u;
  float f;
  if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 */
    f = (float)mantissa * 0x1p-24f;
    return sign ? -f : f;
  }
  u = exponent == 31 ? sign | 0x7f800000u | mantissa << 13
                     : sign | (exponent + 112) << 23 | mantissa << 13;
  memcpy(&f, &u, sizeof f);
  return f;
}

uint16_t ds_f32_to_f16(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  uint32_t sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (a >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65536 and up */
  if (a < 0x38800000u) { /* below 2^-14: subnormal steps of 2^-24 */
    float f;
    memcpy(&f, &a, sizeof f);
    float scaled = f * 0x1p24f;
    uint32_t q = (uint32_t)scaled;
    float rest = scaled - (float)q;
    if (rest > 0.5f || (rest == 0.5f && (q & 1u))) q++;
    return (uint16_t)(sign | q);
  }
  /* Round to nearest even; a carry into the exponent is right, up to infinity. */
  uint32_t rounded = a + 0xfffu + (a >> 13 & 1u);
  return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

bool ds_convert_to_f32(float *dst, const void *src, int32_t dtype, size_t n) {
#define LOOP(type, expr)                                                                           \
  do {                                                                                             \
    const type *s = src;                                                                           \
    for (size_t i = 0; i < n; i++) dst[i] = (expr);                                                \
  } while (0)
  switch (dtype) {
    case DS_F32: memcpy(dst, src, n * sizeof *dst); return true;
    case DS_BF16: LOOP(uint16_t, ds_bf16_to_f32(s[i])); return true;
    case DS_F16: LOOP(uint16_t, ds_f16_to_f32(s[i])); return true;
    case DS_F64: LOOP(double, (float)s[i]); return true;
    case DS_I32: LOOP(int32_t, (float)s[i]); return true;
    case DS_I64: LOOP(int64_t, (float)s[i]); return true;
    case DS_I8: LOOP(int8_t, (float)s[i]); return true;
    case DS_U8: LOOP(uint8_t, (float)s[i]); return true;
    default: return false;
  }
#undef LOOP
}

bool ds_convert_from_f32(void *dst, int32_t dtype, const float *src, size_t n) {
  uint16_t *d = dst;
  switch (dtype) {
    case DS_F32: memcpy(dst, src, n * sizeof *src); return true;
    case DS_BF16:
      for (size_t i = 0; i < n; i++) d[i] = ds_f32_to_bf16(src[i]);
      return true;
    case DS_F16:
      for (size_t i = 0; i < n; i++) d[i] = ds_f32_to_f16(src[i]);
      return true;
    default: return false;
  }
}
