/* device.c - the device table: devices, memory, streams, transfers, events. */
#include "strict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_status out_of_memory(ds_error *err) {
  return strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
}

/* ---- devices */

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)reason_out;
  (void)err;
  *count_out = STRICT_DEVICES;
  return DS_OK;
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  strict_options o;
  if (index < 0 || index >= STRICT_DEVICES)
    return strict_fail(err, DS_ERR_NOT_FOUND, "strict: no device %d", index);
  ds_status status = strict_options_parse(options, &o, err);
  if (status != DS_OK) return status;
  ds_device *d = calloc(1, sizeof *d);
  if (!d) return out_of_memory(err);
  d->index = index;
  d->options = o;
  d->random = (o.seed + 1) * 0x9e3779b97f4a7c15u;
  pthread_mutex_init(&d->lock, NULL);
  pthread_cond_init(&d->work, NULL);
  pthread_cond_init(&d->progress, NULL);
  if (pthread_create(&d->worker, NULL, strict_worker, d) != 0) {
    free(d);
    return out_of_memory(err);
  }
  strict_register(d);
  *out = d;
  return DS_OK;
}

static void report_leaks(ds_device *d) {
  size_t blocks = 0, bytes = 0;
  int streams = 0, events = 0, comms = 0, graphs = 0;
  for (const strict_block *b = d->blocks; b; b = b->next, blocks++) bytes += b->hi - b->lo;
  for (int i = 0; i < d->n_streams; i++) streams += !d->streams[i]->destroyed;
  for (const ds_event *e = d->events; e; e = e->next) events += !e->destroyed;
  for (const ds_comm *c = d->comms; c; c = c->next) comms += !c->destroyed;
  for (const ds_graph *g = d->graphs; g; g = g->next) graphs += !g->destroyed;
  if (blocks || streams || events || comms || graphs)
    strict_violation(d, NULL, NULL,
                     "close with %zu allocations (%zu bytes), %d streams, %d events, %d "
                     "communicators and %d graphs not given back",
                     blocks, bytes, streams, events, comms, graphs);
}

static void free_blocks(ds_device *d, strict_block **list) {
  while (*list) {
    strict_block *b = *list;
    *list = b->next;
    free(strict_host_address(d, (void *)b->lo));
    free(b);
  }
}

/* The device itself stays, so that a call on it is found out; what it held does not. */
static void release(ds_device *d) {
  free_blocks(d, &d->blocks);
  free_blocks(d, &d->doomed);
  for (int i = 0; i < d->n_streams; i++) {
    while (d->streams[i]->first) {
      strict_task *t = d->streams[i]->first;
      d->streams[i]->first = t->next;
      strict_task_free(t);
    }
    free(d->streams[i]);
  }
  d->n_streams = 0;
  while (d->events) {
    ds_event *e = d->events;
    d->events = e->next;
    free(e);
  }
  while (d->graphs) {
    ds_graph *g = d->graphs;
    d->graphs = g->next;
    strict_graph_free(g);
  }
  while (d->comms) {
    ds_comm *c = d->comms;
    d->comms = c->next;
    free(c);
  }
}

static void device_close(ds_device *d) {
  char text[128];
  if (!d || !strict_enter_quietly(d, "close")) return;
  report_leaks(d);
  d->stop = true;
  pthread_cond_signal(&d->work);
  strict_leave_device(d);
  pthread_join(d->worker, NULL);
  snprintf(text, sizeof text, "closed: %llu calls, %llu works", (unsigned long long)d->calls,
           (unsigned long long)d->works);
  strict_host->log(strict_host->ctx, DS_LOG_INFO, text);
  d->closed = true;
  release(d);
}

static ds_status device_info(ds_device *d, ds_device_info *info, ds_error *err) {
  ds_status status = strict_enter_device(d, "info", err);
  if (status != DS_OK) return status;
  ds_device_info full = {.size = sizeof full,
                         .flags = d->options.accessible ? DS_DEVICE_HOST_ACCESSIBLE : 0,
                         .threads = 1};
  snprintf(full.name, sizeof full.name, "strict %d", d->index);
  if (info->size < full.size) full.size = info->size;
  if (full.size < sizeof full.size)
    status = strict_fail(err, DS_ERR_INVALID, "strict: info: set size before the call");
  else
    memcpy(info, &full, full.size);
  strict_leave_device(d);
  return status;
}

