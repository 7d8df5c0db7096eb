/* adamw.c - Adam (Kingma & Ba, 2015) and AdamW (Loshchilov & Hutter, 2019) in one sweep. */
#include "kernel.h"
#include "simd.h"

typedef struct adamw {
  const float *g;
  float *p, *m, *v;
  void *p16;
  float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
  float eps, grad_scale, inverse1, inverse2;
  float step, keep, l2; /* p = keep p - step (...); g += l2 p */
} adamw;

INLINE void adamw_range(const adamw *a, int64_t lo, int64_t hi, int half) {
  VLOOP(i, n, lo, hi, {
    vf p = ld(a->p, i, n, DS_F32);
    vf g = ld(a->g, i, n, DS_F32) * a->grad_scale + a->l2 * p;
    vf m = a->beta1 * ld(a->m, i, n, DS_F32) + a->rest1 * g;
    vf v = a->beta2 * ld(a->v, i, n, DS_F32) + a->rest2 * g * g;
    p = a->keep * p - a->step * (m * a->inverse1) / (vsqrt(v * a->inverse2) + a->eps);
    st(a->m, i, n, DS_F32, m);
    st(a->v, i, n, DS_F32, v);
    st(a->p, i, n, DS_F32, p);
    if (half) st(a->p16, i, n, DS_BF16, p);
  });
}

static void adamw_plain(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  adamw_range(ctx, lo, hi, 0);
}

static void adamw_half(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  adamw_range(ctx, lo, hi, 1);
}

void K(adamw)(const ds_op *op, int threads) {
  const double lr = ds_cpu_attr_f(op, 0, 0), decay = ds_cpu_attr_f(op, 4, 0);
  const double beta1 = ds_cpu_attr_f(op, 1, 0), beta2 = ds_cpu_attr_f(op, 2, 0);
  const int decoupled = ds_cpu_attr_f(op, 8, 0) != 0;
  const int64_t n = ds_cpu_numel(op->in[0]);
  adamw a = {.g = op->in[0]->data,
             .p = op->out[0]->data,
             .m = op->out[1]->data,
             .v = op->out[2]->data,
             .p16 = ds_cpu_data(ds_cpu_out(op, 3)),
             .beta1 = (float)beta1,
             .beta2 = (float)beta2,
             .rest1 = (float)(1 - beta1),
             .rest2 = (float)(1 - beta2),
             .eps = (float)ds_cpu_attr_f(op, 3, 0),
             .grad_scale = (float)ds_cpu_attr_f(op, 5, 1),
             .inverse1 = (float)(1 / ds_cpu_attr_f(op, 6, 1)),
             .inverse2 = (float)(1 / ds_cpu_attr_f(op, 7, 1)),
             .step = (float)lr,
             .keep = decoupled ? (float)(1 - lr * decay) : 1.0f,
             .l2 = decoupled ? 0.0f : (float)decay};
  parallel_range(ds_cpu_parts(threads, 28.0 * (double)n), n, 64, a.p16 ? adamw_half : adamw_plain,
                 &a);
}
