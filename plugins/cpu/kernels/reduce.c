/* reduce.c - sums over everything, and over rows. */
#include "kernel.h"
#include "simd.h"

/* ---- whole sums: blocks of a fixed size, added in order, so that the result is the same for any
 * number of threads */

typedef struct total {
  const void *x;
  double *blocks;
  int64_t n;
} total;

INLINE double block_sum(const total *a, int64_t block, int squares, int dt) {
  const int64_t lo = block * DS_CPU_SUM_BLOCK;
  const int64_t hi = a->n - lo < DS_CPU_SUM_BLOCK ? a->n : lo + DS_CPU_SUM_BLOCK;
  vd sum = {0};
  VLOOP(i, n, lo, hi, {
    const vf v = ld(a->x, i, n, dt);
    sum += squares ? vwiden_squares(v) : vwiden_sum(v);
  });
  return vhsumd(sum);
}

#define TOTAL(name, squares, dt)                                                                   \
  static void name(const void *ctx, int64_t lo, int64_t hi, int part) {                            \
    const total *a = ctx;                                                                          \
    (void)part;                                                                                    \
    for (int64_t b = lo; b < hi; b++) a->blocks[b] = block_sum(a, b, squares, dt);                 \
  }

TOTAL(sum_f32, 0, DS_F32)
TOTAL(sum_bf16, 0, DS_BF16)
TOTAL(squares_f32, 1, DS_F32)
TOTAL(squares_bf16, 1, DS_BF16)

static double sum_all(const ds_op *op, int threads, range_fn *f32, range_fn *bf16) {
  const ds_tensor *x = op->in[0];
  total a = {.x = x->data, .blocks = op->workspace, .n = ds_cpu_numel(x)};
  const int64_t blocks = (a.n + DS_CPU_SUM_BLOCK - 1) / DS_CPU_SUM_BLOCK;
  parallel_range(ds_cpu_parts(threads, 4.0 * (double)a.n), blocks, 1,
                 x->dtype == DS_BF16 ? bf16 : f32, &a);
  double sum = 0;
  for (int64_t b = 0; b < blocks; b++) sum += a.blocks[b];
  return sum;
}

void K(sum_squares)(const ds_op *op, int threads) {
  double *y = op->out[0]->data;
  const double sum = sum_all(op, threads, squares_f32, squares_bf16);
  *y = ds_cpu_accumulates(op, 0) ? *y + sum : sum;
}

void K(mean)(const ds_op *op, int threads) {
  const double n = (double)ds_cpu_numel(op->in[0]);
  *(float *)op->out[0]->data = (float)(sum_all(op, threads, sum_f32, sum_bf16) / n);
}

/* ---- sums over rows: a part owns a slice of columns, so that there is nothing to combine */

typedef struct columns {
  const void *x;
  float *y;
  int64_t rows, width;
} columns;

enum { ROW_BLOCK = 8 };

/* Eight rows at a time, so that y, which stays in the cache, is touched once for eight reads. */
INLINE void sum_columns(const columns *a, int64_t lo, int64_t hi, int dt) {
  int64_t r = 0;
  for (; r + ROW_BLOCK <= a->rows; r += ROW_BLOCK)
    VLOOP(c, n, lo, hi, {
      vf v[ROW_BLOCK];
      for (int k = 0; k < ROW_BLOCK; k++) v[k] = ld(a->x, (r + k) * a->width + c, n, dt);
      vf s = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
      st(a->y, c, n, DS_F32, ld(a->y, c, n, DS_F32) + s);
    });
  for (; r < a->rows; r++)
    VLOOP(c, n, lo, hi,
          { st(a->y, c, n, DS_F32, ld(a->y, c, n, DS_F32) + ld(a->x, r * a->width + c, n, dt)); });
}

static void columns_f32(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  sum_columns(ctx, lo, hi, DS_F32);
}

static void columns_bf16(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  sum_columns(ctx, lo, hi, DS_BF16);
}

void K(reduce_rows)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  columns a = {.x = x->data, .y = op->out[0]->data, .width = x->shape[x->rank - 1]};
  if (a.width == 0) return;
  a.rows = ds_cpu_numel(x) / a.width;
  if (!ds_cpu_accumulates(op, 0)) memset(a.y, 0, (size_t)a.width * sizeof(float));
  parallel_range(ds_cpu_parts(threads, 4.0 * (double)ds_cpu_numel(x)), a.width, 32,
                 x->dtype == DS_BF16 ? columns_bf16 : columns_f32, &a);
}
