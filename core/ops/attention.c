#include "ops/sequence.h"
#include "ops/tape.h"

#include <math.h>

static ds_status attention_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *q = node->in[0], *k = node->in[1], *v = node->in[2], *len = node->in[3];
  ds_grad dq, dk, dv;
  DS_TRY(ds_grad_open(ctx, q, q->t.dtype, DS_LAYOUT_STRIDED, &dq, err));
  DS_TRY(ds_grad_open(ctx, k, k->t.dtype, DS_LAYOUT_STRIDED, &dk, err));
  DS_TRY(ds_grad_open(ctx, v, v->t.dtype, DS_LAYOUT_STRIDED, &dv, err));
  uint32_t bits =
      (uint32_t)dq.accumulate | (uint32_t)dk.accumulate << 1 | (uint32_t)dv.accumulate << 2;
  DS_TRY(ds_run_raw(ctx, DS_OP_ATTENTION_BACKWARD,
                    (const ds_tensor *[]){ds_grad_out(node), &q->t, &k->t, &v->t, &node->out[0]->t,
                                          &node->out[1]->t, len ? &len->t : NULL},
                    7, (const ds_tensor *[]){&dq.t, &dk.t, &dv.t}, 3, bits, node->attr, 3, err));
  DS_TRY(ds_grad_close(ctx, &dq, err));
  DS_TRY(ds_grad_close(ctx, &dk, err));
  return ds_grad_close(ctx, &dv, err);
}

static bool check_shapes(ds_ctx *ctx, const ds_tensor *q, const ds_tensor *k, const ds_tensor *v) {
  bool ok = q->rank == 4 && k->rank == 4 && ds_tensor_same_shape(k, v) &&
            q->shape[0] == k->shape[0] && q->shape[3] == k->shape[3] && k->shape[2] > 0 &&
            q->shape[2] % k->shape[2] == 0 && q->dtype == k->dtype && k->dtype == v->dtype;
  if (ok) return true;
  char qs[96], ks[96], vs[96];
  ds_ctx_fail(
      ctx, DS_ERR_INVALID,
      "attention: q %s, k %s, v %s don't match; wanted [B,T,H,D] and twice [B,S,G,D] with H "
      "a multiple of G",
      ds_tensor_describe(q, qs, sizeof qs), ds_tensor_describe(k, ks, sizeof ks),
      ds_tensor_describe(v, vs, sizeof vs));
  return false;
}

/* The head dimension must be contiguous; everything else may be strided. */
static ds_value *dense_heads(ds_ctx *ctx, ds_value *x) {
  return x && x->t.shape[x->t.rank - 1] > 1 && x->t.stride[x->t.rank - 1] != 1
             ? ds_contiguous(ctx, x)
             : x;
}

static ds_value *attend(ds_ctx *ctx, ds_value *q, ds_value *k, ds_value *v, ds_value *kv_len,
                        bool causal, double scale, int64_t window) {
  if (!q || !k || !v) return NULL;
  ds_value *in[] = {dense_heads(ctx, q), dense_heads(ctx, k), dense_heads(ctx, v), kv_len};
  ds_value *out[] = {ds_value_new(ctx, q->t.dtype, 4, q->t.shape), NULL};
  if (!in[0] || !in[1] || !in[2] || !out[0]) return NULL;
  if (ds_will_record(ctx, in, 4)) {
    int64_t shape[] = {q->t.shape[0], q->t.shape[2], q->t.shape[1]};
    out[1] = ds_value_new(ctx, DS_F32, 3, shape);
    if (!out[1]) return NULL;
  }
  ds_attr attr[] = {
      {.f = scale != 0 ? scale : 1 / sqrt((double)q->t.shape[3])}, {.i = causal}, {.i = window}};
  if (!ds_run(ctx, DS_OP_ATTENTION, in, 4, out, 2, attr, 3)) return NULL;
  return ds_record(ctx, attention_backward, in, 4, out, 2, attr, 3);
}

ds_value *ds_attention(ds_ctx *ctx, ds_value *q, ds_value *k, ds_value *v, ds_value *kv_len,
                       bool causal, double scale, int64_t window) {
  if (!q || !k || !v || !check_shapes(ctx, &q->t, &k->t, &v->t)) return NULL;
  if (!ctx->sequence) return attend(ctx, q, k, v, kv_len, causal, scale, window);
  if (!ds_sequence_check_heads(ctx, q->t.shape[2], k->t.shape[2])) return NULL;
  if (kv_len)
    return ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                       "attention: kv_len with sequence parallelism; it is for whole sequences");
  q = ds_sequence_to_heads(ctx, q);
  k = ds_sequence_to_heads(ctx, k);
  v = ds_sequence_to_heads(ctx, v);
  return ds_sequence_to_tokens(ctx, attend(ctx, q, k, v, NULL, causal, scale, window));
}

static ds_status rope_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0];
  ds_grad dx;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_STRIDED, &dx, err));
  ds_attr attr[] = {node->attr[0], {.i = 1}};
  DS_TRY(ds_run_raw(ctx, DS_OP_ROPE,
                    (const ds_tensor *[]){ds_grad_out(node), &node->in[1]->t, &node->in[2]->t}, 3,
                    (const ds_tensor *[]){&dx.t}, 1, dx.accumulate, attr, 2, err));
  return ds_grad_close(ctx, &dx, err);
}

ds_value *ds_rope(ds_ctx *ctx, ds_value *x, ds_value *pos, ds_value *inv_freq, bool interleaved) {
  x = dense_heads(ctx, x);
  if (!x || !pos || !inv_freq) return NULL;
  if (x->t.rank != 4 || pos->t.rank != 2 || pos->t.dtype != DS_I32 ||
      pos->t.shape[0] != x->t.shape[0] || pos->t.shape[1] != x->t.shape[1] ||
      inv_freq->t.rank != 1 || inv_freq->t.dtype != DS_F32 ||
      2 * inv_freq->t.shape[0] > x->t.shape[3])
    return ds_ctx_fail(ctx, DS_ERR_INVALID,
                       "rope: wanted x [B,T,H,D], pos i32[B,T], inv_freq f32[P] with 2P <= D");
  ds_value *in[] = {x, pos, inv_freq};
  ds_attr attr[] = {{.i = interleaved}, {.i = 0}};
  ds_value *y = ds_value_new(ctx, x->t.dtype, 4, x->t.shape);
  if (!y || !ds_run(ctx, DS_OP_ROPE, in, 3, &y, 1, attr, 2)) return NULL;
  return ds_record(ctx, rope_backward, in, 3, &y, 1, attr, 1);
}
