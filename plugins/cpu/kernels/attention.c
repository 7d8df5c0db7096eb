/* attention.c - attention, forward: flash style (Dao et al., 2022), with an online softmax over
 * tiles of keys. A few queries against many keys (decoding) go key by key instead. */
#include <math.h>

#include "attention.h"

typedef struct forward {
  attention a;
  const ds_tensor *o;
  float *lse;
  int64_t tiles;         /* of queries */
  int64_t heads_at_once; /* of the few-rows path: those that share a key/value head, or 1 */
} forward;

typedef struct scratch {
  float *rows;             /* [TQ][pad] */
  float *qt, *ot;          /* [pad][TQ] */
  float *keys, *values;    /* [TK][pad] */
  float *scores;           /* [TK][TQ] */
  float *top, *sum, *gain; /* [TQ] */
} scratch;

static scratch scratch_of(const attention *a, int worker) {
  scratch s;
  float *p = a->workspace + worker * ds_cpu_attention_scratch(a->pad);
  s.rows = p, p += TQ * a->pad;
  s.qt = p, p += TQ * a->pad;
  s.ot = p, p += TQ * a->pad;
  s.keys = p, p += TK * a->pad;
  s.values = p, p += TK * a->pad;
  s.scores = p, p += TK * TQ;
  s.top = p, p += TQ;
  s.sum = p, p += TQ;
  s.gain = p;
  return s;
}

/* Turns the scores of a block into exp(score - top) with top the highest so far, and says in gain
 * by what the sums so far must shrink. A query that has seen nothing has top -inf and sum 0. */
INLINE void softmax_block(const view *w, float *scores, float *tops, float *sums, float *gains) {
  const vf lowest = vset(-INFINITY);
  vf top[NV], base[NV], sum[NV];
  for (int j = 0; j < NV; j++) top[j] = vload(tops + j * VL);
  for (int64_t s = 0; s < w->count; s++)
    for (int j = 0; j < NV; j++) {
      vf x = view_mask(w, j, (int32_t)s, vload(scores + s * TQ + j * VL));
      if (!w->whole) vstore(scores + s * TQ + j * VL, x);
      top[j] = vmax(x, top[j]);
    }
  for (int j = 0; j < NV; j++) {
    base[j] = vsel(top[j] == lowest, vset(0.0f), top[j]);
    const vf gain = vexp(vload(tops + j * VL) - base[j]);
    sum[j] = vload(sums + j * VL) * gain;
    vstore(gains + j * VL, gain);
    vstore(tops + j * VL, top[j]);
  }
  for (int64_t s = 0; s < w->count; s++)
    for (int j = 0; j < NV; j++) {
      const vf p = vexp(vload(scores + s * TQ + j * VL) - base[j]);
      vstore(scores + s * TQ + j * VL, p);
      sum[j] += p;
    }
  for (int j = 0; j < NV; j++) vstore(sums + j * VL, sum[j]);
}

/* Divides by the sums, writes the outputs of queries t0 .. t0+n-1. */
INLINE void finish_tile(const forward *f, const scratch *s, int64_t b, int64_t h, int64_t t0,
                        int64_t n, int dt) {
  const attention *a = &f->a;
  const int64_t padded = round_up(n, QB);
  for (int64_t i = 0; i < n; i++) {
    const float sum = s->sum[i];
    if (f->lse) f->lse[(b * a->heads + h) * a->time + t0 + i] = s->top[i] + logf(sum);
    s->gain[i] = sum == 0.0f ? 0.0f : 1.0f / sum;
  }
  for (int64_t i = n; i < padded; i++) s->gain[i] = 0;
  for (int64_t d = 0; d < a->pad; d++)
    for (int64_t i = 0; i < padded; i += VL)
      vstore(s->ot + d * TQ + i, vload(s->ot + d * TQ + i) * vload(s->gain + i));
  transpose(s->ot, TQ, s->rows, a->pad, a->pad, padded);
  store_rows(f->o->data, b * f->o->stride[0] + t0 * f->o->stride[1] + h * f->o->stride[2],
             f->o->stride[1], s->rows, a, n, 1.0f, 0, dt);
}

