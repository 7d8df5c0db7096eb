/* staging.h - pinned memory through which upload goes, so that the caller has src back at once.
 *
 * A ring of slots. Small uploads share a slot one after another; a slot that is full is left with an event behind
 * its work, and used again when that is done. So a call waits only where the device is a whole ring behind. */
#ifndef DS_GPU_STAGING_H
#define DS_GPU_STAGING_H

#include "gpu.h"

enum { GPU_RING_SLOTS = 4, GPU_RING_SLOT_BYTES = 1 << 20 };

/* Room for `bytes` (at most a slot) that the device doesn't read any more; s->ring is made at the first call. The
 * work that reads it must be given before the next call. DS_ERR_MEMORY, DS_ERR_DEVICE. */
ds_status gpu_ring_take(ds_stream *s, size_t bytes, void **out, ds_error *err);
/* No work may use it any more. NULL is allowed. */
void gpu_ring_destroy(gpu_ring *ring);

#endif
