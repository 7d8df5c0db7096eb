/* optimizer.cu - sums over everything, the clipping factor, and Adam. */
#include "optimizer.h"

#include "reduce.h"
#include "vector.h"

namespace {

enum { THREADS = 256 };

/* ---------------------------------------------------------------- sums */

/* Parts are as many for any card, so that a sum is the same on each. Squares are made and added in double, which holds
 * what float's squares overflow or lose; a mean's terms are added in float eight at a time. */
template <typename T, bool SQUARES>
GPU_KERNEL(THREADS)
total_kernel(const T *x, double *parts, int64_t n) {
  GPU_SHARED(double, scratch, GPU_GROUPS);
  double sum = 0;
  gpu_visit<8>(x, n, (int64_t)blockIdx.x * THREADS + threadIdx.x, (int64_t)gridDim.x * THREADS,
               [&](const auto &v, int64_t, int many) {
                 if (SQUARES) {
#pragma unroll
                   for (int j = 0; j < many; j++) sum += (double)v[j] * (double)v[j];
                 } else {
                   float some = 0;
#pragma unroll
                   for (int j = 0; j < many; j++) some += v[j];
                   sum += (double)some;
                 }
               });
  sum = gpu_block_sum(sum, scratch);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

GPU_DEVICE double total(const double *parts, int count, double *scratch) {
  double sum = 0;
  for (int i = (int)threadIdx.x; i < count; i += THREADS) sum += parts[i];
  return gpu_block_sum(sum, scratch);
}
GPU_KERNEL(THREADS) total_squares_kernel(const double *parts, int count, double *y, bool add) {
  GPU_SHARED(double, scratch, GPU_GROUPS);
  const double sum = total(parts, count, scratch);
  if (threadIdx.x == 0) *y = add ? *y + sum : sum;
}
GPU_KERNEL(THREADS) total_mean_kernel(const double *parts, int count, float *y, int64_t n) {
  GPU_SHARED(double, scratch, GPU_GROUPS);
  const double sum = total(parts, count, scratch);
  if (threadIdx.x == 0) *y = (float)(sum / (double)n);
}

/* How many parts are made: a block has 4 vectors a thread at least. */
static int part_count(int64_t n) {
  const int64_t blocks = (n + THREADS * 32 - 1) / (THREADS * 32);
  return (int)(blocks < GPU_TOTAL_PARTS ? blocks : (int64_t)GPU_TOTAL_PARTS);
}

template <bool SQUARES>
static gpuError_t make_parts(gpuStream_t s, int dtype, const void *x, double *parts, int64_t n) {
  if (n == 0) return gpuSuccess;
  GPU_DTYPE_SWITCH(dtype, T, {
    auto kernel = total_kernel<T, SQUARES>;
    return GPU_LAUNCH(kernel, (unsigned)part_count(n), THREADS, 0, s, static_cast<const T *>(x),
                      parts, n);
  });
}

} // namespace

extern "C" gpuError_t gpu_sum_squares(gpuStream_t s, int dtype, const void *x, double *y, int64_t n,
                                      bool add, double *parts) {
  const gpuError_t e = make_parts<true>(s, dtype, x, parts, n);
  if (e != gpuSuccess) return e;
  return GPU_LAUNCH(total_squares_kernel, 1, THREADS, 0, s, parts, part_count(n), y, add);
}

extern "C" gpuError_t gpu_mean(gpuStream_t s, int dtype, const void *x, float *y, int64_t n,
                               double *parts) {
  const gpuError_t e = make_parts<false>(s, dtype, x, parts, n);
  if (e != gpuSuccess) return e;
  return GPU_LAUNCH(total_mean_kernel, 1, THREADS, 0, s, parts, part_count(n), y, n);
}

namespace {

GPU_KERNEL(32)
clip_factor_kernel(const double *squares, const float *loss, float *factor, double max_norm,
                   bool check) {
  if (threadIdx.x > 0) return;
  const double n = sqrt(*squares), over = (n + 1e-6) / max_norm;
  const bool finite = isfinite(n);
  float f = 1.0f;
  if (max_norm != 0 && finite && over > 1) f = (float)(1 / over);
  *factor = check && (!finite || (loss && !isfinite(*loss))) ? NAN : f;
}

} // namespace

extern "C" gpuError_t gpu_clip_factor(gpuStream_t s, const double *squares, const float *loss,
                                      float *factor, double max_norm, bool check) {
  return GPU_LAUNCH(clip_factor_kernel, 1, 32, 0, s, squares, loss, factor, max_norm, check);
}

/* ---------------------------------------------------------------- Adam */

namespace {

/* p -= decay p + step m / (sqrt(root v) + eps), with g scaled and l2 p added to it. */
struct adamw_args {
  const float *g;
  float *p, *m, *v;
  gpu_bf16 *p16;
  int64_t n;
  float beta1, rest1, beta2, rest2, eps, scale, l2, decay, step, root;
  const float *schedule, *factor;
};

template <int N> GPU_DEVICE void adamw_at(const adamw_args &a, int64_t i) {
  float g[N], p[N], m[N], v[N];
  gpu_read<N>(a.g + i, g);
  gpu_read<N>(a.p + i, p);
  gpu_read<N>(a.m + i, m);
  gpu_read<N>(a.v + i, v);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float grad = fmaf(a.l2, p[j], g[j] * a.scale);
    m[j] = fmaf(a.beta1, m[j], a.rest1 * grad);
    v[j] = fmaf(a.beta2, v[j], a.rest2 * grad * grad);
    const float step = a.step * m[j] / (sqrtf(a.root * v[j]) + a.eps);
    p[j] -= fmaf(a.decay, p[j], step);
  }
  gpu_write<N>(a.p + i, p);
  gpu_write<N>(a.m + i, m);
  gpu_write<N>(a.v + i, v);
  if (a.p16) gpu_write<N>(a.p16 + i, p);
}

/* With a schedule decay, step and root come as weight decay, 1 and 1. */
template <int N> GPU_KERNEL(THREADS) adamw_kernel(adamw_args a) {
  const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
  if (a.schedule) {
    const float lr = a.schedule[0];
    a.scale = *a.factor;
    if (isnan(a.scale)) return;
    a.decay *= lr;
    a.step = lr / a.schedule[1];
    a.root = 1.0f / a.schedule[2];
  }
  if (i + N <= a.n)
    adamw_at<N>(a, i);
  else
    for (int64_t k = i; k < a.n; k++) adamw_at<1>(a, k);
}

} // namespace

