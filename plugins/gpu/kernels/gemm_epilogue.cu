/* gemm_epilogue.cu - what a library that only multiplies leaves to do: one pass over C. */
#include "gemm_finish.h"

namespace {

enum { THREADS = 256, EACH = 4 };

GPU_KERNEL(THREADS)
epilogue(gpu_product p, const float *sums, int64_t ld, int64_t stride, bool wide) {
  const int64_t quads = (p.n + EACH - 1) / EACH, count = p.batch * p.m * quads;
  const float alpha = gemm_alpha(p);
  for (int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x; t < count;
       t += (int64_t)gridDim.x * THREADS) {
    const int64_t j = t % quads * EACH, row = t / quads, batch = row / p.m, i = row % p.m;
    const int left = p.n - j < EACH ? (int)(p.n - j) : EACH;
    float v[EACH];
    gemm_load_row<float>(sums, batch * stride + i * ld + j, left, wide, v);
#pragma unroll
    for (int e = 0; e < EACH; e++) v[e] *= alpha;
    gemm_finish_row(p, batch * p.stride_c + i * p.ldc + j, j, left, wide, v);
  }
}

} // namespace

extern "C" gpuError_t gpu_gemm_epilogue(gpuStream_t s, const gpu_product *p, const float *sums,
                                        int64_t ld, int64_t stride) {
  if (p->m == 0 || p->n == 0 || p->batch == 0) return gpuSuccess;
  const int64_t threads = p->batch * p->m * ((p->n + EACH - 1) / EACH);
  const int64_t blocks = (threads + THREADS - 1) / THREADS;
  const bool wide = gemm_wide(p, EACH) && gemm_aligned(DS_F32, sums, ld, p->batch > 1 ? stride : 0);
  return GPU_LAUNCH(epilogue, dim3((unsigned)(blocks < 65536 ? blocks : 65536)), dim3(THREADS), 0,
                    s, *p, sums, ld, stride, wide);
}
