/* attention.h - launches of attention, forward, backward and for few queries. See ops 12 and 13 of ds_ops.def.
 *
 * Tensors are [B,T,H,D] (q, o, their gradients) or [B,S,G,D] (k, v, theirs), all f32 or all bf16 (dtype); D contiguous,
 * the other strides free, but rows less than 2^31 elements apart. D is at least 1 and at most GPU_ATTENTION_MOST_DIM; T and S at most 2^28; G is at least 1 and divides H; scale > 0. Blocks,
 * about B H T / 16, B G S / 16 and B H T splits, are at most 2^31-1. */
#ifndef DS_GPU_KERNELS_ATTENTION_H
#define DS_GPU_KERNELS_ATTENTION_H

#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { GPU_ATTENTION_MOST_DIM = 256 };

typedef struct gpu_attention_tensor {
  void *data;
  int64_t batch, head; /* strides in elements */
  int32_t row;
} gpu_attention_tensor;

typedef struct gpu_attention {
  int32_t dtype; /* ds_dtype */
  int32_t batch, time, keys, heads, groups, dim;
  int32_t causal, window; /* window 0: no bound */
  float scale;
  int32_t vector;        /* every tensor's rows are 16-byte aligned, and so is their length */
  int32_t wave;          /* lanes of the device */
  uint32_t accumulate;   /* bits 0, 1, 2: dq, dk, dv are added to */
  const int32_t *kv_len; /* [B] or NULL; what lies outside of [0,S] is taken as the nearer end */
  gpu_attention_tensor q, k, v, o;
  gpu_attention_tensor d_o, dq, dk, dv; /* backward */
  float *lse;                           /* [B,H,T]; forward: or NULL */
  float *scratch; /* backward: B H T floats. few: gpu_attention_few_scratch floats */
  int32_t splits; /* few: parts that the keys are read in at most, by as many blocks */
} gpu_attention;

/* Dynamic shared memory that a launch needs, which depends on dtype and dim only. */
int64_t gpu_attention_forward_shared(const gpu_attention *a);
int64_t gpu_attention_backward_shared(const gpu_attention *a);

gpuError_t gpu_attention_forward(gpuStream_t s, const gpu_attention *a);
gpuError_t gpu_attention_backward(gpuStream_t s, const gpu_attention *a);

/* The same as forward for few queries, T H / G up to some tens: bound by reading keys and values, once
 * for each GPU_ATTENTION_FEW_ROWS queries that share them. Room for keys that aren't in use changes no bits,
 * where splits are at least the keys in use by GPU_ATTENTION_LEAST_KEYS, or the same. */
enum { GPU_ATTENTION_FEW_ROWS = 8, GPU_ATTENTION_LEAST_KEYS = 64 /* of one part */ };
int64_t gpu_attention_few_scratch(const gpu_attention *a);
gpuError_t gpu_attention_few(gpuStream_t s, const gpu_attention *a);

#ifdef __cplusplus
}
#endif

#endif
