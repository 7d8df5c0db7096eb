#include "ops/parallel.h"

#include "backend/record.h"
#include "ops/tape.h"

#include <string.h>

void ds_ctx_bind_tensor(ds_ctx *ctx, ds_group *group, const ds_param_split *splits, bool sequence) {
  ctx->tensor.group = ds_group_size(group) > 1 ? group : NULL;
  ctx->tensor.splits = splits;
  ctx->tensor.sequence = sequence;
}

void ds_ctx_bind_tensor_side(ds_ctx *ctx, ds_side *side) {
  ctx->tensor.side = side;
}

const ds_param_split *ds_parallel_split(const ds_ctx *ctx, const ds_value *w) {
  const ds_value *root = w->base ? w->base : w;
  if (!ctx->tensor.group || root->param < 0) return NULL;
  const ds_param_split *s = &ctx->tensor.splits[root->param];
  return s->split == DS_SPLIT_NONE ? NULL : s;
}

/* ---- exchanges */

static bool may_exchange(ds_ctx *ctx) {
  if (ctx->failure.status != DS_OK) return false;
  if (!ds_record_under_way(ctx->backend)) return true;
  ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED, "tensor parallelism: collectives can't be recorded");
  return false;
}

static int64_t columns_of(const ds_value *x) {
  return x->t.shape[x->t.rank - 1];
}

static ds_status sum_in_place(ds_ctx *ctx, const ds_tensor *t, ds_error *err) {
  return ds_group_allreduce(ctx->tensor.group, NULL, t->data, t->data, ds_tensor_numel(t), t->dtype,
                            DS_REDUCE_SUM, err);
}

/* Where the gradient of v goes that a collective writes: a collective can't add. */
static ds_status open_plain(ds_ctx *ctx, ds_value *v, ds_grad *g, ds_tensor *to, ds_error *err) {
  DS_TRY(ds_grad_open(ctx, v, v->t.dtype, DS_LAYOUT_CONTIGUOUS, g, err));
  *to = g->t;
  if (!g->accumulate) return DS_OK;
  ds_value *own = ds_value_new(ctx, v->t.dtype, v->t.rank, v->t.shape);
  if (!own) return ds_ctx_status(ctx, err);
  *to = own->t;
  return DS_OK;
}

static ds_status close_plain(ds_ctx *ctx, ds_grad *g, const ds_tensor *from, ds_error *err) {
  if (from->data != g->t.data) {
    int64_t n = ds_tensor_numel(from);
    ds_tensor a = ds_tensor_make(from->data, from->dtype, 1, &n);
    ds_tensor b = ds_tensor_make(g->t.data, g->t.dtype, 1, &n);
    DS_TRY(ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&a}, 1, (const ds_tensor *[]){&b}, 1,
                      1, NULL, 0, err));
  }
  return ds_grad_close(ctx, g, err);
}

ds_status ds_parallel_added(ds_ctx *ctx, ds_value *x, ds_error *err) {
  if (!x->shared || !ctx->tensor.side || --x->uses > 0 || !x->grad) return DS_OK;
  const ds_tensor *t = &x->grad->t;
  DS_TRY(ds_side_follow(ctx->tensor.side, err));
  x->on_way = ctx->tensor.busy = true;
  return ds_group_allreduce(ctx->tensor.group, ctx->tensor.side, t->data, t->data,
                            ds_tensor_numel(t), t->dtype, DS_REDUCE_SUM, err);
}

ds_status ds_parallel_join(ds_ctx *ctx, ds_error *err) {
  if (ctx->tensor.busy) DS_TRY(ds_side_join(ctx->tensor.side, err));
  ctx->tensor.busy = false;
  return DS_OK;
}

/* Each rank has the gradient of what it made of x; what reads x alone is all linears of this group,
 * so the memory is no one else's. */
static ds_status enter_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  if (node->out[0]->on_way)
    DS_TRY(ds_parallel_join(ctx, err));
  else
    DS_TRY(sum_in_place(ctx, ds_grad_out(node), err));
  return ds_grad_pass(ctx, node->in[0], node, err);
}

