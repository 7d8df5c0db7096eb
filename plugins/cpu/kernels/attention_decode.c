/* attention_decode.c - attention of a few queries against many keys: reading keys and values once,
 * at the speed of memory, is all there is to it.
 *
 * The keys of a batch are cut into chunks, one item of work each, for all heads together: the rows
 * of a cache [S,G,D] are then read one after the other. A chunk leaves, per query row, its highest
 * score, its sum and its unnormalized output; these are merged in the order of the chunks.
 */
#include <math.h>

#include "attention.h"

enum { TILE_BYTES = 65536 };
enum { NEAR_KEYS = 4 }; /* keys taken together: each load serves several sums */

/* x[i][j] += the products of n elements of q row i and key j. */
INLINE void dots_step(const attention *a, int rows, const float *q, const void *k, int64_t at,
                      int64_t c, int n, vf x[2][NEAR_KEYS], int dt) {
  vf w[2];
#pragma GCC unroll 2
  for (int i = 0; i < rows; i++) w[i] = vload(q + i * a->pad + c);
#pragma GCC unroll 4
  for (int j = 0; j < NEAR_KEYS; j++) {
    const vf key = ld(k, at + j * a->k->stride[1] + c, n, dt);
#pragma GCC unroll 2
    for (int i = 0; i < rows; i++) x[i][j] += w[i] * key;
  }
}

/* scores[i TK + s] = q row i . key s, for `rows` rows and NEAR_KEYS keys. */
INLINE void dots_block(const attention *a, int rows, const float *q, const void *k, int64_t at,
                       float *scores, int dt) {
  vf x[2][NEAR_KEYS] = {{{0}}};
  VLOOP(c, n, 0, a->dim, { dots_step(a, rows, q, k, at, c, n, x, dt); });
#pragma GCC unroll 2
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < NEAR_KEYS; j++) scores[i * TK + j] = vhsum(x[i][j]);
}

typedef struct decode {
  const attention *a;
  const ds_tensor *o;
  float *lse;
  int64_t chunks, tile; /* chunks per batch, keys per tile */
} decode;

/* What a chunk works on and leaves; row r is query r % time of head r / time. */
typedef struct block {
  float *q, *o;     /* [rows][pad] */
  float *top, *sum; /* [rows] */
  float *scores;    /* [rows of a key/value head][TK] */
} block;

static block block_of(const attention *a, int64_t item) {
  const int64_t rows = a->heads * a->time;
  float *p =
      a->workspace + item * ds_cpu_attention_decode_scratch(a->heads, a->rep, a->time, a->pad);
  block w;
  w.q = p, p += rows * a->pad;
  w.o = p, p += rows * a->pad;
  w.top = p, p += rows;
  w.sum = p, p += rows;
  w.scores = p;
  return w;
}

/* scores[r TK + s] = q row r . key s0+s, for all rows of head g and `count` keys. Meanwhile the
 * same head's keys and values of the next tile come near. */
INLINE void dots(const decode *d, const block *w, int64_t b, int64_t g, int64_t s0, int64_t count,
                 int dt) {
  const attention *a = d->a;
  const int64_t rows = a->rep * a->time, ks = a->k->stride[1], vs = a->v->stride[1];
  const int64_t k0 = b * a->k->stride[0] + s0 * ks + g * a->k->stride[2];
  const int64_t v0 = b * a->v->stride[0] + s0 * vs + g * a->v->stride[2];
  const int64_t size = dtype_size(dt);
  const float *q = w->q + g * rows * a->pad;
  const char *k = a->k->data, *v = a->v->data;
  int64_t s = 0;
  for (; s + NEAR_KEYS <= count; s += NEAR_KEYS) {
    for (int64_t j = s + d->tile; j < s + d->tile + NEAR_KEYS && s0 + j < a->keys; j++) {
      BRING(k + (k0 + j * ks) * size, a->dim * size, 0);
      BRING(v + (v0 + j * vs) * size, a->dim * size, 0);
    }
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2)
      dots_block(a, 2, q + r * a->pad, k, k0 + s * ks, w->scores + r * TK + s, dt);
    if (r < rows) dots_block(a, 1, q + r * a->pad, k, k0 + s * ks, w->scores + r * TK + s, dt);
  }
  for (; s < count; s++)
    for (int64_t r = 0; r < rows; r++) {
      vf x = {0};
      VLOOP(c, n, 0, a->dim, { x += vload(q + r * a->pad + c) * ld(k, k0 + s * ks + c, n, dt); });
      w->scores[r * TK + s] = vhsum(x);
    }
}

