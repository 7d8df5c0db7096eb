/* attention_backward.c - the gradient of attention, from the inputs, the output and lse.
 *
 * With P = exp(scale q k^T - lse), D = sum(do * o) per query and dS = P (do v^T - D):
 * dv = P^T do, dk = scale dS^T q, dq = scale dS k. Everything is recomputed tile by tile.
 *
 * One item of work owns what it sums into. With many key/value heads an item is one of them, and
 * makes dq, dk and dv in one go. With few, the heads are cut: first by keys for dk and dv, then by
 * queries for dq, at the price of computing P twice.
 */
#include <math.h>

#include "attention.h"

enum { WANT_DQ = 1, WANT_DKV = 2 };

typedef struct backward {
  attention a;
  const ds_tensor *o, *do_, *dq, *dk, *dv;
  const float *lse;
  int64_t cuts; /* pieces per key/value head */
  int want, acc_q, acc_k, acc_v;
} backward;

typedef struct scratch {
  float *q, *do_, *qt, *dot; /* [TQ][pad] and [pad][TQ]; q is scaled */
  float *dqt;                /* [pad][TQ] */
  float *keys, *values;      /* [TK][pad] */
  float *p, *ds;             /* [TK][TQ] */
  float *lse, *delta;        /* [TQ] */
  float *dk, *dv;            /* [keys][pad] */
} scratch;

static scratch scratch_of(const attention *a, int worker) {
  const int64_t keys = round_up(a->keys, TK);
  scratch s;
  float *p = a->workspace + worker * ds_cpu_attention_back_scratch(a->pad, keys);
  s.q = p, p += TQ * a->pad;
  s.do_ = p, p += TQ * a->pad;
  s.qt = p, p += TQ * a->pad;
  s.dot = p, p += TQ * a->pad;
  s.dqt = p, p += TQ * a->pad;
  s.keys = p, p += TK * a->pad;
  s.values = p, p += TK * a->pad;
  s.dk = p, p += keys * a->pad;
  s.dv = p, p += keys * a->pad;
  s.p = p, p += TK * TQ;
  s.ds = p, p += TK * TQ;
  s.lse = p, p += TQ;
  s.delta = p;
  return s;
}

INLINE int64_t at3(const ds_tensor *t, int64_t i, int64_t j, int64_t k) {
  return i * t->stride[0] + j * t->stride[1] + k * t->stride[2];
}

/* Queries t0 .. t0+n-1 of a head, both ways round, with their lse and delta. Queries that see no
 * key, and those that only fill up the tile, get lse +inf: then P is 0. */
INLINE void load_queries(const backward *w, const scratch *s, int64_t b, int64_t h, int64_t t0,
                         int64_t n, int dt) {
  const attention *a = &w->a;
  const int64_t padded = round_up(n, QB);
  load_rows(s->q, a, a->q->data, at3(a->q, b, t0, h), a->q->stride[1], n, padded, a->scale, dt);
  load_rows(s->do_, a, w->do_->data, at3(w->do_, b, t0, h), w->do_->stride[1], n, padded, 1.0f, dt);
  transpose(s->q, a->pad, s->qt, TQ, padded, a->pad);
  transpose(s->do_, a->pad, s->dot, TQ, padded, a->pad);
  for (int64_t i = 0; i < padded; i++) {
    s->lse[i] = INFINITY;
    s->delta[i] = 0;
    if (i >= n) continue;
    const float lse = w->lse[(b * a->heads + h) * a->time + t0 + i];
    if (lse != -INFINITY) s->lse[i] = lse;
    const int64_t at = at3(w->o, b, t0 + i, h);
    vf sum = {0};
    VLOOP(c, m, 0, a->dim,
          { sum += ld(w->o->data, at + c, m, dt) * ld(s->do_, i * a->pad + c, m, DS_F32); });
    s->delta[i] = vhsum(sum);
  }
}