/* The same value and memory under another name, whose gradient is this rank's alone. */
static ds_value *enter_whole(ds_ctx *ctx, ds_value *x) {
  if (!ds_will_record(ctx, &x, 1)) return x;
  if ((x->base ? x->base : x)->param >= 0) x = ds_scale(ctx, x, 1); /* which may move */
  ds_value *y = x ? ds_pool_alloc(ctx, sizeof *y) : NULL;
  if (!y) return NULL;
  const ds_value *root = x->base ? x->base : x;
  *y = *x;
  y->storage = root->storage;
  if (y->storage) y->storage->refs++;
  y->base = y->grad = y->entered = NULL;
  y->base_offset = 0;
  y->param = -1;
  y->shared = true;
  y->on_way = false;
  y->keep = false;
  y->uses = 0;
  return ds_record(ctx, enter_backward, &x, 1, &y, 1, NULL, 0);
}

static ds_status gather_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0];
  ds_grad d;
  ds_tensor to;
  if (!x->needs_grad) return DS_OK;
  DS_TRY(open_plain(ctx, x, &d, &to, err));
  DS_TRY(ds_group_reduce_scatter(ctx->tensor.group, NULL, ds_grad_out(node)->data, to.data,
                                 ds_tensor_numel(&x->t), x->t.dtype, DS_REDUCE_SUM, err));
  return close_plain(ctx, &d, &to, err);
}

static ds_value *gather_rows(ds_ctx *ctx, ds_value *x) {
  ds_error err;
  int64_t shape[] = {ds_tensor_numel(&x->t) / columns_of(x) * ds_group_size(ctx->tensor.group),
                     columns_of(x)};
  ds_value *y = ds_value_new(ctx, x->t.dtype, 2, shape);
  if (!y) return NULL;
  if (ds_group_allgather(ctx->tensor.group, NULL, x->t.data, y->t.data, ds_tensor_numel(&x->t),
                         x->t.dtype, &err) != DS_OK)
    return ds_ctx_take_error(ctx, &err);
  return y;
}

ds_value *ds_parallel_enter(ds_ctx *ctx, ds_value *x) {
  if (!x || x->entered) return x ? x->entered : NULL;
  if (!may_exchange(ctx)) return NULL;
  ds_value *whole = ds_contiguous(ctx, x), *y = NULL;
  if (!whole) return NULL;
  if (x->part == DS_PART_ROWS) {
    y = gather_rows(ctx, whole);
    if (y) y = ds_record(ctx, gather_backward, &whole, 1, &y, 1, NULL, 0);
  } else {
    y = enter_whole(ctx, whole);
  }
  if (ctx->training) x->entered = y; /* else a scope may end it before x */
  return y;
}

static ds_status scatter_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *y = node->in[0];
  const ds_tensor *dz = ds_grad_out(node);
  ds_grad d;
  ds_tensor to;
  if (!y->needs_grad) return DS_OK;
  DS_TRY(open_plain(ctx, y, &d, &to, err));
  DS_TRY(ds_group_allgather(ctx->tensor.group, NULL, dz->data, to.data, ds_tensor_numel(dz),
                            dz->dtype, err));
  return close_plain(ctx, &d, &to, err);
}

static bool rows_here(ds_ctx *ctx, int64_t rows, int64_t *out) {
  int size = ds_group_size(ctx->tensor.group);
  *out = rows / size;
  if (rows % size == 0) return true;
  ds_ctx_fail(ctx, DS_ERR_INVALID,
              "sequence parallelism: the micro batch's %lld tokens can't be divided over tensor "
              "parallel %d; a micro batch and length whose product is a multiple of it are wanted",
              (long long)rows, size);
  return false;
}

static ds_value *scatter(ds_ctx *ctx, ds_value *y) {
  ds_error err;
  int64_t shape[2] = {0, columns_of(y)};
  if (!rows_here(ctx, ds_tensor_numel(&y->t) / shape[1], &shape[0])) return NULL;
  ds_value *z = ds_value_new(ctx, y->t.dtype, 2, shape);
  if (!z) return NULL;
  if (ds_group_reduce_scatter(ctx->tensor.group, NULL, y->t.data, z->t.data, shape[0] * shape[1],
                              y->t.dtype, DS_REDUCE_SUM, &err) != DS_OK)
    return ds_ctx_take_error(ctx, &err);
  z->part = DS_PART_ROWS;
  z = ds_record(ctx, scatter_backward, &y, 1, &z, 1, NULL, 0);
  if (z) ds_parallel_drop(ctx, y);
  return z;
}

