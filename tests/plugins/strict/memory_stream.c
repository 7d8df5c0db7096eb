/* memory_stream.c - memory of the host that work reads and writes late, and memory in the order of a
 * stream. */
#include "strict.h"

#include <string.h>

static ds_status out_of_memory(ds_error *err) {
  return strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
}

ds_status strict_host_alloc(ds_device *d, size_t bytes, void **out, ds_error *err) {
  ds_status status = strict_enter_device(d, "host_alloc", err);
  if (status != DS_OK) return status;
  status = strict_alloc(d, bytes, true, out, err);
  strict_leave_device(d);
  return status;
}

void strict_host_free(ds_device *d, void *p) {
  if (!p || !strict_enter_quietly(d, "host_free")) return;
  strict_free(d, p, true);
  strict_leave_device(d);
}

static ds_status run_move(strict_task *t, ds_device *d, ds_error *err) {
  (void)err;
  memcpy(strict_host_address(d, t->u.move.dst), strict_host_address(d, t->u.move.src),
         t->u.move.bytes);
  return DS_OK;
}

static ds_status move(ds_stream *s, const char *name, void *dst, const void *src, size_t bytes,
                      bool up, ds_error *err) {
  ds_status status = strict_enter(s, name, err);
  if (status != DS_OK) return status;
  strict_task *t = bytes > 0 ? strict_task_new(name, run_move) : NULL;
  if (t) {
    t->u.move.dst = dst;
    t->u.move.src = src;
    t->u.move.bytes = bytes;
    strict_name_range(t, up ? dst : src, bytes, up, up);
    strict_name_host_range(t, up ? src : dst, bytes, !up);
    status = strict_submit(s, t, err);
  } else if (bytes > 0) {
    status = out_of_memory(err);
  }
  strict_leave(s);
  return status;
}

ds_status strict_upload_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                              ds_error *err) {
  return move(s, "upload_async", dst, src, bytes, true, err);
}

ds_status strict_download_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                                ds_error *err) {
  return move(s, "download_async", dst, src, bytes, false, err);
}

/* ---- memory in the order of a stream */

static ds_status run_nothing(strict_task *t, ds_device *d, ds_error *err) {
  (void)t;
  (void)d;
  (void)err;
  return DS_OK;
}

/* Work that writes all of p, so that what nothing orders before or after it is found. */
static ds_status give_mark(ds_stream *s, const char *name, const strict_block *b, ds_error *err) {
  strict_task *t = strict_task_new(name, run_nothing);
  if (!t) return out_of_memory(err);
  strict_name_range(t, (void *)b->lo, b->hi - b->lo, true, true);
  return strict_submit(s, t, err);
}

ds_status strict_stream_alloc(ds_stream *s, size_t bytes, void **out, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "stream_alloc", err);
  if (status != DS_OK) return status;
  status = strict_alloc(s->device, bytes, false, out, err);
  if (status == DS_OK) {
    uintptr_t lo = (uintptr_t)*out;
    const strict_block *b = strict_find_block(s->device, lo, lo + bytes, false);
    status = give_mark(s, "stream_alloc", b, err);
    if (status != DS_OK) strict_free(s->device, *out, false);
  }
  strict_leave(s);
  return status;
}

static strict_block *block_at(const ds_device *d, const void *p) {
  strict_block *b = d->blocks;
  while (b && (b->host || b->lo != (uintptr_t)p)) b = b->next;
  return b;
}

ds_status strict_stream_free(ds_stream *s, void *p, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "stream_free", err);
  if (status != DS_OK) return status;
  strict_block *b = p ? block_at(s->device, p) : NULL;
  if (p && !b)
    status = strict_violation(s->device, s, err, "stream_free of %p, which is no allocation", p);
  if (b && strict_recorded_use(s->device, b))
    status = strict_violation(s->device, s, err, "stream_free of what a graph names");
  if (b && status == DS_OK) {
    status = give_mark(s, "stream_free", b, err);
    if (status == DS_OK) strict_doom(s->device, b);
  }
  strict_leave(s);
  return status;
}
