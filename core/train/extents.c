#include "train/extents.h"

#include "base/status.h"

typedef struct walk {
  const ds_stored *s;
  ds_extent_fn fn;
  void *ctx;
  ds_error *err;
} walk;

/* The runs of indices that are here, along the split dimension of a whole that has `size` of them. */
static int n_runs(const ds_shard *h) {
  return !h || h->dim < 0 ? 1 : h->n_runs;
}

static void get_run(const ds_shard *h, int i, int64_t size, int64_t *begin, int64_t *end) {
  bool split = h && h->dim >= 0;
  *begin = split ? h->runs[i].begin : 0;
  *end = split ? h->runs[i].end : size;
}

/* Indices here along a dimension of the whole. */
static int64_t local_size(const ds_stored *s, int dim) {
  if (!s->shard || s->shard->dim != dim) return s->whole[dim];
  int64_t n = 0;
  for (int i = 0; i < s->shard->n_runs; i++) n += s->shard->runs[i].end - s->shard->runs[i].begin;
  return n;
}

int64_t ds_stored_count(const ds_stored *s) {
  if (s->shard) return ds_shard_numel(s->shard);
  int64_t n = 1;
  for (int i = 0; i < s->rank; i++) n *= s->whole[i];
  return n;
}

static int64_t max(int64_t a, int64_t b) {
  return a > b ? a : b;
}
static int64_t min(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static ds_status emit(const walk *w, int64_t stored, int64_t local, int64_t step, int64_t n) {
  const ds_extent x = {stored, local, step, n};
  return n > 0 ? w->fn(w->ctx, &x, w->err) : DS_OK;
}

/* ---- stored as it is */

static ds_status plain(const walk *w, int64_t begin, int64_t end) {
  if (!w->s->shard) return emit(w, begin, begin, 1, end - begin);
  ds_shard_walk along;
  ds_shard_run run;
  ds_shard_walk_begin(&along, w->s->shard, w->s->whole, begin, end);
  while (ds_shard_walk_next(&along, &run)) DS_TRY(emit(w, run.whole, run.local, 1, run.count));
  return DS_OK;
}

/* ---- stored as its transpose */

/* Rows [r0, r1) of a column that is here, for one column. */
static ds_status column(const walk *w, int64_t r0, int64_t r1, int64_t c, int64_t stored_row,
                        int64_t width) {
  const ds_shard *h = w->s->shard && w->s->shard->dim == 0 ? w->s->shard : NULL;
  int64_t at = 0;
  for (int r = 0; r < n_runs(h); r++) {
    int64_t first, last;
    get_run(h, r, w->s->whole[0], &first, &last);
    int64_t from = max(r0, at), to = min(r1, at + last - first);
    if (from < to)
      DS_TRY(emit(w, stored_row * w->s->whole[0] + first + (from - at), from * width + c, width,
                  to - from));
    at += last - first;
  }
  return DS_OK;
}

static ds_status rectangle(const walk *w, int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
  const ds_shard *h = w->s->shard && w->s->shard->dim == 1 ? w->s->shard : NULL;
  int64_t width = local_size(w->s, 1), at = 0;
  if (r0 >= r1) return DS_OK;
  for (int r = 0; r < n_runs(h); r++) {
    int64_t first, last;
    get_run(h, r, w->s->whole[1], &first, &last);
    for (int64_t c = max(c0, at); c < min(c1, at + last - first); c++)
      DS_TRY(column(w, r0, r1, c, first + (c - at), width));
    at += last - first;
  }
  return DS_OK;
}

/* The end of a row, whole rows, the beginning of one. */
static ds_status turned(const walk *w, int64_t begin, int64_t end) {
  int64_t width = local_size(w->s, 1);
  if (width == 0) return DS_OK;
  int64_t r0 = begin / width, c0 = begin % width, r1 = end / width, c1 = end % width;
  if (r0 == r1) return rectangle(w, r0, r0 + 1, c0, c1);
  if (c0 > 0) DS_TRY(rectangle(w, r0, r0 + 1, c0, width));
  DS_TRY(rectangle(w, c0 > 0 ? r0 + 1 : r0, r1, 0, width));
  return c1 > 0 ? rectangle(w, r1, r1 + 1, 0, c1) : DS_OK;
}

ds_status ds_extents_each(const ds_stored *s, int64_t begin, int64_t end, ds_extent_fn fn,
                          void *ctx, ds_error *err) {
  if (begin < 0 || end < begin || end > ds_stored_count(s))
    return ds_fail(err, DS_ERR_INVALID,
                   "elements %lld to %lld of a parameter of which %lld are here", (long long)begin,
                   (long long)end, (long long)ds_stored_count(s));
  if (begin == end) return DS_OK;
  const walk w = {s, fn, ctx, err};
  return s->transposed ? turned(&w, begin, end) : plain(&w, begin, end);
}

int64_t ds_extents_block(const ds_stored *s, int64_t begin, int64_t end, int64_t room) {
  if (end - begin <= room) return end;
  int64_t stop = begin + room, width = s->transposed ? local_size(s, 1) : 1;
  int64_t rows = stop / width * width;
  return rows > begin ? rows : stop;
}
