/* norm.h - launchers of layer norm, RMS norm and their gradients, and of sums over rows.
 *
 * x, y, dy, dx [rows,cols], weight and bias [cols] are DS_F32 or DS_BF16, all of one dtype; mean, rstd [rows] and
 * dweight, dbias [cols] are f32. All contiguous. */
#ifndef DS_GPU_NORM_H
#define DS_GPU_NORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* layer: subtract the mean. bias, mean, rstd may be NULL. */
typedef struct gpu_norm_args {
  const void *x, *weight, *bias;
  void *y;
  float *mean, *rstd;
  int64_t rows, cols;
  float eps;
  bool layer;
} gpu_norm_args;
gpuError_t gpu_norm(gpuStream_t s, int dtype, const gpu_norm_args *a);

/* layer: of layer norm, which has mean; dbias may be NULL. parts: gpu_column_parts(...) floats, twice with dbias. */
typedef struct gpu_norm_backward_args {
  const void *dy, *x, *weight;
  const float *mean, *rstd;
  void *dx;
  float *dweight, *dbias, *parts;
  int64_t rows, cols;
  bool layer, add_dx, add_dweight, add_dbias;
} gpu_norm_backward_args;
gpuError_t gpu_norm_backward(gpuStream_t s, int dtype, const gpu_norm_backward_args *a,
                             int multiprocessors);

/* y[c] = sum of x[r,c]; parts as above. */
gpuError_t gpu_reduce_rows(gpuStream_t s, int dtype, const void *x, float *y, int64_t rows,
                           int64_t cols, bool add, float *parts, int multiprocessors);

/* Floats of scratch for one sum over rows. */
size_t gpu_column_parts(int64_t rows, int64_t cols, int multiprocessors);

#ifdef __cplusplus
}
#endif

#endif
