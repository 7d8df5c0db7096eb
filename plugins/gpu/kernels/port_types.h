/* port_types.h - small numbers as storage, and vectors of them. Part of port.h. */
#ifndef DS_GPU_PORT_TYPES_H
#define DS_GPU_PORT_TYPES_H

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

GPU_DEVICE float gpu_f32(float x) {
  return x;
}
GPU_DEVICE float gpu_f32(gpu_bf16 x) {
  return gpu_float((uint32_t)x.bits << 16);
}
/* Shifted into place, then scaled by the difference of the exponents' offsets, which also gives the
 * subnormals; the largest exponent is put back. */
GPU_DEVICE float gpu_f32(gpu_f16 x) {
  const uint32_t sign = (uint32_t)(x.bits & 0x8000u) << 16;
  const uint32_t rest = (uint32_t)(x.bits & 0x7fffu) << 13;
  const float scaled = gpu_float(rest) * 5.192296858534828e33f; /* 2^112 */
  const uint32_t big = rest >= 0x0f800000u ? (gpu_bits(scaled) | 0x7f800000u) : gpu_bits(scaled);
  return gpu_float(sign | big);
}

template <typename T> struct gpu_conversion;
template <typename T> GPU_DEVICE T gpu_from(float x) {
  return gpu_conversion<T>::from(x);
}

template <> struct gpu_conversion<float> {
  static __device__ __forceinline__ float from(float x) { return x; }
};
template <> struct gpu_conversion<gpu_bf16> {
  static __device__ __forceinline__ gpu_bf16 from(float x) {
    const uint32_t u = gpu_bits(x);
    const uint32_t even = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    return gpu_bf16{(uint16_t)(x != x ? (u >> 16 | 0x40u) : even)};
  }
};

#endif
