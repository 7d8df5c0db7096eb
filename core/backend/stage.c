#include "backend/stage.h"

#include <stdlib.h>

#include "backend/describe.h"

#define ALIGNMENT 64u

bool ds_stage_add(ds_stage *s, uintptr_t lo, uintptr_t hi, bool written) {
  if (lo == hi) return true;
  /* Whatever overlaps the new range is swallowed by it. */
  for (int i = 0; i < s->count;) {
    ds_stage_range *r = &s->ranges[i];
    if (r->hi <= lo || hi <= r->lo) {
      i++;
      continue;
    }
    if (r->lo < lo) lo = r->lo;
    if (r->hi > hi) hi = r->hi;
    written |= r->written;
    *r = s->ranges[--s->count];
    i = 0;
  }
  if (s->count == DS_STAGE_MAX) return false;
  s->ranges[s->count++] = (ds_stage_range){lo, hi, written, 0};
  return true;
}

ds_status ds_stage_add_tensor(ds_stage *s, const ds_backend *b, const ds_tensor *t, bool written,
                              const char *what, ds_error *err) {
  uintptr_t lo, hi;
  if (ds_backend_host_accessible(b)) return DS_OK;
  bool good = ds_describe_range(t, &lo, &hi) && (lo == hi || t->data);
  if (good && ds_stage_add(s, lo, hi, written)) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "%s: %s has no data or an impossible extent", b->label, what);
}

ds_status ds_stage_reserve(ds_backend *b, size_t bytes, ds_error *err) {
  if (bytes <= b->staging_size) return DS_OK;
  void *p = NULL;
  free(b->staging); /* first, so that there are never two */
  b->staging = NULL;
  b->staging_size = 0;
  if (posix_memalign(&p, ALIGNMENT, bytes) != 0) {
    return ds_fail(err, DS_ERR_MEMORY,
                   "%s: out of host memory: bringing tensors to the host needs %zu bytes", b->label,
                   bytes);
  }
  b->staging = p;
  b->staging_size = bytes;
  return DS_OK;
}

ds_status ds_stage_in(ds_stage *s, ds_backend *b, size_t scratch, ds_error *err) {
  size_t at = 0;
  for (int i = 0; i < s->count; i++) {
    ds_stage_range *r = &s->ranges[i];
    /* The same place within a cache line as on the device keeps every element aligned. */
    r->at = at + r->lo % ALIGNMENT;
    if (__builtin_add_overflow(r->at, (size_t)(r->hi - r->lo) + ALIGNMENT, &at)) {
      return ds_fail(err, DS_ERR_MEMORY, "%s: tensors too large to stage on the host", b->label);
    }
    at -= at % ALIGNMENT;
  }
  s->bytes = at;
  if (__builtin_add_overflow(at, scratch, &at)) {
    return ds_fail(err, DS_ERR_MEMORY, "%s: tensors too large to stage on the host", b->label);
  }
  DS_TRY(ds_stage_reserve(b, at, err));
  /* Straight through the table: it counts as part of the op, not as transfers. */
  const ds_device_table *t = b->plugin->device;
  DS_BLANK_ERROR(e);
  ds_status status = t->stream_sync(b->stream, &e);
  for (int i = 0; i < s->count && status == DS_OK; i++) {
    const ds_stage_range *r = &s->ranges[i];
    status = t->download(b->stream, b->staging + r->at, (const void *)r->lo, r->hi - r->lo, &e);
  }
  return status == DS_OK ? DS_OK
                         : ds_device_wrap(b, "bringing tensors to the host", &e, status, err);
}

void *ds_stage_host(const ds_stage *s, const ds_backend *b, const void *p) {
  uintptr_t address = (uintptr_t)p;
  for (int i = 0; i < s->count; i++) {
    const ds_stage_range *r = &s->ranges[i];
    if (address >= r->lo && address < r->hi) return b->staging + r->at + (address - r->lo);
  }
  return (void *)address;
}

ds_status ds_stage_out(const ds_stage *s, ds_backend *b, ds_error *err) {
  const ds_device_table *t = b->plugin->device;
  DS_BLANK_ERROR(e);
  ds_status status = DS_OK;
  for (int i = 0; i < s->count && status == DS_OK; i++) {
    const ds_stage_range *r = &s->ranges[i];
    if (!r->written) continue;
    status = t->upload(b->stream, (void *)r->lo, b->staging + r->at, r->hi - r->lo, &e);
  }
  return status == DS_OK ? DS_OK : ds_device_wrap(b, "bringing results back", &e, status, err);
}
