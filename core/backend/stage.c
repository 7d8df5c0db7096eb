#include "backend/stage.h"

#include <stdlib.h>

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

static ds_status reserve(ds_backend *b, size_t bytes, ds_error *err) {
  if (bytes <= b->staging_size) return DS_OK;
  void *p = NULL;
  if (posix_memalign(&p, ALIGNMENT, bytes) != 0) {
    return ds_fail(err, DS_ERR_MEMORY,
                   "%s: out of host memory: staging for the reference needs %zu bytes", b->label,
                   bytes);
  }
  free(b->staging);
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
  DS_TRY(reserve(b, at, err));
  for (int i = 0; i < s->count; i++) {
    const ds_stage_range *r = &s->ranges[i];
    DS_TRY(ds_backend_download(b, b->staging + r->at, (const void *)r->lo, r->hi - r->lo, err));
  }
  return DS_OK;
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
  for (int i = 0; i < s->count; i++) {
    const ds_stage_range *r = &s->ranges[i];
    if (!r->written) continue;
    DS_TRY(ds_backend_upload(b, (void *)r->lo, b->staging + r->at, r->hi - r->lo, err));
  }
  return DS_OK;
}
