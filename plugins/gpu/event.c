/* event.c - events: points in streams that others wait for.
 *
 * The device's event is what is waited for; whose work it stood behind is kept beside it, for the
 * device calls an event reached though the work before it was a collective that was given up. */
#include "device.h"

#include <stdlib.h>

struct ds_event {
  ds_device *dev;
  gpuEvent_t handle;
  pthread_mutex_t lock; /* of the two below: event_sync comes from any thread */
  gpu_fate *fate;       /* of the stream it was last recorded on; NULL: never */
  uint64_t at;          /* the stream's last work before it */
};

ds_status gpu_event_create(ds_device *dev, ds_event **out, ds_error *err) {
  ds_status st = gpu_use(dev, err);
  if (st != DS_OK) return st;
  ds_event *e = calloc(1, sizeof *e);
  if (e == NULL) return gpu_fail(err, DS_ERR_MEMORY, "no memory for an event");
  e->dev = dev;
  st = gpu_check(gpuEventCreate(&e->handle), "event_create", err);
  if (st != DS_OK) {
    free(e);
    return st;
  }
  pthread_mutex_init(&e->lock, NULL);
  *out = e;
  return DS_OK;
}

void gpu_event_destroy(ds_event *e) {
  if (e == NULL) return;
  (void)gpu_use(e->dev, NULL);
  (void)gpuEventDestroy(e->handle);
  (void)gpuGetLastError();
  gpu_fate_drop(e->fate);
  pthread_mutex_destroy(&e->lock);
  free(e);
}

/* The fate it stands under, as one owner more; NULL if it was never recorded. */
static gpu_fate *last(ds_event *e, uint64_t *at) {
  pthread_mutex_lock(&e->lock);
  gpu_fate *f = e->fate ? gpu_fate_hold(e->fate) : NULL;
  *at = e->at;
  pthread_mutex_unlock(&e->lock);
  return f;
}

ds_status gpu_event_record(ds_event *e, ds_stream *s, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "event_record", err);
  if (st == DS_OK) st = gpu_check(gpuEventRecord(e->handle, s->handle), "event_record", err);
  if (st != DS_OK) return st;
  pthread_mutex_lock(&e->lock);
  gpu_fate *before = e->fate;
  e->fate = gpu_fate_hold(s->fate);
  e->at = s->position;
  pthread_mutex_unlock(&e->lock);
  gpu_fate_drop(before);
  return DS_OK;
}

ds_status gpu_event_wait(ds_event *e, ds_stream *s, ds_error *err) {
  uint64_t at;
  ds_status st = gpu_ready_unrecorded(s, "event_wait", err);
  gpu_fate *f = st == DS_OK ? last(e, &at) : NULL;
  if (f == NULL) return st;
  if (f != s->fate) { /* else the stream's order says it already */
    st = gpu_given(s, gpuStreamWaitEvent(s->handle, e->handle), "event_wait", err);
    if (st == DS_OK) st = gpu_fate_follow(f, at, s->fate, s->position, err);
  }
  gpu_fate_drop(f);
  return st == DS_OK ? gpu_ready(s, err) : st;
}

ds_status gpu_event_sync(ds_event *e, ds_error *err) {
  uint64_t at;
  gpu_fate *f = last(e, &at);
  if (f == NULL) return DS_OK;
  ds_status st = gpu_use(e->dev, err);
  if (st == DS_OK) st = gpu_check(gpuEventSynchronize(e->handle), "event_sync", err);
  if (st == DS_OK) st = gpu_fate_check_at(f, at, err);
  if (st == DS_OK) gpu_fate_reach(f, at);
  gpu_fate_drop(f);
  return st;
}
