/* sample.h - launcher of sampling: an id for each row of logits, as ds_ops.def's sample says. */
#ifndef DS_GPU_SAMPLE_H
#define DS_GPU_SAMPLE_H

#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* logits [rows,cols] DS_F32 or DS_BF16, draw and id [rows]; banned [rows] or NULL. top_k 0: all; temperature 0: the
 * largest. rows and cols below 2^31. */
typedef struct gpu_sample_args {
  const void *logits;
  const float *draw;
  const int32_t *banned;
  int32_t *id;
  int64_t rows, cols, top_k;
  double temperature, top_p;
} gpu_sample_args;
gpuError_t gpu_sample(gpuStream_t s, int dtype, const gpu_sample_args *a);

#ifdef __cplusplus
}
#endif

#endif
