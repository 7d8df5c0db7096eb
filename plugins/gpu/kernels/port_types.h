/* port_types.h - small numbers as storage, and vectors of them. Part of port.h; needs GPU_DEVICE only.
 *
 * f16 is IEEE's half; f8e4m3 ("e4m3fn": no infinity, NaN is 0x7f) and f8e5m2 are those of Micikevicius et al.
 * 2022 and of the OCP's specification. What is too large becomes an infinity in bf16 and f16, the largest number
 * in fp8, infinity as well. Code in gpu_bits_* is for any target, and what the instructions are held to. */
#ifndef DS_GPU_PORT_TYPES_H
#define DS_GPU_PORT_TYPES_H

#include <stdint.h>

struct gpu_bf16 {
  uint16_t bits;
};
struct gpu_f16 {
  uint16_t bits;
};
struct gpu_f8e4m3 {
  uint8_t bits;
};
struct gpu_f8e5m2 {
  uint8_t bits;
};

template <typename T, int N> struct alignas(sizeof(T) * N) gpu_vec { T at[N]; };

GPU_DEVICE uint32_t gpu_bits(float x) {
  union {
    float f;
    uint32_t u;
  } v;
  v.f = x;
  return v.u;
}
GPU_DEVICE float gpu_float(uint32_t bits) {
  union {
    float f;
    uint32_t u;
  } v;
  v.u = bits;
  return v.f;
}

/* ---- by bits, on any target */

/* The bits of the small number nearest to `size`, which is not negative, half to even: normal ones are rounded at
 * the bit that will be the last, smaller ones by adding a number whose last place is the smallest step. Goes on
 * past the largest exponent as if there were more. */
template <int FRACTION, int BIAS> GPU_DEVICE uint32_t gpu_bits_narrow(float size) {
  const int shift = 23 - FRACTION;
  const uint32_t u = gpu_bits(size), step = (uint32_t)(128 - BIAS - FRACTION + 23) << 23;
  if (u < (uint32_t)(128 - BIAS) << 23) return gpu_bits(size + gpu_float(step)) - step;
  const uint32_t half = (1u << (shift - 1)) - 1u + (u >> shift & 1u);
  return ((u + half) >> shift) - ((uint32_t)(127 - BIAS) << FRACTION);
}
/* The other way; no infinity, no NaN. Subnormals without meeting any of float's, which may be flushed. */
template <int FRACTION, int BIAS> GPU_DEVICE float gpu_bits_widen(uint32_t bits) {
  const uint32_t u = bits << (23 - FRACTION), least = (uint32_t)(128 - BIAS) << 23;
  if (bits >> FRACTION == 0) return gpu_float(u | least) - gpu_float(least);
  return gpu_float(u + ((uint32_t)(127 - BIAS) << 23));
}

GPU_DEVICE uint16_t gpu_bits_bf16(float x) {
  const uint32_t u = gpu_bits(x);
  const uint32_t even = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  return (uint16_t)(x != x ? (u >> 16 | 0x40u) : even);
}
GPU_DEVICE uint16_t gpu_bits_f16(float x) {
  const uint32_t u = gpu_bits(x), a = u & 0x7fffffffu, sign = u >> 16 & 0x8000u;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520, halfway to 2^16 */
  return (uint16_t)(sign | gpu_bits_narrow<10, 15>(gpu_float(a)));
}
GPU_DEVICE uint8_t gpu_bits_f8e4m3(float x) {
  const uint32_t u = gpu_bits(x), a = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
  if (a > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
  return (uint8_t)(sign |
                   (a >= 0x43e00000u ? 0x7eu : gpu_bits_narrow<3, 7>(gpu_float(a)))); /* 448 */
}
GPU_DEVICE uint8_t gpu_bits_f8e5m2(float x) {
  const uint32_t u = gpu_bits(x), a = u & 0x7fffffffu, sign = u >> 24 & 0x80u;
  if (a > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
  return (uint8_t)(sign |
                   (a >= 0x47600000u ? 0x7bu : gpu_bits_narrow<2, 15>(gpu_float(a)))); /* 57344 */
}
GPU_DEVICE float gpu_bits_f16_to_f32(uint16_t bits) {
  const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return gpu_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  return gpu_float(sign | gpu_bits(gpu_bits_widen<10, 15>(rest)));
}
GPU_DEVICE float gpu_bits_f8e4m3_to_f32(uint8_t bits) {
  const uint32_t sign = (uint32_t)(bits & 0x80u) << 24, rest = bits & 0x7fu;
  if (rest == 0x7fu) return gpu_float(sign | 0x7fc00000u);
  return gpu_float(sign | gpu_bits(gpu_bits_widen<3, 7>(rest)));
}

/* ---- by the target's instructions where it has them */

GPU_DEVICE float gpu_f32(float x) {
  return x;
}
GPU_DEVICE float gpu_f32(gpu_bf16 x) {
  return gpu_float((uint32_t)x.bits << 16);
}
GPU_DEVICE float gpu_f32(gpu_f16 x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#elif defined(__AMDGCN__)
  return (float)__builtin_bit_cast(_Float16, x.bits);
#else
  return gpu_bits_f16_to_f32(x.bits);
#endif
}
/* The upper byte of a half. */
GPU_DEVICE float gpu_f32(gpu_f8e5m2 x) {
  return gpu_f32(gpu_f16{(uint16_t)(x.bits << 8)});
}
GPU_DEVICE float gpu_f32(gpu_f8e4m3 x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint32_t pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"((uint16_t)x.bits));
  return gpu_f32(gpu_f16{(uint16_t)pair});
#else
  return gpu_bits_f8e4m3_to_f32(x.bits);
#endif
}

template <typename T> struct gpu_conversion;
template <typename T> GPU_DEVICE T gpu_from(float x) {
  return gpu_conversion<T>::from(x);
}

GPU_DEVICE gpu_bf16 gpu_to_bf16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  gpu_bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  return gpu_bf16{gpu_bits_bf16(x)};
#endif
}
GPU_DEVICE gpu_f16 gpu_to_f16(float x) {
#if defined(__CUDA_ARCH__)
  gpu_f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#elif defined(__AMDGCN__)
  return gpu_f16{__builtin_bit_cast(uint16_t, (_Float16)x)};
#else
  return gpu_f16{gpu_bits_f16(x)};
#endif
}
GPU_DEVICE gpu_f8e4m3 gpu_to_f8e4m3(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return gpu_f8e4m3{(uint8_t)pair};
#else
  return gpu_f8e4m3{gpu_bits_f8e4m3(x)};
#endif
}
GPU_DEVICE gpu_f8e5m2 gpu_to_f8e5m2(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return gpu_f8e5m2{(uint8_t)pair};
#else
  return gpu_f8e5m2{gpu_bits_f8e5m2(x)};
#endif
}

/* Members, since a template of a function can't be specialized for hipcc and nvcc alike with GPU_DEVICE's static. */
#define GPU_CONVERSION(type, function)                                                             \
  template <> struct gpu_conversion<type> {                                                        \
    GPU_DEVICE type from(float x) { return function(x); }                                          \
  }
GPU_CONVERSION(float, gpu_f32);
GPU_CONVERSION(gpu_bf16, gpu_to_bf16);
GPU_CONVERSION(gpu_f16, gpu_to_f16);
GPU_CONVERSION(gpu_f8e4m3, gpu_to_f8e4m3);
GPU_CONVERSION(gpu_f8e5m2, gpu_to_f8e5m2);
#undef GPU_CONVERSION

#endif
