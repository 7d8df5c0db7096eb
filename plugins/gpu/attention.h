/* attention.h - ops 12 and 13 of ds_ops.def, for ops.c. */
#ifndef DS_GPU_ATTENTION_H
#define DS_GPU_ATTENTION_H

#include "gpu.h"

/* As the functions of ds_ops_table; op's id is one of the two. f32 and bf16, head dimensions up to 256. */
int gpu_attention_supports(ds_device *dev, const ds_op *op);
size_t gpu_attention_workspace(ds_device *dev, const ds_op *op);
ds_status gpu_attention_run(ds_stream *s, const ds_op *op, ds_error *err);

#endif
