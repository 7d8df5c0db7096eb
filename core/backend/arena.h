/* arena.h - device memory for a step: bumped forward, rewound to a mark, recycled block by block in
 * between.
 *
 * Grows by chunks from the backend and keeps them, so that from the second step of the same shape
 * on nothing is allocated. Blocks given back early (ds_arena_recycle) serve later requests of the
 * same size, which keeps a backward pass in cache; a rewind or reset forgets them.
 */
#ifndef DS_BACKEND_ARENA_H
#define DS_BACKEND_ARENA_H

#include "backend/backend.h"

typedef struct ds_arena ds_arena;

typedef struct ds_arena_mark {
  int chunk;
  size_t offset;
} ds_arena_mark;

DS_MUST_USE ds_status ds_arena_create(ds_backend *b, ds_arena **out, ds_error *err);
void ds_arena_destroy(ds_arena *a);
/* 64-byte aligned; contents unspecified. bytes may be 0 (a valid address then too). */
DS_MUST_USE ds_status ds_arena_alloc(ds_arena *a, size_t bytes, void **out, ds_error *err);
/* p came from ds_arena_alloc(a, bytes) since the last reset; no work to come may use it. */
void ds_arena_recycle(ds_arena *a, void *p, size_t bytes);
ds_arena_mark ds_arena_get_mark(const ds_arena *a);
/* Everything allocated since the mark is free again. */
void ds_arena_rewind(ds_arena *a, ds_arena_mark mark);
/* Everything is free again. */
void ds_arena_reset(ds_arena *a);

#endif