INLINE void forward_tile(const forward *f, int64_t b, int64_t h, int64_t tile, int worker, int dt) {
  const attention *a = &f->a;
  const scratch s = scratch_of(a, worker);
  const int64_t t0 = tile * TQ, n = min64(TQ, a->time - t0), padded = round_up(n, QB);
  const int64_t used = keys_used(a, b), g = h / a->rep;
  load_rows(s.rows, a, a->q->data, b * a->q->stride[0] + t0 * a->q->stride[1] + h * a->q->stride[2],
            a->q->stride[1], n, padded, a->scale, dt);
  transpose(s.rows, a->pad, s.qt, TQ, padded, a->pad);
  memset(s.ot, 0, (size_t)(a->pad * TQ) * sizeof(float));
  for (int64_t i = 0; i < padded; i++) s.top[i] = -INFINITY, s.sum[i] = 0;
  const int64_t end = seen_to(a, used, t0 + n - 1);
  for (int64_t s0 = seen_from(a, used, t0); s0 < end; s0 += TK) {
    const int64_t keys = min64(TK, end - s0), keys_padded = round_up(keys, MR);
    load_rows(s.keys, a, a->k->data,
              b * a->k->stride[0] + s0 * a->k->stride[1] + g * a->k->stride[2], a->k->stride[1],
              keys, keys_padded, 1.0f, dt);
    load_rows(s.values, a, a->v->data,
              b * a->v->stride[0] + s0 * a->v->stride[1] + g * a->v->stride[2], a->v->stride[1],
              keys, keys_padded, 1.0f, dt);
    for (int64_t j = 0; j < padded; j += QB) {
      const view w = view_of(a, used, t0 + j, s0, keys);
      if (w.count == 0) continue;
      rows_by_queries(w.count, a->pad, s.keys, s.qt + j, s.scores + j);
      softmax_block(&w, s.scores + j, s.top + j, s.sum + j, s.gain + j);
      columns_by_queries(w.count, a->pad, s.values, s.scores + j, s.ot + j, s.gain + j);
    }
  }
  finish_tile(f, &s, b, h, t0, n, dt);
}

/* ---- few rows: queries of one key/value head, at most DS_CPU_FEW_ROWS */

typedef struct few {
  float *q, *o, *scores; /* [rows][pad], [rows][pad], [rows][TK] */
  float top[DS_CPU_FEW_ROWS], sum[DS_CPU_FEW_ROWS];
  int64_t from[DS_CPU_FEW_ROWS], to[DS_CPU_FEW_ROWS]; /* keys that a row sees */
  int64_t rows;
} few;

