/* memory.c - blocks of device memory, poison, and the ranges that work names. */
#include "strict.h"

#include "backend/describe.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

/* Beyond what any process can map: touching such an address faults. */
#define SHIFT ((uintptr_t)1 << 53)

/* NaN in every float type, -1 in every integer. */
#define POISON 0xff

static uintptr_t shift(const ds_device *d) {
  return d->options.accessible ? 0 : SHIFT;
}

void *strict_host_address(const ds_device *d, const void *p) {
  uintptr_t at = (uintptr_t)p; /* NULL, or memory of host_alloc, stands for itself */
  return (void *)(at < shift(d) ? at : at - shift(d));
}

void strict_poison(const ds_device *d, uintptr_t lo, uintptr_t hi) {
  memset(strict_host_address(d, (void *)lo), POISON, hi - lo);
}

strict_block *strict_find_block(ds_device *d, uintptr_t lo, uintptr_t hi, bool host) {
  strict_block *b = d->blocks;
  while (b && !(b->host == host && lo >= b->lo && hi <= b->hi)) b = b->next;
  if (b && hi > b->poisoned) {
    strict_poison(d, b->poisoned, hi);
    b->poisoned = hi;
  }
  return b;
}

ds_status strict_alloc(ds_device *d, size_t bytes, bool host, void **out, ds_error *err) {
  if (bytes == 0) return strict_fail(err, DS_ERR_INVALID, "strict: alloc of 0 bytes");
  strict_block *b = malloc(sizeof *b);
  void *p = NULL;
  if (!b || bytes > (size_t)1 << 40 || posix_memalign(&p, 64, bytes) != 0) {
    free(b);
    return strict_fail(err, DS_ERR_MEMORY, "strict: alloc: no %zu bytes left", bytes);
  }
  b->host = host;
  b->lo = (uintptr_t)p + (host ? 0 : shift(d));
  b->hi = b->lo + bytes;
  b->next = d->blocks;
  d->blocks = b;
  b->poisoned = b->lo;
  if (d->options.accessible || host) strict_find_block(d, b->lo, b->hi, host);
  *out = (void *)b->lo;
  return DS_OK;
}

/* Work of any stream that names the block and is not known to be done. */
static const strict_task *pending_use(const ds_device *d, const strict_block *b, int *stream) {
  const strict_range whole = {b->lo, b->hi, true, false, b->host};
  for (int i = 0; i < d->n_streams; i++)
    for (const strict_task *t = d->streams[i]->first; t; t = t->next)
      for (int k = 0; k < t->n_ranges; k++)
        if (t->seq > d->known[i] && strict_overlap(&t->ranges[k], &whole)) {
          *stream = i;
          return t;
        }
  return NULL;
}

static void unlink_block(ds_device *d, const strict_block *b) {
  strict_block **at = &d->blocks;
  while (*at != b) at = &(*at)->next;
  *at = b->next;
}

void strict_doom(ds_device *d, strict_block *b) {
  unlink_block(d, b);
  b->next = d->doomed;
  d->doomed = b;
}

void strict_free(ds_device *d, void *p, bool host) {
  strict_block **at = &d->blocks;
  while (*at && ((*at)->lo != (uintptr_t)p || (*at)->host != host)) at = &(*at)->next;
  strict_block *b = *at;
  if (!b) {
    strict_violation(d, NULL, NULL, "free of %p, which is no allocation", p);
    return;
  }
  int stream = 0;
  const strict_task *t = pending_use(d, b, &stream);
  if (t) {
    strict_violation(d, d->streams[stream], NULL,
                     "free of %zu bytes that %s on stream %d, not waited for, still uses",
                     (size_t)(b->hi - b->lo), t->name, stream);
  }
  const strict_task *recorded = strict_recorded_use(d, b);
  if (recorded) {
    strict_violation(d, NULL, NULL,
                     "free of %zu bytes that the %s of a graph, not destroyed, names",
                     (size_t)(b->hi - b->lo), recorded->name);
  }
  strict_poison(d, b->lo, b->poisoned);
  if (t) { /* work must not crash before this is told */
    strict_doom(d, b);
    return;
  }
  *at = b->next;
  free(strict_host_address(d, p));
  free(b);
}

