#include "ops/parallel.h"

#include "backend/record.h"
#include "base/str.h"
#include "ops/tape.h"

#include <string.h>

void ds_ctx_bind_tensor(ds_ctx *ctx, ds_group *group, const ds_param_split *splits, bool sequence) {
  ctx->tensor.group = ds_group_size(group) > 1 ? group : NULL;
  ctx->tensor.splits = splits;
  ctx->tensor.sequence = sequence;
}

const ds_param_split *ds_parallel_split(const ds_ctx *ctx, const ds_value *w) {
  const ds_value *root = w->base ? w->base : w;
  if (!ctx->tensor.group || root->param < 0) return NULL;
  const ds_param_split *s = &ctx->tensor.splits[root->param];
  return s->split == DS_SPLIT_NONE ? NULL : s;
}

/* ---- what an op makes of parts */

static const char *part_name(ds_part part) {
  static const char *const names[] = {"all of it", "a part of the columns", "a part of the logits",
                                      "a part of the rows"};
  return names[part];
}

static bool refuse(ds_ctx *ctx, uint32_t op, ds_part part) {
  ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
              "%s: under tensor parallelism %d this rank has %s, and the op would need more; a "
              "row-parallel linear or ds_cross_entropy must come first",
              ds_op_name(op), ds_group_size(ctx->tensor.group), part_name(part));
  return false;
}

/* Sequence parallelism sums the gradients of undivided parameters over the ranks: each has to
 * give its own rows'. */
static bool rows_needed(ds_ctx *ctx, uint32_t op, ds_part part, const ds_value *weight) {
  if (!ctx->tensor.sequence || part == DS_PART_ROWS || !weight || !weight->needs_grad) return true;
  ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
              "%s: sequence parallelism divides the rows from an embedding on, between "
              "row-parallel and column-parallel linears; here is %s",
              op == DS_OP_NONE ? "linear" : ds_op_name(op), part_name(part));
  return false;
}

static bool same_part(ds_ctx *ctx, uint32_t op, ds_value *const *in, int n_in) {
  for (int i = 1; i < n_in; i++)
    if (in[i] && in[i]->part != in[0]->part)
      return refuse(ctx, op, in[i]->part == DS_PART_WHOLE ? in[0]->part : in[i]->part);
  return true;
}

static bool whole_params(ds_ctx *ctx, uint32_t op, ds_value *const *in, int n_in) {
  for (int i = 0; i < n_in; i++) {
    const ds_param_split *s = in[i] ? ds_parallel_split(ctx, in[i]) : NULL;
    if (!s || op == DS_OP_EMBEDDING) continue;
    ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                "%s: parameter \"%s\" is divided by tensor parallelism, of which only linears and "
                "embeddings know; ds_params_set_split(DS_SPLIT_NONE) keeps it whole",
                ds_op_name(op), s->name);
    return false;
  }
  return true;
}

bool ds_parallel_check(ds_ctx *ctx, uint32_t op, ds_value *const *in, int n_in,
                       ds_value *const *out, int n_out) {
  if (!ctx->tensor.group) return true;
  if (!whole_params(ctx, op, in, n_in)) return false;
  ds_part part = n_in && in[0] ? in[0]->part : DS_PART_WHOLE;
  switch (op) {
    case DS_OP_LAYER_NORM:
    case DS_OP_RMS_NORM:
      if (part == DS_PART_COLUMNS || part == DS_PART_VOCAB) return refuse(ctx, op, part);
      if (!rows_needed(ctx, op, part, in[1])) return false;
      break;
    case DS_OP_ATTENTION:
    case DS_OP_ROPE:
      if (part == DS_PART_ROWS || part == DS_PART_VOCAB) return refuse(ctx, op, part);
      if (op == DS_OP_ATTENTION && !same_part(ctx, op, in, 3)) return false;
      break;
    case DS_OP_ADD:
    case DS_OP_MUL:
    case DS_OP_SWIGLU:
      if (!same_part(ctx, op, in, 2)) return false;
      break;
    case DS_OP_ACTIVATION:
    case DS_OP_SCALE:
    case DS_OP_COPY:
    case DS_OP_EMBEDDING: break;
    default:
      if (part != DS_PART_WHOLE) return refuse(ctx, op, part);
  }
  if (n_out && out[0]) {
    out[0]->part = part;
    if (n_in && in[0]) out[0]->vocab = in[0]->vocab;
  }
  return true;
}

bool ds_parallel_check_linear(ds_ctx *ctx, const ds_value *x, const ds_value *w) {
  const ds_param_split *s = ds_parallel_split(ctx, w);
  if (!ctx->tensor.group) return true;
  const char *name = s ? s->name : "";
  bool columns = x->part == DS_PART_COLUMNS || x->part == DS_PART_VOCAB;
  if (s && w->base) {
    ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED, "linear: a view of \"%s\", which is divided", name);
    return false;
  }
  if (s && s->split == DS_SPLIT_ROW && x->part != DS_PART_COLUMNS) {
    ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                "linear: \"%s\" is row-parallel, but its x isn't the output of a column-parallel "
                "linear: it is %s; ds_params_set_split tells otherwise",
                name, part_name(x->part));
    return false;
  }
  if (columns && !(s && s->split == DS_SPLIT_ROW)) {
    ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                "linear: x is %s under tensor parallelism, but \"%s\" isn't row-parallel; "
                "ds_params_set_split tells otherwise",
                part_name(x->part), name);
    return false;
  }
  return s || rows_needed(ctx, DS_OP_NONE, x->part, w);
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

