/* opencl.h - what the files of the opencl plugin share.
 *
 * Everything is f32. OpenCL's buffers have handles, and offsets can't be added to those; so an
 * allocation is a buffer and a range of addresses reserved for it, which nothing is mapped at
 * (memory.c). Kernels get each tensor as a buffer and a byte offset (launch.c, kernels/common.cl).
 */
#ifndef OPENCL_H
#define OPENCL_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <pthread.h>
#include <stdbool.h>

#include "ds_abi.h"

/* The kernels, by name. Those of the last line need f64. */
/* clang-format off */
#define KERNELS(K)                                                                                 \
  K(gemm_tile) K(gemm_dot) K(gemm_column)                                                          \
  K(add) K(mul) K(scale) K(activation) K(activation_dx) K(swiglu) K(swiglu_dx) K(mean_dx)          \
  K(copy_strided) K(adamw) K(rope) K(take_rows) K(scatter_rows)                                    \
  K(norm) K(norm_dx) K(norm_dw) K(column_sums) K(softmax) K(argmax)                                \
  K(cross_entropy_rows) K(cross_entropy_sum) K(cross_entropy_dx)                                   \
  K(attention) K(attention_delta) K(attention_dq) K(attention_dkv)                                 \
  K(partial_sums) K(mean_end) K(sum_squares_end)
/* clang-format on */

enum {
#define K(name) K_##name,
  KERNELS(K)
#undef K
      KERNEL_COUNT
};

/* Sizes that host and kernels agree on; the compiler of the kernels gets them as macros. */
enum {
  LANES = 64,     /* work-items that share a row */
  EACH = 256,     /* work-items in a group of an elementwise kernel */
  TILE = 64,      /* a product's tile of C: 8 x 8 work-items, each with 8 x 8 elements */
  PARTS = 128,    /* partial sums of a sum over everything */
  MOST_HEAD = 256 /* the widest attention head */
};

typedef struct allocation { /* of device memory */
  uintptr_t base;           /* the reserved range's first address */
  size_t bytes;
  cl_mem buffer;
} allocation;

struct ds_device {
  cl_device_id id;
  cl_context context; /* device.c keeps these two */
  cl_program program;
  cl_mem nothing; /* stands for tensors that are absent or empty */
  bool f64;
  size_t most_alloc; /* bytes in one buffer */
  char name[128];
  pthread_mutex_t lock;    /* allocations and events: what streams of several threads share */
  allocation *allocations; /* by address */
  size_t n_allocations, room;
};

/* Work that was given to the queue and not yet asked about. */
enum { PENDING = 128 };
typedef struct pending {
  cl_event event;
  const char *what; /* static */
} pending;

struct ds_stream {
  ds_device *dev;
  cl_command_queue queue;
  cl_kernel kernels[KERNEL_COUNT]; /* made when first used; a kernel holds its arguments */
  pending pending[PENDING];
  int n_pending;
  ds_status dead; /* not DS_OK: what every call returns from now on, with why */
  char why[200];
  cl_context context; /* of the queue, also while it belongs to no device (stream.c) */
  ds_stream *next;
};

struct ds_event {
  ds_device *dev;
  cl_event event; /* NULL: never recorded */
};

extern const ds_device_table opencl_device; /* device.c */
extern const ds_gemm_table opencl_gemm;     /* gemm.c */
extern const ds_ops_table opencl_ops;       /* ops.c */

/* plugin.c: fills err (may be NULL) and gives status back. */
ds_status fail(ds_error *err, ds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for an OpenCL error code; DS_ERR_MEMORY where it tells of memory. */
ds_status fail_cl(ds_error *err, cl_int code, const char *what);

/* memory.c: ds_device_table.alloc and free, and the buffer and byte offset that an address of
 * device memory stands for; false when it is none. */
ds_status memory_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err);
void memory_free(ds_device *dev, void *p);
bool memory_find(ds_device *dev, const void *p, cl_mem *buffer, size_t *offset);

/* stream.c: the part of the device table that is about streams and events. */
ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err);
void stream_destroy(ds_stream *s);
ds_status stream_sync(ds_stream *s, ds_error *err);
ds_status stream_upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status stream_download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status stream_copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err);
ds_status stream_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err);
ds_status event_create(ds_device *dev, ds_event **out, ds_error *err);
void event_destroy(ds_event *e);
ds_status event_record(ds_event *e, ds_stream *s, ds_error *err);
ds_status event_wait(ds_event *e, ds_stream *s, ds_error *err);
ds_status event_sync(ds_event *e, ds_error *err);
/* A fill with a pattern of 1 or 4 bytes. */
ds_status stream_fill_pattern(ds_stream *s, void *dst, const void *pattern, size_t size,
                              size_t bytes, ds_error *err);
/* Refuses work on a stream that has failed; call it before enqueuing. */
ds_status stream_ready(ds_stream *s, ds_error *err);
/* Takes over the event of work just enqueued (code: what enqueuing returned). */
ds_status stream_given(ds_stream *s, cl_int code, cl_event event, const char *what, ds_error *err);

/* launch.c: runs a kernel. Arguments stand in the kernel's order, END behind the last. */
typedef struct arg {
  enum { ARG_END, ARG_TENSOR, ARG_ADDRESS, ARG_LONG, ARG_FLOAT } kind;
  const ds_tensor *tensor;
  const void *address;
  int64_t l;
  double f;
} arg;
/* clang-format off */
#define T(t) {.kind = ARG_TENSOR, .tensor = (t)}   /* NULL: absent */
#define P(p) {.kind = ARG_ADDRESS, .address = (p)} /* NULL: absent */
#define L(n) {.kind = ARG_LONG, .l = (n)}
#define F(x) {.kind = ARG_FLOAT, .f = (x)}
#define ARGS(...) (const arg[]){__VA_ARGS__, {.kind = ARG_END}}
/* clang-format on */

typedef struct grid {
  size_t groups[3], local[3];
} grid;

static inline grid one_group_each(int64_t rows) { /* LANES work-items a row */
  return (grid){{(size_t)rows, 1, 1}, {LANES, 1, 1}};
}
static inline grid one_item_each(int64_t n) {
  return (grid){{((size_t)n + EACH - 1) / EACH, 1, 1}, {EACH, 1, 1}};
}
ds_status launch(ds_stream *s, int kernel, grid g, const arg *args, ds_error *err);

/* signature.c: whether the tensors of an op are what `signature` says; see there. Fills size, by
 * letter. */
typedef struct sizes {
  int64_t of[26]; /* -1: the op has no such dimension */
} sizes;
bool signature_fits(const char *signature, const ds_op *op, sizes *z);
int64_t elements(const ds_tensor *t);

static inline const ds_tensor *op_in(const ds_op *op, uint32_t i) {
  return i < op->n_in ? op->in[i] : NULL;
}
static inline const ds_tensor *op_out(const ds_op *op, uint32_t i) {
  return i < op->n_out ? op->out[i] : NULL;
}

#endif
