/* f16.h - single values in and out of IEEE half precision, round to nearest even; NaN stays NaN, what
 * is too large becomes infinity, and numbers below the normal range are kept. */
#ifndef DS_CPU_F16_H
#define DS_CPU_F16_H

#include "bf16.h"
#include "ds_abi.h"

typedef union ds_cpu_f16_bits {
  uint32_t u;
  float f;
} ds_cpu_f16_bits;

/* Exponent and fraction shifted into place are off by 2^112, subnormals alike. */
static inline float ds_cpu_f16_load(uint16_t bits) {
  ds_cpu_f16_bits x = {.u = (uint32_t)(bits & 0x7fffu) << 13};
  x.f *= 0x1p112f;
  x.u |= (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  x.u |= (uint32_t)(bits & 0x8000u) << 16;
  return x.f;
}

static inline uint16_t ds_cpu_f16_store(float value) {
  ds_cpu_f16_bits x = {.f = value};
  const uint32_t sign = x.u >> 16 & 0x8000u, size = x.u & 0x7fffffffu;
  ds_cpu_f16_bits small = {.u = size};
  small.f += 0.5f; /* its last place is 2^-24, that of subnormals */
  const uint32_t normal = (size + 0xfffu + (size >> 13 & 1u) - 0x38000000u) >> 13;
  uint32_t half = size < 0x38800000u ? small.u - 0x3f000000u : normal;
  if (size >= 0x47800000u) half = 0x7c00u;
  if (size > 0x7f800000u) half = 0x7e00u | (size >> 13 & 0x3ffu);
  return (uint16_t)(sign | half);
}

/* Element i of an array of f32, bf16 or f16. */
static inline float ds_cpu_float_load(const void *p, int32_t dtype, int64_t i) {
  if (dtype == DS_F16) return ds_cpu_f16_load(((const uint16_t *)p)[i]);
  return ds_cpu_load(p, dtype == DS_BF16, i);
}

static inline void ds_cpu_float_store(void *p, int32_t dtype, int64_t i, float value) {
  if (dtype == DS_F16)
    ((uint16_t *)p)[i] = ds_cpu_f16_store(value);
  else
    ds_cpu_store(p, dtype == DS_BF16, i, value);
}

#endif
