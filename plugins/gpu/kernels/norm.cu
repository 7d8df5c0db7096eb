/* norm.cu - layer norm and RMS norm, forward.
 *
 * Rows of up to WIDEST columns stay in registers: up to NARROW a group of 32 lanes has one, beyond that a block.
 * Longer ones, and ones that aren't aligned, are read again for each sum. */
#include "norm.h"

#include "reduce.h"
#include "vector.h"

namespace {

enum { N = 8, GROUPS = 4, NARROW = GPU_GROUP * N * 4, WIDEST = 512 * N * 4 };

template <typename T> struct norm_args {
  const T *x, *weight, *bias;
  T *y;
  float *mean, *rstd;
  int64_t rows;
  int cols;
  float eps;
};

/* The mean decides what is left of a value beside it, so that it is exact but for its own rounding: a lane keeps what
 * its sum rounded away (Kahan 1965), and lanes are added in double. */
struct careful_sum {
  float sum, excess;
};
GPU_DEVICE void add(careful_sum *s, float v) {
  const float term = v - s->excess, sum = s->sum + term;
  s->excess = (sum - s->sum) - term;
  s->sum = sum;
}

/* K vectors of N a lane. BLOCK: the block has one row, else each of its groups. */
template <typename T, bool LAYER, bool BLOCK, int K> GPU_KERNEL(512) norm_kernel(norm_args<T> a) {
  GPU_SHARED(float, scratch, GPU_GROUPS);
  GPU_SHARED(double, means, GPU_GROUPS);
  const int lane = BLOCK ? (int)threadIdx.x : (int)threadIdx.x % GPU_GROUP;
  const int lanes = BLOCK ? (int)blockDim.x : GPU_GROUP;
  const int64_t row =
      BLOCK ? (int64_t)blockIdx.x : (int64_t)blockIdx.x * GROUPS + threadIdx.x / GPU_GROUP;
  const bool active = row < a.rows;
  const T *x = a.x + row * a.cols;
  T *y = a.y + row * a.cols;
  float v[K][N] = {};
  float mean = 0, sum = 0;
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int c = (k * lanes + lane) * N;
    if (active && c < a.cols) gpu_read<N>(x + c, v[k]);
  }
  if (LAYER) {
    careful_sum all = {0, 0};
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
      for (int j = 0; j < N; j++) add(&all, v[k][j]);
    const double of_lane = (double)all.sum - (double)all.excess;
    mean = (float)((BLOCK ? gpu_block_sum(of_lane, means) : gpu_group_sum(of_lane)) / a.cols);
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    if ((k * lanes + lane) * N >= a.cols) continue;
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float d = v[k][j] - mean;
      sum = fmaf(d, d, sum);
    }
  }
  sum = BLOCK ? gpu_block_sum(sum, scratch) : gpu_group_sum(sum);
  if (!active) return;
  const float rstd = gpu_rsqrt(sum / (float)a.cols + a.eps);
  if (lane == 0 && a.mean) a.mean[row] = mean;
  if (lane == 0 && a.rstd) a.rstd[row] = rstd;
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int c = (k * lanes + lane) * N;
    if (c >= a.cols) continue;
    float w[N], b[N] = {};
    gpu_read<N>(a.weight + c, w);
    if (LAYER && a.bias) gpu_read<N>(a.bias + c, b);
#pragma unroll
    for (int j = 0; j < N; j++) v[k][j] = fmaf((v[k][j] - mean) * rstd, w[j], b[j]);
    gpu_write<N>(y + c, v[k]);
  }
}

