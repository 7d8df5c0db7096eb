/* elementwise.cu - activations, sums, products, fills: y[i] from a[i] and b[i]. */
#include "elementwise.h"

#include "activation.h"
#include "vector.h"

namespace {

enum { THREADS = 256, EACH = 16 }; /* threads a block, elements a thread */

/* What is computed: how many inputs are read, and the value. */
template <int KIND> struct activate {
  enum { INPUTS = 1 };
  GPU_DEVICE float of(float x, float, float) { return gpu_activation<KIND>(x); }
};
template <int KIND> struct activate_backward {
  enum { INPUTS = 2 };
  GPU_DEVICE float of(float dy, float x, float) { return dy * gpu_activation_slope<KIND>(x); }
};
struct sum {
  enum { INPUTS = 2 };
  GPU_DEVICE float of(float a, float b, float) { return a + b; }
};
struct product {
  enum { INPUTS = 2 };
  GPU_DEVICE float of(float a, float b, float) { return a * b; }
};
struct scaled {
  enum { INPUTS = 1 };
  GPU_DEVICE float of(float x, float, float factor) { return factor * x; }
};
struct constant {
  enum { INPUTS = 0 };
  GPU_DEVICE float of(float, float, float factor) { return factor; }
};

/* Of U times N elements: all loads are asked for before the first is used. */
template <typename F, bool ADD, int N, int U, typename T>
GPU_DEVICE void each_of_many(const T *a, const T *b, T *y, float factor) {
  float va[U][N], vb[U][N], vy[U][N];
#pragma unroll
  for (int u = 0; u < U; u++) {
    if (F::INPUTS > 0) gpu_read<N>(a + u * (THREADS * N), va[u]);
    if (F::INPUTS > 1) gpu_read<N>(b + u * (THREADS * N), vb[u]);
    if (ADD) gpu_read<N>(y + u * (THREADS * N), vy[u]);
  }
#pragma unroll
  for (int u = 0; u < U; u++) {
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float v = F::of(F::INPUTS > 0 ? va[u][j] : 0, F::INPUTS > 1 ? vb[u][j] : 0, factor);
      vy[u][j] = ADD ? vy[u][j] + v : v;
    }
    gpu_write<N>(y + u * (THREADS * N), vy[u]);
  }
}

/* A block has a tile of elements; the last may be short. `times`, where there is one, multiplies factor. */
template <typename F, bool ADD, typename T, int N>
GPU_KERNEL(THREADS)
each_kernel(const T *a, const T *b, T *y, int64_t n, float factor, const float *times) {
  const int64_t tile = (int64_t)blockIdx.x * (THREADS * EACH), end = tile + THREADS * EACH;
  int64_t i = tile + (int64_t)threadIdx.x * N;
  if (times) factor *= *times;
  if (end <= n) {
    each_of_many<F, ADD, N, EACH / N>(a + i, b + i, y + i, factor);
    return;
  }
#pragma unroll 1
  for (; i + N <= n && i < end; i += THREADS * N)
    each_of_many<F, ADD, N, 1>(a + i, b + i, y + i, factor);
#pragma unroll 1
  for (const int64_t stop = i + N < n ? i + N : n; i < end && i < stop; i++)
    each_of_many<F, ADD, 1, 1>(a + i, b + i, y + i, factor);
}

template <typename F, bool ADD, typename T>
static gpuError_t each(gpuStream_t s, const T *a, const T *b, T *y, int64_t n, float factor,
                       const float *times) {
  if (n == 0) return gpuSuccess;
  auto kernel = gpu_aligned(a, b, y) ? each_kernel<F, ADD, T, 16 / (int)sizeof(T)>
                                     : each_kernel<F, ADD, T, 1>;
  return GPU_LAUNCH(kernel, gpu_blocks(n, THREADS * EACH), THREADS, 0, s, a, b, y, n, factor,
                    times);
}

template <typename F, bool ADD = false>
static gpuError_t each_of(gpuStream_t s, int dtype, const void *a, const void *b, void *y,
                          int64_t n, float factor = 0, const float *times = nullptr) {
  GPU_DTYPE_SWITCH(dtype, T,
                   return (each<F, ADD, T>(s, static_cast<const T *>(a), static_cast<const T *>(b),
                                           static_cast<T *>(y), n, factor, times)));
}

