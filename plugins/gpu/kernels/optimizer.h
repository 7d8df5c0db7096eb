/* optimizer.h - launchers of sums over everything, the clipping factor, and Adam. */
#ifndef DS_GPU_OPTIMIZER_H
#define DS_GPU_OPTIMIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GPU_TOTAL_PARTS = 1024 }; /* doubles of scratch of a sum over everything */

/* y = sum of x^2, or y += it. x [n] DS_F32 or DS_BF16; parts: scratch of GPU_TOTAL_PARTS. */
gpuError_t gpu_sum_squares(gpuStream_t s, int dtype, const void *x, double *y, int64_t n, bool add,
                           double *parts);
/* y = mean of x; NaN where n is 0 */
gpuError_t gpu_mean(gpuStream_t s, int dtype, const void *x, float *y, int64_t n, double *parts);

/* clip_factor of ds_ops.def; loss may be NULL. */
gpuError_t gpu_clip_factor(gpuStream_t s, const double *squares, const float *loss, float *factor,
                           double max_norm, bool check);

/* adamw of ds_ops.def over [n] of f32; p16, bf16, may be NULL. With schedule (lr, correction1, correction2) and factor
 * (grad_scale) not NULL these are read there, and nothing is written where factor is NaN. */
typedef struct gpu_adamw_args {
  const float *g;
  float *p, *m, *v;
  void *p16;
  int64_t n;
  double lr, beta1, beta2, eps, weight_decay, grad_scale, correction1, correction2;
  bool decoupled;
  const float *schedule, *factor;
} gpu_adamw_args;
gpuError_t gpu_adamw(gpuStream_t s, const gpu_adamw_args *a);

#ifdef __cplusplus
}
#endif

#endif
