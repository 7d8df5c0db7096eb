/* embedding.c - rows of a table by id, and back; rows to places by number. */
#include "kernel.h"
#include "simd.h"

typedef struct lookup {
  const int32_t *ids;
  const void *table;
  void *y;
  int64_t rows, width; /* of the table */
  int dtype;
} lookup;

static void lookup_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const lookup *a = ctx;
  const int64_t bytes = a->width * dtype_size(a->dtype);
  (void)part;
  for (int64_t r = lo; r < hi; r++) {
    const int64_t id = a->ids[r];
    char *y = (char *)a->y + r * bytes;
    if (id >= 0 && id < a->rows)
      memcpy(y, (const char *)a->table + id * bytes, (size_t)bytes);
    else
      for (int64_t c = 0; c < a->width; c++) st1(y, c, a->dtype, __builtin_nanf(""));
  }
}

static void look_up(const ds_tensor *ids, const ds_tensor *table, const ds_tensor *y, int threads) {
  lookup a = {.ids = ids->data,
              .table = table->data,
              .y = y->data,
              .width = y->shape[y->rank - 1],
              .dtype = y->dtype};
  if (ds_cpu_numel(y) == 0) return;
  a.rows = ds_cpu_numel(table) / a.width;
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)ds_cpu_numel(y)), ds_cpu_numel(ids), 1,
                 lookup_range, &a);
}

void K(embedding)(const ds_op *op, int threads) {
  look_up(op->in[0], op->in[1], op->out[0], threads);
}

void K(gather_rows)(const ds_op *op, int threads) {
  look_up(op->in[1], op->in[0], op->out[0], threads);
}

/* ---- rows to places by number */

typedef struct append {
  const ds_tensor *x, *y;
  const int32_t *at;
} append;

static void append_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const append *a = ctx;
  const ds_tensor *x = a->x, *y = a->y;
  const int64_t size = dtype_size(x->dtype), bytes = x->shape[3] * size;
  (void)part;
  for (int64_t i = lo; i < hi; i++) {
    const int64_t b = i / x->shape[1], t = i % x->shape[1], to = a->at[b] + t;
    if (to < 0 || to >= y->shape[1]) continue;
    const char *from = (const char *)x->data + (b * x->stride[0] + t * x->stride[1]) * size;
    char *into = (char *)y->data + (b * y->stride[0] + to * y->stride[1]) * size;
    for (int64_t g = 0; g < x->shape[2]; g++)
      memcpy(into + g * y->stride[2] * size, from + g * x->stride[2] * size, (size_t)bytes);
  }
}

void K(append_rows)(const ds_op *op, int threads) {
  const append a = {.x = op->in[0], .y = op->out[0], .at = op->in[1]->data};
  const int64_t n = ds_cpu_numel(a.x);
  if (n == 0 || ds_cpu_numel(a.y) == 0) return;
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)n), a.x->shape[0] * a.x->shape[1], 1,
                 append_range, &a);
}

/* ---- backward: a part owns a slice of columns, so that no two parts meet in one element however
 * the ids repeat, and every element takes its rows in order */

typedef struct scatter {
  const int32_t *ids;
  const void *dy;
  float *dtable;
  int64_t count, rows, width;
  int dtype;
} scatter;

static void zero_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  memset(((const scatter *)ctx)->dtable + lo, 0, (size_t)(hi - lo) * sizeof(float));
}

INLINE void scatter_columns(const scatter *a, int64_t lo, int64_t hi, int dt) {
  for (int64_t r = 0; r < a->count; r++) {
    const int64_t id = a->ids[r];
    if (id < 0 || id >= a->rows) continue;
    float *row = a->dtable + id * a->width;
    VLOOP(c, n, lo, hi,
          { st(row, c, n, DS_F32, ld(row, c, n, DS_F32) + ld(a->dy, r * a->width + c, n, dt)); });
  }
}

static void scatter_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const scatter *a = ctx;
  (void)part;
  if (lo == hi) return;
  if (a->dtype == DS_BF16)
    scatter_columns(a, lo, hi, DS_BF16);
  else
    scatter_columns(a, lo, hi, DS_F32);
}

void K(embedding_backward)(const ds_op *op, int threads) {
  const ds_tensor *ids = op->in[0], *dy = op->in[1], *dtable = op->out[0];
  const int64_t n = ds_cpu_numel(dtable);
  scatter a = {.ids = ids->data,
               .dy = dy->data,
               .dtable = dtable->data,
               .count = ds_cpu_numel(ids),
               .width = dtable->shape[dtable->rank - 1],
               .dtype = dy->dtype};
  if (n == 0) return;
  a.rows = n / a.width;
  if (!ds_cpu_accumulates(op, 0))
    parallel_range(ds_cpu_parts(threads, 4.0 * (double)n), n, 1024, zero_range, &a);
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)ds_cpu_numel(dy)), a.width, 32, scatter_range,
                 &a);
}