static ds_status device_alloc(ds_device *d, size_t bytes, void **out, ds_error *err) {
  ds_status status = strict_enter_device(d, "alloc", err);
  if (status != DS_OK) return status;
  status = strict_alloc(d, bytes, false, out, err);
  strict_leave_device(d);
  return status;
}

static void device_free(ds_device *d, void *p) {
  if (!p || !strict_enter_quietly(d, "free")) return;
  strict_free(d, p, false);
  strict_leave_device(d);
}

/* ---- streams */

static ds_status stream_create(ds_device *d, ds_stream **out, ds_error *err) {
  ds_status status = strict_enter_device(d, "stream_create", err);
  if (status != DS_OK) return status;
  ds_stream *s = d->n_streams < STRICT_STREAMS ? calloc(1, sizeof *s) : NULL;
  if (s) {
    s->device = d;
    s->index = d->n_streams;
    d->streams[d->n_streams++] = s;
    *out = s;
  }
  strict_leave_device(d);
  return s ? DS_OK : strict_fail(err, DS_ERR_MEMORY, "strict: no more streams");
}

static void stream_destroy(ds_stream *s) {
  if (!s) return;
  if (!strict_knows_stream(s) || s->destroyed) {
    strict_violation(NULL, NULL, NULL, "stream_destroy of what is no stream, or twice");
    return;
  }
  pthread_mutex_lock(&s->device->lock);
  if (s->failure.status == DS_OK) strict_wait(s->device, s->clock);
  if (s->recording) s->recording->destroyed = true;
  s->recording = NULL;
  s->destroyed = true;
  pthread_mutex_unlock(&s->device->lock);
}

static ds_status stream_sync(ds_stream *s, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "stream_sync", err);
  if (status != DS_OK) return status;
  status = strict_sync(s, err);
  strict_leave(s);
  return status;
}

/* ---- transfers */

static ds_status run_upload(strict_task *t, ds_device *d, ds_error *err) {
  (void)err;
  memcpy(strict_host_address(d, t->u.move.dst), t->bytes, t->u.move.bytes);
  return DS_OK;
}

static ds_status run_copy(strict_task *t, ds_device *d, ds_error *err) {
  (void)err;
  memcpy(strict_host_address(d, t->u.move.dst), strict_host_address(d, t->u.move.src),
         t->u.move.bytes);
  return DS_OK;
}

static ds_status run_fill(strict_task *t, ds_device *d, ds_error *err) {
  (void)err;
  memset(strict_host_address(d, t->u.move.dst), t->u.move.byte, t->u.move.bytes);
  return DS_OK;
}

/* Gives a transfer; src is a host address where `host`. */
static ds_status give(ds_stream *s, strict_task *t, void *dst, const void *src, size_t bytes,
                      bool host, ds_error *err) {
  if (!t) return out_of_memory(err);
  t->u.move.dst = dst;
  t->u.move.src = src;
  t->u.move.bytes = bytes;
  if (host) {
    t->bytes = malloc(bytes);
    if (!t->bytes) {
      strict_task_free(t);
      return out_of_memory(err);
    }
    memcpy(t->bytes, src, bytes);
  } else if (src) {
    strict_name_range(t, src, bytes, false, false);
    if (strict_overlap(&t->ranges[0],
                       &(strict_range){(uintptr_t)dst, (uintptr_t)dst + bytes, true, false, false}))
      t->broken = "between ranges that overlap";
  }
  strict_name_range(t, dst, bytes, true, true);
  return strict_submit(s, t, err);
}

static ds_status upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "upload", err);
  if (status != DS_OK) return status;
  if (bytes > 0)
    status = give(s, strict_task_new("upload", run_upload), dst, src, bytes, true, err);
  strict_leave(s);
  return status;
}

static ds_status copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status status = strict_enter(s, "copy", err);
  if (status != DS_OK) return status;
  if (bytes > 0) status = give(s, strict_task_new("copy", run_copy), dst, src, bytes, false, err);
  strict_leave(s);
  return status;
}