/* p: scores -> P; ds: do v^T -> dS, for one block. */
INLINE void probabilities(const view *w, float *p, float *ds, const float *lses,
                          const float *deltas) {
  vf lse[NV], delta[NV];
  for (int j = 0; j < NV; j++) lse[j] = vload(lses + j * VL), delta[j] = vload(deltas + j * VL);
  for (int64_t s = 0; s < w->count; s++)
    for (int j = 0; j < NV; j++) {
      const int64_t i = s * TQ + j * VL;
      const vf e = vexp(view_mask(w, j, (int32_t)s, vload(p + i)) - lse[j]);
      vstore(p + i, e);
      vstore(ds + i, e * (vload(ds + i) - delta[j]));
    }
}

/* Queries of a tile against keys s0 .. s0+n-1; dk and dv are those keys' sums. */
INLINE void backward_tile(const backward *w, const scratch *s, int64_t b, int64_t g, int64_t t0,
                          int64_t queries, int64_t s0, int64_t n, float *dk, float *dv, int want,
                          int dt) {
  const attention *a = &w->a;
  const int64_t used = keys_used(a, b), pad = a->pad, padded = round_up(n, MR);
  load_rows(s->keys, a, a->k->data, at3(a->k, b, s0, g), a->k->stride[1], n, padded, 1.0f, dt);
  load_rows(s->values, a, a->v->data, at3(a->v, b, s0, g), a->v->stride[1], n, padded, 1.0f, dt);
  for (int64_t j = 0; j < queries; j += QB) {
    const view v = view_of(a, used, t0 + j, s0, n);
    if (v.count == 0) continue;
    rows_by_queries(v.count, pad, s->keys, s->qt + j, s->p + j);
    rows_by_queries(v.count, pad, s->values, s->dot + j, s->ds + j);
    probabilities(&v, s->p + j, s->ds + j, s->lse + j, s->delta + j);
    if (want & WANT_DQ) columns_by_queries(v.count, pad, s->keys, s->ds + j, s->dqt + j, NULL);
    if (want & WANT_DKV) {
      keys_by_rows(v.count, pad, s->p + j, s->do_ + j * pad, dv);
      keys_by_rows(v.count, pad, s->ds + j, s->q + j * pad, dk);
    }
  }
}

/* One key/value head: queries [t_lo,t_hi) against keys [s_lo,s_hi). */
INLINE void backward_head(const backward *w, int64_t b, int64_t g, int64_t t_lo, int64_t t_hi,
                          int64_t s_lo, int64_t s_hi, int want, int worker, int dt) {
  const attention *a = &w->a;
  const scratch s = scratch_of(a, worker);
  const int64_t used = keys_used(a, b), pad = a->pad;
  if (want & WANT_DKV) {
    const size_t bytes = (size_t)(round_up(s_hi - s_lo, TK) * pad) * sizeof(float);
    memset(s.dk, 0, bytes);
    memset(s.dv, 0, bytes);
  }
  for (int64_t h = g * a->rep; h < (g + 1) * a->rep; h++)
    for (int64_t t0 = t_lo; t0 < t_hi; t0 += TQ) {
      const int64_t n = min64(TQ, t_hi - t0), padded = round_up(n, QB);
      const int64_t end = min64(s_hi, seen_to(a, used, t0 + n - 1));
      /* tiles of keys start at the same places for all queries */
      const int64_t from = max64(s_lo, seen_from(a, used, t0));
      load_queries(w, &s, b, h, t0, n, dt);
      if (want & WANT_DQ) memset(s.dqt, 0, (size_t)(TQ * pad) * sizeof(float));
      for (int64_t s0 = s_lo + (from - s_lo) / TK * TK; s0 < end; s0 += TK)
        backward_tile(w, &s, b, g, t0, padded, s0, min64(TK, end - s0), s.dk + (s0 - s_lo) * pad,
                      s.dv + (s0 - s_lo) * pad, want, dt);
      if (!(want & WANT_DQ)) continue;
      transpose(s.dqt, TQ, s.q, pad, pad, padded);
      store_rows(w->dq->data, at3(w->dq, b, t0, h), w->dq->stride[1], s.q, a, n, a->scale, w->acc_q,
                 dt);
    }
  if (want & WANT_DKV) {
    store_rows(w->dk->data, at3(w->dk, b, s_lo, g), w->dk->stride[1], s.dk, a, s_hi - s_lo, 1.0f,
               w->acc_k, dt);
    store_rows(w->dv->data, at3(w->dv, b, s_lo, g), w->dv->stride[1], s.dv, a, s_hi - s_lo, 1.0f,
               w->acc_v, dt);
  }
}