/* o = gain o + sum of p[s] value s, four vectors of the head at a time. */
INLINE void mix(const attention *a, const float *p, const void *v, int64_t at, int64_t count,
                float gain, float *o, int dt) {
  const int64_t stride = a->v->stride[1];
  int64_t c = 0;
  for (; c + 4 * VL <= a->dim; c += 4 * VL) {
    vf x0 = gain * vload(o + c), x1 = gain * vload(o + c + VL);
    vf x2 = gain * vload(o + c + 2 * VL), x3 = gain * vload(o + c + 3 * VL);
    for (int64_t s = 0; s < count; s++) {
      const int64_t i = at + s * stride + c;
      x0 += p[s] * ld(v, i, VL, dt);
      x1 += p[s] * ld(v, i + VL, VL, dt);
      x2 += p[s] * ld(v, i + 2 * VL, VL, dt);
      x3 += p[s] * ld(v, i + 3 * VL, VL, dt);
    }
    vstore(o + c, x0);
    vstore(o + c + VL, x1);
    vstore(o + c + 2 * VL, x2);
    vstore(o + c + 3 * VL, x3);
  }
  VLOOP(d, n, c, a->dim, {
    vf x = gain * ld(o, d, n, DS_F32);
    for (int64_t s = 0; s < count; s++) x += p[s] * ld(v, at + s * stride + d, n, dt);
    st(o, d, n, DS_F32, x);
  });
}

/* Row r of head g takes keys [lo,hi) in; the score of key lo is scores[0]. */
INLINE void take(const attention *a, const block *w, int64_t b, int64_t g, int64_t r, int64_t lo,
                 int64_t hi, float *scores, int dt) {
  const int64_t row = g * a->rep * a->time + r;
  float top = w->top[row];
  for (int64_t s = 0; s < hi - lo; s++) top = scores[s] > top ? scores[s] : top;
  const float base = top == -INFINITY ? 0.0f : top, gain = expf(w->top[row] - base);
  vf sum = {0};
  VLOOP(s, n, 0, hi - lo, {
    const vf p = vfirst(vexp(ld(scores, s, n, DS_F32) - base), n);
    st(scores, s, n, DS_F32, p);
    sum += p;
  });
  w->sum[row] = w->sum[row] * gain + vhsum(sum);
  w->top[row] = top;
  mix(a, scores, a->v->data, b * a->v->stride[0] + lo * a->v->stride[1] + g * a->v->stride[2],
      hi - lo, gain, w->o + row * a->pad, dt);
}

