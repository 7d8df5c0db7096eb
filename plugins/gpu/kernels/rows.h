/* rows.h - launchers of softmax, argmax and cross entropy over contiguous rows [rows,cols] of DS_F32 or DS_BF16. */
#ifndef DS_GPU_ROWS_H
#define DS_GPU_ROWS_H

#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y may be x. */
gpuError_t gpu_softmax(gpuStream_t s, int dtype, const void *x, void *y, int64_t rows,
                       int64_t cols);
/* cols > 0 */
gpuError_t gpu_argmax(gpuStream_t s, int dtype, const void *x, int32_t *y, int64_t rows,
                      int64_t cols);
/* loss [1] and count [1] over rows whose target isn't `ignore`, lse [rows]; losses: scratch [rows]. */
gpuError_t gpu_cross_entropy(gpuStream_t s, int dtype, const void *logits, const int32_t *targets,
                             float *loss, float *lse, float *count, float *losses, int64_t rows,
                             int64_t cols, int64_t ignore);
/* dlogits may be logits. */
gpuError_t gpu_cross_entropy_backward(gpuStream_t s, int dtype, const float *dloss,
                                      const void *logits, const int32_t *targets, const float *lse,
                                      const float *count, void *dlogits, int64_t rows, int64_t cols,
                                      int64_t ignore);

#ifdef __cplusplus
}
#endif

#endif
