/* norm_backward.cu - gradients of layer norm and RMS norm.
 *
 * With a = dy weight and n = (x - mean) rstd: dx = rstd (a - mean(a) - n mean(a n)), without mean(a) for RMS norm;
 * dweight = sum over rows of dy n, dbias of dy. Up to WIDEST aligned columns dy and x are read once: each block goes
 * through rows that are `parts` apart, with the columns' sums in registers, and leaves them as one of the parts that
 * columns.h adds up. */
#include "norm.h"

#include "columns.h"
#include "reduce.h"
#include "vector.h"

namespace {

enum { N = 8, GROUPS = 4, NARROW = GPU_GROUP * N * 4, WIDEST = 512 * N * 2 };

template <typename T> struct back_args {
  const T *dy, *x, *weight;
  const float *mean, *rstd;
  T *dx;
  float *dweight_parts, *dbias_parts; /* [gridDim.x,cols]; dbias_parts may be NULL */
  int64_t rows;
  int cols;
  bool add;
};

template <typename T> GPU_DEVICE void write_dx(T *dx, float (&v)[N], bool add) {
  float was[N];
  if (add) {
    gpu_read<N>(dx, was);
#pragma unroll
    for (int j = 0; j < N; j++) v[j] += was[j];
  }
  gpu_write<N>(dx, v);
}

/* The block's sums to its part: one group's after the other's, where each has rows of its own. */
template <bool BLOCK, int K>
GPU_DEVICE void write_part(float *part, const float (&v)[K][N], int cols, float *shared) {
  const int lane = BLOCK ? (int)threadIdx.x : (int)threadIdx.x % GPU_GROUP;
  const int lanes = BLOCK ? (int)blockDim.x : GPU_GROUP, group = (int)threadIdx.x / GPU_GROUP;
  for (int g = 0; !BLOCK && g < GROUPS; g++) {
    gpu_sync();
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
      for (int j = 0; j < N; j++) {
        float *to = shared + (k * N + j) * GPU_GROUP + lane;
        if (g == group) *to = g ? *to + v[k][j] : v[k][j];
      }
  }
  gpu_sync();
#pragma unroll
  for (int k = 0; k < K; k++) {
    const int c = (k * lanes + lane) * N;
    if (c >= cols || (!BLOCK && group > 0)) continue;
    float sum[N];
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] = BLOCK ? v[k][j] : shared[(k * N + j) * GPU_GROUP + lane];
    gpu_write<N>(part + c, sum);
  }
}

template <typename T, bool LAYER, bool BLOCK, int K>
GPU_KERNEL(BLOCK ? 512 : GROUPS *GPU_GROUP)
norm_backward_kernel(back_args<T> a) {
  GPU_SHARED(gpu_pair, scratch, GPU_GROUPS);
  GPU_SHARED(float, shared, BLOCK ? 1 : GPU_GROUP *N *K);
  const int lane = BLOCK ? (int)threadIdx.x : (int)threadIdx.x % GPU_GROUP;
  const int lanes = BLOCK ? (int)blockDim.x : GPU_GROUP, teams = BLOCK ? 1 : GROUPS;
  const int team = BLOCK ? 0 : (int)threadIdx.x / GPU_GROUP;
  float dweight[K][N] = {}, dbias[LAYER ? K : 1][N] = {};
  for (int64_t base = (int64_t)blockIdx.x * teams; base < a.rows;
       base += (int64_t)gridDim.x * teams) {
    const int64_t row = base + team, at = row * a.cols;
    const bool active = row < a.rows;
    const float mean = LAYER && active ? a.mean[row] : 0, rstd = active ? a.rstd[row] : 0;
    float dy[K][N] = {}, x[K][N] = {};
    gpu_pair sums = {0, 0};
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int c = (k * lanes + lane) * N;
      if (!active || c >= a.cols) continue;
      gpu_read<N>(a.dy + at + c, dy[k]);
      gpu_read<N>(a.x + at + c, x[k]);
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int c = (k * lanes + lane) * N;
      if (!active || c >= a.cols) continue;
      float w[N];
      gpu_read<N>(a.weight + c, w);
#pragma unroll
      for (int j = 0; j < N; j++) {
        x[k][j] = (x[k][j] - mean) * rstd;
        dweight[k][j] = fmaf(dy[k][j], x[k][j], dweight[k][j]);
        if (LAYER) dbias[k][j] += dy[k][j];
        dy[k][j] *= w[j];
        sums.a += dy[k][j];
        sums.b = fmaf(dy[k][j], x[k][j], sums.b);
      }
    }
    sums = BLOCK ? gpu_block_sum(sums, scratch) : gpu_group_sum(sums);
    const float mean_a = LAYER ? sums.a / (float)a.cols : 0, mean_an = sums.b / (float)a.cols;
#pragma unroll
    for (int k = 0; k < K; k++) {
      const int c = (k * lanes + lane) * N;
      if (!active || c >= a.cols) continue;
#pragma unroll
      for (int j = 0; j < N; j++) x[k][j] = rstd * (dy[k][j] - mean_a - x[k][j] * mean_an);
      write_dx(a.dx + at + c, x[k], a.add);
    }
  }
  write_part<BLOCK>(a.dweight_parts + (int64_t)blockIdx.x * a.cols, dweight, a.cols, shared);
  if (LAYER && a.dbias_parts)
    write_part<BLOCK>(a.dbias_parts + (int64_t)blockIdx.x * a.cols, dbias, a.cols, shared);
}

