/* elementwise.c - activations, swiglu, add, mul, scale, mean_backward, fill. */
#include "kernel.h"
#include "simd.h"

typedef struct map {
  const void *a, *b;
  void *y, *y2;
  int64_t width, a_stride, b_stride, y_stride, y2_stride; /* rows, for swiglu */
  float factor;
  int acc, acc2;
} map;

/* Stores r, or adds it to what is there. */
INLINE void put(void *y, int64_t i, int n, int dt, vf r, int acc) {
  st(y, i, n, dt, acc ? ld(y, i, n, dt) + r : r);
}

/* name_f32 and name_bf16: STEP for the elements of a range. */
#define MAP(name, STEP)                                                                            \
  static void name##_f32(const void *ctx, int64_t lo, int64_t hi, int part) {                      \
    const map *m = ctx;                                                                            \
    (void)part;                                                                                    \
    VLOOP(i, n, lo, hi, { STEP(m, i, n, DS_F32); });                                               \
  }                                                                                                \
  static void name##_bf16(const void *ctx, int64_t lo, int64_t hi, int part) {                     \
    const map *m = ctx;                                                                            \
    (void)part;                                                                                    \
    VLOOP(i, n, lo, hi, { STEP(m, i, n, DS_BF16); });                                              \
  }

#define PICK(name, dt) ((dt) == DS_BF16 ? name##_bf16 : name##_f32)

/* cost: how many bytes' worth of moving the arithmetic of an element takes. */
static void run_map(const map *m, int64_t n, int threads, int cost, range_fn *fn) {
  if (n > 0) parallel_range(ds_cpu_parts(threads, (double)n * cost), n, 64, fn, m);
}

/* ---- activations */

static const float gelu_a = 1.59576912f;   /* 2 sqrt(2/pi) */
static const float gelu_b = 0.0713548163f; /* 2 sqrt(2/pi) 0.044715 */

INLINE vf activate(vf x, int kind) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH: /* (1 + tanh u) / 2 is sigmoid(2u): no cancellation on the left */
      return x * vsigmoid(x * (gelu_a + gelu_b * x * x));
    case DS_ACTIVATION_GELU_ERF: return x * vnormal_cdf(x);
    case DS_ACTIVATION_RELU: return vsel(x < 0.0f, vset(0.0f), x);
    case DS_ACTIVATION_SILU: return x * vsigmoid(x);
    case DS_ACTIVATION_TANH: return vtanh(x);
    default: return vsigmoid(x);
  }
}

INLINE vf activate_slope(vf x, int kind) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH: {
      vf s = vsigmoid(x * (gelu_a + gelu_b * x * x));
      return s + x * s * (1.0f - s) * (gelu_a + 3.0f * gelu_b * x * x);
    }
    case DS_ACTIVATION_GELU_ERF: return vnormal_cdf(x) + x * 0.398942280f * vexp(-0.5f * x * x);
    case DS_ACTIVATION_RELU: return vsel(x > 0.0f, vset(1.0f), vsel(x == x, vset(0.0f), x));
    case DS_ACTIVATION_SILU: {
      vf s = vsigmoid(x);
      return s + x * s * (1.0f - s);
    }
    case DS_ACTIVATION_TANH: {
      vf t = vtanh(x);
      return 1.0f - t * t;
    }
    default: {
      vf s = vsigmoid(x);
      return s * (1.0f - s);
    }
  }
}

