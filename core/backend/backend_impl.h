/* backend_impl.h - what is in a ds_backend. Private to the files of core/backend/. */
#ifndef DS_BACKEND_BACKEND_IMPL_H
#define DS_BACKEND_BACKEND_IMPL_H

#include <time.h>

#include "backend/backend.h"
#include "backend/loader.h"

enum { DS_BACKEND_OPS_MAX = 256 }; /* op ids that are warned of separately */

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
  uint8_t warned[DS_BACKEND_OPS_MAX]; /* by op id; 0 is gemm */

  const ds_plugin *reference; /* behind it; NULL when the plugin is the reference itself */
  ds_device *reference_device;
  ds_stream *reference_stream;

  void *workspace; /* device memory, the largest that an op asked for */
  size_t workspace_size;
  unsigned char *staging; /* host memory for what the reference works on */
  size_t staging_size;

  ds_backend_counters counters;
  int64_t ticks;                               /* inside calls: counters.seconds */
  int64_t opened_at_ticks, opened_nanoseconds; /* the same moment on both clocks */
};

static inline int64_t ds_backend_nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The cheapest steady clock there is, in ticks of its own: it is read twice a call, where
 * clock_gettime can cost more than all the rest of dispatch. Ticks become seconds in
 * ds_backend_stats_get, by the pace they went at since the backend was opened. */
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
 * no name. DS_ERR_NOT_FOUND: there is no such device. */
DS_MUST_USE ds_status ds_device_open(const ds_loaded *l, const ds_backend_config *config,
                                     const ds_logger *logger, ds_backend **out, ds_error *err);

/* The failure of a call on the stream: puts "label: what: " before the message (with the stream's
 * number where it is the device that failed), less what of that the plugin put there itself. */
ds_status ds_device_wrap(const ds_backend *b, const char *what, const ds_error *from,
                         ds_status status, ds_error *err);

#endif
