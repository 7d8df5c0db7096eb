/* buffers.h - device memory that is lent for a while, again and again, in the order of streams.
 *
 * What is given back is lent again once the work that still uses it is done: the streams wait for
 * that, not the host. From the second step of the same shape on nothing is allocated.
 */
#ifndef DS_ZERO_BUFFERS_H
#define DS_ZERO_BUFFERS_H

#include "backend/side.h"

typedef struct ds_buffer {
  void *data;
  size_t bytes;
  bool lent;
  ds_mark *used; /* what was done with it before it was given back */
} ds_buffer;

typedef struct ds_buffers {
  ds_backend *backend;
  ds_buffer **list;
  size_t n, capacity;
  size_t held, peak; /* bytes */
} ds_buffers;

void ds_buffers_init(ds_buffers *p, ds_backend *b);
/* No work may still use any of them. */
void ds_buffers_finish(ds_buffers *p);
/* All are back, and no stream works with them: marks of streams that died are forgotten. */
DS_MUST_USE ds_status ds_buffers_revive(ds_buffers *p, ds_error *err);
/* For work given to `on` (NULL: the backend's stream) from now on. Contents unspecified. *out is NULL on failure. Where the
 * device has no memory left, what isn't lent is freed first. */
DS_MUST_USE ds_status ds_buffers_take(ds_buffers *p, size_t bytes, ds_side *on, ds_buffer **out,
                                      ds_error *err);
/* Work given to `by` so far, and to no other stream that `by` hasn't waited for, may still use it.
 * NULL is allowed. */
DS_MUST_USE ds_status ds_buffers_give(ds_buffers *p, ds_buffer *buffer, ds_side *by, ds_error *err);

#endif
