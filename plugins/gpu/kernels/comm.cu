/* comm.cu - small floats to f32 and back, and whole numbers divided. */
#include "comm.h"

#include "vector.h"

enum {
  THREADS = 256,
  EACH = 8
}; /* threads a block; elements a thread: 16 bytes of a small float */

template <int N, typename A, typename B>
GPU_KERNEL(THREADS)
convert_kernel(const A *x, B *y, int64_t n) {
  const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EACH;
  if (N == EACH && i + EACH <= n) {
    float v[EACH];
    gpu_read<EACH>(x + i, v);
    gpu_write<EACH>(y + i, v);
    return;
  }
  for (int64_t j = i; j < i + EACH && j < n; j++) y[j] = gpu_from<B>(gpu_f32(x[j]));
}

template <typename T> GPU_KERNEL(THREADS) divide_kernel(T *x, int64_t n, int by) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) x[i] = (T)(x[i] / by);
}

template <typename A, typename B>
static gpuError_t convert(gpuStream_t s, const A *x, B *y, int64_t n) {
  if (n == 0) return gpuSuccess;
  auto k = gpu_aligned(x, y) ? convert_kernel<EACH, A, B> : convert_kernel<1, A, B>;
  return GPU_LAUNCH(k, gpu_blocks(n, THREADS * EACH), THREADS, 0, s, x, y, n);
}

template <typename T> static gpuError_t divide(gpuStream_t s, T *x, int64_t n, int by) {
  if (n == 0) return gpuSuccess;
  auto k = divide_kernel<T>;
  return GPU_LAUNCH(k, gpu_blocks(n, THREADS), THREADS, 0, s, x, n, by);
}

extern "C" gpuError_t gpu_comm_widen(gpuStream_t s, const void *x, int dtype, float *y, int64_t n) {
  return dtype == DS_BF16 ? convert(s, static_cast<const gpu_bf16 *>(x), y, n)
                          : convert(s, static_cast<const gpu_f16 *>(x), y, n);
}

extern "C" gpuError_t gpu_comm_narrow(gpuStream_t s, const float *x, void *y, int dtype,
                                      int64_t n) {
  return dtype == DS_BF16 ? convert(s, x, static_cast<gpu_bf16 *>(y), n)
                          : convert(s, x, static_cast<gpu_f16 *>(y), n);
}

extern "C" gpuError_t gpu_comm_divide(gpuStream_t s, void *x, int dtype, int64_t n, int by) {
  return dtype == DS_I8    ? divide(s, static_cast<int8_t *>(x), n, by)
         : dtype == DS_I32 ? divide(s, static_cast<int32_t *>(x), n, by)
                           : divide(s, static_cast<int64_t *>(x), n, by);
}
