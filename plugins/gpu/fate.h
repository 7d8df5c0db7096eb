/* fate.h - how a stream ends, known to all that its end concerns.
 *
 * A stream's fate is shared by the stream, the events recorded on it and whoever watches its work: they may outlive
 * it. Work is numbered by ds_stream.position. When a fate ends at number n, the calls on its stream fail, so do
 * events recorded at n or later, and so does the fate of a stream that waits for such an event.
 *
 * The device reports its own failures at every stream and event. This is for what the device knows nothing of: a
 * collective that ran out of time, was aborted, or lost a peer. */
#ifndef DS_GPU_FATE_H
#define DS_GPU_FATE_H

#include "gpu.h"

/* NULL: no memory. One owner. All functions [any-thread]. */
gpu_fate *gpu_fate_create(void);
gpu_fate *gpu_fate_hold(gpu_fate *f); /* one owner more; f again */
void gpu_fate_drop(gpu_fate *f);      /* one less; NULL is allowed */

/* Work `from` has failed; the first failure counts. End a fate before what makes the device go on (aborting a
 * collective): whoever waits for the device must then find the failure. */
void gpu_fate_end(gpu_fate *f, uint64_t from, ds_status status, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* As gpu_fate_end, from the first work that isn't known to be done. */
void gpu_fate_end_here(gpu_fate *f, ds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Work up to `position` is done. */
void gpu_fate_reach(gpu_fate *f, uint64_t position);
/* The stream is gone: nothing concerns f any more. */
void gpu_fate_leave(gpu_fate *f);

/* DS_OK, or how f ended and err filled. */
ds_status gpu_fate_check(gpu_fate *f, ds_error *err);
/* The same for an event recorded when `at` was the last work given. */
ds_status gpu_fate_check_at(gpu_fate *f, uint64_t at, ds_error *err);
/* Work `position` of `waiter` waits for what f's stream had been given by `at`: if that fails, or has failed,
 * waiter, which is another, ends too. DS_ERR_MEMORY. */
ds_status gpu_fate_follow(gpu_fate *f, uint64_t at, gpu_fate *waiter, uint64_t position,
                          ds_error *err);

#endif
