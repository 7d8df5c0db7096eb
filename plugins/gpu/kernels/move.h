/* move.h - launchers of what moves elements: strided copies with conversion, rows chosen by id, rows appended.
 *
 * Nothing is launched for no elements. Steps and strides are in elements. */
#ifndef DS_GPU_MOVE_H
#define DS_GPU_MOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = x, or y += x, over [n0,n1,n2,n3]; dtypes are each of DS_F32, DS_BF16, DS_F16. */
typedef struct gpu_copy_args {
  const void *x;
  void *y;
  int from, to; /* ds_dtype */
  int64_t n[4], x_stride[4], y_stride[4];
  bool add;
} gpu_copy_args;
gpuError_t gpu_copy_strided(gpuStream_t s, const gpu_copy_args *a);

/* y[r] = table[ids[r]] for r < rows, cols elements of DS_F32 or DS_BF16; a row of NaN where the id is outside
 * [0,entries). All contiguous. */
gpuError_t gpu_take_rows(gpuStream_t s, int dtype, const int32_t *ids, const void *table, void *y,
                         int64_t rows, int64_t entries, int64_t cols);

/* y[b,at[b]+t] = x[b,t] where that lies in [0,keys); x [batch,time,groups,dim], strides of batch, time, group, dim
 * contiguous; DS_F32 or DS_BF16. */
typedef struct gpu_append_args {
  const void *x;
  void *y;
  const int32_t *at;
  int64_t batch, time, keys, groups, dim;
  int64_t x_stride[3], y_stride[3];
} gpu_append_args;
gpuError_t gpu_append_rows(gpuStream_t s, int dtype, const gpu_append_args *a);

#ifdef __cplusplus
}
#endif

#endif
