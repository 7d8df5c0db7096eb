/* loss.c - cross entropy, softmax, argmax: rows of logits. */
#include <math.h>

#include "kernel.h"
#include "simd.h"

enum { BLOCK = 1024 }; /* elements read twice while they are in the first-level cache */

typedef struct rows {
  const void *x;
  void *y;
  int64_t width;
  const int32_t *targets;
  const float *dloss, *lse_in, *count;
  float *lse;
  double *loss; /* [rows] */
  int64_t ignore;
} rows;

typedef struct soft {
  float max;
  double sum; /* of exp(x - max); in f64 from block to block, since one term may dwarf the rest */
} soft;

/* Online: one pass over memory; the sum is rescaled when the maximum of a block raises it. A NaN
 * anywhere makes the sum NaN. */
INLINE soft soft_row(const void *x, int64_t at, int64_t width, int dt) {
  float max = -INFINITY;
  double sum = 0;
  for (int64_t lo = 0; lo < width; lo += BLOCK) {
    const int64_t hi = width - lo < BLOCK ? width : lo + BLOCK;
    vf high = vset(max);
    VLOOP(c, n, lo, hi, {
      vf v = ld(x, at + c, n, dt);
      high = vmax(n == VL ? v : vsel(viota() < n, v, vset(-INFINITY)), high);
    });
    const float next = vhmax(high), base = next == -INFINITY ? 0.0f : next;
    vf block = {0};
    VLOOP(c, n, lo, hi, { block += vfirst(vexp(ld(x, at + c, n, dt) - base), n); });
    sum = sum * (next == max ? 1.0 : exp((double)(max - base))) + (double)vhsum(block);
    max = next;
  }
  return (soft){max, sum};
}

#define ROWS(name, ROW)                                                                            \
  static void name##_f32(const void *ctx, int64_t lo, int64_t hi, int part) {                      \
    (void)part;                                                                                    \
    for (int64_t r = lo; r < hi; r++) ROW(ctx, r, DS_F32);                                         \
  }                                                                                                \
  static void name##_bf16(const void *ctx, int64_t lo, int64_t hi, int part) {                     \
    (void)part;                                                                                    \
    for (int64_t r = lo; r < hi; r++) ROW(ctx, r, DS_BF16);                                        \
  }

static void run_rows(const rows *a, const ds_tensor *x, int threads, range_fn *f32,
                     range_fn *bf16) {
  const int64_t n = ds_cpu_numel(x);
  if (n == 0) return;
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)n), n / a->width, 1,
                 x->dtype == DS_BF16 ? bf16 : f32, a);
}

/* ---- cross entropy */

INLINE void cross_entropy_row(const rows *a, int64_t r, int dt) {
  const int64_t at = r * a->width, target = a->targets[r];
  const soft s = soft_row(a->x, at, a->width, dt);
  const double log_sum = log(s.sum);
  a->lse[r] = (float)((double)s.max + log_sum);
  if (target == a->ignore)
    a->loss[r] = 0;
  else if (target < 0 || target >= a->width)
    a->loss[r] = NAN;
  else
    a->loss[r] = (double)s.max - (double)ld1(a->x, at + target, dt) + log_sum;
}

ROWS(cross_entropy, cross_entropy_row)

void K(cross_entropy)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  const int64_t count = ds_cpu_numel(op->in[1]);
  rows a = {.x = x->data,
            .width = x->shape[x->rank - 1],
            .targets = op->in[1]->data,
            .lse = op->out[1]->data,
            .loss = op->workspace,
            .ignore = ds_cpu_attr_i(op, 0, -100)};
  run_rows(&a, x, threads, cross_entropy_f32, cross_entropy_bf16);
  double sum = 0;
  int64_t used = 0;
  for (int64_t r = 0; r < count; r++)
    if (a.targets[r] != a.ignore) {
      sum += a.loss[r];
      used++;
    }
  *(float *)op->out[0]->data = used ? (float)(sum / (double)used) : 0.0f;
  *(float *)op->out[2]->data = (float)used;
}

INLINE void cross_entropy_back_row(const rows *a, int64_t r, int dt) {
  const int64_t at = r * a->width, target = a->targets[r];
  if (target == a->ignore) {
    memset((char *)a->y + at * dtype_size(dt), 0, (size_t)(a->width * dtype_size(dt)));
    return;
  }
  const int inside = target >= 0 && target < a->width;
  const float g = inside ? *a->dloss / *a->count : NAN, lse = a->lse_in[r];
  const float target_x = inside ? ld1(a->x, at + target, dt) : 0.0f;
  VLOOP(c, n, 0, a->width, { st(a->y, at + c, n, dt, vexp(ld(a->x, at + c, n, dt) - lse) * g); });
  if (inside) st1(a->y, at + target, dt, expm1f(target_x - lse) * g);
}

ROWS(cross_entropy_back, cross_entropy_back_row)

void K(cross_entropy_backward)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[1];
  rows a = {.x = x->data,
            .y = op->out[0]->data,
            .width = x->shape[x->rank - 1],
            .targets = op->in[2]->data,
            .dloss = op->in[0]->data,
            .lse_in = op->in[3]->data,
            .count = op->in[4]->data,
            .ignore = ds_cpu_attr_i(op, 0, -100)};
  run_rows(&a, x, threads, cross_entropy_back_f32, cross_entropy_back_bf16);
}

/* ---- softmax */

INLINE void softmax_row(const rows *a, int64_t r, int dt) {
  const int64_t at = r * a->width;
  const soft s = soft_row(a->x, at, a->width, dt);
  const float scale = (float)(1.0 / s.sum);
  VLOOP(c, n, 0, a->width,
        { st(a->y, at + c, n, dt, vexp(ld(a->x, at + c, n, dt) - s.max) * scale); });
}

ROWS(softmax, softmax_row)

void K(softmax)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  rows a = {.x = x->data, .y = op->out[0]->data, .width = x->shape[x->rank - 1]};
  run_rows(&a, x, threads, softmax_f32, softmax_bf16);
}

/* ---- argmax: the maximum first, then the first place that has it */

INLINE void argmax_row(const rows *a, int64_t r, int dt) {
  const int64_t at = r * a->width;
  vf high = vset(-INFINITY);
  VLOOP(c, n, 0, a->width, {
    vf v = ld(a->x, at + c, n, dt);
    high = vmax(n == VL ? v : vsel(viota() < n, v, vset(-INFINITY)), high);
  });
  const float max = vhmax(high);
  int64_t found = -1;
  for (int64_t lo = 0; lo < a->width && found < 0; lo += VL) {
    const int n = a->width - lo < VL ? (int)(a->width - lo) : VL;
    vi hit = ld(a->x, at + lo, n, dt) == max;
    for (int k = n - 1; k >= 0; k--)
      if (hit[k]) found = lo + k;
  }
  ((int32_t *)a->y)[r] = found < 0 ? 0 : (int32_t)found; /* all are NaN: the first */
}

ROWS(argmax, argmax_row)

void K(argmax)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  rows a = {.x = x->data, .y = op->out[0]->data, .width = x->shape[x->rank - 1]};
  run_rows(&a, x, threads, argmax_f32, argmax_bf16);
}