/* Item i: piece i % cuts of key/value head i / cuts. */
INLINE void backward_item(const backward *w, int64_t i, int worker, int dt) {
  const attention *a = &w->a;
  const int64_t head = i / w->cuts, cut = i % w->cuts, b = head / a->groups, g = head % a->groups;
  const int by_keys = w->cuts > 1 && w->want == WANT_DKV;
  const int by_queries = w->cuts > 1 && w->want == WANT_DQ;
  int64_t t_lo = 0, t_hi = a->time, s_lo = 0, s_hi = a->keys;
  if (by_keys) {
    const int64_t tiles = (a->keys + TK - 1) / TK;
    s_lo = min64(a->keys, tiles * cut / w->cuts * TK);
    s_hi = min64(a->keys, tiles * (cut + 1) / w->cuts * TK);
  }
  if (by_queries) {
    const int64_t tiles = (a->time + TQ - 1) / TQ;
    t_lo = min64(a->time, tiles * cut / w->cuts * TQ);
    t_hi = min64(a->time, tiles * (cut + 1) / w->cuts * TQ);
  }
  if (w->want == (WANT_DQ | WANT_DKV))
    backward_head(w, b, g, t_lo, t_hi, s_lo, s_hi, WANT_DQ | WANT_DKV, worker, dt);
  else
    backward_head(w, b, g, t_lo, t_hi, s_lo, s_hi, w->want, worker, dt);
}

static void backward_f32(const void *ctx, int64_t i, int64_t end, int worker) {
  (void)end;
  backward_item(ctx, i, worker, DS_F32);
}

static void backward_bf16(const void *ctx, int64_t i, int64_t end, int worker) {
  (void)end;
  backward_item(ctx, i, worker, DS_BF16);
}

void K(attention_backward)(const ds_op *op, int threads) {
  const ds_tensor *q = op->in[1];
  backward w = {.a = attention_of(op, q, op->in[2], op->in[3], ds_cpu_in(op, 6)),
                .do_ = op->in[0],
                .o = op->in[4],
                .lse = op->in[5]->data,
                .dq = op->out[0],
                .dk = op->out[1],
                .dv = op->out[2],
                .acc_q = ds_cpu_accumulates(op, 0),
                .acc_k = ds_cpu_accumulates(op, 1),
                .acc_v = ds_cpu_accumulates(op, 2)};
  const attention *a = &w.a;
  const int64_t heads = a->batch * a->groups;
  range_fn *fn = q->dtype == DS_BF16 ? backward_bf16 : backward_f32;
  if (heads == 0 || a->dim == 0) return;
  const double work = 20.0 * (double)(a->batch * a->heads * a->time * a->dim) * (double)a->keys;
  threads = ds_cpu_parts(threads, work / 16);
  if (heads % threads == 0 || heads >= 3 * threads) {
    w.cuts = 1;
    w.want = WANT_DQ | WANT_DKV;
    parallel_items(threads, heads, fn, &w);
    return;
  }
  w.cuts = (4 * threads + heads - 1) / heads;
  w.want = WANT_DKV;
  parallel_items(threads, heads * w.cuts, fn, &w);
  w.want = WANT_DQ;
  parallel_items(threads, heads * w.cuts, fn, &w);
}
