/* vector.h - how kernels read and write: 16 bytes at a time where addresses allow, as floats. Part of kernels.
 *
 *   gpu_read<N>(p, to)      N elements at p -> float to[N]; p aligned to 16 bytes, or to all N if that is less
 *   gpu_write<N>(p, v)      the other way, rounded
 *   gpu_visit<N>(row, n, first, step, f)   every element of a row of any alignment once, by all threads that
 *                           call it together: f(float (&v)[N], index, count)
 *   gpu_divider             division of numbers below 2^31 by one that the host knows
 *
 * and, for launchers: gpu_aligned(pointers...), GPU_DTYPE_SWITCH. */
#ifndef DS_GPU_VECTOR_H
#define DS_GPU_VECTOR_H

#include "ds_abi.h"
#include "port.h"

/* Two floats as bf16, the first in the low half. */
GPU_DEVICE uint32_t gpu_pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#else
  return (uint32_t)gpu_from<gpu_bf16>(low).bits | (uint32_t)gpu_from<gpu_bf16>(high).bits << 16;
#endif
}

template <int N, typename T> GPU_DEVICE void gpu_read(const T *p, float (&to)[N]) {
  constexpr int most = 16 / (int)sizeof(T), each = N < most ? N : most;
#pragma unroll
  for (int i = 0; i < N; i += each) {
    const gpu_vec<T, each> v = *reinterpret_cast<const gpu_vec<T, each> *>(p + i);
#pragma unroll
    for (int j = 0; j < each; j++) to[i + j] = gpu_f32(v.at[j]);
  }
}

template <int N, typename T> struct gpu_writer {
  GPU_DEVICE void write(T *p, const float (&v)[N]) {
    constexpr int most = 16 / (int)sizeof(T), each = N < most ? N : most;
#pragma unroll
    for (int i = 0; i < N; i += each) {
      gpu_vec<T, each> out;
#pragma unroll
      for (int j = 0; j < each; j++) out.at[j] = gpu_from<T>(v[i + j]);
      *reinterpret_cast<gpu_vec<T, each> *>(p + i) = out;
    }
  }
};
/* In pairs, which newer cards round in one instruction. */
template <int N> struct gpu_writer<N, gpu_bf16> {
  GPU_DEVICE void write(gpu_bf16 *p, const float (&v)[N]) {
    constexpr int each = N < 8 ? N : 8;
#pragma unroll
    for (int i = 0; i < N; i += each) {
      gpu_vec<uint32_t, each / 2> out;
#pragma unroll
      for (int j = 0; j < each / 2; j++) out.at[j] = gpu_pack_bf16(v[i + 2 * j], v[i + 2 * j + 1]);
      *reinterpret_cast<gpu_vec<uint32_t, each / 2> *>(p + i) = out;
    }
  }
};
template <> struct gpu_writer<1, gpu_bf16> {
  GPU_DEVICE void write(gpu_bf16 *p, const float (&v)[1]) { *p = gpu_from<gpu_bf16>(v[0]); }
};
template <int N, typename T> GPU_DEVICE void gpu_write(T *p, const float (&v)[N]) {
  gpu_writer<N, T>::write(p, v);
}

/* Elements before the first that is aligned to 16 bytes, at most n. */
template <typename T> GPU_DEVICE int64_t gpu_head(const T *row, int64_t n) {
  const int64_t head = (int64_t)((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
  return head < n ? head : n;
}

/* Four vectors are asked for before the first is used. */
template <int N, typename T, typename F>
GPU_DEVICE void gpu_visit(const T *row, int64_t n, int64_t first, int64_t step, F f) {
  const int64_t head = gpu_head(row, n), vectors = (n - head) / N, tail = head + vectors * N;
  float v[4][N];
  for (int64_t i = first; i < head; i += step) {
    v[0][0] = gpu_f32(row[i]);
    f(v[0], i, 1);
  }
  int64_t k = first;
  for (; k + 3 * step < vectors; k += 4 * step) {
#pragma unroll
    for (int u = 0; u < 4; u++) gpu_read<N>(row + head + (k + u * step) * N, v[u]);
#pragma unroll
    for (int u = 0; u < 4; u++) f(v[u], head + (k + u * step) * N, N);
  }
  for (; k < vectors; k += step) {
    gpu_read<N>(row + head + k * N, v[0]);
    f(v[0], head + k * N, N);
  }
  for (int64_t i = tail + first; i < n; i += step) {
    v[0][0] = gpu_f32(row[i]);
    f(v[0], i, 1);
  }
}

/* n / by = (n + high word of n * multiplier) >> shift, for n < 2^31 and 0 < by < 2^31.
 * (Granlund & Montgomery 1994.) */
struct gpu_divider {
  uint32_t by, multiplier, shift;
};
static inline gpu_divider gpu_divide_by(uint32_t by) {
  gpu_divider d = {by, 0, 0};
  while (((uint64_t)1 << d.shift) < by) d.shift++;
  d.multiplier = (uint32_t)(((((uint64_t)1 << d.shift) - by) << 32) / by + 1);
  return d;
}
/* n / d; *rest: what remains. */
GPU_DEVICE uint32_t gpu_divide(uint32_t n, gpu_divider d, uint32_t *rest) {
  const uint32_t high = (uint32_t)((uint64_t)n * d.multiplier >> 32), q = (high + n) >> d.shift;
  *rest = n - q * d.by;
  return q;
}
#define GPU_DIVIDE_MAX ((int64_t)INT32_MAX) /* the most that gpu_divide takes */

static inline bool gpu_aligned() {
  return true;
}
template <typename... Rest> static inline bool gpu_aligned(const void *p, Rest... rest) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && gpu_aligned(rest...);
}

static inline unsigned gpu_blocks(int64_t n, int64_t each) {
  return (unsigned)((n + each - 1) / each);
}

/* expression, with T the type of X; ops.c lets no other dtype through. */
#define GPU_DTYPE_SWITCH(dtype, T, ...)                                                            \
  do {                                                                                             \
    if ((dtype) == DS_BF16) {                                                                      \
      typedef gpu_bf16 T;                                                                          \
      __VA_ARGS__;                                                                                 \
    } else {                                                                                       \
      typedef float T;                                                                             \
      __VA_ARGS__;                                                                                 \
    }                                                                                              \
  } while (0)

#endif
