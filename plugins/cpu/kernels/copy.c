/* copy.c - strided copies with conversion. */
#include "kernel.h"
#include "simd.h"

enum { RANK = 4 };

/* A copy whose dimensions of size 1 are gone and whose neighbours that step alike are merged;
 * dimension RANK-1 is the innermost. */
typedef struct copy {
  const void *x;
  void *y;
  int64_t shape[RANK], xs[RANK], ys[RANK];
  int x_dtype, y_dtype, acc;
} copy;

static copy simplify(const ds_tensor *x, const ds_tensor *y, int acc) {
  copy a = {.x = x->data,
            .y = y->data,
            .shape = {1, 1, 1, 1},
            .x_dtype = x->dtype,
            .y_dtype = y->dtype,
            .acc = acc};
  int at = RANK; /* the dimension filled last */
  for (int32_t d = x->rank - 1; d >= 0; d--) {
    if (x->shape[d] == 1) continue;
    if (at < RANK && x->stride[d] == a.shape[at] * a.xs[at] &&
        y->stride[d] == a.shape[at] * a.ys[at]) {
      a.shape[at] *= x->shape[d];
      continue;
    }
    at--;
    a.shape[at] = x->shape[d];
    a.xs[at] = x->stride[d];
    a.ys[at] = y->stride[d];
  }
  return a;
}

INLINE void copy_run(const copy *a, int64_t xi, int64_t yi, int64_t lo, int64_t hi, int xt,
                     int yt) {
  const int64_t xs = a->xs[RANK - 1], ys = a->ys[RANK - 1];
  if (xs == 1 && ys == 1) {
    VLOOP(c, n, lo, hi, {
      vf v = ld(a->x, xi + c, n, xt);
      st(a->y, yi + c, n, yt, a->acc ? ld(a->y, yi + c, n, yt) + v : v);
    });
    return;
  }
  for (int64_t c = lo; c < hi; c++) {
    float v = ld1(a->x, xi + c * xs, xt);
    st1(a->y, yi + c * ys, yt, a->acc ? ld1(a->y, yi + c * ys, yt) + v : v);
  }
}

/* Elements [lo,hi) in row-major order of the shape, walked as runs of the innermost dimension. */
INLINE void copy_elements(const copy *a, int64_t lo, int64_t hi, int xt, int yt) {
  const int64_t width = a->shape[3];
  for (int64_t i = lo; i < hi;) {
    const int64_t c = i % width, row = i / width;
    const int64_t i2 = row % a->shape[2], i1 = row / a->shape[2] % a->shape[1];
    const int64_t i0 = row / a->shape[2] / a->shape[1];
    const int64_t end = width - c < hi - i ? width : c + (hi - i);
    copy_run(a, i0 * a->xs[0] + i1 * a->xs[1] + i2 * a->xs[2],
             i0 * a->ys[0] + i1 * a->ys[1] + i2 * a->ys[2], c, end, xt, yt);
    i += end - c;
  }
}

#define COPY(name, xt, yt)                                                                         \
  static void name(const void *ctx, int64_t lo, int64_t hi, int part) {                            \
    (void)part;                                                                                    \
    copy_elements(ctx, lo, hi, xt, yt);                                                            \
  }

COPY(f32_f32, DS_F32, DS_F32)
COPY(f32_bf16, DS_F32, DS_BF16)
COPY(f32_f16, DS_F32, DS_F16)
COPY(bf16_f32, DS_BF16, DS_F32)
COPY(bf16_bf16, DS_BF16, DS_BF16)
COPY(bf16_f16, DS_BF16, DS_F16)
COPY(f16_f32, DS_F16, DS_F32)
COPY(f16_bf16, DS_F16, DS_BF16)
COPY(f16_f16, DS_F16, DS_F16)

void K(copy)(const ds_op *op, int threads) {
  static range_fn *const fns[3][3] = {{f32_f32, f32_bf16, f32_f16},
                                      {bf16_f32, bf16_bf16, bf16_f16},
                                      {f16_f32, f16_bf16, f16_f16}}; /* DS_F32, DS_BF16, DS_F16 */
  const copy a = simplify(op->in[0], op->out[0], ds_cpu_accumulates(op, 0));
  const int64_t n = ds_cpu_numel(op->in[0]);
  if (n == 0) return;
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)n), n, 64, fns[a.x_dtype][a.y_dtype], &a);
}
