/* kernel.h - what a kernel is, how it finds its tensors, and how it spreads over cores.
 *
 * Every file of this folder is compiled once per instruction set, with DS_ISA_SUFFIX naming it
 * (_base, _avx2, _avx512, _avx512_bf16); K(add) is that set's add. There is one kernel per op of
 * ds_ops.def. A kernel is called with a description that ops.c has checked: shapes, dtypes and
 * strides are as ds_ops.def says, pointers are there, the workspace is large enough. It can't fail.
 *
 * Results do not depend on how threads are scheduled: work is cut into parts by the shapes and the
 * device's thread count alone, and partial results are added in the order of the parts.
 */
#ifndef DS_CPU_KERNEL_H
#define DS_CPU_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "ds_abi.h"

/* The longest row of attention scratch, in queries and in keys. */
enum { DS_CPU_TILE_Q = 64, DS_CPU_TILE_K = 64 };
/* Attention with at most this many queries per head goes key by key. */
enum { DS_CPU_FEW_QUERIES = 8 };
/* Elements per partial sum in sum_squares and mean. */
enum { DS_CPU_SUM_BLOCK = 16384 };
/* Below this many bytes the fork and join of a parallel region costs more than it saves. */
enum { DS_CPU_SERIAL_BYTES = 32768 };

typedef void ds_cpu_kernel(const ds_op *op, int threads);

/* Indexed by ds_op_id; entry 0 is NULL. */
extern ds_cpu_kernel *const ds_cpu_kernels_base[];
extern ds_cpu_kernel *const ds_cpu_kernels_avx2[];
extern ds_cpu_kernel *const ds_cpu_kernels_avx512[];
extern ds_cpu_kernel *const ds_cpu_kernels_avx512_bf16[];

static inline const ds_tensor *ds_cpu_in(const ds_op *op, uint32_t i) {
  return i < op->n_in ? op->in[i] : NULL;
}

static inline const ds_tensor *ds_cpu_out(const ds_op *op, uint32_t i) {
  return i < op->n_out ? op->out[i] : NULL;
}

static inline void *ds_cpu_data(const ds_tensor *t) {
  return t ? t->data : NULL;
}

static inline int64_t ds_cpu_numel(const ds_tensor *t) {
  int64_t n = 1;
  for (int32_t d = 0; d < t->rank; d++) n *= t->shape[d];
  return n;
}

static inline int64_t ds_cpu_attr_i(const ds_op *op, uint32_t i, int64_t otherwise) {
  return i < op->n_attr ? op->attr[i].i : otherwise;
}

static inline double ds_cpu_attr_f(const ds_op *op, uint32_t i, double otherwise) {
  return i < op->n_attr ? op->attr[i].f : otherwise;
}

static inline int ds_cpu_accumulates(const ds_op *op, int i) {
  return (int)((op->accumulate >> i) & 1u);
}

/* Into how many parts work that moves `bytes` is cut: all threads or one, because a team that
 * changes its size costs far more than one that waits. */
static inline int ds_cpu_parts(int threads, double bytes) {
  return bytes < DS_CPU_SERIAL_BYTES ? 1 : threads;
}

/* ---- workspace sizes in bytes; ops.c asks, kernels use */

/* Attention scratch per thread: rows of the head dimension padded to whole vectors. */
static inline int64_t ds_cpu_attention_pad(int64_t d) {
  return (d + 15) / 16 * 16;
}

/* Floats for one thread: forward. */
static inline int64_t ds_cpu_attention_scratch(int64_t pad) {
  return (3 * DS_CPU_TILE_Q + 2 * DS_CPU_TILE_K) * pad + DS_CPU_TILE_K * DS_CPU_TILE_Q +
         4 * DS_CPU_TILE_Q;
}

/* Decoding: into how many chunks the keys of a batch are cut, and the floats of a chunk. */
static inline int64_t ds_cpu_attention_chunks(int64_t batch, int64_t keys, int threads) {
  const int64_t most = keys / DS_CPU_TILE_K; /* shorter ones are not worth it */
  const int64_t chunks = batch % threads == 0 ? 1 : threads;
  return most < 1 ? 1 : chunks < most ? chunks : most;
}

static inline int64_t ds_cpu_attention_decode_scratch(int64_t heads, int64_t rep, int64_t time,
                                                      int64_t pad) {
  return (heads * (2 * pad + 2) + rep * DS_CPU_TILE_K) * time;
}

/* Backward, with sums for `keys` keys. */
static inline int64_t ds_cpu_attention_back_scratch(int64_t pad, int64_t keys) {
  return (5 * DS_CPU_TILE_Q + 2 * DS_CPU_TILE_K + 2 * keys) * pad +
         2 * DS_CPU_TILE_K * DS_CPU_TILE_Q + 2 * DS_CPU_TILE_Q;
}

#ifdef DS_ISA_SUFFIX
#include <omp.h>

#define DS_CPU_JOIN_(a, b) ds_cpu_##a##b
#define DS_CPU_JOIN(a, b)  DS_CPU_JOIN_(a, b)
#define K(name)            DS_CPU_JOIN(name, DS_ISA_SUFFIX)

/* NULL until it is written. */
#define DS_OP(id, upper, lower, n_in, n_out, n_attr)                                               \
  __attribute__((weak)) void K(lower)(const ds_op *op, int threads);
#include "ds_ops.def"
#undef DS_OP

/* Part `part` of a piece of work: items [lo,hi). */
typedef void range_fn(const void *ctx, int64_t lo, int64_t hi, int part);

/* Cuts [0,n) into `parts` nearly equal ranges, whose bounds are multiples of grain, and calls fn
 * for each on a thread of its own; returns when all are done. */
static inline void parallel_range(int parts, int64_t n, int64_t grain, range_fn *fn,
                                  const void *ctx) {
  if (parts <= 1) {
    fn(ctx, 0, n, 0);
    return;
  }
  int64_t grains = (n + grain - 1) / grain;
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int p = 0; p < parts; p++) {
    int64_t lo = grains * p / parts * grain, hi = grains * (p + 1) / parts * grain;
    fn(ctx, lo < n ? lo : n, hi < n ? hi : n, p);
  }
}

/* Calls fn(ctx, i, i + 1, worker) for every i in [0,n), each on whichever thread is free; worker is
 * below `threads`. For items of unequal cost whose results are independent of each other. */
static inline void parallel_items(int threads, int64_t n, range_fn *fn, const void *ctx) {
  if (threads <= 1 || n <= 1) {
    for (int64_t i = 0; i < n; i++) fn(ctx, i, i + 1, 0);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < n; i++) fn(ctx, i, i + 1, omp_get_thread_num());
}
#endif

#endif
