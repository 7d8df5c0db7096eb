#include "ops/tape.h"

ds_value *ds_reshape(ds_ctx *ctx, ds_value *x, int32_t rank, const int64_t *shape) {
  if (!x) return NULL;
  ds_tensor t;
  if (rank < 1 || rank > DS_MAX_RANK)
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "reshape to rank %d", rank);
  if (!ds_tensor_reshape(&x->t, rank, shape, &t)) {
    char from[96], to[96];
    t = ds_tensor_make(NULL, x->t.dtype, rank, shape);
    if (ds_tensor_numel(&t) != ds_tensor_numel(&x->t))
      return ds_ctx_fail(ctx, DS_ERR_INVALID, "reshape of %s to %s: different numbers of elements",
                         ds_tensor_describe(&x->t, from, sizeof from),
                         ds_tensor_describe(&t, to, sizeof to));
    x = ds_contiguous(ctx, x);
    if (!x) return NULL;
    ds_tensor_reshape(&x->t, rank, shape, &t);
  }
  return ds_value_view(ctx, x, &t);
}

ds_value *ds_slice_last(ds_ctx *ctx, ds_value *x, int64_t from, int64_t count) {
  if (!x) return NULL;
  int32_t last = x->t.rank - 1;
  if (last < 0 || from < 0 || count < 1 || from > x->t.shape[last] - count) {
    char shape[96];
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "slice [%lld, %lld) of the last dimension of %s",
                       (long long)from, (long long)(from + count),
                       ds_tensor_describe(&x->t, shape, sizeof shape));
  }
  ds_tensor t = x->t;
  t.shape[last] = count;
  t.data = (char *)t.data + (size_t)(from * t.stride[last]) * ds_dtype_size(t.dtype);
  return ds_value_view(ctx, x, &t);
}

static ds_status contiguous_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  return ds_grad_pass(ctx, node->in[0], node, err);
}

ds_value *ds_contiguous(ds_ctx *ctx, ds_value *x) {
  if (!x || ds_tensor_is_contiguous(&x->t)) return x;
  ds_value *y = ds_value_new(ctx, x->t.dtype, x->t.rank, x->t.shape);
  if (!y || !ds_run(ctx, DS_OP_COPY, &x, 1, &y, 1, NULL, 0)) return NULL;
  return ds_record(ctx, contiguous_backward, &x, 1, &y, 1, NULL, 0);
}
