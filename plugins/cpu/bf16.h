/* bf16.h - single values in and out of bfloat16, round to nearest even; NaN stays NaN. */
#ifndef DS_CPU_BF16_H
#define DS_CPU_BF16_H

#include <stdint.h>

static inline float ds_cpu_bf16_load(uint16_t bits) {
  union {
    uint32_t u;
    float f;
  } x = {.u = (uint32_t)bits << 16};
  return x.f;
}

static inline uint16_t ds_cpu_bf16_store(float value) {
  union {
    float f;
    uint32_t u;
  } x = {.f = value};
  uint32_t rounded = (x.u + 0x7fffu + (x.u >> 16 & 1u)) >> 16;
  uint32_t nan = x.u >> 16 | 0x40u;
  return (uint16_t)((x.u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

/* Element i of an array of f32, or of bf16. */
static inline float ds_cpu_load(const void *p, int is_bf16, int64_t i) {
  return is_bf16 ? ds_cpu_bf16_load(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static inline void ds_cpu_store(void *p, int is_bf16, int64_t i, float value) {
  if (is_bf16)
    ((uint16_t *)p)[i] = ds_cpu_bf16_store(value);
  else
    ((float *)p)[i] = value;
}

#endif
