#include "ops/tape.h"

static bool check_pair(ds_ctx *ctx, const char *op, const ds_value *a, const ds_value *b) {
  if (ds_tensor_same_shape(&a->t, &b->t) && a->t.dtype == b->t.dtype) return true;
  char as[96], bs[96];
  ds_ctx_fail(ctx, DS_ERR_INVALID, "%s: %s %s and %s %s differ in shape or dtype", op,
              ds_tensor_describe(&a->t, as, sizeof as), ds_dtype_name(a->t.dtype),
              ds_tensor_describe(&b->t, bs, sizeof bs), ds_dtype_name(b->t.dtype));
  return false;
}

/* y = op(a, b) of one shape. */
static ds_value *binary(ds_ctx *ctx, uint32_t op, const char *name, ds_value *a, ds_value *b,
                        ds_backward_fn backward) {
  a = ds_contiguous(ctx, a);
  b = ds_contiguous(ctx, b);
  if (!a || !b || !check_pair(ctx, name, a, b)) return NULL;
  ds_value *in[] = {a, b};
  ds_value *y = ds_value_new(ctx, a->t.dtype, a->t.rank, a->t.shape);
  if (!y || !ds_run(ctx, op, in, 2, &y, 1, NULL, 0)) return NULL;
  return ds_record(ctx, backward, in, 2, &y, 1, NULL, 0);
}

static ds_status add_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  DS_TRY(ds_grad_pass(ctx, node->in[0], node, err));
  return ds_grad_pass(ctx, node->in[1], node, err);
}

ds_value *ds_add(ds_ctx *ctx, ds_value *a, ds_value *b) {
  return binary(ctx, DS_OP_ADD, "add", a, b, add_backward);
}

static ds_status mul_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  for (int i = 0; i < 2; i++) {
    ds_value *x = node->in[i];
    if (!x->needs_grad) continue;
    ds_grad d;
    DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_CONTIGUOUS, &d, err));
    DS_TRY(ds_run_raw(ctx, DS_OP_MUL, (const ds_tensor *[]){ds_grad_out(node), &node->in[1 - i]->t},
                      2, (const ds_tensor *[]){&d.t}, 1, d.accumulate, NULL, 0, err));
    DS_TRY(ds_grad_close(ctx, &d, err));
  }
  return DS_OK;
}

ds_value *ds_mul(ds_ctx *ctx, ds_value *a, ds_value *b) {
  return binary(ctx, DS_OP_MUL, "mul", a, b, mul_backward);
}

/* dx = op(dy), for ops whose gradient is a function of dy and attributes alone. */
static ds_status pass_through(ds_ctx *ctx, ds_node *node, uint32_t op, ds_error *err) {
  ds_value *x = node->in[0];
  ds_grad d;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_CONTIGUOUS, &d, err));
  DS_TRY(ds_run_raw(ctx, op, (const ds_tensor *[]){ds_grad_out(node)}, 1,
                    (const ds_tensor *[]){&d.t}, 1, d.accumulate, node->attr,
                    op == DS_OP_SCALE ? 1 : 0, err));
  return ds_grad_close(ctx, &d, err);
}

static ds_status scale_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  return pass_through(ctx, node, DS_OP_SCALE, err);
}

ds_value *ds_scale(ds_ctx *ctx, ds_value *x, double factor) {
  x = ds_contiguous(ctx, x);
  if (!x) return NULL;
  ds_attr attr = {.f = factor};
  ds_value *y = ds_value_new(ctx, x->t.dtype, x->t.rank, x->t.shape);
  if (!y || !ds_run(ctx, DS_OP_SCALE, &x, 1, &y, 1, &attr, 1)) return NULL;
  return ds_record(ctx, scale_backward, &x, 1, &y, 1, &attr, 1);
}

static ds_status mean_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  return pass_through(ctx, node, DS_OP_MEAN_BACKWARD, err);
}

ds_value *ds_mean(ds_ctx *ctx, ds_value *x) {
  x = ds_contiguous(ctx, x);
  if (!x) return NULL;
  if (ds_tensor_numel(&x->t) == 0) return ds_ctx_fail(ctx, DS_ERR_INVALID, "mean of no elements");
  int64_t one = 1;
  ds_value *y = ds_value_new(ctx, DS_F32, 1, &one);
  if (!y || !ds_run(ctx, DS_OP_MEAN, &x, 1, &y, 1, NULL, 0)) return NULL;
  return ds_record(ctx, mean_backward, &x, 1, &y, 1, NULL, 0);
}
