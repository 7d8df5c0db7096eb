#include "ops/tape.h"

static bool check_vector(ds_ctx *ctx, const char *op, const char *what, const ds_value *x,
                         const ds_value *w) {
  if (x->t.rank >= 1 && w->t.rank == 1 && w->t.shape[0] == x->t.shape[x->t.rank - 1] &&
      w->t.dtype == x->t.dtype)
    return true;
  char xs[96], ws[96];
  ds_ctx_fail(ctx, DS_ERR_INVALID, "%s: %s %s %s doesn't match x %s %s", op, what,
              ds_tensor_describe(&w->t, ws, sizeof ws), ds_dtype_name(w->t.dtype),
              ds_tensor_describe(&x->t, xs, sizeof xs), ds_dtype_name(x->t.dtype));
  return false;
}

/* A per-row statistic that backward needs. */
static ds_value *row_statistic(ds_ctx *ctx, const ds_value *x) {
  int64_t cols = x->t.shape[x->t.rank - 1];
  int64_t rows = cols ? ds_tensor_numel(&x->t) / cols : 0;
  return ds_value_new(ctx, DS_F32, 1, &rows);
}

static ds_status layer_norm_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0], *w = node->in[1], *b = node->in[2];
  ds_grad dx, dw, db;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_CONTIGUOUS, &dx, err));
  DS_TRY(ds_grad_open(ctx, w, DS_F32, DS_LAYOUT_CONTIGUOUS, &dw, err));
  DS_TRY(ds_grad_open(ctx, b, DS_F32, DS_LAYOUT_CONTIGUOUS, &db, err));
  uint32_t bits =
      (uint32_t)dx.accumulate | (uint32_t)dw.accumulate << 1 | (uint32_t)db.accumulate << 2;
  DS_TRY(ds_run_raw(
      ctx, DS_OP_LAYER_NORM_BACKWARD,
      (const ds_tensor *[]){ds_grad_out(node), &x->t, &w->t, &node->out[1]->t, &node->out[2]->t}, 5,
      (const ds_tensor *[]){&dx.t, &dw.t, b ? &db.t : NULL}, 3, bits, NULL, 0, err));
  DS_TRY(ds_grad_close(ctx, &dx, err));
  DS_TRY(ds_grad_close(ctx, &dw, err));
  return ds_grad_close(ctx, &db, err);
}

ds_value *ds_layer_norm(ds_ctx *ctx, ds_value *x, ds_value *weight, ds_value *bias, double eps) {
  x = ds_contiguous(ctx, x);
  if (!x || !weight) return NULL;
  if (!check_vector(ctx, "layer_norm", "weight", x, weight)) return NULL;
  if (bias && !check_vector(ctx, "layer_norm", "bias", x, bias)) return NULL;
  ds_value *in[] = {x, weight, bias};
  bool save = ds_will_record(ctx, in, 3);
  ds_value *out[] = {ds_value_new(ctx, x->t.dtype, x->t.rank, x->t.shape),
                     save ? row_statistic(ctx, x) : NULL, save ? row_statistic(ctx, x) : NULL};
  ds_attr attr = {.f = eps};
  if (!ds_run(ctx, DS_OP_LAYER_NORM, in, 3, out, 3, &attr, 1)) return NULL;
  return ds_record(ctx, layer_norm_backward, in, 3, out, 3, NULL, 0);
}

static ds_status rms_norm_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0], *w = node->in[1];
  ds_grad dx, dw;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_CONTIGUOUS, &dx, err));
  DS_TRY(ds_grad_open(ctx, w, DS_F32, DS_LAYOUT_CONTIGUOUS, &dw, err));
  uint32_t bits = (uint32_t)dx.accumulate | (uint32_t)dw.accumulate << 1;
  DS_TRY(ds_run_raw(ctx, DS_OP_RMS_NORM_BACKWARD,
                    (const ds_tensor *[]){ds_grad_out(node), &x->t, &w->t, &node->out[1]->t}, 4,
                    (const ds_tensor *[]){&dx.t, &dw.t}, 2, bits, NULL, 0, err));
  DS_TRY(ds_grad_close(ctx, &dx, err));
  return ds_grad_close(ctx, &dw, err);
}

ds_value *ds_rms_norm(ds_ctx *ctx, ds_value *x, ds_value *weight, double eps) {
  x = ds_contiguous(ctx, x);
  if (!x || !weight || !check_vector(ctx, "rms_norm", "weight", x, weight)) return NULL;
  ds_value *in[] = {x, weight};
  ds_value *out[] = {ds_value_new(ctx, x->t.dtype, x->t.rank, x->t.shape),
                     ds_will_record(ctx, in, 2) ? row_statistic(ctx, x) : NULL};
  ds_attr attr = {.f = eps};
  if (!ds_run(ctx, DS_OP_RMS_NORM, in, 2, out, 2, &attr, 1)) return NULL;
  return ds_record(ctx, rms_norm_backward, in, 2, out, 2, NULL, 0);
}
