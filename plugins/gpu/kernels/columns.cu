/* columns.cu - sums over rows. */
#include "columns.h"

#include "norm.h"
#include "reduce.h"
#include "vector.h"

namespace {

enum { GROUPS = 8, THREADS = GROUPS * GPU_GROUP, END_GROUPS = 32 };

/* A block has 32 vectors of N columns and every gridDim.y-th run of GROUPS rows. Its groups' sums meet in shared
 * memory. */
template <typename T, int N> GPU_KERNEL(THREADS) column_kernel(gpu_columns<T> c) {
  GPU_SHARED(float, shared, GROUPS *GPU_GROUP *N);
  const int lane = (int)threadIdx.x % GPU_GROUP, group = (int)threadIdx.x / GPU_GROUP;
  const int64_t col = ((int64_t)blockIdx.x * GPU_GROUP + lane) * N;
  float sum[N] = {}, product[N] = {};
  if (col < c.cols)
#pragma unroll 4
    for (int64_t r = (int64_t)blockIdx.y * GROUPS + group; r < c.rows;
         r += (int64_t)gridDim.y * GROUPS) {
      float v[N], of[N];
      gpu_read<N>(c.x + r * c.cols + col, v);
#pragma unroll
      for (int j = 0; j < N; j++) sum[j] += v[j];
      if (!c.of) continue;
      const float mean = c.mean ? c.mean[r] : 0, rstd = c.rstd[r];
      gpu_read<N>(c.of + r * c.cols + col, of);
#pragma unroll
      for (int j = 0; j < N; j++) product[j] = fmaf(v[j], (of[j] - mean) * rstd, product[j]);
    }
  for (int which = 0; which < 2; which++) {
    float *out = which ? c.products : c.sums;
    if (!out) continue;
    gpu_sync();
#pragma unroll
    for (int j = 0; j < N; j++)
      shared[(group * N + j) * GPU_GROUP + lane] = which ? product[j] : sum[j];
    gpu_sync();
    /* Each group has every GROUPS-th of the N columns of a lane. */
    for (int j = group; j < N && col + j < c.cols; j += GROUPS) {
      float all = 0;
#pragma unroll
      for (int g = 0; g < GROUPS; g++) all += shared[(g * N + j) * GPU_GROUP + lane];
      out[(int64_t)blockIdx.y * c.cols + col + j] = all;
    }
  }
}

} // namespace

template <typename T> gpuError_t gpu_column_launch(gpuStream_t s, gpu_columns<T> c, int parts) {
  constexpr int N = 8;
  const bool vectors = c.cols % N == 0 && gpu_aligned(c.x, c.of);
  auto kernel = vectors ? column_kernel<T, N> : column_kernel<T, 1>;
  const dim3 grid(gpu_blocks(c.cols, GPU_GROUP * (vectors ? N : 1)), (unsigned)parts);
  return GPU_LAUNCH(kernel, grid, THREADS, 0, s, c);
}
template gpuError_t gpu_column_launch<float>(gpuStream_t, gpu_columns<float>, int);
template gpuError_t gpu_column_launch<gpu_bf16>(gpuStream_t, gpu_columns<gpu_bf16>, int);

namespace {

GPU_KERNEL(END_GROUPS *GPU_GROUP)
column_end_kernel(const float *parts, float *y, int count, int64_t cols, bool add) {
  GPU_SHARED(float, shared, END_GROUPS *GPU_GROUP);
  const int lane = (int)threadIdx.x % GPU_GROUP, group = (int)threadIdx.x / GPU_GROUP;
  const int64_t col = (int64_t)blockIdx.x * GPU_GROUP + lane;
  float sum = 0;
  if (col < cols)
#pragma unroll 8
    for (int p = group; p < count; p += END_GROUPS) sum += parts[p * cols + col];
  shared[threadIdx.x] = sum;
  gpu_sync();
  if (group > 0 || col >= cols) return;
  for (int g = 1; g < END_GROUPS; g++) sum += shared[g * GPU_GROUP + lane];
  y[col] = add ? y[col] + sum : sum;
}

} // namespace

gpuError_t gpu_column_end(gpuStream_t s, const float *parts, float *y, int count, int64_t cols,
                          bool add) {
  return GPU_LAUNCH(column_end_kernel, gpu_blocks(cols, GPU_GROUP), END_GROUPS * GPU_GROUP, 0, s,
                    parts, y, count, cols, add);
}

extern "C" gpuError_t gpu_reduce_rows(gpuStream_t s, int dtype, const void *x, float *y,
                                      int64_t rows, int64_t cols, bool add, float *parts,
                                      int multiprocessors) {
  const int count = gpu_column_count(rows, multiprocessors);
  gpuError_t e = gpuSuccess;
  if (cols == 0) return e;
  if (rows > 0)
    GPU_DTYPE_SWITCH(dtype, T, {
      gpu_columns<T> c = {};
      c.x = static_cast<const T *>(x);
      c.sums = parts;
      c.rows = rows;
      c.cols = cols;
      e = gpu_column_launch(s, c, count);
    });
  return e == gpuSuccess ? gpu_column_end(s, parts, y, rows ? count : 0, cols, add) : e;
}

extern "C" size_t gpu_column_parts(int64_t rows, int64_t cols, int multiprocessors) {
  return (size_t)gpu_column_count(rows, multiprocessors) * (size_t)cols;
}