/* For what may be added to y. */
template <typename F>
static gpuError_t each_added(gpuStream_t s, int dtype, const void *a, const void *b, void *y,
                             int64_t n, bool add, float factor = 0, const float *times = nullptr) {
  return add ? each_of<F, true>(s, dtype, a, b, y, n, factor, times)
             : each_of<F, false>(s, dtype, a, b, y, n, factor, times);
}

} // namespace

extern "C" gpuError_t gpu_activate(gpuStream_t s, int dtype, int kind, const void *x, void *y,
                                   int64_t n) {
  switch (kind) {
#define CASE(KIND)                                                                                 \
  case KIND: return each_of<activate<KIND>>(s, dtype, x, nullptr, y, n)
    CASE(DS_ACTIVATION_GELU_TANH);
    CASE(DS_ACTIVATION_GELU_ERF);
    CASE(DS_ACTIVATION_RELU);
    CASE(DS_ACTIVATION_SILU);
    CASE(DS_ACTIVATION_TANH);
    default: CASE(DS_ACTIVATION_SIGMOID);
#undef CASE
  }
}

extern "C" gpuError_t gpu_activate_backward(gpuStream_t s, int dtype, int kind, const void *dy,
                                            const void *x, void *dx, int64_t n, bool add) {
  switch (kind) {
#define CASE(KIND)                                                                                 \
  case KIND: return each_added<activate_backward<KIND>>(s, dtype, dy, x, dx, n, add)
    CASE(DS_ACTIVATION_GELU_TANH);
    CASE(DS_ACTIVATION_GELU_ERF);
    CASE(DS_ACTIVATION_RELU);
    CASE(DS_ACTIVATION_SILU);
    CASE(DS_ACTIVATION_TANH);
    default: CASE(DS_ACTIVATION_SIGMOID);
#undef CASE
  }
}

extern "C" gpuError_t gpu_add(gpuStream_t s, int dtype, const void *a, const void *b, void *y,
                              int64_t n) {
  return each_of<sum>(s, dtype, a, b, y, n);
}

extern "C" gpuError_t gpu_mul(gpuStream_t s, int dtype, const void *a, const void *b, void *y,
                              int64_t n, bool add) {
  return each_added<product>(s, dtype, a, b, y, n, add);
}

extern "C" gpuError_t gpu_scale(gpuStream_t s, int dtype, float factor, const void *x, void *y,
                                int64_t n, bool add) {
  return each_added<scaled>(s, dtype, x, nullptr, y, n, add, factor);
}

extern "C" gpuError_t gpu_mean_backward(gpuStream_t s, int dtype, const float *dy, void *dx,
                                        int64_t n, bool add) {
  return each_added<constant>(s, dtype, nullptr, nullptr, dx, n, add, (float)(1 / (double)n), dy);
}

/* ---------------------------------------------------------------- fill */

namespace {

/* Bits as they are: a float on the way could quiet a NaN. */
template <typename U, int N> GPU_KERNEL(THREADS) fill_kernel(U *y, int64_t n, U bits) {
  const int64_t first = (int64_t)blockIdx.x * (THREADS * EACH) + (int64_t)threadIdx.x * N;
  gpu_vec<U, N> v;
#pragma unroll
  for (int j = 0; j < N; j++) v.at[j] = bits;
#pragma unroll
  for (int u = 0; u < EACH / N; u++) {
    const int64_t i = first + u * (THREADS * N);
    if (i + N <= n)
      *reinterpret_cast<gpu_vec<U, N> *>(y + i) = v;
    else
      for (int64_t k = i; k < n; k++) y[k] = bits;
  }
}

template <typename U> static gpuError_t fill(gpuStream_t s, uint32_t bits, void *y, int64_t n) {
  if (n == 0) return gpuSuccess;
  auto kernel = gpu_aligned(y) ? fill_kernel<U, 16 / (int)sizeof(U)> : fill_kernel<U, 1>;
  return GPU_LAUNCH(kernel, gpu_blocks(n, THREADS * EACH), THREADS, 0, s, static_cast<U *>(y), n,
                    (U)bits);
}

} // namespace

extern "C" gpuError_t gpu_fill_elements(gpuStream_t s, int size, uint32_t bits, void *y,
                                        int64_t n) {
  return size == 2 ? fill<uint16_t>(s, bits, y, n) : fill<uint32_t>(s, bits, y, n);
}
