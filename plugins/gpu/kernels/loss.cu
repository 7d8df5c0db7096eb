/* loss.cu - cross entropy and its gradient. A block reads a row of logits once. */
#include "rows.h"

#include "softmax.h"
#include "vector.h"

namespace {

enum { THREADS = 512, SUM = 1024, CHUNK = 16384 };

template <typename T>
GPU_KERNEL(THREADS)
loss_kernel(const T *logits, const int32_t *targets, float *lse, float *losses, int64_t cols,
            int64_t ignore) {
  GPU_SHARED(gpu_exp_sum, scratch, GPU_GROUPS);
  const int64_t row = blockIdx.x;
  gpu_exp_sum e = gpu_no_exp_sum();
  gpu_visit<16 / (int)sizeof(T)>(logits + row * cols, cols, threadIdx.x, blockDim.x,
                                 [&](const auto &v, int64_t, int n) { gpu_exp_sum_add(&e, v, n); });
  e = gpu_block_exp_sum(e, scratch);
  if (threadIdx.x > 0) return;
  const int64_t target = targets[row];
  const float all = e.most + logf(e.sum);
  const bool known = target >= 0 && target < cols;
  lse[row] = all;
  losses[row] = target == ignore ? 0.0f : known ? all - gpu_f32(logits[row * cols + target]) : NAN;
}

/* One block: a row's loss is one of many, so their sum is in double. */
GPU_KERNEL(SUM)
loss_sum_kernel(const float *losses, const int32_t *targets, float *loss, float *count,
                int64_t rows, int64_t ignore) {
  GPU_SHARED(double, scratch, GPU_GROUPS);
  double sum = 0, n = 0;
#pragma unroll 4
  for (int64_t r = threadIdx.x; r < rows; r += SUM) {
    sum += (double)losses[r];
    n += targets[r] == ignore ? 0 : 1;
  }
  sum = gpu_block_sum(sum, scratch);
  n = gpu_block_sum(n, scratch);
  if (threadIdx.x > 0) return;
  *loss = n > 0 ? (float)(sum / n) : 0.0f;
  *count = (float)n;
}

} // namespace

extern "C" gpuError_t gpu_cross_entropy(gpuStream_t s, int dtype, const void *logits,
                                        const int32_t *targets, float *loss, float *lse,
                                        float *count, float *losses, int64_t rows, int64_t cols,
                                        int64_t ignore) {
  gpuError_t e = gpuSuccess;
  if (rows > 0)
    GPU_DTYPE_SWITCH(dtype, T, {
      auto kernel = loss_kernel<T>;
      e = GPU_LAUNCH(kernel, (unsigned)rows, cols > 2048 ? THREADS : 128, 0, s,
                     static_cast<const T *>(logits), targets, lse, losses, cols, ignore);
    });
  if (e != gpuSuccess) return e;
  return GPU_LAUNCH(loss_sum_kernel, 1, SUM, 0, s, losses, targets, loss, count, rows, ignore);
}

namespace {

/* A block has up to CHUNK columns of a row; logits and dlogits are aligned alike (ALIKE) or read and written one by
 * one. */
template <typename T, bool ALIKE>
GPU_KERNEL(THREADS)
loss_backward_kernel(const float *dloss, const T *logits, const int32_t *targets, const float *lse,
                     const float *count, T *dlogits, int64_t cols, int64_t ignore) {
  constexpr int N = ALIKE ? 16 / (int)sizeof(T) : 1;
  const int64_t row = blockIdx.x, target = targets[row];
  const bool ignored = target == ignore, known = target >= 0 && target < cols;
  const float factor = ignored ? 0.0f : known ? *dloss / *count : NAN, all = lse[row];
  for (int64_t first = (int64_t)blockIdx.y * CHUNK; first < cols;
       first += (int64_t)gridDim.y * CHUNK) {
    const T *x = logits + row * cols + first;
    T *y = dlogits + row * cols + first;
    const int64_t n = cols - first < CHUNK ? cols - first : (int64_t)CHUNK, hit = target - first;
    gpu_visit<N>(x, n, threadIdx.x, blockDim.x, [&](const auto &v, int64_t at, int many) {
      float d[N];
#pragma unroll
      for (int j = 0; j < many; j++) {
        const float p = gpu_exp_fast(v[j] - all);
        d[j] = ignored ? 0.0f : factor * (at + j == hit ? p - 1.0f : p);
      }
      if (many == N)
        gpu_write<N>(y + at, d);
      else
        y[at] = gpu_from<T>(d[0]);
    });
  }
}

} // namespace

extern "C" gpuError_t gpu_cross_entropy_backward(gpuStream_t s, int dtype, const float *dloss,
                                                 const void *logits, const int32_t *targets,
                                                 const float *lse, const float *count,
                                                 void *dlogits, int64_t rows, int64_t cols,
                                                 int64_t ignore) {
  if (rows == 0 || cols == 0) return gpuSuccess;
  const int64_t chunks = (cols + CHUNK - 1) / CHUNK;
  const dim3 grid((unsigned)rows, (unsigned)(chunks < 65535 ? chunks : 65535));
  const bool alike =
      reinterpret_cast<uintptr_t>(logits) % 16 == reinterpret_cast<uintptr_t>(dlogits) % 16;
  GPU_DTYPE_SWITCH(dtype, T, {
    auto kernel = alike ? loss_backward_kernel<T, true> : loss_backward_kernel<T, false>;
    return GPU_LAUNCH(kernel, grid, cols > 2048 ? THREADS : 128, 0, s, dloss,
                      static_cast<const T *>(logits), targets, lse, count,
                      static_cast<T *>(dlogits), cols, ignore);
  });
}
