/* rope.c - rotary position embedding (Su et al., RoFormer, 2021). */
#include "kernel.h"
#include "simd.h"

enum { CHUNK = 128 }; /* pairs whose sines and cosines are at hand at once */

typedef struct rope {
  const ds_tensor *x, *y;
  const int32_t *pos;
  const float *inv_freq;
  int64_t pairs;
  int interleaved, inverse, acc;
} rope;

/* Sine and cosine of pos * inv_freq: the product and its reduction to [-pi/4, pi/4] in f64, so that
 * late positions are as exact as early ones; the polynomials in f32. */
static void angles(double pos, const float *inv_freq, int64_t n, float *cosine, float *sine) {
  for (int64_t i = 0; i < n; i++) {
    const double a = pos * (double)inv_freq[i];
    const double shifted = a * 0.63661977236758134 + 0x1.8p52; /* rounds to quarter turns */
    const double k = shifted - 0x1.8p52;
    const float r = (float)(a - k * 1.5707963267948966 - k * 6.123233995736766e-17);
    int64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    const int quarter = (int)bits & 3;
    const float u = r * r;
    const float s =
        ((((2.71827207e-6f * u - 0.000198393303f) * u + 0.00833332911f) * u - 0.166666672f) * u) *
            r +
        r;
    const float c =
        ((2.44380644e-5f * u - 0.00138873642f) * u + 0.0416666456f) * u * u - 0.5f * u + 1.0f;
    const float sin_abs = quarter & 1 ? c : s, cos_abs = quarter & 1 ? s : c;
    sine[i] = quarter & 2 ? -sin_abs : sin_abs;
    cosine[i] = (quarter + 1) & 2 ? -cos_abs : cos_abs;
  }
}

INLINE void put(void *y, int64_t i, int n, int dt, vf r, int acc) {
  st(y, i, n, dt, acc ? ld(y, i, n, dt) + r : r);
}

INLINE vf swap_neighbours(vf v) {
  union {
    vf v;
    uint64_t u __attribute__((vector_size(4 * VL)));
  } a = {v};
  a.u = (a.u >> 32) | (a.u << 32);
  return a.v;
}

/* Pairs [p0, p0+count) of one head: (i, i + pairs), or (2i, 2i+1). */
INLINE void rotate(const rope *a, const void *x, int64_t xi, void *y, int64_t yi, int64_t p0,
                   int64_t count, const float *cosine, const float *sine, int dt) {
  if (a->interleaved) { /* the tables hold each cosine twice, and -sine, sine */
    VLOOP(c, n, 0, 2 * count, {
      vf v = ld(x, xi + 2 * p0 + c, n, dt);
      vf r = v * ld(cosine, c, n, DS_F32) + swap_neighbours(v) * ld(sine, c, n, DS_F32);
      put(y, yi + 2 * p0 + c, n, dt, r, a->acc);
    });
    return;
  }
  const int64_t x2 = xi + a->pairs, y2 = yi + a->pairs;
  VLOOP(c, n, 0, count, {
    vf u = ld(x, xi + p0 + c, n, dt), v = ld(x, x2 + p0 + c, n, dt);
    vf co = ld(cosine, c, n, DS_F32), si = ld(sine, c, n, DS_F32);
    put(y, yi + p0 + c, n, dt, u * co - v * si, a->acc);
    put(y, y2 + p0 + c, n, dt, v * co + u * si, a->acc);
  });
}

static void tables(const rope *a, int64_t position, int64_t p0, int64_t count, float *cosine,
                   float *sine) {
  float c[CHUNK], s[CHUNK];
  angles((double)position, a->inv_freq + p0, count, c, s);
  const float sign = a->inverse ? -1.0f : 1.0f;
  for (int64_t i = 0; i < count; i++) {
    if (a->interleaved) {
      cosine[2 * i] = cosine[2 * i + 1] = c[i];
      sine[2 * i] = -sign * s[i];
      sine[2 * i + 1] = sign * s[i];
    } else {
      cosine[i] = c[i];
      sine[i] = sign * s[i];
    }
  }
}

/* Tokens [lo,hi), counted over batch and time. */
INLINE void rope_tokens(const rope *a, int64_t lo, int64_t hi, int dt) {
  const ds_tensor *x = a->x, *y = a->y;
  const int64_t time = x->shape[1], heads = x->shape[2], dim = x->shape[3];
  const int rest = a->acc || x->data != y->data; /* in place, the rest is there already */
  float cosine[2 * CHUNK], sine[2 * CHUNK];
  for (int64_t i = lo; i < hi; i++) {
    const int64_t b = i / time, t = i % time;
    const int64_t xi = b * x->stride[0] + t * x->stride[1];
    const int64_t yi = b * y->stride[0] + t * y->stride[1];
    for (int64_t p0 = 0; p0 < a->pairs; p0 += CHUNK) {
      const int64_t count = a->pairs - p0 < CHUNK ? a->pairs - p0 : CHUNK;
      tables(a, a->pos[i], p0, count, cosine, sine);
      for (int64_t h = 0; h < heads; h++)
        rotate(a, x->data, xi + h * x->stride[2], y->data, yi + h * y->stride[2], p0, count, cosine,
               sine, dt);
    }
    for (int64_t h = 0; rest && h < heads; h++)
      VLOOP(c, n, 2 * a->pairs, dim, {
        vf v = ld(x->data, xi + h * x->stride[2] + c, n, dt);
        put(y->data, yi + h * y->stride[2] + c, n, dt, v, a->acc);
      });
  }
}

static void rope_f32(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  rope_tokens(ctx, lo, hi, DS_F32);
}

static void rope_bf16(const void *ctx, int64_t lo, int64_t hi, int part) {
  (void)part;
  rope_tokens(ctx, lo, hi, DS_BF16);
}

void K(rope)(const ds_op *op, int threads) {
  const ds_tensor *x = op->in[0];
  rope a = {.x = x,
            .y = op->out[0],
            .pos = op->in[1]->data,
            .inv_freq = op->in[2]->data,
            .pairs = ds_cpu_numel(op->in[2]),
            .interleaved = ds_cpu_attr_i(op, 0, 0) != 0,
            .inverse = ds_cpu_attr_i(op, 1, 0) != 0,
            .acc = ds_cpu_accumulates(op, 0)};
  if (ds_cpu_numel(x) == 0) return;
  parallel_range(ds_cpu_parts(threads, 8.0 * (double)ds_cpu_numel(x)), x->shape[0] * x->shape[1], 1,
                 x->dtype == DS_BF16 ? rope_bf16 : rope_f32, &a);
}