ds_value *ds_parallel_leave(ds_ctx *ctx, ds_value *y) {
  ds_error err;
  if (!y || !may_exchange(ctx)) return NULL;
  if (ctx->tensor.sequence) return scatter(ctx, y);
  if (sum_in_place(ctx, &y->t, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  y->part = DS_PART_WHOLE;
  return y;
}

ds_value *ds_parallel_ids(ds_ctx *ctx, ds_value *ids) {
  if (!ctx->tensor.group || !ctx->tensor.sequence) return ids;
  int64_t rows;
  if (!rows_here(ctx, ds_tensor_numel(&ids->t), &rows)) return NULL;
  int32_t *first = (int32_t *)ids->t.data + rows * ds_group_rank(ctx->tensor.group);
  ds_tensor t = ds_tensor_make(first, DS_I32, 1, &rows);
  ds_value *mine = ds_value_view(ctx, ids, &t);
  if (!mine) return NULL;
  mine->part = DS_PART_ROWS;
  return mine;
}

/* ---- results */

/* This rank's columns, padded to the most that any has, so that all send as many. */
static ds_value *gather_columns(ds_ctx *ctx, ds_value *x) {
  ds_error err;
  int size = ds_group_size(ctx->tensor.group);
  int64_t whole = x->vocab->whole, most = (whole + size - 1) / size, here = columns_of(x), rows, c,
          ld, shape[DS_MAX_RANK];
  ds_tensor_as_rows(&x->t, &rows, &c, &ld); /* rows of a padded buffer, or contiguous */
  memcpy(shape, x->t.shape, sizeof shape);
  shape[x->t.rank - 1] = whole;
  ds_value *mine = ds_value_new(ctx, x->t.dtype, 2, (int64_t[]){rows, most});
  ds_value *all = ds_value_new(ctx, x->t.dtype, 3, (int64_t[]){size, rows, most});
  ds_value *y = ds_value_new(ctx, x->t.dtype, x->t.rank, shape);
  if (!mine || !all || !y) return NULL;
  ds_tensor from = ds_tensor_make(x->t.data, x->t.dtype, 2, (int64_t[]){rows, here}), to = from;
  from.stride[0] = ld;
  to.data = mine->t.data;
  to.stride[0] = most;
  ds_status status = ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1,
                                (const ds_tensor *[]){&to}, 1, 0, NULL, 0, &err);
  if (status == DS_OK)
    status = ds_group_allgather(ctx->tensor.group, NULL, mine->t.data, all->t.data, rows * most,
                                x->t.dtype, &err);
  int64_t at = 0;
  for (int r = 0; r < size && status == DS_OK; r++) {
    size_t width = ds_dtype_size(x->t.dtype);
    from.shape[1] = to.shape[1] = whole / size + (r < whole % size);
    from.data = (char *)all->t.data + (size_t)(r * rows * most) * width;
    from.stride[0] = most;
    to.data = (char *)y->t.data + (size_t)at * width;
    to.stride[0] = whole;
    status = ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1,
                        (const ds_tensor *[]){&to}, 1, 0, NULL, 0, &err);
    at += to.shape[1];
  }
  return status == DS_OK ? y : ds_ctx_take_error(ctx, &err);
}

ds_value *ds_parallel_whole(ds_ctx *ctx, ds_value *x) {
  if (!x || !ctx->tensor.group || x->part == DS_PART_WHOLE) return x;
  if (!may_exchange(ctx)) return NULL;
  if (x->part == DS_PART_ROWS) {
    x = ds_contiguous(ctx, x);
    return x ? gather_rows(ctx, x) : NULL;
  }
  if (x->part == DS_PART_VOCAB) return gather_columns(ctx, x);
  return ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                     "the model's result is %s under tensor parallelism; end it with a "
                     "row-parallel linear or a head by vocabulary",
                     ds_parallel_part_name(x->part));
}