#define ACTIVATION(name, kind)                                                                     \
  INLINE void name##_step(const map *m, int64_t i, int n, int dt) {                                \
    st(m->y, i, n, dt, activate(ld(m->a, i, n, dt), kind));                                        \
  }                                                                                                \
  INLINE void name##_back_step(const map *m, int64_t i, int n, int dt) {                           \
    vf r = ld(m->a, i, n, dt) * activate_slope(ld(m->b, i, n, dt), kind);                          \
    put(m->y, i, n, dt, r, m->acc);                                                                \
  }                                                                                                \
  MAP(name, name##_step)                                                                           \
  MAP(name##_back, name##_back_step)

ACTIVATION(gelu_tanh, DS_ACTIVATION_GELU_TANH)
ACTIVATION(gelu_erf, DS_ACTIVATION_GELU_ERF)
ACTIVATION(relu, DS_ACTIVATION_RELU)
ACTIVATION(silu, DS_ACTIVATION_SILU)
ACTIVATION(tanh, DS_ACTIVATION_TANH)
ACTIVATION(sigmoid, DS_ACTIVATION_SIGMOID)

#define ACTIVATION_PICK(suffix)                                                                    \
  switch (kind) {                                                                                  \
    case DS_ACTIVATION_GELU_TANH: return PICK(gelu_tanh##suffix, dt);                              \
    case DS_ACTIVATION_GELU_ERF: return PICK(gelu_erf##suffix, dt);                                \
    case DS_ACTIVATION_RELU: return PICK(relu##suffix, dt);                                        \
    case DS_ACTIVATION_SILU: return PICK(silu##suffix, dt);                                        \
    case DS_ACTIVATION_TANH: return PICK(tanh##suffix, dt);                                        \
    default: return PICK(sigmoid##suffix, dt);                                                     \
  }

static range_fn *activation_fn(int64_t kind, int dt) {
  ACTIVATION_PICK()
}

static range_fn *activation_back_fn(int64_t kind, int dt) {
  ACTIVATION_PICK(_back)
}

void K(activation)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  map m = {.a = x->data, .y = op->out[0]->data};
  run_map(&m, ds_cpu_numel(x), threads, 16, activation_fn(ds_cpu_attr_i(op, 0, 0), x->dtype));
}

void K(activation_backward)(const ds_op *op, int threads) {
  const ds_tensor *dy = op->in[0];
  map m = {
      .a = dy->data, .b = op->in[1]->data, .y = op->out[0]->data, .acc = ds_cpu_accumulates(op, 0)};
  run_map(&m, ds_cpu_numel(dy), threads, 16,
          activation_back_fn(ds_cpu_attr_i(op, 0, 0), dy->dtype));
}

/* ---- swiglu: a range over the elements of y, walked as pieces of rows */

#define ROWS(name, PIECE)                                                                          \
  INLINE void name##_rows(const map *m, int64_t lo, int64_t hi, int dt) {                          \
    for (int64_t i = lo; i < hi;) {                                                                \
      int64_t r = i / m->width, c0 = i % m->width;                                                 \
      int64_t c1 = m->width - c0 < hi - i ? m->width : c0 + (hi - i);                              \
      PIECE(m, r, c0, c1, dt);                                                                     \
      i += c1 - c0;                                                                                \
    }                                                                                              \
  }                                                                                                \
  static void name##_f32(const void *ctx, int64_t lo, int64_t hi, int part) {                      \
    (void)part;                                                                                    \
    name##_rows(ctx, lo, hi, DS_F32);                                                              \
  }                                                                                                \
  static void name##_bf16(const void *ctx, int64_t lo, int64_t hi, int part) {                     \
    (void)part;                                                                                    \
    name##_rows(ctx, lo, hi, DS_BF16);                                                             \
  }

INLINE void swiglu_piece(const map *m, int64_t r, int64_t c0, int64_t c1, int dt) {
  VLOOP(c, n, c0, c1, {
    vf gate = ld(m->a, r * m->a_stride + c, n, dt), up = ld(m->b, r * m->b_stride + c, n, dt);
    st(m->y, r * m->width + c, n, dt, gate * vsigmoid(gate) * up);
  });
}

typedef struct swiglu_back {
  map m;
  const void *dy;
} swiglu_back;

INLINE void swiglu_back_piece(const map *m, int64_t r, int64_t c0, int64_t c1, int dt) {
  const void *dys = ((const swiglu_back *)m)->dy;
  VLOOP(c, n, c0, c1, {
    vf gate = ld(m->a, r * m->a_stride + c, n, dt), up = ld(m->b, r * m->b_stride + c, n, dt);
    vf dy = ld(dys, r * m->width + c, n, dt), s = vsigmoid(gate);
    put(m->y, r * m->y_stride + c, n, dt, dy * up * (s + gate * s * (1.0f - s)), m->acc);
    put(m->y2, r * m->y2_stride + c, n, dt, dy * gate * s, m->acc2);
  });
}

ROWS(swiglu, swiglu_piece)
ROWS(swiglu_back, swiglu_back_piece)

void K(swiglu)(const ds_op *op, int threads) {
  const ds_tensor *gate = op->in[0], *up = op->in[1];
  map m = {.a = gate->data,
           .b = up->data,
           .y = op->out[0]->data,
           .width = gate->shape[1],
           .a_stride = gate->stride[0],
           .b_stride = up->stride[0]};
  run_map(&m, ds_cpu_numel(gate), threads, 16, PICK(swiglu, gate->dtype));
}

void K(swiglu_backward)(const ds_op *op, int threads) {
  const ds_tensor *gate = op->in[1], *up = op->in[2], *dgate = op->out[0], *dup = op->out[1];
  swiglu_back b = {.m = {.a = gate->data,
                         .b = up->data,
                         .y = dgate->data,
                         .y2 = dup->data,
                         .width = gate->shape[1],
                         .a_stride = gate->stride[0],
                         .b_stride = up->stride[0],
                         .y_stride = dgate->stride[0],
                         .y2_stride = dup->stride[0],
                         .acc = ds_cpu_accumulates(op, 0),
                         .acc2 = ds_cpu_accumulates(op, 1)},
                   .dy = op->in[0]->data};
  run_map(&b.m, ds_cpu_numel(gate), threads, 24, PICK(swiglu_back, gate->dtype));
}

/* ---- plain arithmetic */

INLINE void add_step(const map *m, int64_t i, int n, int dt) {
  st(m->y, i, n, dt, ld(m->a, i, n, dt) + ld(m->b, i, n, dt));
}

INLINE void mul_step(const map *m, int64_t i, int n, int dt) {
  put(m->y, i, n, dt, ld(m->a, i, n, dt) * ld(m->b, i, n, dt), m->acc);
}

INLINE void scale_step(const map *m, int64_t i, int n, int dt) {
  put(m->y, i, n, dt, m->factor * ld(m->a, i, n, dt), m->acc);
}

INLINE void constant_step(const map *m, int64_t i, int n, int dt) {
  put(m->y, i, n, dt, vset(m->factor), m->acc);
}

MAP(add, add_step)
MAP(mul, mul_step)
MAP(scale, scale_step)
MAP(constant, constant_step)

void K(add)(const ds_op *op, int threads) {
  const ds_tensor *a = op->in[0];
  map m = {.a = a->data, .b = op->in[1]->data, .y = op->out[0]->data};
  run_map(&m, ds_cpu_numel(a), threads, 12, PICK(add, a->dtype));
}

void K(mul)(const ds_op *op, int threads) {
  const ds_tensor *a = op->in[0];
  map m = {
      .a = a->data, .b = op->in[1]->data, .y = op->out[0]->data, .acc = ds_cpu_accumulates(op, 0)};
  run_map(&m, ds_cpu_numel(a), threads, 12, PICK(mul, a->dtype));
}

void K(scale)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  map m = {.a = x->data,
           .y = op->out[0]->data,
           .factor = (float)ds_cpu_attr_f(op, 0, 1.0),
           .acc = ds_cpu_accumulates(op, 0)};
  run_map(&m, ds_cpu_numel(x), threads, 8, PICK(scale, x->dtype));
}

void K(mean_backward)(const ds_op *op, int threads) {
  const ds_tensor *dx = op->out[0];
  int64_t n = ds_cpu_numel(dx);
  map m = {.y = dx->data,
           .factor = *(const float *)op->in[0]->data / (float)(n > 0 ? n : 1),
           .acc = ds_cpu_accumulates(op, 0)};
  run_map(&m, n, threads, 8, PICK(constant, dx->dtype));
}

/* ---- fill */

typedef struct fill_i32 {
  int32_t *y;
  int32_t value;
} fill_i32;

static void fill_i32_range(const void *ctx, int64_t lo, int64_t hi, int part) {
  const fill_i32 *f = ctx;
  (void)part;
  for (int64_t i = lo; i < hi; i++) f->y[i] = f->value;
}

void K(fill)(const ds_op *op, int threads) {
  const ds_tensor *y = op->out[0];
  double value = ds_cpu_attr_f(op, 0, 0.0);
  int64_t n = ds_cpu_numel(y);
  if (y->dtype == DS_I32) {
    fill_i32 f = {.y = y->data, .value = (int32_t)value};
    parallel_range(ds_cpu_parts(threads, 4.0 * (double)n), n, 64, fill_i32_range, &f);
    return;
  }
  map m = {.y = y->data, .factor = (float)value};
  run_map(&m, n, threads, 4, PICK(constant, y->dtype));
}
