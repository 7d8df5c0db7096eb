/* swiglu.h - launchers of swiglu and its gradient: y = silu(gate) up over [rows, cols].
 *
 * dtype is DS_F32 or DS_BF16. Steps are elements from one row to the next; what has none is contiguous. With
 * add_gate, add_up the gradient is added. Nothing is launched for no elements. */
#ifndef DS_GPU_SWIGLU_H
#define DS_GPU_SWIGLU_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gpu_rows {
  void *data;
  int64_t step;
} gpu_rows;

gpuError_t gpu_swiglu(gpuStream_t s, int dtype, gpu_rows gate, gpu_rows up, void *y, int64_t rows,
                      int64_t cols);
gpuError_t gpu_swiglu_backward(gpuStream_t s, int dtype, const void *dy, gpu_rows gate, gpu_rows up,
                               gpu_rows dgate, gpu_rows dup, int64_t rows, int64_t cols,
                               bool add_gate, bool add_up);

#ifdef __cplusplus
}
#endif

#endif
