#include "ops/tape.h"

static ds_status activate_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0];
  ds_grad dx;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_CONTIGUOUS, &dx, err));
  DS_TRY(ds_run_raw(ctx, DS_OP_ACTIVATION_BACKWARD, (const ds_tensor *[]){ds_grad_out(node), &x->t},
                    2, (const ds_tensor *[]){&dx.t}, 1, dx.accumulate, node->attr, 1, err));
  return ds_grad_close(ctx, &dx, err);
}

ds_value *ds_activate(ds_ctx *ctx, ds_value *x, ds_activation kind) {
  x = ds_contiguous(ctx, x);
  if (!x) return NULL;
  if (kind < DS_ACTIVATION_GELU_TANH || kind > DS_ACTIVATION_SIGMOID)
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "activation kind %d", (int)kind);
  ds_attr attr = {.i = kind};
  ds_value *y = ds_value_new(ctx, x->t.dtype, x->t.rank, x->t.shape);
  if (!y || !ds_run(ctx, DS_OP_ACTIVATION, &x, 1, &y, 1, &attr, 1)) return NULL;
  return ds_record(ctx, activate_backward, &x, 1, &y, 1, &attr, 1);
}

/* The op sees matrices: any leading dimensions become rows. */
static bool as_matrix(const ds_tensor *t, ds_tensor *out) {
  int64_t rows, cols, ld;
  if (!ds_tensor_as_rows(t, &rows, &cols, &ld)) return false;
  *out = ds_tensor_make(t->data, t->dtype, 2, (int64_t[]){rows, cols});
  out->stride[0] = ld;
  return true;
}

static ds_status swiglu_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *gate = node->in[0], *up = node->in[1];
  ds_grad dg, du;
  DS_TRY(ds_grad_open(ctx, gate, gate->t.dtype, DS_LAYOUT_ROWS, &dg, err));
  DS_TRY(ds_grad_open(ctx, up, up->t.dtype, DS_LAYOUT_ROWS, &du, err));
  ds_tensor m[5];
  const ds_tensor *t[] = {ds_grad_out(node), &gate->t, &up->t, &dg.t, &du.t};
  for (int i = 0; i < 5; i++)
    if (!as_matrix(t[i], &m[i])) return ds_fail(err, DS_ERR_INTERNAL, "swiglu: strides");
  DS_TRY(ds_run_raw(ctx, DS_OP_SWIGLU_BACKWARD, (const ds_tensor *[]){&m[0], &m[1], &m[2]}, 3,
                    (const ds_tensor *[]){&m[3], &m[4]}, 2,
                    (uint32_t)dg.accumulate | (uint32_t)du.accumulate << 1, NULL, 0, err));
  DS_TRY(ds_grad_close(ctx, &dg, err));
  return ds_grad_close(ctx, &du, err);
}

ds_value *ds_swiglu(ds_ctx *ctx, ds_value *gate, ds_value *up) {
  if (!gate || !up) return NULL;
  if (!ds_tensor_same_shape(&gate->t, &up->t) || gate->t.dtype != up->t.dtype)
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "swiglu: gate and up differ in shape or dtype");
  ds_tensor g, u, y2;
  if (!as_matrix(&gate->t, &g)) gate = ds_contiguous(ctx, gate);
  if (!as_matrix(&up->t, &u)) up = ds_contiguous(ctx, up);
  if (!gate || !up) return NULL;
  ds_value *y = ds_value_new(ctx, gate->t.dtype, gate->t.rank, gate->t.shape);
  if (!y || !ds_parallel_check(ctx, DS_OP_SWIGLU, (ds_value *[]){gate, up}, 2, &y, 1)) return NULL;
  as_matrix(&y->t, &y2);
  ds_error err;
  if (ds_need(ctx, (ds_value *[]){gate, up}, 2, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  as_matrix(&gate->t, &g);
  as_matrix(&up->t, &u);
  if (ds_run_raw(ctx, DS_OP_SWIGLU, (const ds_tensor *[]){&g, &u}, 2, (const ds_tensor *[]){&y2}, 1,
                 0, NULL, 0, &err) != DS_OK)
    return ds_ctx_take_error(ctx, &err);
  return ds_record(ctx, swiglu_backward, (ds_value *[]){gate, up}, 2, &y, 1, NULL, 0);
}
