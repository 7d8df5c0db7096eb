/* gpu.h - what the files of the GPU plugins share: the device, the stream, errors, tables.
 *
 * plugins/cuda and plugins/rocm (and the emulation of tests/simt) are this code, built against one vendor's runtime
 * (runtime.h) with one vendor's library of products (blas.h).
 *
 * Every function on a stream begins with gpu_ready(), ends what it gave with gpu_given(), and returns through gpu_done(). */
#ifndef DS_GPU_H
#define DS_GPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ds_abi.h"
#include "runtime.h"

typedef struct gpu_blas gpu_blas;   /* blas.h */
typedef struct gpu_fate gpu_fate;   /* fate.h: how a stream ends */
typedef struct gpu_block gpu_block; /* scratch.c */
typedef struct gpu_ring gpu_ring;   /* staging.h: pinned memory behind upload */

enum gpu_scratch_use {
  GPU_SCRATCH_GEMM = 0,
  GPU_SCRATCH_QUANT = 1,
  GPU_SCRATCH_SUMS = 2, /* gemm.c: what a library multiplied, before its epilogue */
  GPU_SCRATCH_USES
};

struct ds_device {
  int index;
  int wave; /* lanes */
  int arch; /* gpu_device_arch */
  int multiprocessors;
  size_t shared_per_block; /* bytes that a launch may ask for, with the kernel's consent */
  size_t memory_total;
  char name[128];
  char bus[32];   /* PCI address: which card this is, whatever its number in this process */
  bool tf32;      /* option: f32 products may round their operands to TF32 */
  gpu_blas *blas; /* opened at the first product; NULL: own kernels */
  const char *blas_missing; /* why there is none, a static string, or NULL */
  bool blas_tried;
  gpuMemPool_t pool;    /* behind stream_alloc; NULL: the device has no pools */
  uint64_t peers;       /* bit i: memory of device i is reached directly, or can't be */
  pthread_mutex_t lock; /* blas, peers and the list of streams */
  ds_stream *streams;   /* those that live */
};

struct ds_stream {
  ds_device *dev;
  ds_stream *before, *after; /* in the device's list */
  gpuStream_t handle;
  gpu_fate *fate;
  bool drained;            /* dead, and its last work has ended */
  uint64_t position;       /* how much work was given: the number of the last */
  const char *given;       /* the last work given, a static string: what a failure is blamed on */
  bool recording;          /* between begin and end of a graph */
  ds_error record_failure; /* the first while recording, which end reports */
  gpu_ring *ring;
  gpu_block *scratch[GPU_SCRATCH_USES];        /* one each, grown when needed */
  gpu_block *record_scratch[GPU_SCRATCH_USES]; /* what the recording uses; then the graph's */
};

/* Fills err (may be NULL), returns status. */
ds_status gpu_fail(ds_error *err, ds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Says something through the host. */
void gpu_log(ds_log_level level, const char *message);
/* What a runtime's code means: DS_OK, DS_ERR_MEMORY, DS_ERR_UNSUPPORTED (a recording went wrong) or DS_ERR_DEVICE,
 * with "WHAT: NAME (text)". */
ds_status gpu_check(gpuError_t code, const char *what, ds_error *err);
/* Makes the device current for this thread. */
ds_status gpu_use(ds_device *dev, ds_error *err);

/* First in every function that gives s work: the device is current and s takes work. */
ds_status gpu_ready(ds_stream *s, ds_error *err);
/* As gpu_ready, for what can't be recorded: DS_ERR_STATE, naming `what`, while a graph is recorded. */
ds_status gpu_ready_unrecorded(ds_stream *s, const char *what, ds_error *err);
/* After a launch or an asynchronous call: `what` is a static string that names it. A code other than
 * success that concerns the device kills s; one of the call's arguments or of memory doesn't. */
ds_status gpu_given(ds_stream *s, gpuError_t code, const char *what, ds_error *err);
/* Last in every function of a table that can be recorded: st again. A failure, wherever it came from, is
 * remembered while a graph is recorded, whose end then fails. */
ds_status gpu_done(ds_stream *s, ds_status st, const ds_error *err);
/* From now on every call on s fails so, and so does what waits for events recorded on s from now on. Waits for
 * nothing: who then reports it to the caller returns gpu_ready(), which waits until s touches no memory any more.
 * For work that was given earlier, or from another thread: gpu_fate_end (fate.h). */
ds_status gpu_kill(ds_stream *s, ds_status status, ds_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* At least `bytes` of device memory that work on s may use until the next call for the same use. May grow, which
 * waits for s; while a graph is recorded the memory is the graph's, and nothing waits. */
ds_status gpu_scratch(ds_stream *s, enum gpu_scratch_use use, size_t bytes, void **out,
                      ds_error *err);

/* options.c: the plugin's part of the config, JSON text or NULL. */
ds_status gpu_options_parse(const char *text, ds_device *dev, ds_error *err);

extern const ds_device_table gpu_device_table; /* device.c, stream.c, event.c, memory.c */
extern const ds_gemm_table gpu_gemm_table;     /* gemm.c */
extern const ds_quant_table gpu_quant_table;   /* quant.c */
extern const ds_ops_table gpu_ops_table;       /* ops.c */
extern const ds_comm_table gpu_comm_table;     /* comm.c */
extern const ds_graph_table gpu_graph_table;   /* graph.c */

#endif
