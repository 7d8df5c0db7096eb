/* norm.c - layer norm and RMS norm. RMS norm is layer norm with mean 0 and no bias. */
#include "kernel.h"
#include "simd.h"

typedef struct norm {
  const void *x, *weight, *bias;
  void *y;
  float *mean, *rstd;
  int64_t width;
  float eps;
} norm;

INLINE void forward_row(const norm *a, int64_t r, int rms, int dt) {
  const int64_t width = a->width, at = r * width;
  float mean = 0, left = 0; /* the mean is mean + left: elements next to it come out right too */
  if (!rms) {
    vd sum = {0};
    VLOOP(c, n, 0, width, { sum += vwiden_sum(ld(a->x, at + c, n, dt)); });
    const double exact = vhsumd(sum) / (double)width;
    mean = (float)exact;
    left = (float)(exact - (double)mean);
  }
  vf squares = {0};
  VLOOP(c, n, 0, width, {
    vf d = vfirst(ld(a->x, at + c, n, dt) - mean - left, n);
    squares += d * d;
  });
  const float rstd = 1.0f / __builtin_sqrtf(vhsum(squares) / (float)width + a->eps);
  VLOOP(c, n, 0, width, {
    vf h = (ld(a->x, at + c, n, dt) - mean - left) * rstd * ld(a->weight, c, n, dt);
    if (a->bias) h += ld(a->bias, c, n, dt);
    st(a->y, at + c, n, dt, h);
  });
  if (a->mean) a->mean[r] = mean;
  if (a->rstd) a->rstd[r] = rstd;
}

#define FORWARD(name, rms, dt)                                                                     \
  static void name(const void *ctx, int64_t lo, int64_t hi, int part) {                            \
    (void)part;                                                                                    \
    for (int64_t r = lo; r < hi; r++) forward_row(ctx, r, rms, dt);                                \
  }

FORWARD(layer_f32, 0, DS_F32)
FORWARD(layer_bf16, 0, DS_BF16)
FORWARD(rms_f32, 1, DS_F32)
FORWARD(rms_bf16, 1, DS_BF16)

static void forward(const ds_op *op, const norm *a, int threads, range_fn *fn) {
  int64_t n = ds_cpu_numel(op->in[0]);
  if (n == 0) return;
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)n), n / a->width, 1, fn, a);
}

void K(layer_norm)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  norm a = {.x = x->data,
            .weight = op->in[1]->data,
            .bias = ds_cpu_data(ds_cpu_in(op, 2)),
            .y = op->out[0]->data,
            .mean = ds_cpu_data(ds_cpu_out(op, 1)),
            .rstd = ds_cpu_data(ds_cpu_out(op, 2)),
            .width = x->shape[x->rank - 1],
            .eps = (float)ds_cpu_attr_f(op, 0, 1e-5)};
  forward(op, &a, threads, x->dtype == DS_BF16 ? layer_bf16 : layer_f32);
}

void K(rms_norm)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  norm a = {.x = x->data,
            .weight = op->in[1]->data,
            .y = op->out[0]->data,
            .rstd = ds_cpu_data(ds_cpu_out(op, 1)),
            .width = x->shape[x->rank - 1],
            .eps = (float)ds_cpu_attr_f(op, 0, 1e-6)};
  forward(op, &a, threads, x->dtype == DS_BF16 ? rms_bf16 : rms_f32);
}

/* ---- backward: each part of the rows sums its dweight and dbias into a partial of its own */

typedef struct norm_back {
  const void *dy, *x, *weight;
  const float *mean, *rstd;
  void *dx;
  float *dweight, *dbias, *partial; /* partial [parts][2][width] */
  int64_t width;
  int parts, acc_x, acc_weight, acc_bias;
} norm_back;