/* Each rank has the gradient of what it made of x; what reads x alone is all linears of this group,
 * so the memory is no one else's. */
static ds_status enter_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
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

/* Nothing reads y again: its gradient rule needs the gradient alone. */
static void drop(ds_ctx *ctx, ds_value *y) {
  ds_storage *s = y->storage;
  if (s && --s->refs == 0) ds_arena_recycle(ctx->arena, s->data, s->bytes);
  y->storage = NULL;
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
  if (z) drop(ctx, y);
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

/* ---- gradients summed over ranks: key/value heads that several have, and under sequence
 * parallelism all that is undivided. A gradient so far is the sum already, so this walk's is apart
 * until it is one too. */

void ds_parallel_begin(ds_ctx *ctx) {
  ctx->tensor.n_ids = 0;
  for (size_t i = 0; i < ctx->tensor.pending_capacity; i++) ctx->tensor.pending[i] = NULL;
}

bool ds_parallel_summed(const ds_ctx *ctx, int param) {
  return ctx->tensor.group && ds_group_size(ctx->tensor.splits[param].sum) > 1;
}

ds_status ds_parallel_grad(ds_ctx *ctx, ds_value *param, ds_tensor *out, bool *existed,
                           ds_error *err) {
  size_t had = ctx->tensor.pending_capacity;
  DS_TRY(ds_reserve(&ctx->tensor.pending, &ctx->tensor.pending_capacity, (size_t)ctx->n_slots,
                    sizeof(ds_value *), "gradients to be summed", err));
  for (size_t i = had; i < ctx->tensor.pending_capacity; i++) ctx->tensor.pending[i] = NULL;
  ds_value **place = &ctx->tensor.pending[param->param];
  *existed = *place != NULL;
  if (!*place) *place = ds_value_new(ctx, DS_F32, param->t.rank, param->t.shape);
  if (!*place) return ds_ctx_status(ctx, err);
  *out = (*place)->t;
  return DS_OK;
}

ds_status ds_parallel_done(ds_ctx *ctx, int param, ds_error *err) {
  if (!ds_parallel_summed(ctx, param) || (size_t)param >= ctx->tensor.pending_capacity)
    return DS_OK;
  ds_value *v = ctx->tensor.pending[param];
  ds_param_slot *slot = &ctx->slots[param];
  if (!v) return DS_OK; /* nor has any other rank: the tapes are alike */
  int64_t n = ds_tensor_numel(&v->t);
  DS_TRY(ds_group_allreduce(ctx->tensor.splits[param].sum, NULL, v->t.data, v->t.data, n, DS_F32,
                            DS_REDUCE_SUM, err));
  if (ctx->hooks.grad) DS_TRY(ctx->hooks.grad(ctx->hooks.self, param, err));
  ds_tensor from = ds_tensor_make(v->t.data, DS_F32, 1, &n);
  ds_tensor to = ds_tensor_make(slot->grad, DS_F32, 1, &n);
  DS_TRY(ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1, (const ds_tensor *[]){&to}, 1,
                    slot->has_grad, NULL, 0, err));
  slot->has_grad = true;
  ctx->tensor.pending[param] = NULL;
  drop(ctx, v);
  return DS_OK;
}

/* ---- ids on the host */

static int32_t *room_for_ids(ds_ctx *ctx, size_t n) {
  ds_error err;
  if (ds_reserve(&ctx->tensor.ids, &ctx->tensor.id_capacity, ctx->tensor.n_ids + n,
                 sizeof *ctx->tensor.ids, "a step's ids", &err) == DS_OK)
    return ctx->tensor.ids + ctx->tensor.n_ids;
  ds_ctx_take_error(ctx, &err);
  return NULL;
}

bool ds_parallel_keep_ids(ds_ctx *ctx, ds_value *v, const int32_t *host, size_t n) {
  int32_t *to = room_for_ids(ctx, n);
  if (!to) return false;
  memcpy(to, host, n * sizeof *to);
  v->host = ctx->tensor.n_ids + 1;
  ctx->tensor.n_ids += n;
  return true;
}

const int32_t *ds_parallel_read_ids(ds_ctx *ctx, ds_value *v) {
  ds_error err;
  if (v->host) return ctx->tensor.ids + v->host - 1;
  size_t n = (size_t)ds_tensor_numel(&v->t);
  int32_t *to = room_for_ids(ctx, n);
  if (!to) return NULL;
  if (ds_backend_download(ctx->backend, to, v->t.data, n * sizeof *to, &err) == DS_OK) return to;
  ds_ctx_take_error(ctx, &err);
  return NULL;
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
                     part_name(x->part));
}
