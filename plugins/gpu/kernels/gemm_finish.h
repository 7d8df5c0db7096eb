/* gemm_finish.h - what the kernels of products share: elements of any type, and how a sum becomes an element of C. */
#ifndef DS_GPU_KERNELS_GEMM_FINISH_H
#define DS_GPU_KERNELS_GEMM_FINISH_H

#include "ds_abi.h"
#include "gemm.h"
#include "port.h"

/* Element i of an array of any dtype that a product takes. */
GPU_DEVICE float gemm_load(int dtype, const void *p, int64_t i) {
  switch (dtype) {
    case DS_F32: return static_cast<const float *>(p)[i];
    case DS_BF16: return gpu_f32(static_cast<const gpu_bf16 *>(p)[i]);
    case DS_F16: return gpu_f32(static_cast<const gpu_f16 *>(p)[i]);
    case DS_F8E4M3: return gpu_f32(static_cast<const gpu_f8e4m3 *>(p)[i]);
    default: return gpu_f32(static_cast<const gpu_f8e5m2 *>(p)[i]);
  }
}

/* The formulas of ds_activation. tanh and exp are the exact ones: an f32 product is held to f32. */
GPU_DEVICE float gemm_activation(int epilogue, float x) {
  switch (epilogue) {
    case DS_EPILOGUE_GELU_TANH:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case DS_EPILOGUE_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case DS_EPILOGUE_RELU: return x < 0.0f ? 0.0f : x;
    case DS_EPILOGUE_SILU: return x / (1.0f + expf(-x));
    default: return x;
  }
}

/* What sums are multiplied by. */
GPU_DEVICE float gemm_alpha(const gpu_product &p) {
  float alpha = p.alpha;
  if (p.scale_a) alpha *= *p.scale_a;
  if (p.scale_b) alpha *= *p.scale_b;
  return alpha;
}

/* N neighbours, at once where `wide` says that they lie whole and aligned to 4 elements. */
template <typename T, int N>
GPU_DEVICE void gemm_load_row(const void *p, int64_t i, int count, bool wide, float (&v)[N]) {
  enum { STEP = sizeof(T) * N > 16 ? 4 : N };
  const T *from = static_cast<const T *>(p) + i;
  if (wide) {
#pragma unroll
    for (int at = 0; at < N; at += STEP) {
      const gpu_vec<T, STEP> x = *reinterpret_cast<const gpu_vec<T, STEP> *>(from + at);
#pragma unroll
      for (int e = 0; e < STEP; e++) v[at + e] = gpu_f32(x.at[e]);
    }
  } else {
#pragma unroll
    for (int e = 0; e < N; e++) v[e] = e < count ? gpu_f32(from[e]) : 0.0f;
  }
}
template <int N>
GPU_DEVICE void gemm_load_row(int dtype, const void *p, int64_t i, int count, bool wide,
                              float (&v)[N]) {
  switch (dtype) {
    case DS_F32: gemm_load_row<float>(p, i, count, wide, v); break;
    case DS_BF16: gemm_load_row<gpu_bf16>(p, i, count, wide, v); break;
    default: gemm_load_row<gpu_f16>(p, i, count, wide, v); break;
  }
}

template <typename T, int N>
GPU_DEVICE void gemm_store_row(void *p, int64_t i, int count, bool wide, const float (&v)[N]) {
  enum { STEP = sizeof(T) * N > 16 ? 4 : N };
  T *to = static_cast<T *>(p) + i;
  if (wide) {
#pragma unroll
    for (int at = 0; at < N; at += STEP) {
      gpu_vec<T, STEP> x;
#pragma unroll
      for (int e = 0; e < STEP; e++) x.at[e] = gpu_from<T>(v[at + e]);
      *reinterpret_cast<gpu_vec<T, STEP> *>(to + at) = x;
    }
  } else {
#pragma unroll
    for (int e = 0; e < N; e++)
      if (e < count) to[e] = gpu_from<T>(v[e]);
  }
}

/* N neighbours of a row of C, from `at` and column j on, from their sums times alpha. The first `count` of them exist;
 * wide: all do, and C and the bias may be read and written at once (gemm_wide). */
template <int N>
GPU_DEVICE void gemm_finish_row(const gpu_product &p, int64_t at, int64_t j, int count, bool wide,
                                float (&v)[N]) {
  float other[N];
  if (p.bias) {
    gemm_load_row(p.dtype_bias, p.bias, j, count, wide, other);
#pragma unroll
    for (int e = 0; e < N; e++) v[e] += other[e];
  }
  if (p.epilogue != DS_EPILOGUE_NONE) {
#pragma unroll
    for (int e = 0; e < N; e++) v[e] = gemm_activation(p.epilogue, v[e]);
  }
  if (p.beta != 0.0f) {
    gemm_load_row(p.dtype_c, p.c, at, count, wide, other);
#pragma unroll
    for (int e = 0; e < N; e++) v[e] += p.beta * other[e];
  }
  switch (p.dtype_c) {
    case DS_F32: gemm_store_row<float>(p.c, at, count, wide, v); break;
    case DS_BF16: gemm_store_row<gpu_bf16>(p.c, at, count, wide, v); break;
    default: gemm_store_row<gpu_f16>(p.c, at, count, wide, v); break;
  }
}

static inline int gemm_bytes(int dtype) {
  return dtype == DS_F32 ? 4 : dtype == DS_BF16 || dtype == DS_F16 ? 2 : 1;
}

/* Array p of some dtype, moved on by n elements. */
GPU_DEVICE const void *gemm_at(int dtype, const void *p, int64_t n) {
  const int64_t bytes = dtype == DS_F32 ? 4 : dtype == DS_BF16 || dtype == DS_F16 ? 2 : 1;
  return static_cast<const char *>(p) + n * bytes;
}

/* The host's part: whether every row of every matrix begins at a multiple of 16 bytes. */
static inline bool gemm_aligned(int dtype, const void *p, int64_t ld, int64_t stride) {
  const int64_t bytes = gemm_bytes(dtype);
  return ((uintptr_t)p | (uintptr_t)(ld * bytes) | (uintptr_t)(stride * bytes)) % 16 == 0;
}

/* Whether C and the bias may be taken `per` elements at once, wherever these begin in a row. */
static inline bool gemm_wide(const gpu_product *p, int per) {
  return p->n % per == 0 && (uintptr_t)p->bias % 16 == 0 &&
         gemm_aligned(p->dtype_c, p->c, p->ldc, p->batch > 1 ? p->stride_c : 0);
}

/* Which tile of which matrix a block of a one-dimensional grid makes. Bands of 8 tiles' height, walked column by
 * column: blocks that run at the same time share rows of A and columns of B in the cache. */
struct gemm_place {
  int64_t i, j, batch;
};
template <int BM, int BN> GPU_DEVICE gemm_place gemm_place_of(const gpu_product &p) {
  const unsigned BAND = 8;
  const unsigned rows = (unsigned)((p.m + BM - 1) / BM), cols = (unsigned)((p.n + BN - 1) / BN);
  const unsigned batch = blockIdx.x / (rows * cols), at = blockIdx.x % (rows * cols);
  const unsigned first = at / (BAND * cols) * BAND, in_band = at % (BAND * cols);
  const unsigned height = rows - first < BAND ? rows - first : BAND;
  gemm_place place;
  place.i = (int64_t)(first + in_band % height) * BM;
  place.j = (int64_t)(in_band / height) * BN;
  place.batch = batch;
  return place;
}

#endif