/* dx = rstd (g - mean(g) - h mean(g h)) with g = dy weight, h = (x - mean) rstd. */
INLINE void backward_row(const norm_back *a, int64_t r, float *dweight, float *dbias, int rms,
                         int dt) {
  const int64_t width = a->width, at = r * width;
  const float mean = rms ? 0.0f : a->mean[r], rstd = a->rstd[r];
  vf sum_g = {0}, sum_gh = {0};
  VLOOP(c, n, 0, width, {
    vf g = ld(a->dy, at + c, n, dt) * ld(a->weight, c, n, dt);
    sum_g += g;
    sum_gh += g * ((ld(a->x, at + c, n, dt) - mean) * rstd);
  });
  const float mean_g = rms ? 0.0f : vhsum(sum_g) / (float)width;
  const float mean_gh = vhsum(sum_gh) / (float)width;
  VLOOP(c, n, 0, width, {
    vf dy = ld(a->dy, at + c, n, dt);
    vf h = (ld(a->x, at + c, n, dt) - mean) * rstd;
    vf dx = (dy * ld(a->weight, c, n, dt) - mean_g - h * mean_gh) * rstd;
    if (a->acc_x) dx += ld(a->dx, at + c, n, dt);
    st(a->dx, at + c, n, dt, dx);
    st(dweight, c, n, DS_F32, ld(dweight, c, n, DS_F32) + dy * h);
    if (!rms) st(dbias, c, n, DS_F32, ld(dbias, c, n, DS_F32) + dy);
  });
}

#define BACKWARD(name, rms, dt)                                                                    \
  static void name(const void *ctx, int64_t lo, int64_t hi, int part) {                            \
    const norm_back *a = ctx;                                                                      \
    float *dweight = a->partial + 2 * part * a->width, *dbias = dweight + a->width;                \
    memset(dweight, 0, (size_t)(2 * a->width) * sizeof(float));                                    \
    for (int64_t r = lo; r < hi; r++) backward_row(a, r, dweight, dbias, rms, dt);                 \
  }

BACKWARD(layer_back_f32, 0, DS_F32)
BACKWARD(layer_back_bf16, 0, DS_BF16)
BACKWARD(rms_back_f32, 1, DS_F32)
BACKWARD(rms_back_bf16, 1, DS_BF16)

/* y = sum of the parts of partial [parts][2][width], in order, plus y when acc. */
static void sum_parts(const norm_back *a, const float *partial, float *y, int acc) {
  VLOOP(c, n, 0, a->width, {
    vf s = acc ? ld(y, c, n, DS_F32) : vset(0.0f);
    for (int p = 0; p < a->parts; p++) s += ld(partial + 2 * p * a->width, c, n, DS_F32);
    st(y, c, n, DS_F32, s);
  });
}

static void backward(const ds_op *op, norm_back *a, int threads, range_fn *fn) {
  int64_t n = ds_cpu_numel(op->in[1]);
  if (a->width == 0) return;
  a->parts = ds_cpu_parts(threads, 12.0 * (double)n);
  a->partial = op->workspace;
  parallel_range(a->parts, n / a->width, 1, fn, a);
  sum_parts(a, a->partial, a->dweight, a->acc_weight);
  if (a->dbias) sum_parts(a, a->partial + a->width, a->dbias, a->acc_bias);
}

void K(layer_norm_backward)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[1];
  norm_back a = {.dy = op->in[0]->data,
                 .x = x->data,
                 .weight = op->in[2]->data,
                 .mean = op->in[3]->data,
                 .rstd = op->in[4]->data,
                 .dx = op->out[0]->data,
                 .dweight = op->out[1]->data,
                 .dbias = ds_cpu_data(ds_cpu_out(op, 2)),
                 .width = x->shape[x->rank - 1],
                 .acc_x = ds_cpu_accumulates(op, 0),
                 .acc_weight = ds_cpu_accumulates(op, 1),
                 .acc_bias = ds_cpu_accumulates(op, 2)};
  backward(op, &a, threads, x->dtype == DS_BF16 ? layer_back_bf16 : layer_back_f32);
}

void K(rms_norm_backward)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[1];
  norm_back a = {.dy = op->in[0]->data,
                 .x = x->data,
                 .weight = op->in[2]->data,
                 .rstd = op->in[3]->data,
                 .dx = op->out[0]->data,
                 .dweight = op->out[1]->data,
                 .width = x->shape[x->rank - 1],
                 .acc_x = ds_cpu_accumulates(op, 0),
                 .acc_weight = ds_cpu_accumulates(op, 1)};
  backward(op, &a, threads, x->dtype == DS_BF16 ? rms_back_bf16 : rms_back_f32);
}
