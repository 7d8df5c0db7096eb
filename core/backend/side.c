#include "backend/side.h"

#include <stdlib.h>

#include "backend/backend_impl.h"
#include "backend/span.h"

struct ds_side {
  ds_backend *backend;
  ds_stream *stream;
  ds_mark *follow, *join;
};

struct ds_mark {
  ds_backend *backend;
  ds_event *event; /* NULL: the device has no events */
};

static const ds_device_table *table(const ds_backend *b) {
  return b->plugin->device;
}

ds_stream *ds_side_stream(ds_backend *b, ds_side *s) {
  return s ? s->stream : b->stream;
}

/* ---- streams */

ds_status ds_side_create(ds_backend *b, ds_side **out, ds_error *err) {
  DS_BLANK_ERROR(e);
  *out = NULL;
  ds_side *s = calloc(1, sizeof *s);
  if (!s) return ds_fail_memory(err, "a side stream");
  s->backend = b;
  ds_status status = table(b)->stream_create(b->device, &s->stream, &e);
  if (status != DS_OK) {
    s->stream = NULL;
    status = ds_backend_wrap(b, "stream_create", &e, status, err);
  }
  if (status == DS_OK) status = ds_mark_create(b, &s->follow, err);
  if (status == DS_OK) status = ds_mark_create(b, &s->join, err);
  if (status != DS_OK) {
    ds_side_destroy(s);
    return status;
  }
  *out = s;
  return DS_OK;
}

void ds_side_destroy(ds_side *s) {
  if (!s) return;
  if (s->stream) table(s->backend)->stream_destroy(s->stream);
  ds_mark_destroy(s->follow);
  ds_mark_destroy(s->join);
  free(s);
}

bool ds_side_died(ds_side *s) {
  return s && table(s->backend)->stream_sync(s->stream, NULL) != DS_OK;
}

ds_status ds_side_revive(ds_side *s, ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_stream *fresh = NULL;
  const ds_device_table *t = table(s->backend);
  if (!ds_side_died(s)) return DS_OK;
  ds_status status = t->stream_create(s->backend->device, &fresh, &e);
  if (status != DS_OK) return ds_backend_wrap(s->backend, "stream_create", &e, status, err);
  t->stream_destroy(s->stream);
  s->stream = fresh;
  return DS_OK;
}

ds_status ds_side_follow(ds_side *s, ds_error *err) {
  DS_TRY(ds_mark_set(s->follow, NULL, err));
  return ds_mark_wait(s->follow, s, err);
}

ds_status ds_side_join(ds_side *s, ds_error *err) {
  DS_TRY(ds_mark_set(s->join, s, err));
  return ds_mark_wait(s->join, NULL, err);
}

ds_status ds_side_sync(ds_side *s, ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_status status = table(s->backend)->stream_sync(s->stream, &e);
  return ds_backend_wrap(s->backend, "sync of a side stream", &e, status, err);
}

/* ---- marks */

ds_status ds_mark_create(ds_backend *b, ds_mark **out, ds_error *err) {
  DS_BLANK_ERROR(e);
  *out = NULL;
  ds_mark *m = calloc(1, sizeof *m);
  if (!m) return ds_fail_memory(err, "a mark");
  m->backend = b;
  if (table(b)->event_create) {
    ds_status status = table(b)->event_create(b->device, &m->event, &e);
    if (status != DS_OK) {
      free(m);
      return ds_backend_wrap(b, "event_create", &e, status, err);
    }
  }
  *out = m;
  return DS_OK;
}

void ds_mark_destroy(ds_mark *m) {
  if (m && m->event) table(m->backend)->event_destroy(m->event);
  free(m);
}

ds_status ds_mark_set(ds_mark *m, ds_side *s, ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_stream *stream = ds_side_stream(m->backend, s);
  ds_status status = m->event ? table(m->backend)->event_record(m->event, stream, &e)
                              : table(m->backend)->stream_sync(stream, &e);
  return ds_backend_wrap(m->backend, m->event ? "event_record" : "sync", &e, status, err);
}

ds_status ds_mark_wait(ds_mark *m, ds_side *s, ds_error *err) {
  DS_BLANK_ERROR(e);
  if (!m->event) return DS_OK;
  ds_stream *stream = ds_side_stream(m->backend, s);
  ds_status status = table(m->backend)->event_wait(m->event, stream, &e);
  return ds_backend_wrap(m->backend, "event_wait", &e, status, err);
}

ds_status ds_mark_sync(ds_mark *m, ds_error *err) {
  DS_BLANK_ERROR(e);
  if (!m->event) return DS_OK;
  ds_status status = table(m->backend)->event_sync(m->event, &e);
  return ds_backend_wrap(m->backend, "event_sync", &e, status, err);
}

/* ---- transfers */

ds_status ds_side_copy(ds_backend *b, ds_side *s, void *dst, const void *src, size_t bytes,
                       ds_error *err) {
  DS_BLANK_ERROR(e);
  if (bytes == 0) return DS_OK;
  if (!s) return ds_backend_copy(b, dst, src, bytes, err);
  ds_status status = DS_ERR_UNSUPPORTED;
  if (table(b)->copy) status = table(b)->copy(s->stream, dst, src, bytes, &e);
  if (status != DS_ERR_UNSUPPORTED) return ds_backend_wrap(b, "device copy", &e, status, err);
  /* Through the host, by the backend's own stream. */
  DS_TRY(ds_side_join(s, err));
  DS_TRY(ds_backend_copy(b, dst, src, bytes, err));
  return ds_side_follow(s, err);
}

ds_status ds_side_upload(ds_backend *b, ds_side *s, void *dst, const void *src, size_t bytes,
                         ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_stream *stream = ds_side_stream(b, s);
  if (bytes == 0) return DS_OK;
  ds_span *span = ds_span_begin_transfer(b, s, "upload", bytes);
  ds_status status = table(b)->upload_async ? table(b)->upload_async(stream, dst, src, bytes, &e)
                                            : table(b)->upload(stream, dst, src, bytes, &e);
  ds_span_end(span);
  return ds_backend_wrap(b, "upload", &e, status, err);
}

ds_status ds_side_download(ds_backend *b, ds_side *s, void *dst, const void *src, size_t bytes,
                           ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_stream *stream = ds_side_stream(b, s);
  if (bytes == 0) return DS_OK;
  ds_span *span = ds_span_begin_transfer(b, s, "download", bytes);
  ds_status status = table(b)->download_async
                         ? table(b)->download_async(stream, dst, src, bytes, &e)
                         : table(b)->download(stream, dst, src, bytes, &e);
  ds_span_end(span);
  return ds_backend_wrap(b, "download", &e, status, err);
}

ds_status ds_host_alloc(ds_backend *b, size_t bytes, void **out, ds_error *err) {
  DS_BLANK_ERROR(e);
  *out = NULL;
  if (table(b)->host_alloc) {
    ds_status status = table(b)->host_alloc(b->device, bytes, out, &e);
    if (status != DS_OK) *out = NULL;
    return ds_backend_wrap(b, "host_alloc", &e, status, err);
  }
  if (bytes > SIZE_MAX - 63) return ds_fail_memory(err, "host memory");
  *out = aligned_alloc(64, (bytes + 63) / 64 * 64);
  return *out ? DS_OK : ds_fail_memory(err, "host memory");
}

void ds_host_free(ds_backend *b, void *p) {
  if (p && table(b)->host_alloc)
    table(b)->host_free(b->device, p);
  else
    free(p);
}
