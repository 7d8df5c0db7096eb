/* attention.c - attention, forward: flash style (Dao et al., 2022), with an online softmax over
 * tiles of keys. A few queries (decoding) go to attention_decode.c. */
#include <math.h>

#include "attention.h"

typedef struct forward {
  attention a;
  const ds_tensor *o;
  float *lse;
  int64_t tiles; /* of queries */
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

/* Items: the last tiles of queries first, since they see the most keys. */
static void forward_f32(const void *ctx, int64_t i, int64_t end, int worker) {
  const forward *f = ctx;
  const int64_t heads = f->a.batch * f->a.heads, at = i % heads;
  (void)end;
  forward_tile(f, at / f->a.heads, at % f->a.heads, f->tiles - 1 - i / heads, worker, DS_F32);
}

static void forward_bf16(const void *ctx, int64_t i, int64_t end, int worker) {
  const forward *f = ctx;
  const int64_t heads = f->a.batch * f->a.heads, at = i % heads;
  (void)end;
  forward_tile(f, at / f->a.heads, at % f->a.heads, f->tiles - 1 - i / heads, worker, DS_BF16);
}

void K(attention)(const ds_op *op, int threads) {
  const ds_tensor *q = op->in[0];
  forward f = {.a = attention_of(op, q, op->in[1], op->in[2], ds_cpu_in(op, 3)),
               .o = op->out[0],
               .lse = ds_cpu_data(ds_cpu_out(op, 1))};
  const attention *a = &f.a;
  if (ds_cpu_numel(q) == 0) return;
  /* bytes that moving would take as long: each query-key pair costs 4 D operations */
  const double pairs = (double)(a->batch * a->heads * a->time) * (double)a->keys;
  threads = ds_cpu_parts(threads, pairs * (double)a->dim / 2);
  if (a->time <= DS_CPU_FEW_QUERIES) {
    K(attention_decode)(&f.a, f.o, f.lse, threads);
    return;
  }
  f.tiles = (a->time + TQ - 1) / TQ;
  parallel_items(threads, a->batch * a->heads * f.tiles,
                 q->dtype == DS_BF16 ? forward_bf16 : forward_f32, &f);
}
