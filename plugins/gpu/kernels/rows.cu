/* rows.cu - softmax and argmax.
 *
 * Aligned rows of up to WIDEST columns stay in registers; of others a block reads each twice. */
#include "rows.h"

#include "softmax.h"
#include "vector.h"

namespace {

enum { N = 8, GROUPS = 4, NARROW = GPU_GROUP * N * 4, WIDEST = 512 * N * 4, LONG = 1024 };

template <typename T, bool BLOCK, int K>
GPU_KERNEL(512)
softmax_kernel(const T *x, T *y, int64_t rows, int cols) {
  GPU_SHARED(float, scratch, GPU_GROUPS);
  const int lane = BLOCK ? (int)threadIdx.x : (int)threadIdx.x % GPU_GROUP;
  const int lanes = BLOCK ? (int)blockDim.x : GPU_GROUP;
  const int64_t row =
      BLOCK ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * GROUPS + threadIdx.x / GPU_GROUP;
  const bool active = row < rows;
  float v[K][N], most = -FLT_MAX, sum = 0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int c = (k * lanes + lane) * N;
    const bool here = active && c < cols;
    if (here) gpu_read<N>(x + row * cols + c, v[k]);
#pragma unroll
    for (int j = 0; j < N; j++) {
      if (!here) v[k][j] = -INFINITY;
      most = fmaxf(most, v[k][j]);
    }
  }
  most = BLOCK ? gpu_block_max(most, scratch) : gpu_group_max(most);
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int j = 0; j < N; j++) {
      v[k][j] = gpu_exp_fast(v[k][j] - most);
      sum += v[k][j];
    }
  sum = BLOCK ? gpu_block_sum(sum, scratch) : gpu_group_sum(sum);
  if (!active) return;
  const float scale = 1.0f / sum;
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int c = (k * lanes + lane) * N;
    if (c >= cols) continue;
#pragma unroll
    for (int j = 0; j < N; j++) v[k][j] = sum == 0.0f ? NAN : v[k][j] * scale;
    gpu_write<N>(y + row * cols + c, v[k]);
  }
}

template <typename T> GPU_KERNEL(LONG) softmax_long_kernel(const T *x, T *y, int64_t cols) {
  GPU_SHARED(gpu_exp_sum, scratch, GPU_GROUPS);
  const int64_t at = (int64_t)blockIdx.x * cols;
  gpu_exp_sum e = gpu_no_exp_sum();
  gpu_visit<16 / (int)sizeof(T)>(x + at, cols, threadIdx.x, blockDim.x,
                                 [&](const auto &v, int64_t, int n) { gpu_exp_sum_add(&e, v, n); });
  e = gpu_block_exp_sum(e, scratch);
  const float scale = e.sum == 0.0f ? NAN : 1.0f / e.sum;
#pragma unroll 4
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x)
    y[at + c] = gpu_from<T>(gpu_exp_fast(gpu_f32(x[at + c]) - e.most) * scale);
}

template <typename T>
static gpuError_t softmax(gpuStream_t s, const T *x, T *y, int64_t rows, int64_t cols) {
  const int64_t vectors = (cols + N - 1) / N;
  if (cols % N || cols > WIDEST || !gpu_aligned(x, y)) {
    auto kernel = softmax_long_kernel<T>;
    return GPU_LAUNCH(kernel, (unsigned)rows, cols > 4096 ? LONG : 256, 0, s, x, y, cols);
  }
  if (cols <= NARROW) {
    const int64_t k = (vectors + GPU_GROUP - 1) / GPU_GROUP;
    auto kernel = k <= 1   ? softmax_kernel<T, false, 1>
                  : k <= 2 ? softmax_kernel<T, false, 2>
                           : softmax_kernel<T, false, 4>;
    return GPU_LAUNCH(kernel, gpu_blocks(rows, GROUPS), GROUPS * GPU_GROUP, 0, s, x, y, rows,
                      (int)cols);
  }
  unsigned threads = 128;
  while (threads * 4 < (unsigned)vectors) threads *= 2;
  auto kernel =
      (unsigned)vectors <= threads * 2 ? softmax_kernel<T, true, 2> : softmax_kernel<T, true, 4>;
  return GPU_LAUNCH(kernel, (unsigned)rows, threads, 0, s, x, y, rows, (int)cols);
}

} // namespace

extern "C" gpuError_t gpu_softmax(gpuStream_t s, int dtype, const void *x, void *y, int64_t rows,
                                  int64_t cols) {
  if (rows == 0 || cols == 0) return gpuSuccess;
  GPU_DTYPE_SWITCH(dtype, T,
                   return (softmax(s, static_cast<const T *>(x), static_cast<T *>(y), rows, cols)));
}

/* ---------------------------------------------------------------- argmax */

namespace {

template <typename T> GPU_KERNEL(LONG) argmax_kernel(const T *x, int32_t *y, int64_t cols) {
  GPU_SHARED(gpu_best, scratch, GPU_GROUPS);
  gpu_best best = gpu_no_best();
  gpu_visit<16 / (int)sizeof(T)>(x + (int64_t)blockIdx.x * cols, cols, threadIdx.x, blockDim.x,
                                 [&](const auto &v, int64_t at, int n) {
#pragma unroll
                                   for (int j = 0; j < n; j++)
                                     best = gpu_better(best, gpu_best{v[j], (int)at + j});
                                 });
  best = gpu_block_best(best, scratch);
  if (threadIdx.x == 0) y[blockIdx.x] = best.index == INT32_MAX ? 0 : best.index; /* 0: all NaN */
}

} // namespace

extern "C" gpuError_t gpu_argmax(gpuStream_t s, int dtype, const void *x, int32_t *y, int64_t rows,
                                 int64_t cols) {
  if (rows == 0) return gpuSuccess;
  GPU_DTYPE_SWITCH(dtype, T, {
    auto kernel = argmax_kernel<T>;
    return GPU_LAUNCH(kernel, (unsigned)rows, cols > 4096 ? LONG : 256, 0, s,
                      static_cast<const T *>(x), y, cols);
  });
}
