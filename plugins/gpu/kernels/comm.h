/* comm.h - what collectives compute on the card itself: sums of small floats are made in f32, means of whole numbers
 * after the sum. n elements; addresses aligned to the element. */
#ifndef DS_GPU_KERNELS_COMM_H
#define DS_GPU_KERNELS_COMM_H

#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x of dtype DS_BF16 or DS_F16 -> y. */
gpuError_t gpu_comm_widen(gpuStream_t s, const void *x, int dtype, float *y, int64_t n);
/* The other way, rounded once. */
gpuError_t gpu_comm_narrow(gpuStream_t s, const float *x, void *y, int dtype, int64_t n);
/* x /= by, cut towards zero; by > 0. dtype DS_I8, DS_I32 or DS_I64. */
gpuError_t gpu_comm_divide(gpuStream_t s, void *x, int dtype, int64_t n, int by);

#ifdef __cplusplus
}
#endif

#endif
