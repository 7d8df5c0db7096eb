/* gemm.h - products by own kernels: C = epilogue(alpha A B + bias) + beta C, row-major, batched (ds_abi.h, ds_gemm).
 *
 * All take A and B of any of f32, bf16, f16, f8e4m3, f8e5m2, C and the bias of f32, bf16, f16, every shape, stride and
 * alignment, unless it says otherwise below. Sums are in f32 and in a fixed order. */
#ifndef DS_GPU_KERNELS_GEMM_H
#define DS_GPU_KERNELS_GEMM_H

#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A ds_gemm as kernels get it, by value. */
typedef struct gpu_product {
  int64_t m, n, k, batch;
  int64_t lda, ldb, ldc;                /* elements from one stored row to the next */
  int64_t stride_a, stride_b, stride_c; /* from one matrix to the next; 0: the same for all */
  const void *a, *b;
  const void *bias; /* [n] or NULL */
  void *c;
  const float *scale_a, *scale_b;            /* f32[1], or NULL for 1 */
  int dtype_a, dtype_b, dtype_c, dtype_bias; /* ds_dtype */
  int trans_a, trans_b;                      /* A is stored [k,m], B [n,k] */
  int epilogue;                              /* ds_epilogue */
  float alpha, beta;                         /* beta 0: C isn't read */
} gpu_product;

/* On the plain multiply-add units, operands as f32: exact for f32, right for every mix of types.
 * multiprocessors: of the device, for the choice of a tile. */
gpuError_t gpu_gemm_simt(gpuStream_t s, const gpu_product *p, int multiprocessors);

/* On the matrix units. A and B: both bf16, both f16, or each one of the two fp8 types. wave: lanes. */
int gpu_gemm_mma_takes(const gpu_product *p);
gpuError_t gpu_gemm_mma(gpuStream_t s, const gpu_product *p, int wave, int multiprocessors);

/* A few rows against a matrix: reads B once, at the speed of memory. m <= GPU_GEMV_ROWS; A and B both
 * f32, bf16 or f16; A's rows contiguous in k (not TRANS_A, but for m = 1 and lda = 1). */
enum { GPU_GEMV_ROWS = 8 };
int gpu_gemv_takes(const gpu_product *p);
gpuError_t gpu_gemv(gpuStream_t s, const gpu_product *p, int multiprocessors);

/* The rest of a product whose sums a library made: C = epilogue(alpha sums + bias) + beta C. sums: f32 [batch,m,n], its rows
 * `ld` and its matrices `stride` elements apart; may be C itself where C is f32, laid out alike, and beta is 0. */
gpuError_t gpu_gemm_epilogue(gpuStream_t s, const gpu_product *p, const float *sums, int64_t ld,
                             int64_t stride);

#ifdef __cplusplus
}
#endif

#endif