template <typename T, bool LAYER> GPU_KERNEL(512) norm_long_kernel(norm_args<T> a) {
  GPU_SHARED(float, scratch, GPU_GROUPS);
  GPU_SHARED(double, means, GPU_GROUPS);
  const int64_t row = blockIdx.x;
  const int first = (int)threadIdx.x, step = (int)blockDim.x;
  const T *x = a.x + row * a.cols;
  T *y = a.y + row * a.cols;
  float mean = 0, sum = 0;
  if (LAYER) {
    careful_sum all = {0, 0};
    gpu_visit<16 / (int)sizeof(T)>(x, a.cols, first, step, [&](const auto &v, int64_t, int n) {
#pragma unroll
      for (int j = 0; j < n; j++) add(&all, v[j]);
    });
    mean = (float)(gpu_block_sum((double)all.sum - (double)all.excess, means) / a.cols);
  }
  gpu_visit<16 / (int)sizeof(T)>(x, a.cols, first, step, [&](const auto &v, int64_t, int n) {
#pragma unroll
    for (int j = 0; j < n; j++) sum = fmaf(v[j] - mean, v[j] - mean, sum);
  });
  const float rstd = gpu_rsqrt(gpu_block_sum(sum, scratch) / (float)a.cols + a.eps);
  if (first == 0 && a.mean) a.mean[row] = mean;
  if (first == 0 && a.rstd) a.rstd[row] = rstd;
  for (int c = first; c < a.cols; c += step) {
    const float b = LAYER && a.bias ? gpu_f32(a.bias[c]) : 0.0f;
    y[c] = gpu_from<T>(fmaf((gpu_f32(x[c]) - mean) * rstd, gpu_f32(a.weight[c]), b));
  }
}

template <typename T, bool LAYER>
static gpuError_t norm_rows(gpuStream_t s, const norm_args<T> &a) {
  const int vectors = (a.cols + N - 1) / N;
  if (a.cols % N || a.cols > WIDEST || !gpu_aligned(a.x, a.weight, a.bias, a.y)) {
    auto kernel = norm_long_kernel<T, LAYER>;
    return GPU_LAUNCH(kernel, (unsigned)a.rows, a.cols > 2048 ? 512 : 128, 0, s, a);
  }
  if (a.cols <= NARROW) {
    const int k = (vectors + GPU_GROUP - 1) / GPU_GROUP;
    auto kernel = k <= 1   ? norm_kernel<T, LAYER, false, 1>
                  : k <= 2 ? norm_kernel<T, LAYER, false, 2>
                  : k <= 3 ? norm_kernel<T, LAYER, false, 3>
                           : norm_kernel<T, LAYER, false, 4>;
    return GPU_LAUNCH(kernel, gpu_blocks(a.rows, GROUPS), GROUPS * GPU_GROUP, 0, s, a);
  }
  /* The fewest threads that have the row in four vectors each; then no more vectors than these need. */
  unsigned threads = 128;
  while (threads * 4 < (unsigned)vectors) threads *= 2;
  const int k = (vectors + (int)threads - 1) / (int)threads;
  auto kernel = k <= 2   ? norm_kernel<T, LAYER, true, 2>
                : k <= 3 ? norm_kernel<T, LAYER, true, 3>
                         : norm_kernel<T, LAYER, true, 4>;
  return GPU_LAUNCH(kernel, (unsigned)a.rows, threads, 0, s, a);
}

template <typename T> static gpuError_t norm(gpuStream_t s, const gpu_norm_args *from) {
  norm_args<T> a = {};
  a.x = static_cast<const T *>(from->x);
  a.weight = static_cast<const T *>(from->weight);
  a.bias = static_cast<const T *>(from->bias);
  a.y = static_cast<T *>(from->y);
  a.mean = from->mean;
  a.rstd = from->rstd;
  a.rows = from->rows;
  a.cols = (int)from->cols;
  a.eps = from->eps;
  return from->layer ? norm_rows<T, true>(s, a) : norm_rows<T, false>(s, a);
}

} // namespace

extern "C" gpuError_t gpu_norm(gpuStream_t s, int dtype, const gpu_norm_args *a) {
  if (a->rows == 0) return gpuSuccess;
  GPU_DTYPE_SWITCH(dtype, T, return (norm<T>(s, a)));
}