INLINE void chunk(const decode *d, int64_t item, int dt) {
  const attention *a = d->a;
  const int64_t b = item / d->chunks, c = item % d->chunks, rows = a->rep * a->time;
  const int64_t used = keys_used(a, b), from = seen_from(a, used, 0);
  const int64_t all = max64(0, seen_to(a, used, a->time - 1) - from);
  const int64_t first = from + all * c / d->chunks, end = from + all * (c + 1) / d->chunks;
  const block w = block_of(a, item);
  for (int64_t r = 0; r < a->heads * a->time; r++) {
    load_rows(w.q + r * a->pad, a, a->q->data,
              b * a->q->stride[0] + r % a->time * a->q->stride[1] + r / a->time * a->q->stride[2],
              0, 1, 1, a->scale, dt);
    memset(w.o + r * a->pad, 0, (size_t)a->pad * sizeof(float));
    w.top[r] = -INFINITY;
    w.sum[r] = 0;
  }
  for (int64_t s0 = first; s0 < end; s0 += d->tile)
    for (int64_t g = 0; g < a->groups; g++) {
      const int64_t stop = min64(s0 + d->tile, end);
      dots(d, &w, b, g, s0, stop - s0, dt);
      for (int64_t r = 0; r < rows; r++) {
        const int64_t lo = max64(s0, seen_from(a, used, r % a->time));
        const int64_t hi = min64(stop, seen_to(a, used, r % a->time));
        if (lo < hi) take(a, &w, b, g, r, lo, hi, w.scores + r * TK + (lo - s0), dt);
      }
    }
}

/* Query row r of batch b: its chunks together. */
INLINE void merge(const decode *d, int64_t b, int64_t r, int dt) {
  const attention *a = d->a;
  const block w = block_of(a, b * d->chunks);
  float top = w.top[r];
  for (int64_t c = 1; c < d->chunks; c++) top = fmaxf(top, block_of(a, b * d->chunks + c).top[r]);
  const float base = top == -INFINITY ? 0.0f : top;
  float sum = 0;
  for (int64_t c = 0; c < d->chunks; c++) {
    const block x = block_of(a, b * d->chunks + c);
    const float gain = expf(x.top[r] - base);
    sum += x.sum[r] * gain;
    for (int64_t i = 0; i < a->pad; i += VL) {
      const vf mine = gain * vload(x.o + r * a->pad + i);
      vstore(w.o + r * a->pad + i, c == 0 ? mine : vload(w.o + r * a->pad + i) + mine);
    }
  }
  const int64_t h = r / a->time, t = r % a->time;
  if (d->lse) d->lse[(b * a->heads + h) * a->time + t] = top + logf(sum);
  store_rows(d->o->data, b * d->o->stride[0] + t * d->o->stride[1] + h * d->o->stride[2], 0,
             w.o + r * a->pad, a, 1, sum == 0.0f ? 0.0f : 1.0f / sum, 0, dt);
}

#define DECODE(type, dt)                                                                           \
  static void chunk_##type(const void *ctx, int64_t i, int64_t end, int worker) {                  \
    (void)end;                                                                                     \
    (void)worker;                                                                                  \
    chunk(ctx, i, dt);                                                                             \
  }                                                                                                \
  static void merge_##type(const void *ctx, int64_t lo, int64_t hi, int part) {                    \
    const decode *d = ctx;                                                                         \
    const int64_t rows = d->a->heads * d->a->time;                                                 \
    (void)part;                                                                                    \
    for (int64_t i = lo; i < hi; i++) merge(d, i / rows, i % rows, dt);                            \
  }

DECODE(f32, DS_F32)
DECODE(bf16, DS_BF16)

void K(attention_decode)(const attention *a, const ds_tensor *o, float *lse, int threads) {
  const int bf16 = o->dtype == DS_BF16;
  decode d = {.a = a, .o = o, .lse = lse};
  d.chunks = ds_cpu_attention_chunks(a->batch, a->keys, threads);
  /* a tile of all heads' keys and values, and the next, fit the second-level cache */
  const int64_t row = max64(1, a->groups * a->dim * dtype_size(o->dtype));
  d.tile = max64(NEAR_KEYS, min64(TK, TILE_BYTES / row / NEAR_KEYS * NEAR_KEYS));
  parallel_items(threads, a->batch * d.chunks, bf16 ? chunk_bf16 : chunk_f32, &d);
  const int64_t rows = a->batch * a->heads * a->time;
  parallel_range(ds_cpu_parts(threads, 4.0 * (double)(rows * a->pad * d.chunks)), rows, 1,
                 bf16 ? merge_bf16 : merge_f32, &d);
}