/* dx alone, of a row of any length and alignment. */
template <typename T, bool LAYER> GPU_KERNEL(512) norm_dx_kernel(back_args<T> a) {
  GPU_SHARED(gpu_pair, scratch, GPU_GROUPS);
  const int64_t at = (int64_t)blockIdx.x * a.cols;
  const float mean = LAYER ? a.mean[blockIdx.x] : 0, rstd = a.rstd[blockIdx.x];
  const int first = (int)threadIdx.x, step = (int)blockDim.x;
  gpu_pair sums = {0, 0};
#pragma unroll 4
  for (int c = first; c < a.cols; c += step) {
    const float v = gpu_f32(a.dy[at + c]) * gpu_f32(a.weight[c]);
    sums.a += v;
    sums.b = fmaf(v, (gpu_f32(a.x[at + c]) - mean) * rstd, sums.b);
  }
  sums = gpu_block_sum(sums, scratch);
  const float mean_a = LAYER ? sums.a / (float)a.cols : 0, mean_an = sums.b / (float)a.cols;
#pragma unroll 4
  for (int c = first; c < a.cols; c += step) {
    const float v = gpu_f32(a.dy[at + c]) * gpu_f32(a.weight[c]);
    const float n = (gpu_f32(a.x[at + c]) - mean) * rstd, dx = rstd * (v - mean_a - n * mean_an);
    a.dx[at + c] = gpu_from<T>(a.add ? gpu_f32(a.dx[at + c]) + dx : dx);
  }
}

template <typename T, bool LAYER>
static gpuError_t dx_and_parts(gpuStream_t s, const back_args<T> &a, int parts) {
  const int vectors = (a.cols + N - 1) / N;
  if (a.cols <= NARROW) {
    const int k = (vectors + GPU_GROUP - 1) / GPU_GROUP;
    auto kernel = k <= 1   ? norm_backward_kernel<T, LAYER, false, 1>
                  : k <= 2 ? norm_backward_kernel<T, LAYER, false, 2>
                  : k <= 3 ? norm_backward_kernel<T, LAYER, false, 3>
                           : norm_backward_kernel<T, LAYER, false, 4>;
    return GPU_LAUNCH(kernel, (unsigned)parts, GROUPS * GPU_GROUP, 0, s, a);
  }
  unsigned threads = 128;
  while (threads * 2 < (unsigned)vectors) threads *= 2;
  auto kernel = (unsigned)vectors <= threads ? norm_backward_kernel<T, LAYER, true, 1>
                                             : norm_backward_kernel<T, LAYER, true, 2>;
  return GPU_LAUNCH(kernel, (unsigned)parts, threads, 0, s, a);
}

/* In two kernels: rows, and then columns. */
template <typename T, bool LAYER>
static gpuError_t dx_then_parts(gpuStream_t s, const back_args<T> &a, int parts) {
  auto kernel = norm_dx_kernel<T, LAYER>;
  const gpuError_t e = GPU_LAUNCH(kernel, (unsigned)a.rows, a.cols > 2048 ? 512 : 128, 0, s, a);
  if (e != gpuSuccess) return e;
  gpu_columns<T> c = {};
  c.x = a.dy;
  c.of = a.x;
  c.mean = a.mean;
  c.rstd = a.rstd;
  c.products = a.dweight_parts;
  c.sums = a.dbias_parts;
  c.rows = a.rows;
  c.cols = a.cols;
  return gpu_column_launch(s, c, parts);
}

template <typename T, bool LAYER>
static gpuError_t norm_backward(gpuStream_t s, const gpu_norm_backward_args *from, int parts) {
  back_args<T> a = {};
  a.dy = static_cast<const T *>(from->dy);
  a.x = static_cast<const T *>(from->x);
  a.weight = static_cast<const T *>(from->weight);
  a.mean = from->mean;
  a.rstd = from->rstd;
  a.dx = static_cast<T *>(from->dx);
  a.dweight_parts = from->parts;
  a.dbias_parts = from->dbias ? from->parts + (int64_t)parts * from->cols : nullptr;
  a.rows = from->rows;
  a.cols = (int)from->cols;
  a.add = from->add_dx;
  const bool fits = a.cols % N == 0 && a.cols <= WIDEST && gpu_aligned(a.dy, a.x, a.weight, a.dx);
  gpuError_t e = gpuSuccess;
  if (a.rows > 0)
    e = fits ? dx_and_parts<T, LAYER>(s, a, parts) : dx_then_parts<T, LAYER>(s, a, parts);
  if (e == gpuSuccess)
    e = gpu_column_end(s, a.dweight_parts, from->dweight, a.rows ? parts : 0, a.cols,
                       from->add_dweight);
  if (e == gpuSuccess && from->dbias)
    e = gpu_column_end(s, a.dbias_parts, from->dbias, a.rows ? parts : 0, a.cols, from->add_dbias);
  return e;
}

} // namespace

extern "C" gpuError_t gpu_norm_backward(gpuStream_t s, int dtype, const gpu_norm_backward_args *a,
                                        int multiprocessors) {
  if (a->cols == 0) return gpuSuccess;
  const int parts = gpu_column_count(a->rows, multiprocessors);
  if (a->layer) GPU_DTYPE_SWITCH(dtype, T, return (norm_backward<T, true>(s, a, parts)));
  GPU_DTYPE_SWITCH(dtype, T, return (norm_backward<T, false>(s, a, parts)));
}
