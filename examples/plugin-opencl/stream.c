/* stream.c - in-order queues, transfers and events.
 *
 * Work is enqueued and the call returns; its event is kept until somebody waits, or until PENDING
 * have gathered, and then asked whether the work failed. The first failure is the stream's end. */
#include <stdio.h>
#include <stdlib.h>

#include "opencl.h"

/* Streams that were destroyed, for the next that are created: a queue and its kernels are slow to
 * make, and not every driver gives back all that they took. */
static struct {
  pthread_mutex_t lock;
  ds_stream *first;
} idle = {.lock = PTHREAD_MUTEX_INITIALIZER};

static ds_stream *take_idle(cl_context context) {
  pthread_mutex_lock(&idle.lock);
  ds_stream **at = &idle.first;
  while (*at && (*at)->context != context) at = &(*at)->next;
  ds_stream *s = *at;
  if (s) *at = s->next;
  pthread_mutex_unlock(&idle.lock);
  return s;
}

ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  cl_int code = CL_SUCCESS;
  ds_stream *s = take_idle(dev->context);
  if (!s) {
    s = calloc(1, sizeof *s);
    if (!s) return fail(err, DS_ERR_MEMORY, "no memory for a stream");
    s->context = dev->context;
    s->queue = clCreateCommandQueue(dev->context, dev->id, 0, &code);
  }
  if (code != CL_SUCCESS) {
    free(s);
    return fail_cl(err, code, "clCreateCommandQueue");
  }
  s->dev = dev;
  *out = s;
  return DS_OK;
}

/* Asks the first n of the pending how they ended; they have. */
static void settle(ds_stream *s, int n) {
  for (int i = 0; i < n; i++) {
    cl_int state = CL_COMPLETE;
    clGetEventInfo(s->pending[i].event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof state, &state,
                   NULL);
    clReleaseEvent(s->pending[i].event);
    if (state >= 0 || s->dead) continue;
    s->dead = DS_ERR_DEVICE;
    snprintf(s->why, sizeof s->why,
             "%s failed on the device (OpenCL error %d); this stream takes no more work",
             s->pending[i].what, state);
  }
  for (int i = n; i < s->n_pending; i++) s->pending[i - n] = s->pending[i];
  s->n_pending -= n;
}

void stream_destroy(ds_stream *s) {
  if (!s) return;
  clFinish(s->queue);
  settle(s, s->n_pending);
  if (!s->dead) {
    pthread_mutex_lock(&idle.lock);
    s->next = idle.first;
    idle.first = s;
    pthread_mutex_unlock(&idle.lock);
    return;
  }
  for (int i = 0; i < KERNEL_COUNT; i++)
    if (s->kernels[i]) clReleaseKernel(s->kernels[i]);
  clReleaseCommandQueue(s->queue);
  free(s);
}

ds_status stream_ready(ds_stream *s, ds_error *err) {
  if (s->n_pending == PENDING) { /* also bounds how far the host runs ahead */
    clWaitForEvents(1, &s->pending[PENDING / 2 - 1].event);
    settle(s, PENDING / 2);
  }
  return s->dead ? fail(err, s->dead, "%s", s->why) : DS_OK;
}

ds_status stream_given(ds_stream *s, cl_int code, cl_event event, const char *what, ds_error *err) {
  if (code != CL_SUCCESS) return fail_cl(err, code, what);
  s->pending[s->n_pending++] = (pending){event, what};
  /* Most drivers start nothing before they are told to. */
  if (s->n_pending % 16 == 0) clFlush(s->queue);
  return DS_OK;
}

ds_status stream_sync(ds_stream *s, ds_error *err) {
  const cl_int code = clFinish(s->queue);
  settle(s, s->n_pending);
  if (s->dead) return fail(err, s->dead, "%s", s->why);
  return code == CL_SUCCESS ? DS_OK : fail_cl(err, code, "clFinish");
}

/* ---------------------------------------------------------------- transfers */

static ds_status find(ds_stream *s, const void *p, size_t bytes, cl_mem *buffer, size_t *offset,
                      ds_error *err) {
  const ds_status st = stream_ready(s, err);
  if (st != DS_OK) return st;
  if (memory_find(s->dev, p, buffer, offset)) return DS_OK;
  return fail(err, DS_ERR_INVALID, "%zu bytes at %p are no memory of this device", bytes, p);
}

/* Blocking, so that src is free again when this returns. It waits for the work before it: uploads
 * are few, a step's batch and a token's id. */
