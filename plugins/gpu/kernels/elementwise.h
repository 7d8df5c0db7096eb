/* elementwise.h - launchers of ops where each result depends on one place.
 *
 * dtype is DS_F32 or DS_BF16, of all tensors. [n] is contiguous. With `add` the result is added to y. y may be an
 * input. Nothing is launched for n of 0. */
#ifndef DS_GPU_ELEMENTWISE_H
#define DS_GPU_ELEMENTWISE_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* kind: ds_activation */
gpuError_t gpu_activate(gpuStream_t s, int dtype, int kind, const void *x, void *y, int64_t n);
gpuError_t gpu_activate_backward(gpuStream_t s, int dtype, int kind, const void *dy, const void *x,
                                 void *dx, int64_t n, bool add);
gpuError_t gpu_add(gpuStream_t s, int dtype, const void *a, const void *b, void *y, int64_t n);
gpuError_t gpu_mul(gpuStream_t s, int dtype, const void *a, const void *b, void *y, int64_t n,
                   bool add);
/* y = factor x */
gpuError_t gpu_scale(gpuStream_t s, int dtype, float factor, const void *x, void *y, int64_t n,
                     bool add);
/* dx = dy[0] / n */
gpuError_t gpu_mean_backward(gpuStream_t s, int dtype, const float *dy, void *dx, int64_t n,
                             bool add);
/* n elements of `size` bytes, 2 or 4, that are `bits`. */
gpuError_t gpu_fill_elements(gpuStream_t s, int size, uint32_t bits, void *y, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
