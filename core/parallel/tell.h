/* tell.h - what ranks tell each other: bytes of host memory, now and then (at the start, at a
 * checkpoint). Through device memory that is taken for the call, and waited for; not for a step.
 * In a world of one they do nothing. All are collective over the world. */
#ifndef DS_PARALLEL_TELL_H
#define DS_PARALLEL_TELL_H

#include "parallel/world.h"

/* Rank root's n bytes to all; n is the same everywhere. */
DS_MUST_USE ds_status ds_tell_all(ds_world *w, int root, void *bytes, size_t n, ds_error *err);

/* The lowest rank whose `speaks` is true, and its n bytes to all; -1: none. In a world of one, 0 or
 * -1. n is the same everywhere. */
DS_MUST_USE ds_status ds_tell_first(ds_world *w, bool speaks, void *bytes, size_t n, int *rank,
                                    ds_error *err);

#endif