static ds_status fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  ds_status status = strict_enter(s, "fill", err);
  if (status != DS_OK) return status;
  strict_task *t = bytes > 0 ? strict_task_new("fill", run_fill) : NULL;
  if (t) t->u.move.byte = byte;
  if (bytes > 0) status = give(s, t, dst, NULL, bytes, false, err);
  strict_leave(s);
  return status;
}

static ds_status download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "download", err);
  if (status != DS_OK) return status;
  if (bytes > 0) {
    strict_task look = {.name = "download"};
    strict_name_range(&look, src, bytes, false, false);
    status = strict_check(s, &look, err);
  }
  if (status == DS_OK) status = strict_sync(s, err);
  if (status == DS_OK && bytes > 0) memcpy(dst, strict_host_address(s->device, src), bytes);
  strict_leave(s);
  return status;
}

/* ---- events */

static ds_status event_create(ds_device *d, ds_event **out, ds_error *err) {
  ds_status status = strict_enter_device(d, "event_create", err);
  if (status != DS_OK) return status;
  ds_event *e = calloc(1, sizeof *e);
  if (e) {
    e->device = d;
    e->next = d->events;
    d->events = e;
    *out = e;
  }
  strict_leave_device(d);
  return e ? DS_OK : out_of_memory(err);
}

/* d is locked. */
static bool knows_event(const ds_device *d, const ds_event *e) {
  const ds_event *known = d->events;
  while (known && known != e) known = known->next;
  return known && !known->destroyed;
}

static void event_destroy(ds_event *e) {
  if (!e || !strict_enter_quietly(e->device, "event_destroy")) return;
  if (e->destroyed) strict_violation(e->device, NULL, NULL, "event_destroy, twice");
  e->destroyed = true;
  strict_leave_device(e->device);
}

static ds_status enter_event(ds_event *e, ds_stream *s, const char *what, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, what, err);
  if (status != DS_OK || knows_event(s->device, e)) return status;
  status =
      strict_violation(s->device, s, err, "%s: no event of this device, or a destroyed one", what);
  strict_leave(s);
  return status;
}

static ds_status event_record(ds_event *e, ds_stream *s, ds_error *err) {
  ds_status status = enter_event(e, s, "event_record", err);
  if (status != DS_OK) return status;
  memcpy(e->clock, s->clock, sizeof e->clock);
  memcpy(e->relies, s->relies, sizeof e->relies);
  e->relies[s->index] = s->submitted;
  strict_leave(s);
  return DS_OK;
}

static uint64_t later(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

static ds_status event_wait(ds_event *e, ds_stream *s, ds_error *err) {
  ds_status status = enter_event(e, s, "event_wait", err);
  if (status != DS_OK) return status;
  for (int i = 0; i < STRICT_STREAMS; i++) {
    s->clock[i] = later(s->clock[i], e->clock[i]);
    s->relies[i] = later(s->relies[i], e->relies[i]);
  }
  strict_leave(s);
  return DS_OK;
}

static ds_status event_sync(ds_event *e, ds_error *err) {
  ds_device *d = e->device;
  ds_status status = DS_OK;
  pthread_mutex_lock(&d->lock);
  if (!knows_event(d, e))
    status = strict_violation(d, NULL, err, "event_sync of a destroyed event");
  else if (d->lost)
    status = strict_fail(err, DS_ERR_DEVICE, "strict: event_sync: the device is lost");
  else
    strict_wait(d, e->clock);
  const ds_stream *dead = status == DS_OK ? strict_failed_before(d, e->relies) : NULL;
  if (dead) status = strict_fail(err, dead->failure.status, "%s", dead->failure.message);
  pthread_mutex_unlock(&d->lock);
  return status;
}

const ds_device_table strict_device = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = upload,
    .download = download,
    .copy = copy,
    .fill = fill,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
    .host_alloc = strict_host_alloc,
    .host_free = strict_host_free,
    .upload_async = strict_upload_async,
    .download_async = strict_download_async,
    .stream_alloc = strict_stream_alloc,
    .stream_free = strict_stream_free,
};
