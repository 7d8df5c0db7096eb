/* quant_value.h - one quantized value: to float, and from it. For quant_*.cu. */
#ifndef DS_GPU_KERNELS_QUANT_VALUE_H
#define DS_GPU_KERNELS_QUANT_VALUE_H

#include "ds_abi.h"
#include "port.h"
#include "quant.h"

/* The largest number of a type. */
template <int Q> GPU_DEVICE float quant_most() {
  return Q == DS_I8 ? 127.0f : Q == DS_I4 ? 7.0f : Q == DS_F8E4M3 ? 448.0f : 57344.0f;
}
template <int Q> GPU_DEVICE bool quant_is_integer() {
  return Q == DS_I8 || Q == DS_I4;
}

/* How a group is stored: x is scale * (q - zero), q an integer from `least` on. */
struct quant_scale {
  float scale, zero, least;
};

template <int Q> GPU_DEVICE quant_scale quant_stored_scale(const gpu_quant &q, int64_t group) {
  quant_scale s = {q.scales[group], 0.0f, -quant_most<Q>()};
  if (q.zeros != nullptr) {
    s.zero = (float)q.zeros[group];
    s.least -= 1.0f;
  }
  return s;
}

/* A code, the byte or nibble that is stored, as the number that it stands for, before the scale. */
template <int Q> GPU_DEVICE float quant_decode(unsigned code) {
  if (Q == DS_I8) return (float)(int8_t)code;
  if (Q == DS_I4) return (float)((int)((code & 15u) ^ 8u) - 8);
  if (Q == DS_F8E4M3) return gpu_f32(gpu_f8e4m3{(uint8_t)code});
  return gpu_f32(gpu_f8e5m2{(uint8_t)code});
}
template <int Q> GPU_DEVICE float quant_value(unsigned code, quant_scale s) {
  return s.scale * (quant_decode<Q>(code) - s.zero);
}

/* x as a code. NaN in integers is some number: its group's scale isn't one. */
template <int Q> GPU_DEVICE unsigned quant_encode(float x, quant_scale s) {
  const float v = x / s.scale;
  if (Q == DS_F8E4M3) return gpu_from<gpu_f8e4m3>(v).bits;
  if (Q == DS_F8E5M2) return gpu_from<gpu_f8e5m2>(v).bits;
  const float near = rintf(fminf(fmaxf(v, -512.0f), 512.0f)) + s.zero;
  const int code = (int)fminf(fmaxf(near, s.least), quant_most<Q>());
  return (unsigned)code & (Q == DS_I4 ? 15u : 255u);
}

/* Value i of all, in no matter which place. */
template <int Q> GPU_DEVICE unsigned quant_code_at(const void *values, int64_t i) {
  const uint8_t *bytes = static_cast<const uint8_t *>(values);
  return Q == DS_I4 ? bytes[i / 2] >> 4 * (i % 2) & 15u : bytes[i];
}
GPU_DEVICE int64_t quant_group_of(const gpu_quant &q, int64_t row, int64_t col) {
  return q.row_groups <= 1 ? row * q.row_groups : row * q.row_groups + col / q.group_cols;
}

/* ---- values by four */

/* Byte i of a word as a float, above QUANT_BASE: nvcc's conversion is slow, and such a byte is the end of a number of
 * 2^23; AMD's is one instruction. */
#if defined(__CUDA_ARCH__)
#define QUANT_BASE 8388608.0f
GPU_DEVICE float quant_byte(uint32_t word, int i) {
  return gpu_float(__byte_perm(word, 0x4b000000u, 0x7440u + (unsigned)i));
}
#else
#define QUANT_BASE 0.0f
GPU_DEVICE float quant_byte(uint32_t word, int i) {
  return (float)(word >> 8 * i & 255u);
}
#endif

/* Two fp8 codes, the lower byte first; newer cards have one instruction for both. */
template <int Q> GPU_DEVICE void quant_decode_fp8(float &first, float &second, uint32_t codes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint32_t both;
  if (Q == DS_F8E4M3)
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(both) : "h"((uint16_t)codes));
  else
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(both) : "h"((uint16_t)codes));
  first = gpu_f32(gpu_f16{(uint16_t)both});
  second = gpu_f32(gpu_f16{(uint16_t)(both >> 16)});
#else
  first = quant_decode<Q>(codes & 255u);
  second = quant_decode<Q>(codes >> 8 & 255u);
#endif
}

/* Numbers 4 j to 4 j + 3 of those in `words`, less their zero point. */
template <int Q>
GPU_DEVICE void quant_decode4(float (&x)[4], const uint32_t *words, int j, float zero) {
  if (Q == DS_I8) {
    const uint32_t w = words[j] ^ 0x80808080u;
    const float base = QUANT_BASE + 128.0f + zero;
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = quant_byte(w, i) - base;
  } else if (Q == DS_I4) {
    const uint32_t w = words[j / 2] ^ 0x88888888u;
    const uint32_t even = w & 0x0f0f0f0fu, odd = w >> 4 & 0x0f0f0f0fu;
    const float base = QUANT_BASE + 8.0f + zero;
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = quant_byte(i % 2 ? odd : even, j % 2 * 2 + i / 2) - base;
  } else {
    quant_decode_fp8<Q>(x[0], x[1], words[j]);
    quant_decode_fp8<Q>(x[2], x[3], words[j] >> 16);
  }
}

/* ---- division by what doesn't change, of numbers below 2^31 */

struct quant_divisor {
  uint32_t times;
  int shift;
};
inline quant_divisor quant_divisor_of(uint32_t d) {
  int shift = 0;
  while ((uint64_t)1 << shift < d) shift++;
  return quant_divisor{(uint32_t)((((uint64_t)1 << (31 + shift)) + d - 1) / d), shift};
}
GPU_DEVICE uint32_t quant_divide(uint32_t n, quant_divisor d) {
  return (uint32_t)((uint64_t)n * d.times >> 31 >> d.shift);
}

#endif