/* scores[s] = q . key s, four keys at a time to hide latency. */
INLINE void dots(const attention *a, const float *q, const void *k, int64_t at, int64_t count,
                 float *scores, int dt) {
  const int64_t stride = a->k->stride[1];
  int64_t s = 0;
  for (; s + 4 <= count; s += 4) {
    vf x0 = {0}, x1 = {0}, x2 = {0}, x3 = {0};
    const int64_t i = at + s * stride;
    VLOOP(c, n, 0, a->dim, {
      const vf w = vload(q + c);
      x0 += w * ld(k, i + c, n, dt);
      x1 += w * ld(k, i + stride + c, n, dt);
      x2 += w * ld(k, i + 2 * stride + c, n, dt);
      x3 += w * ld(k, i + 3 * stride + c, n, dt);
    });
    scores[s] = vhsum(x0);
    scores[s + 1] = vhsum(x1);
    scores[s + 2] = vhsum(x2);
    scores[s + 3] = vhsum(x3);
  }
  for (; s < count; s++) {
    vf x = {0};
    VLOOP(c, n, 0, a->dim, { x += vload(q + c) * ld(k, at + s * stride + c, n, dt); });
    scores[s] = vhsum(x);
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

/* Row r of w takes the keys s0 .. s0+count-1 in. */
INLINE void few_step(const attention *a, few *w, int64_t r, int64_t b, int64_t g, int64_t s0,
                     int64_t count, int dt) {
  const int64_t lo = max64(s0, w->from[r]), hi = min64(s0 + count, w->to[r]);
  if (lo >= hi) return;
  float *scores = w->scores + r * TK;
  const ds_tensor *k = a->k, *v = a->v;
  dots(a, w->q + r * a->pad, k->data, b * k->stride[0] + lo * k->stride[1] + g * k->stride[2],
       hi - lo, scores, dt);
  float top = w->top[r];
  for (int64_t s = 0; s < hi - lo; s++) top = scores[s] > top ? scores[s] : top;
  const float base = top == -INFINITY ? 0.0f : top, gain = expf(w->top[r] - base);
  vf sum = {0};
  VLOOP(s, n, 0, hi - lo, {
    const vf p = vfirst(vexp(ld(scores, s, n, DS_F32) - base), n);
    st(scores, s, n, DS_F32, p);
    sum += p;
  });
  w->sum[r] = w->sum[r] * gain + vhsum(sum);
  w->top[r] = top;
  mix(a, scores, v->data, b * v->stride[0] + lo * v->stride[1] + g * v->stride[2], hi - lo, gain,
      w->o + r * a->pad, dt);
}

/* Heads h0 .. h0+heads_at_once-1 of batch b, all their queries; row r is head r / time. */
INLINE void forward_few(const forward *f, int64_t b, int64_t h0, int worker, int dt) {
  const attention *a = &f->a;
  const int64_t used = keys_used(a, b), g = h0 / a->rep;
  few w = {.rows = f->heads_at_once * a->time};
  w.q = a->workspace + worker * ds_cpu_attention_scratch(a->pad);
  w.o = w.q + DS_CPU_FEW_ROWS * a->pad;
  w.scores = w.o + DS_CPU_FEW_ROWS * a->pad;
  for (int64_t r = 0; r < w.rows; r++) {
    const int64_t h = h0 + r / a->time, t = r % a->time;
    load_rows(w.q + r * a->pad, a, a->q->data,
              b * a->q->stride[0] + t * a->q->stride[1] + h * a->q->stride[2], 0, 1, 1, a->scale,
              dt);
    memset(w.o + r * a->pad, 0, (size_t)a->pad * sizeof(float));
    w.from[r] = seen_from(a, used, t);
    w.to[r] = seen_to(a, used, t);
    w.top[r] = -INFINITY;
    w.sum[r] = 0;
  }
  for (int64_t s0 = seen_from(a, used, 0); s0 < used; s0 += TK)
    for (int64_t r = 0; r < w.rows; r++) few_step(a, &w, r, b, g, s0, min64(TK, used - s0), dt);
  for (int64_t r = 0; r < w.rows; r++) {
    const int64_t h = h0 + r / a->time, t = r % a->time;
    if (f->lse) f->lse[(b * a->heads + h) * a->time + t] = w.top[r] + logf(w.sum[r]);
    store_rows(f->o->data, b * f->o->stride[0] + t * f->o->stride[1] + h * f->o->stride[2], 0,
               w.o + r * a->pad, a, 1, w.sum[r] == 0.0f ? 0.0f : 1.0f / w.sum[r], 0, dt);
  }
}

/* Items: the last tiles of queries first, since they see the most keys. */
#define FORWARD(name, dt)                                                                          \
  static void name##_tiles(const void *ctx, int64_t i, int64_t end, int worker) {                  \
    const forward *f = ctx;                                                                        \
    const int64_t heads = f->a.batch * f->a.heads, at = i % heads;                                 \
    (void)end;                                                                                     \
    forward_tile(f, at / f->a.heads, at % f->a.heads, f->tiles - 1 - i / heads, worker, dt);       \
  }                                                                                                \
  static void name##_few(const void *ctx, int64_t i, int64_t end, int worker) {                    \
    const forward *f = ctx;                                                                        \
    const int64_t items = f->a.heads / f->heads_at_once;                                           \
    (void)end;                                                                                     \
    forward_few(f, i / items, i % items * f->heads_at_once, worker, dt);                           \
  }

FORWARD(forward_f32, DS_F32)
FORWARD(forward_bf16, DS_BF16)

void K(attention)(const ds_op *op, int threads) {
  const ds_tensor *q = op->in[0];
  forward f = {.a = attention_of(op, q, op->in[1], op->in[2], ds_cpu_in(op, 3)),
               .o = op->out[0],
               .lse = ds_cpu_data(ds_cpu_out(op, 1))};
  const attention *a = &f.a;
  const int bf16 = q->dtype == DS_BF16;
  if (ds_cpu_numel(q) == 0) return;
  f.tiles = (a->time + TQ - 1) / TQ;
  f.heads_at_once =
      a->rep * a->time <= DS_CPU_FEW_ROWS && a->batch * a->groups >= threads ? a->rep : 1;
  const double work = 8.0 * (double)(a->batch * a->heads * a->time * a->dim) * (double)a->keys;
  threads = ds_cpu_parts(threads, work / 16);
  if (a->time <= DS_CPU_FEW_ROWS)
    parallel_items(threads, a->batch * a->heads / f.heads_at_once,
                   bf16 ? forward_bf16_few : forward_f32_few, &f);
  else
    parallel_items(threads, a->batch * a->heads * f.tiles,
                   bf16 ? forward_bf16_tiles : forward_f32_tiles, &f);
}