ds_status stream_upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  cl_mem buffer;
  size_t at;
  cl_event event;
  if (bytes == 0) return stream_ready(s, err);
  const ds_status st = find(s, dst, bytes, &buffer, &at, err);
  if (st != DS_OK) return st;
  const cl_int code =
      clEnqueueWriteBuffer(s->queue, buffer, CL_TRUE, at, bytes, src, 0, NULL, &event);
  return stream_given(s, code, event, "upload", err);
}

ds_status stream_download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  cl_mem buffer;
  size_t at;
  cl_event event;
  if (bytes == 0) return stream_sync(s, err);
  ds_status st = find(s, src, bytes, &buffer, &at, err);
  if (st != DS_OK) return st;
  const cl_int code =
      clEnqueueReadBuffer(s->queue, buffer, CL_FALSE, at, bytes, dst, 0, NULL, &event);
  st = stream_given(s, code, event, "download", err);
  return st == DS_OK ? stream_sync(s, err) : st;
}

ds_status stream_copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  cl_mem from, to;
  size_t from_at, to_at;
  cl_event event;
  if (bytes == 0) return stream_ready(s, err);
  ds_status st = find(s, src, bytes, &from, &from_at, err);
  if (st == DS_OK) st = find(s, dst, bytes, &to, &to_at, err);
  if (st != DS_OK) return st;
  const cl_int code =
      clEnqueueCopyBuffer(s->queue, from, to, from_at, to_at, bytes, 0, NULL, &event);
  return stream_given(s, code, event, "copy", err);
}

ds_status stream_fill_pattern(ds_stream *s, void *dst, const void *pattern, size_t size,
                              size_t bytes, ds_error *err) {
  cl_mem buffer;
  size_t at;
  cl_event event;
  if (bytes == 0) return stream_ready(s, err);
  const ds_status st = find(s, dst, bytes, &buffer, &at, err);
  if (st != DS_OK) return st;
  const cl_int code =
      clEnqueueFillBuffer(s->queue, buffer, pattern, size, at, bytes, 0, NULL, &event);
  return stream_given(s, code, event, "fill", err);
}

ds_status stream_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  return stream_fill_pattern(s, dst, &byte, 1, bytes, err);
}

/* ---------------------------------------------------------------- events */

ds_status event_create(ds_device *dev, ds_event **out, ds_error *err) {
  ds_event *e = calloc(1, sizeof *e);
  if (!e) return fail(err, DS_ERR_MEMORY, "no memory for an event");
  e->dev = dev;
  *out = e;
  return DS_OK;
}

void event_destroy(ds_event *e) {
  if (e && e->event) clReleaseEvent(e->event);
  free(e);
}

ds_status event_record(ds_event *e, ds_stream *s, ds_error *err) {
  cl_event event;
  const ds_status st = stream_ready(s, err);
  if (st != DS_OK) return st;
  const cl_int code = clEnqueueMarkerWithWaitList(s->queue, 0, NULL, &event);
  if (code != CL_SUCCESS) return fail_cl(err, code, "event_record");
  clFlush(s->queue); /* another queue may wait for it */
  pthread_mutex_lock(&e->dev->lock);
  cl_event before = e->event;
  e->event = event;
  pthread_mutex_unlock(&e->dev->lock);
  if (before) clReleaseEvent(before);
  return DS_OK;
}

/* What was recorded last, retained; NULL when nothing was. Another thread may record meanwhile. */
static cl_event recorded(ds_event *e) {
  pthread_mutex_lock(&e->dev->lock);
  cl_event event = e->event;
  if (event) clRetainEvent(event);
  pthread_mutex_unlock(&e->dev->lock);
  return event;
}

ds_status event_wait(ds_event *e, ds_stream *s, ds_error *err) {
  cl_event done;
  const ds_status st = stream_ready(s, err);
  cl_event event = st == DS_OK ? recorded(e) : NULL;
  if (!event) return st;
  const cl_int code = clEnqueueBarrierWithWaitList(s->queue, 1, &event, &done);
  clReleaseEvent(event);
  return stream_given(s, code, done, "event_wait", err);
}

ds_status event_sync(ds_event *e, ds_error *err) {
  cl_event event = recorded(e);
  if (!event) return DS_OK;
  const cl_int code = clWaitForEvents(1, &event);
  clReleaseEvent(event);
  return code == CL_SUCCESS ? DS_OK : fail_cl(err, code, "event_sync: the work before it failed");
}
