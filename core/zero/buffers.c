#include "zero/buffers.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

void ds_buffers_init(ds_buffers *p, ds_backend *b) {
  *p = (ds_buffers){.backend = b};
}

static void drop(ds_buffers *p, size_t i) {
  ds_buffer *b = p->list[i];
  ds_backend_free(p->backend, b->data, b->bytes);
  ds_mark_destroy(b->used);
  p->held -= b->bytes;
  free(b);
  p->list[i] = p->list[--p->n];
}

void ds_buffers_finish(ds_buffers *p) {
  while (p->n > 0) drop(p, p->n - 1);
  free(p->list);
  memset(p, 0, sizeof *p);
}

ds_status ds_buffers_revive(ds_buffers *p, ds_error *err) {
  for (size_t i = 0; i < p->n; i++) {
    p->list[i]->lent = false;
    DS_TRY(ds_mark_set(p->list[i]->used, NULL, err));
  }
  return DS_OK;
}

static void drop_unused(ds_buffers *p) {
  for (size_t i = p->n; i-- > 0;) {
    ds_error ignored;
    if (p->list[i]->lent) continue;
    /* The backend's free waits for its own stream; others are waited for here. */
    if (ds_mark_sync(p->list[i]->used, &ignored) != DS_OK) continue;
    drop(p, i);
  }
}

static ds_status make(ds_buffers *p, size_t bytes, ds_buffer **out, ds_error *err) {
  DS_TRY(ds_reserve(&p->list, &p->capacity, p->n + 1, sizeof *p->list, "buffers", err));
  ds_buffer *b = calloc(1, sizeof *b);
  if (!b) return ds_fail_memory(err, "buffers");
  ds_status status = ds_mark_create(p->backend, &b->used, err);
  if (status == DS_OK) {
    status = ds_backend_alloc(p->backend, bytes, &b->data, err);
    if (status == DS_ERR_MEMORY) {
      drop_unused(p);
      status = ds_backend_alloc(p->backend, bytes, &b->data, err);
    }
  }
  if (status != DS_OK) {
    ds_mark_destroy(b->used);
    free(b);
    return status;
  }
  b->bytes = bytes;
  p->list[p->n++] = b;
  p->held += bytes;
  if (p->held > p->peak) p->peak = p->held;
  *out = b;
  return DS_OK;
}

ds_status ds_buffers_take(ds_buffers *p, size_t bytes, ds_side *on, ds_buffer **out,
                          ds_error *err) {
  ds_buffer *b = NULL;
  *out = NULL;
  for (size_t i = 0; i < p->n && !b; i++)
    if (!p->list[i]->lent && p->list[i]->bytes == bytes) b = p->list[i];
  if (!b)
    DS_TRY(make(p, bytes, &b, err));
  else
    DS_TRY(ds_mark_wait(b->used, on, err));
  b->lent = true;
  *out = b;
  return DS_OK;
}

ds_status ds_buffers_give(ds_buffers *p, ds_buffer *buffer, ds_side *by, ds_error *err) {
  (void)p;
  if (!buffer) return DS_OK;
  buffer->lent = false;
  return ds_mark_set(buffer->used, by, err);
}