bool strict_overlap(const strict_range *a, const strict_range *b) {
  return a->lo < b->hi && b->lo < a->hi && (a->write || b->write);
}

void strict_name_range(strict_task *t, const void *p, size_t bytes, bool write, bool fresh) {
  if (bytes == 0 || !p) return;
  if (t->n_ranges == STRICT_RANGES) {
    t->broken = "names too many tensors";
    return;
  }
  uintptr_t lo = (uintptr_t)p;
  t->ranges[t->n_ranges++] = (strict_range){lo, lo + bytes, write, fresh, false};
}

void strict_name_host_range(strict_task *t, const void *p, size_t bytes, bool write) {
  strict_name_range(t, p, bytes, write, write);
  t->ranges[t->n_ranges - 1].host = true;
}

/* ---- tensors */

static void mark(const ds_tensor *t, int32_t dim, uintptr_t at, uintptr_t lo, size_t size,
                 unsigned char bit, unsigned char *map, bool *met) {
  if (dim == t->rank) {
    for (size_t i = 0; i < size; i++) {
      *met |= (map[at - lo + i] & ~bit) != 0;
      map[at - lo + i] |= bit;
    }
    return;
  }
  for (int64_t i = 0; i < t->shape[dim]; i++)
    mark(t, dim + 1, at + (uintptr_t)(i * t->stride[dim]) * size, lo, size, bit, map, met);
}

/* Whether two tensors have an element in common; interleaved ones have none. */
static bool share_elements(const ds_tensor *a, const ds_tensor *b) {
  uintptr_t alo, ahi, blo, bhi;
  if (!ds_describe_range(a, &alo, &ahi) || !ds_describe_range(b, &blo, &bhi)) return true;
  if (alo == ahi || blo == bhi || ahi <= blo || bhi <= alo) return false;
  if (ds_tensor_is_contiguous(a) && ds_tensor_is_contiguous(b)) return true;
  uintptr_t lo = alo < blo ? alo : blo, hi = ahi > bhi ? ahi : bhi;
  unsigned char *map = calloc(hi - lo, 1);
  bool met = false;
  if (!map) return false;
  mark(a, 0, (uintptr_t)a->data, lo, ds_dtype_size(a->dtype), 1, map, &met);
  mark(b, 0, (uintptr_t)b->data, lo, ds_dtype_size(b->dtype), 2, map, &met);
  free(map);
  return met;
}

static void name_tensor(strict_task *t, const ds_tensor *x, bool write, bool fresh) {
  uintptr_t lo, hi;
  if (!ds_describe_range(x, &lo, &hi)) {
    t->broken = "has a tensor of impossible extent";
    return;
  }
  if (lo != hi && (uintptr_t)x->data % ds_dtype_size(x->dtype) != 0)
    t->broken = "has a tensor that is not aligned to its element";
  strict_name_range(t, (void *)lo, hi - lo, write, fresh);
}

void strict_name_tensors(strict_task *t, const ds_tensor *const *in, uint32_t n_in,
                         const ds_tensor *const *out, uint32_t n_out, uint32_t accumulate) {
  for (uint32_t i = 0; i < n_in; i++)
    if (in[i]) name_tensor(t, in[i], false, false);
  for (uint32_t o = 0; o < n_out; o++) {
    if (!out[o]) continue;
    bool fresh = ds_tensor_is_contiguous(out[o]) && !(accumulate >> o & 1u);
    for (uint32_t i = 0; i < n_in; i++) {
      if (!in[i] || !share_elements(out[o], in[i])) continue;
      fresh = false;
      /* The whole of an input may be an output, where the op allows; the reference looks. */
      if (in[i]->data != out[o]->data || ds_tensor_numel(in[i]) != ds_tensor_numel(out[o]))
        t->broken = "has an output that overlaps an input in part";
    }
    for (uint32_t i = 0; i < o; i++)
      if (out[i] && share_elements(out[o], out[i])) t->broken = "has outputs that overlap";
    name_tensor(t, out[o], true, fresh);
  }
}
