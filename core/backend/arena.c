#include "backend/arena.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };
#define MIN_CHUNK ((size_t)32 << 20)

typedef struct chunk {
  char *data;
  size_t size;
} chunk;

/* Blocks of one size that were given back. */
typedef struct shelf {
  size_t bytes;
  void **blocks;
  size_t count, capacity;
} shelf;

struct ds_arena {
  ds_backend *backend;
  chunk *chunks;
  size_t n_chunks, chunk_capacity;
  int current;
  size_t offset; /* in chunks[current] */
  size_t total;
  shelf *shelves;
  size_t n_shelves, shelf_capacity;
};

ds_status ds_arena_create(ds_backend *b, ds_arena **out, ds_error *err) {
  *out = calloc(1, sizeof **out);
  if (!*out) return ds_fail_memory(err, "an arena");
  (*out)->backend = b;
  return DS_OK;
}

void ds_arena_destroy(ds_arena *a) {
  if (!a) return;
  for (size_t i = 0; i < a->n_chunks; i++)
    ds_backend_free(a->backend, a->chunks[i].data, a->chunks[i].size);
  for (size_t i = 0; i < a->n_shelves; i++) free(a->shelves[i].blocks);
  free(a->chunks);
  free(a->shelves);
  free(a);
}

static size_t round_up(size_t bytes) {
  return bytes ? (bytes + ALIGN - 1) / ALIGN * ALIGN : (size_t)ALIGN;
}

static shelf *find_shelf(ds_arena *a, size_t bytes) {
  for (size_t i = 0; i < a->n_shelves; i++)
    if (a->shelves[i].bytes == bytes) return &a->shelves[i];
  return NULL;
}

static ds_status add_chunk(ds_arena *a, size_t bytes, ds_error *err) {
  size_t size = MIN_CHUNK;
  if (size < a->total / 2) size = a->total / 2; /* few chunks, however large the step */
  if (size < bytes) size = bytes;
  DS_TRY(ds_reserve(&a->chunks, &a->chunk_capacity, a->n_chunks + 1, sizeof *a->chunks,
                    "an arena's chunks", err));
  void *p;
  ds_status status = ds_backend_alloc(a->backend, size, &p, err);
  if (status == DS_ERR_MEMORY && size > bytes) { /* no more than is needed */
    size = bytes;
    status = ds_backend_alloc(a->backend, size, &p, err);
  }
  if (status != DS_OK) return status;
  a->chunks[a->n_chunks++] = (chunk){p, size};
  a->total += size;
  return DS_OK;
}

ds_status ds_arena_alloc(ds_arena *a, size_t bytes, void **out, ds_error *err) {
  *out = NULL;
  if (bytes > SIZE_MAX / 2) return ds_fail(err, DS_ERR_MEMORY, "a tensor of %zu bytes", bytes);
  bytes = round_up(bytes);
  shelf *s = find_shelf(a, bytes);
  if (s && s->count) {
    *out = s->blocks[--s->count];
    return DS_OK;
  }
  size_t i = (size_t)a->current, offset = a->offset;
  while (i < a->n_chunks && a->chunks[i].size - offset < bytes) {
    i++;
    offset = 0;
  }
  if (i == a->n_chunks) DS_TRY(add_chunk(a, bytes, err));
  *out = a->chunks[i].data + offset;
  a->current = (int)i;
  a->offset = offset + bytes;
  return DS_OK;
}

void ds_arena_recycle(ds_arena *a, void *p, size_t bytes) {
  bytes = round_up(bytes);
  shelf *s = find_shelf(a, bytes);
  if (!s) {
    if (ds_reserve(&a->shelves, &a->shelf_capacity, a->n_shelves + 1, sizeof *a->shelves, "",
                   NULL) != DS_OK)
      return; /* the block waits for the reset instead */
    s = &a->shelves[a->n_shelves++];
    *s = (shelf){.bytes = bytes};
  }
  if (ds_reserve(&s->blocks, &s->capacity, s->count + 1, sizeof *s->blocks, "", NULL) == DS_OK)
    s->blocks[s->count++] = p;
}

ds_arena_mark ds_arena_get_mark(const ds_arena *a) {
  return (ds_arena_mark){a->current, a->offset};
}

void ds_arena_rewind(ds_arena *a, ds_arena_mark mark) {
  a->current = mark.chunk;
  a->offset = mark.offset;
  for (size_t i = 0; i < a->n_shelves; i++) a->shelves[i].count = 0;
}

void ds_arena_reset(ds_arena *a) {
  ds_arena_rewind(a, (ds_arena_mark){0, 0});
}
