/* fail.c - errors: as messages, as what the runtime's codes mean, as the end of a stream. */
#include "device.h"

#include <stdarg.h>
#include <stdio.h>

ds_status gpu_fail(ds_error *err, ds_status status, const char *format, ...) {
  if (err == NULL) return status;
  const int n = snprintf(err->message, sizeof err->message, GPU_PLUGIN_NAME ": ");
  va_list args;
  va_start(args, format);
  vsnprintf(err->message + n, sizeof err->message - (size_t)n, format, args);
  va_end(args);
  err->status = status;
  return status;
}

/* The runtimes' 900 to 908 say that a recording went wrong: the device is well, and the work runs without one. */
static ds_status meaning(gpuError_t code) {
  if (code == gpuErrorMemoryAllocation) return DS_ERR_MEMORY;
  return (int)code >= 900 && (int)code <= 908 ? DS_ERR_UNSUPPORTED : DS_ERR_DEVICE;
}

ds_status gpu_check(gpuError_t code, const char *what, ds_error *err) {
  if (code == gpuSuccess) return DS_OK;
  (void)gpuGetLastError(); /* the runtime would tell the next caller too */
  return gpu_fail(err, meaning(code), "%s: %s (%s)", what, gpuGetErrorName(code),
                  gpuGetErrorString(code));
}

ds_status gpu_use(ds_device *dev, ds_error *err) {
  return gpu_check(gpuSetDevice(dev->index), "making the device current", err);
}

/* Reports how s ended. Its caller may then free what the work used, so the first report waits until
 * the device has come to the end of it; a stream that records can't be waited for, and its recording is over. */
static ds_status report_end(ds_stream *s, ds_error *err) {
  if (!s->drained && gpu_use(s->dev, NULL) == DS_OK) {
    gpu_graph_drop(s);
    (void)gpuStreamSynchronize(s->handle);
  }
  s->drained = true;
  (void)gpuGetLastError();
  return gpu_fate_check(s->fate, err);
}

ds_status gpu_ready(ds_stream *s, ds_error *err) {
  if (gpu_fate_check(s->fate, NULL) != DS_OK) return report_end(s, err);
  const gpuError_t code = gpuSetDevice(s->dev->index); /* may tell what earlier work came to */
  return code == gpuSuccess ? DS_OK : gpu_given(s, code, "making the device current", err);
}

ds_status gpu_ready_unrecorded(ds_stream *s, const char *what, ds_error *err) {
  const ds_status st = gpu_ready(s, err);
  if (st != DS_OK || !s->recording) return st;
  return gpu_fail(err, DS_ERR_STATE,
                  "%s can't be recorded: this stream records a graph until it is ended", what);
}

/* Whether the device itself has failed, so that every call does from now on. */
static bool is_lost(ds_stream *s) {
  (void)gpuGetLastError();
  const gpuError_t state = gpuStreamQuery(s->handle);
  (void)gpuGetLastError();
  return state != gpuSuccess && state != gpuErrorNotReady;
}

ds_status gpu_given(ds_stream *s, gpuError_t code, const char *what, ds_error *err) {
  if (code == gpuSuccess) {
    s->given = what;
    s->position++;
    return DS_OK;
  }
  /* A stream that records can't be asked; should the device be lost, the next call finds it. */
  if (s->recording || !is_lost(s)) return gpu_check(code, what, err);
  gpu_fate_end_here(s->fate, DS_ERR_DEVICE,
                    "the device failed: %s (%s), seen at %s; the last work given to this stream "
                    "before was %s",
                    gpuGetErrorName(code), gpuGetErrorString(code), what,
                    s->given ? s->given : "none");
  return report_end(s, err);
}

ds_status gpu_done(ds_stream *s, ds_status st, const ds_error *err) {
  /* A call that is refused is left out, and the recording goes on. */
  bool refused = st == DS_ERR_STATE || st == DS_ERR_UNSUPPORTED || st == DS_ERR_INVALID;
  if (st == DS_OK || refused || !s->recording || s->record_failure.status != DS_OK) return st;
  if (err != NULL)
    s->record_failure = *err;
  else
    gpu_fail(&s->record_failure, st, "work failed while it was recorded");
  s->record_failure.status = st;
  return st;
}

ds_status gpu_kill(ds_stream *s, ds_status status, ds_error *err, const char *format, ...) {
  char why[600];
  va_list args;
  va_start(args, format);
  vsnprintf(why, sizeof why, format, args);
  va_end(args);
  gpu_fate_end(s->fate, s->position + 1, status, "%s", why);
  return gpu_fate_check(s->fate, err);
}
