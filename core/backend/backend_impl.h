/* backend_impl.h - what is in a ds_backend. Private to the files of core/backend/. */
#ifndef DS_BACKEND_BACKEND_IMPL_H
#define DS_BACKEND_BACKEND_IMPL_H

#include <time.h>

#include "backend/backend.h"
#include "backend/loader.h"

/* As long as the largest op id of ds_ops.def, plus one. */
union ds_op_ids {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) char lower[(id) + 1];
#include "ds_ops.def"
#undef DS_OP
};

/* Work is counted and warned of by its kind: an op by its id (0: an id that core doesn't know),
 * then what the tables have functions of their own for. */
enum {
  DS_KIND_OPS_END = sizeof(union ds_op_ids),
  DS_KIND_GEMM = DS_KIND_OPS_END,
  DS_KIND_QUANTIZE,
  DS_KIND_DEQUANTIZE,
  DS_KIND_QUANT_GEMM,
  DS_KIND_COMPUTE_END, /* so far the reference can stand in */
  DS_KIND_PACK = DS_KIND_COMPUTE_END,
  DS_KIND_COPY,
  DS_KIND_FILL,
  DS_KIND_UPLOAD,
  DS_KIND_DOWNLOAD,
  DS_KIND_SYNC,
  DS_KIND_LAUNCH,
  DS_KINDS
};

typedef struct ds_kind_counter {
  uint64_t calls, fallbacks;
  int64_t ticks; /* inside calls, what the fallback takes to bring tensors to the host included */
  bool warned;
} ds_kind_counter;

struct ds_backend {
  const ds_plugin *plugin; /* complete tables, see loader.h */
  ds_device *device;
  ds_stream *stream;
  int stream_number;     /* 0, and one more for each stream that died */
  uint32_t flags;        /* DS_DEVICE_* */
  char device_name[128]; /* as the plugin tells */
  char *label;           /* begins messages: "name", or "name:1" where there are several devices */
  ds_listener listener;
  ds_logger logger;
  ds_fallback_policy fallback;
  ds_graph_mode graph;
  struct ds_recording *recording;  /* under way, or NULL */
  struct ds_recording *recordings; /* that may be launched, or were dropped: see record.h */
  struct ds_tracer *tracer;        /* span.h; NULL: nothing is traced */
  struct ds_group *groups;         /* all that are there: group.c */

  const ds_plugin *reference; /* behind it; NULL when the plugin is the reference itself */
  ds_device *reference_device;
  ds_stream *reference_stream;

  void *workspace; /* device memory, the largest that an op asked for */
  size_t workspace_size;
  unsigned char *staging; /* host memory for what the reference works on */
  size_t staging_size;

  ds_kind_counter kinds[DS_KINDS];
  uint64_t allocs, bytes_held;                 /* device memory */
  uint64_t memory_limit;                       /* of bytes_held; 0: none */
  ds_op_stats op_stats[DS_KINDS];              /* what ds_backend_stats_fill hands out */
  int64_t opened_at_ticks, opened_nanoseconds; /* the same moment on both clocks */
};

static inline int64_t ds_backend_nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The cheapest steady clock there is, in ticks of its own: it is read twice a call, where
 * clock_gettime can cost more than all the rest of dispatch. Ticks become seconds in
 * stats.c, by the pace they went at since the backend was opened. */
static inline int64_t ds_backend_ticks(void) {
#if defined(__x86_64__)
  return (int64_t)__builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  int64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return ds_backend_nanoseconds();
#endif
}

/* Opens device `index` of a loaded plugin; selection is open.c's. The failure's message begins with
 * no name. DS_ERR_NOT_FOUND: there is no such device. *rankless: there are devices, but of several
 * ranks of this host this one has none; another rank may have opened the same plugin. */
DS_MUST_USE ds_status ds_device_open(const ds_loaded *l, const ds_backend_config *config,
                                     const ds_logger *logger, ds_backend **out, bool *rankless,
                                     ds_error *err);

/* The name of a kind in messages and statistics: an op's, "gemm", "device copy", ... */
const char *ds_kind_name(uint32_t kind);

/* A failure buffer that reads as "no message" when the plugin wrote none. */
#define DS_BLANK_ERROR(name)                                                                       \
  ds_error name;                                                                                   \
  name.message[0] = '\0'

/* The failure of a call on the stream: puts "label: what: " before the message (with the stream's
 * number where it is the device that failed), less what of that the plugin put there itself. */
ds_status ds_device_wrap(const ds_backend *b, const char *what, const ds_error *from,
                         ds_status status, ds_error *err);

#endif
