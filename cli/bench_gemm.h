/* bench_gemm.h - timing of one matrix product through the backend, beside the machine's peak. */
#ifndef DS_CLI_BENCH_GEMM_H
#define DS_CLI_BENCH_GEMM_H

#include "bench.h"

typedef enum bench_gemm_pass {
  BENCH_GEMM_FORWARD, /* Y[m,n] = X[m,k] W[n,k]^T */
  BENCH_GEMM_PACKED,  /* the same with W packed beforehand */
  BENCH_GEMM_DX,      /* dX[m,k] = dY[m,n] W[n,k] */
  BENCH_GEMM_DW,      /* dW[n,k] += dY[m,n]^T X[m,k], in f32 */
  BENCH_GEMM_PASSES
} bench_gemm_pass;

typedef struct bench_gemm_times {
  bool measured;          /* false: the backend packs nothing of this shape */
  bench_samples gflops;   /* per group of calls */
  bench_samples fraction; /* of the peak of this dtype, probed before and after each group */
} bench_gemm_times;

/* A linear layer of k inputs and n outputs on m rows, X, W and Y of dtype. seconds: about how long
 * each of the groups takes. */
DS_MUST_USE ds_status bench_gemm_measure(bench *b, bench_gemm_pass pass, int32_t dtype, int64_t m,
                                         int64_t n, int64_t k, double seconds,
                                         bench_gemm_times *out, ds_error *err);

#endif
