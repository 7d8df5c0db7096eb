/* stage.h - device memory brought to the host for a call of the reference, and back.
 *
 * Ranges are collected first; those that overlap become one, so that tensors which share memory on
 * the device share it on the host. What an output covers is brought too: strided and accumulating
 * outputs keep or add to what is there.
 */
#ifndef DS_BACKEND_STAGE_H
#define DS_BACKEND_STAGE_H

#include "backend/backend_impl.h"

enum { DS_STAGE_MAX = 16 };

typedef struct ds_stage_range {
  uintptr_t lo, hi; /* device addresses */
  bool written;
  size_t at; /* offset in the staging buffer */
} ds_stage_range;

typedef struct ds_stage { /* zero-initialize */
  ds_stage_range ranges[DS_STAGE_MAX];
  int count;
  size_t bytes; /* of the staging buffer, once brought in */
} ds_stage;

/* False when there is no room left. Empty ranges take none. */
bool ds_stage_add(ds_stage *s, uintptr_t lo, uintptr_t hi, bool written);
/* Downloads all ranges to b->staging, grown to hold them and `scratch` bytes more, which begin at
 * b->staging + s->bytes, 64-byte aligned. Waits for the stream. */
DS_MUST_USE ds_status ds_stage_in(ds_stage *s, ds_backend *b, size_t scratch, ds_error *err);
/* The host address that stands for a device address inside a range; p itself outside of all. */
void *ds_stage_host(const ds_stage *s, const ds_backend *b, const void *p);
/* Uploads what is written. */
DS_MUST_USE ds_status ds_stage_out(const ds_stage *s, ds_backend *b, ds_error *err);

#endif
