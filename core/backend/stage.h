/* stage.h - device memory brought to the host for a call of the reference, and back.
 *
 * Ranges are collected first; those that overlap become one, so that tensors which share memory on
 * the device share it on the host. What an output covers is brought too: strided and accumulating
 * outputs keep or add to what is there. On memory that the host can reach nothing is collected,
 * and every address stands for itself.
 *
 * The host memory that this takes is the extents of one call's tensors (gaps between strided rows
 * included) and the reference's workspace, 64 bytes of padding a tensor; it is kept for the next
 * call, as large as the largest so far. In training that is adamw over the flat buffers, 16 bytes a
 * parameter and 2 more with bf16, or the product that makes the logits.
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

/* Makes b->staging at least so large, 64-byte aligned. Contents are lost. */
DS_MUST_USE ds_status ds_stage_reserve(ds_backend *b, size_t bytes, ds_error *err);
/* False when there is no room left. Empty ranges take none. */
bool ds_stage_add(ds_stage *s, uintptr_t lo, uintptr_t hi, bool written);
/* Adds what a tensor covers, unless the host can reach the device's memory. what: "scale: tensor in
 * 0", for the message when t has no data or an impossible extent. */
DS_MUST_USE ds_status ds_stage_add_tensor(ds_stage *s, const ds_backend *b, const ds_tensor *t,
                                          bool written, const char *what, ds_error *err);
/* Waits for the stream, then downloads all ranges to b->staging, grown to hold them and `scratch`
 * bytes more, which begin at b->staging + s->bytes, 64-byte aligned. */
DS_MUST_USE ds_status ds_stage_in(ds_stage *s, ds_backend *b, size_t scratch, ds_error *err);
/* The host address that stands for a device address inside a range; p itself outside of all. */
void *ds_stage_host(const ds_stage *s, const ds_backend *b, const void *p);
/* Uploads what is written. */
DS_MUST_USE ds_status ds_stage_out(const ds_stage *s, ds_backend *b, ds_error *err);

#endif
