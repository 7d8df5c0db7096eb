/* rope.h - launcher of rotary positions over [B,T,H,D]; Su et al. 2021.
 *
 * dtype is DS_F32 or DS_BF16. Strides of batch, time and head in elements; D is contiguous. y may be x. */
#ifndef DS_GPU_ROPE_H
#define DS_GPU_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gpu_rope_args {
  const void *x;
  void *y;
  const int32_t *pos;    /* [B,T] */
  const float *inv_freq; /* [pairs] */
  int64_t batch, time, heads, dim, pairs;
  int64_t x_stride[3], y_stride[3];
  bool interleaved, inverse, add;
} gpu_rope_args;

gpuError_t gpu_rope(gpuStream_t s, int dtype, const gpu_rope_args *a);

#ifdef __cplusplus
}
#endif

#endif