extern "C" gpuError_t gpu_adamw(gpuStream_t s, const gpu_adamw_args *from) {
  adamw_args a = {};
  a.g = from->g;
  a.p = from->p;
  a.m = from->m;
  a.v = from->v;
  a.p16 = static_cast<gpu_bf16 *>(from->p16);
  a.n = from->n;
  a.beta1 = (float)from->beta1;
  a.rest1 = (float)(1 - from->beta1);
  a.beta2 = (float)from->beta2;
  a.rest2 = (float)(1 - from->beta2);
  a.eps = (float)from->eps;
  a.schedule = from->schedule;
  a.factor = from->factor;
  const double lr = a.schedule ? 1 : from->lr;
  a.scale = (float)from->grad_scale;
  a.l2 = from->decoupled ? 0.0f : (float)from->weight_decay;
  /* In floats, as the kernel does it with a schedule, so that both give the same bits. */
  a.decay = from->decoupled ? (float)lr * (float)from->weight_decay : 0.0f;
  a.step = a.schedule ? 1.0f : (float)(lr / from->correction1);
  a.root = a.schedule ? 1.0f : (float)(1 / from->correction2);
  if (a.n == 0) return gpuSuccess;
  const bool vectors =
      gpu_aligned(a.g, a.p, a.m, a.v) && reinterpret_cast<uintptr_t>(a.p16) % 8 == 0;
  auto kernel = vectors ? adamw_kernel<4> : adamw_kernel<1>;
  return GPU_LAUNCH(kernel, gpu_blocks(a.n, THREADS * (vectors ? 4 : 1)), THREADS, 0, s, a);
}
