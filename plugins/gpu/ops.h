/* ops.h - how an op is described and run: between ops.c and the files of its families. */
#ifndef DS_GPU_OPS_H
#define DS_GPU_OPS_H

#include "signature.h"

/* A checked op on its way. */
typedef struct gpu_call {
  const ds_device *dev;
  gpuStream_t stream;
  const ds_op *op;
  const gpu_shape *shape;
  void *scratch; /* of as many bytes as the entry's scratch said, 64-byte aligned */
} gpu_call;

typedef struct gpu_op_entry {
  const char *signature; /* signature.h; NULL: not an op of this table */
  /* What the signature can't say; NULL for nothing. Looks at no data pointer. */
  ds_status (*check)(const char *name, const ds_op *op, const gpu_shape *shape, ds_error *err);
  size_t (*scratch)(const ds_device *dev, const ds_op *op, const gpu_shape *shape); /* NULL: none */
  gpuError_t (*run)(const gpu_call *c);
} gpu_op_entry;

static inline int64_t gpu_attr_i(const ds_op *op, uint32_t i, int64_t missing) {
  return i < op->n_attr ? op->attr[i].i : missing;
}
static inline double gpu_attr_f(const ds_op *op, uint32_t i, double missing) {
  return i < op->n_attr ? op->attr[i].f : missing;
}

/* What families share: data of a tensor, NULL where it is absent; the accumulate bit. */
static inline void *gpu_in_data(const gpu_call *c, uint32_t i) {
  const ds_tensor *t = gpu_in(c->op, i);
  return t ? t->data : NULL;
}
static inline void *gpu_out_data(const gpu_call *c, uint32_t i) {
  const ds_tensor *t = gpu_out(c->op, i);
  return t ? t->data : NULL;
}
static inline bool gpu_adds(const gpu_call *c, uint32_t output) {
  return c->op->accumulate >> output & 1;
}

#define GPU_CHECK(name)                                                                            \
  ds_status name(const char *op_name, const ds_op *op, const gpu_shape *shape, ds_error *err)
#define GPU_SCRATCH(name) size_t name(const ds_device *dev, const ds_op *op, const gpu_shape *shape)
#define GPU_RUN(name)     gpuError_t name(const gpu_call *c)

/* ops_elementwise.c */
GPU_CHECK(gpu_check_activation);
GPU_CHECK(gpu_check_rope);
GPU_CHECK(gpu_check_copy);
GPU_CHECK(gpu_check_fill);
GPU_CHECK(gpu_check_append_rows);
GPU_RUN(gpu_run_activation);
GPU_RUN(gpu_run_activation_backward);
GPU_RUN(gpu_run_swiglu);
GPU_RUN(gpu_run_swiglu_backward);
GPU_RUN(gpu_run_add);
GPU_RUN(gpu_run_mul);
GPU_RUN(gpu_run_scale);
GPU_RUN(gpu_run_mean_backward);
GPU_RUN(gpu_run_rope);
GPU_RUN(gpu_run_copy);
GPU_RUN(gpu_run_fill);
GPU_RUN(gpu_run_append_rows);

/* ops_rows.c */
GPU_CHECK(gpu_check_rows);
GPU_CHECK(gpu_check_row);
GPU_CHECK(gpu_check_argmax);
GPU_CHECK(gpu_check_embedding_backward);
GPU_CHECK(gpu_check_sample);
GPU_SCRATCH(gpu_scratch_embedding_backward);
GPU_SCRATCH(gpu_scratch_norm_backward);
GPU_SCRATCH(gpu_scratch_reduce_rows);
GPU_SCRATCH(gpu_scratch_cross_entropy);
GPU_RUN(gpu_run_embedding);
GPU_RUN(gpu_run_embedding_backward);
GPU_RUN(gpu_run_gather_rows);
GPU_RUN(gpu_run_layer_norm);
GPU_RUN(gpu_run_rms_norm);
GPU_RUN(gpu_run_layer_norm_backward);
GPU_RUN(gpu_run_rms_norm_backward);
GPU_RUN(gpu_run_reduce_rows);
GPU_RUN(gpu_run_softmax);
GPU_RUN(gpu_run_argmax);
GPU_RUN(gpu_run_cross_entropy);
GPU_RUN(gpu_run_cross_entropy_backward);
GPU_RUN(gpu_run_sample);

/* ops_optimizer.c */
GPU_CHECK(gpu_check_adamw);
GPU_CHECK(gpu_check_adamw_scheduled);
GPU_CHECK(gpu_check_clip_factor);
GPU_SCRATCH(gpu_scratch_total);
GPU_RUN(gpu_run_sum_squares);
GPU_RUN(gpu_run_mean);
GPU_RUN(gpu_run_adamw);
GPU_RUN(gpu_run_adamw_scheduled);
GPU_RUN(gpu_run_clip_factor);
/* That the outputs of Adam are its inputs, which only their data says. */
ds_status gpu_check_in_place(const char *name, const ds_op *op, ds_error *err);

#endif
