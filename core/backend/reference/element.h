/* element.h - reading and writing single elements of f32, bf16 and f16 as float.
 *
 * Conversions round to nearest, ties to even; NaN stays NaN, and what is too large becomes
 * infinity. `i` counts elements from the base address. The dtype must be one of the three: callers
 * have checked it.
 */
#ifndef DS_BACKEND_REFERENCE_ELEMENT_H
#define DS_BACKEND_REFERENCE_ELEMENT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "ds_abi.h"

static inline uint32_t ds_element_bits(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}

static inline float ds_element_float(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

static inline float ds_element_from_bf16(uint16_t h) {
  return ds_element_float((uint32_t)h << 16);
}

static inline uint16_t ds_element_to_bf16(float v) {
  uint32_t bits = ds_element_bits(v);
  if (isnan(v)) return (uint16_t)((bits >> 16) | 0x40u); /* quiet: its payload may lie lower down */
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float ds_element_from_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
  uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
  if (exponent == 0) return ds_element_float(sign | ds_element_bits((float)mantissa * 0x1p-24f));
  if (exponent == 31) return ds_element_float(sign | 0x7f800000u | mantissa << 13);
  return ds_element_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

static inline uint16_t ds_element_to_f16(float v) {
  uint32_t bits = ds_element_bits(v), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  if (isnan(v)) return (uint16_t)(sign | 0x7e00u | ((size >> 13) & 0x3ffu));
  if (size >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65536 and up */
  if (size < 0x38800000u) { /* below 2^-14: one unit is 2^-24, which is the last place of 0.5f */
    return (uint16_t)(sign | (ds_element_bits(ds_element_float(size) + 0.5f) - 0x3f000000u));
  }
  size += 0xfffu + ((size >> 13) & 1u);
  return (uint16_t)(sign | (size - 0x38000000u) >> 13);
}

static inline float ds_element_load(int32_t dtype, const void *base, int64_t i) {
  if (dtype == DS_F32) return ((const float *)base)[i];
  if (dtype == DS_BF16) return ds_element_from_bf16(((const uint16_t *)base)[i]);
  return ds_element_from_f16(((const uint16_t *)base)[i]);
}

static inline void ds_element_store(int32_t dtype, void *base, int64_t i, float v) {
  if (dtype == DS_F32) {
    ((float *)base)[i] = v;
  } else if (dtype == DS_BF16) {
    ((uint16_t *)base)[i] = ds_element_to_bf16(v);
  } else {
    ((uint16_t *)base)[i] = ds_element_to_f16(v);
  }
}

static inline float ds_element_get(const ds_tensor *t, int64_t i) {
  return ds_element_load(t->dtype, t->data, i);
}

/* Stores v, or adds it to what is there. */
static inline void ds_element_put(const ds_tensor *t, int64_t i, double v, int accumulate) {
  if (accumulate) v += (double)ds_element_get(t, i);
  ds_element_store(t->dtype, t->data, i, (float)v);
}

#endif
