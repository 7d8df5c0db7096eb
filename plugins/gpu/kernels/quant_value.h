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

#endif
