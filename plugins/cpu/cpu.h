/* cpu.h - what the files of the cpu plugin share: the device, the stream, memory, errors.
 *
 * Compute is done on the caller's thread when a call returns; only collectives and waits for events
 * are left for later (queue.h), so every other call on a stream begins with ds_cpu_ready.
 * Everything that a call may change belongs to the stream it was given (scratch, cached
 * primitives), so that two streams may work at the same time, whether of one device or of two. A
 * ds_device does not change after open, but for the list of its streams.
 */
#ifndef DS_CPU_H
#define DS_CPU_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "ds_abi.h"

typedef struct ds_cpu_gemm ds_cpu_gemm;   /* gemm.c: cached primitives of one stream */
typedef struct ds_cpu_queue ds_cpu_queue; /* queue.c: work for later */

struct ds_device {
  int threads;        /* how many threads parallel regions use: num_threads(dev->threads); >= 1 */
  int isa;            /* enum ds_cpu_isa of isa.h; kernels are chosen by it, never by the machine */
  bool shared_memory; /* ranks of one host may look into each other's memory: comm_local.h */
  bool huge_pages;    /* ask for huge pages in allocations of 2 MiB and more */
  char name[128];     /* "AMD EPYC, 2 threads, avx512_bf16" */
  pthread_mutex_t lock;
  ds_stream *streams; /* that live; under lock. close ends them */
};

/* Scratch memory of a stream, by who uses it. A slot's contents are lost at the next call of
 * ds_cpu_scratch for that slot; different slots never overlap. */
enum ds_cpu_scratch_slot {
  DS_CPU_SCRATCH_OPS = 0,     /* ops.c: any use within one op */
  DS_CPU_SCRATCH_OPS_2 = 1,   /* ops.c: a second one */
  DS_CPU_SCRATCH_LIBRARY = 2, /* gemm.c: oneDNN's scratchpad */
  DS_CPU_SCRATCH_PACK = 3,    /* gemm.c: B in blocked form */
  DS_CPU_SCRATCH_CONVERT = 4, /* gemm: operands in another type */
  DS_CPU_SCRATCH_COMM = 5,    /* comm_run.c: all that MPI writes to */
  DS_CPU_SCRATCH_BIAS = 6,    /* gemm: the bias as f32 */
  DS_CPU_SCRATCH_QUANT = 7,   /* quant.c: operands in another type or order */
  DS_CPU_SCRATCH_COUNT = 8
};

typedef struct ds_cpu_scratch_block {
  void *data;
  size_t bytes;
} ds_cpu_scratch_block;

struct ds_stream {
  ds_device *dev;
  ds_stream *before, *after; /* in the device's list */
  ds_cpu_scratch_block scratch[DS_CPU_SCRATCH_COUNT];
  ds_cpu_gemm *gemm;   /* made by the first product, destroyed with the stream */
  ds_cpu_queue *queue; /* made by the first work for later, destroyed with the stream */
  atomic_bool busy;    /* work is pending, or some has failed: ask the queue */
};

/* Waits for the stream's pending work; its failure, from the first one on. [per-stream] */
ds_status ds_cpu_queue_drain(ds_stream *s, ds_error *err);

/* What every call on a stream that computes or moves does first. */
static inline ds_status ds_cpu_ready(ds_stream *s, ds_error *err) {
  if (!atomic_load_explicit(&s->busy, memory_order_acquire)) return DS_OK;
  return ds_cpu_queue_drain(s, err);
}

/* At least `bytes` of 64-byte aligned memory that stays valid until the next call for the same
 * slot. Grows and never shrinks, so that repeated work allocates nothing. NULL when memory is
 * exhausted: then err is filled and the caller returns DS_ERR_MEMORY. [per-stream] */
void *ds_cpu_scratch(ds_stream *s, enum ds_cpu_scratch_slot slot, size_t bytes, ds_error *err);

/* 64-byte aligned memory (2 MiB aligned and in huge pages where dev->huge_pages and
 * bytes >= 2 MiB); NULL when exhausted. Free with ds_cpu_memory_free, which takes NULL. */
void *ds_cpu_memory_alloc(const ds_device *dev, size_t bytes);
void ds_cpu_memory_free(void *p);

/* From keep on, this process gives no device memory back: a send that was given up may still read
 * it. See comm_mpi.h. [any-thread] */
void ds_cpu_memory_keep(void);
bool ds_cpu_memory_kept(void);

/* Fills err (may be NULL) and returns status, so that a caller can write
 * `return ds_cpu_fail(err, DS_ERR_INVALID, "cpu gemm: ...", ...);`. */
ds_status ds_cpu_fail(ds_error *err, ds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Bytes of n elements; 0 for a dtype this plugin doesn't know. I4 rounds up to whole bytes. */
size_t ds_cpu_dtype_bytes(int32_t dtype, int64_t n);
const char *ds_cpu_dtype_name(int32_t dtype); /* "f32"; "unknown type" */

static inline int64_t ds_cpu_min_i64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

/* The tables, one file each. */
extern const ds_device_table ds_cpu_device_table; /* device.c */
extern const ds_gemm_table ds_cpu_gemm_table;     /* gemm.c */
extern const ds_quant_table ds_cpu_quant_table;   /* quant.c */
extern const ds_comm_table ds_cpu_comm_table;     /* comm.c */
/* ds_cpu_ops_table: ops.h */

/* Ends what gemm.c keeps in a stream; NULL is allowed. */
void ds_cpu_gemm_destroy(ds_cpu_gemm *g);

#endif
