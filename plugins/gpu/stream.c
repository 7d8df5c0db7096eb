/* stream.c - in-order queues of work: their life, and waiting for them. */
#include "device.h"
#include "scratch.h"
#include "staging.h"

#include <stdlib.h>

ds_status gpu_stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  ds_status st = gpu_use(dev, err);
  if (st != DS_OK) return st;
  ds_stream *s = calloc(1, sizeof *s);
  if (s != NULL) s->fate = gpu_fate_create();
  if (s == NULL || s->fate == NULL) {
    free(s);
    return gpu_fail(err, DS_ERR_MEMORY, "no memory for a stream");
  }
  s->dev = dev;
  st = gpu_check(gpuStreamCreate(&s->handle), "stream_create", err);
  if (st != DS_OK) {
    gpu_fate_drop(s->fate);
    free(s);
    return st;
  }
  pthread_mutex_lock(&dev->lock);
  s->after = dev->streams;
  if (s->after != NULL) s->after->before = s;
  dev->streams = s;
  pthread_mutex_unlock(&dev->lock);
  *out = s;
  return DS_OK;
}

static void unlist(ds_stream *s) {
  pthread_mutex_lock(&s->dev->lock);
  if (s->before != NULL)
    s->before->after = s->after;
  else
    s->dev->streams = s->after;
  if (s->after != NULL) s->after->before = s->before;
  pthread_mutex_unlock(&s->dev->lock);
}

/* A dead stream is waited for as well, for its staging and scratch are freed: on a lost device that is over at once,
 * and what else ends a stream makes its work end. */
void gpu_stream_destroy(ds_stream *s) {
  if (s == NULL) return;
  (void)gpu_use(s->dev, NULL);
  gpu_graph_drop(s);
  if (!s->drained && gpuStreamSynchronize(s->handle) != gpuSuccess)
    gpu_fate_end_here(s->fate, DS_ERR_DEVICE, "the device failed; the last work given was %s",
                      s->given ? s->given : "none");
  gpu_fate_leave(s->fate);
  gpu_fate_drop(s->fate);
  unlist(s);
  gpu_ring_destroy(s->ring);
  for (int i = 0; i < GPU_SCRATCH_USES; i++) gpu_block_free(s->scratch[i]);
  (void)gpuStreamDestroy(s->handle);
  (void)gpuGetLastError();
  free(s);
}

ds_status gpu_stream_sync(ds_stream *s, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "stream_sync", err);
  if (st != DS_OK) return st;
  const uint64_t position = s->position;
  const gpuError_t code = gpuStreamSynchronize(s->handle);
  if (code != gpuSuccess) {
    gpu_fate_end_here(s->fate, DS_ERR_DEVICE,
                      "the device failed: %s (%s); the last work given to this stream was %s",
                      gpuGetErrorName(code), gpuGetErrorString(code), s->given ? s->given : "none");
    return gpu_ready(s, err);
  }
  st = gpu_fate_check(s->fate, err); /* it may have ended while this waited */
  if (st == DS_OK) gpu_fate_reach(s->fate, position);
  return st;
}
