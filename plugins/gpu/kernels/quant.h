/* quant.h - quantized matrices on the device: there, back, and products with them (ds_abi.h, ds_quant).
 *
 * Every form of ds_quant, every shape and alignment, unless it says otherwise. Nothing is empty: rows, cols and m are
 * positive. */
#ifndef DS_GPU_KERNELS_QUANT_H
#define DS_GPU_KERNELS_QUANT_H

#include <stddef.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A ds_quant as kernels get it, by value. The group of x[row,col] is row * row_groups + col / group_cols. */
typedef struct gpu_quant {
  int qtype, dtype; /* ds_dtype */
  int64_t rows, cols;
  int64_t group;      /* values of a group: per tensor rows * cols */
  int64_t groups;     /* in all */
  int64_t row_groups; /* of a row; 0 per tensor */
  int64_t group_cols; /* columns of a group within a row: per tensor cols */
  void *values;
  float *scales;
  int8_t *zeros; /* NULL: symmetric */
} gpu_quant;

/* x [rows,cols] -> values, scales, zeros. scratch: GPU_QUANT_SCRATCH bytes, used where there is one group. */
enum { GPU_QUANT_SCRATCH = 8 * 1024 };
gpuError_t gpu_quant_quantize(gpuStream_t s, const gpu_quant *q, const void *x, void *scratch);
/* The other way. */
gpuError_t gpu_quant_dequantize(gpuStream_t s, const gpu_quant *q, void *x);

/* C[m,rows] = A[m,cols] . x^T + bias, all of q's dtype. */
typedef struct gpu_quant_product {
  int64_t m, lda, ldc; /* elements from one row to the next */
  const void *a;
  const void *bias; /* [rows] or NULL */
  void *c;
  /* A in whole numbers, by gpu_quant_rows; or NULL */
  const int8_t *codes;
  const float *scales;
  const int32_t *sums;
} gpu_quant_product;

/* Rows of A by themselves to symmetric int8, for dynamic products, into p's codes [m, gpu_quant_row_bytes(cols)], zeros
 * behind a row's end, 16-byte aligned; scales [m]; and sums of codes by row and GPU_QUANT_SUM columns. */
enum { GPU_QUANT_SUM = 32 };
int64_t gpu_quant_row_bytes(int64_t cols);
gpuError_t gpu_quant_rows(gpuStream_t s, const gpu_quant *q, const gpu_quant_product *p,
                          int8_t *codes, float *scales, int32_t *sums);

/* A few rows: reads the values once for every GPU_QUANT_GEMV_ROWS rows of A, at the speed of memory where rows of values
 * and groups are whole loads of 16 bytes, one value after the other elsewhere. With p->codes in whole numbers. */
enum { GPU_QUANT_GEMV_ROWS = 8 };
gpuError_t gpu_quant_gemv(gpuStream_t s, const gpu_quant *q, const gpu_quant_product *p,
                          int multiprocessors);

/* Many rows: tiles of values are brought back into shared memory. In f32 on the multiply-add units, in bf16 and, with
 * p->codes, int8 on the matrix units. scratch: gpu_quant_gemm_scratch bytes (may be 0), for sums of parts of the columns, which
 * are made side by side where C alone has too few tiles for the device. */
size_t gpu_quant_gemm_scratch(const gpu_quant *q, int64_t m, int multiprocessors);
gpuError_t gpu_quant_gemm(gpuStream_t s, const gpu_quant *q, const gpu_quant_product *p,
                          int multiprocessors, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
