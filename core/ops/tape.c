#include "ops/tape.h"

#include "backend/record.h"
#include "base/str.h"

#include <string.h>

/* ---------------------------------------------------------------- running and recording */

ds_status ds_run_raw(ds_ctx *ctx, uint32_t op, const ds_tensor *const *in, int n_in,
                     const ds_tensor *const *out, int n_out, uint32_t accumulate,
                     const ds_attr *attr, int n_attr, ds_error *err) {
  ds_op o = {.size = sizeof o,
             .id = op,
             .n_in = (uint32_t)n_in,
             .n_out = (uint32_t)n_out,
             .n_attr = (uint32_t)n_attr,
             .accumulate = accumulate,
             .in = in,
             .out = out,
             .attr = attr};
  return ds_backend_op(ctx->backend, &o, err);
}

ds_status ds_need(ds_ctx *ctx, ds_value *const *values, int n, ds_error *err) {
  int params[8], n_params = 0;
  if (!ctx->hooks.need) return DS_OK;
  for (int i = 0; i < n; i++) {
    const ds_value *root = values[i] && values[i]->base ? values[i]->base : values[i];
    if (root && root->param >= 0) params[n_params++] = root->param;
  }
  if (n_params == 0) return DS_OK;
  DS_TRY(ctx->hooks.need(ctx->hooks.self, params, n_params, err));
  for (int i = 0; i < n; i++) {
    ds_value *root = values[i] && values[i]->base ? values[i]->base : values[i];
    if (!root || root->param < 0) continue;
    root->t.data = ctx->slots[root->param].value.data;
    values[i]->t.data = (char *)root->t.data + values[i]->base_offset;
  }
  return DS_OK;
}

bool ds_run(ds_ctx *ctx, uint32_t op, ds_value *const *in, int n_in, ds_value *const *out,
            int n_out, const ds_attr *attr, int n_attr) {
  if (ctx->failure.status != DS_OK) return false;
  if (!ds_parallel_check(ctx, op, in, n_in, out, n_out)) return false;
  const ds_tensor *ti[8], *to[8];
  ds_error err;
  if (ds_need(ctx, in, n_in, &err) != DS_OK) return ds_ctx_take_error(ctx, &err) != NULL;
  for (int i = 0; i < n_in; i++) ti[i] = in[i] ? &in[i]->t : NULL;
  for (int i = 0; i < n_out; i++) to[i] = out[i] ? &out[i]->t : NULL;
  if (ds_run_raw(ctx, op, ti, n_in, to, n_out, 0, attr, n_attr, &err) == DS_OK) return true;
  ds_ctx_take_error(ctx, &err);
  return false;
}

bool ds_will_record(const ds_ctx *ctx, ds_value *const *in, int n_in) {
  if (!ctx->training) return false;
  for (int i = 0; i < n_in; i++)
    if (in[i] && in[i]->needs_grad) return true;
  return false;
}

/* Counts what reads parameters, so that it is known when their gradients are complete. */
static ds_status count_uses(ds_ctx *ctx, ds_value *const *in, int n_in, ds_error *err) {
  size_t had = ctx->uses_capacity;
  if (!ctx->hooks.done && !ctx->tensor.group) return DS_OK;
  DS_TRY(ds_reserve(&ctx->uses, &ctx->uses_capacity, (size_t)ctx->n_slots, sizeof *ctx->uses,
                    "the tape", err));
  for (size_t i = had; i < ctx->uses_capacity; i++) ctx->uses[i] = 0;
  for (int i = 0; i < n_in; i++) {
    const ds_value *root = in[i] && in[i]->base ? in[i]->base : in[i];
    if (root && root->param >= 0 && root->needs_grad) ctx->uses[root->param]++;
  }
  return DS_OK;
}

static ds_status uncount_uses(ds_ctx *ctx, const ds_node *node, ds_error *err) {
  if (!ctx->hooks.done && !ctx->tensor.group) return DS_OK;
  for (int i = 0; i < node->n_in; i++) {
    const ds_value *root = node->in[i] && node->in[i]->base ? node->in[i]->base : node->in[i];
    if (!root || root->param < 0 || !root->needs_grad) continue;
    if (--ctx->uses[root->param] > 0) continue;
    DS_TRY(ds_parallel_done(ctx, root->param, err));
    if (ctx->hooks.done) DS_TRY(ctx->hooks.done(ctx->hooks.self, root->param, err));
  }
  return DS_OK;
}

ds_value *ds_record(ds_ctx *ctx, ds_backward_fn backward, ds_value *const *in, int n_in,
                    ds_value *const *out, int n_out, const ds_attr *attr, int n_attr) {
  if (!ds_will_record(ctx, in, n_in)) return out[0];
  ds_node *node = ds_pool_alloc(ctx, sizeof *node);
  if (!node) return NULL;
  ds_error err;
  if (ds_reserve(&ctx->nodes, &ctx->node_capacity, ctx->n_nodes + 1, sizeof *ctx->nodes, "the tape",
                 &err) != DS_OK ||
      count_uses(ctx, in, n_in, &err) != DS_OK)
    return ds_ctx_take_error(ctx, &err);
  node->backward = backward;
  node->n_in = n_in;
  node->n_out = n_out;
  for (int i = 0; i < n_in; i++) {
    node->in[i] = in[i];
    if (in[i]) (in[i]->base ? in[i]->base : in[i])->uses++;
  }
  memcpy(node->out, out, (size_t)n_out * sizeof *out);
  if (n_attr) memcpy(node->attr, attr, (size_t)n_attr * sizeof *attr);
  ctx->nodes[ctx->n_nodes++] = node;
  out[0]->needs_grad = true;
  return out[0];
}

/* ---------------------------------------------------------------- gradients */

static void release(ds_ctx *ctx, ds_storage *s) {
  if (s && --s->refs == 0) ds_arena_recycle(ctx->arena, s->data, s->bytes);
}

/* A gradient value of dtype and shape of v, in fresh memory. */
static ds_status new_grad(ds_ctx *ctx, const ds_value *v, ds_value **out, ds_error *err) {
  *out = ds_value_new(ctx, v->t.dtype, v->t.rank, v->t.shape);
  return *out ? DS_OK : ds_ctx_status(ctx, err);
}

/* y = x (+ y), converting. Contiguous tensors are taken as one row, so that rank is no limit. */
static ds_status copy_tensor(ds_ctx *ctx, const ds_tensor *x, const ds_tensor *y, bool accumulate,
                             ds_error *err) {
  ds_tensor a = *x, b = *y;
  if (ds_tensor_is_contiguous(x) && ds_tensor_is_contiguous(y)) {
    int64_t n = ds_tensor_numel(x);
    a = ds_tensor_make(x->data, x->dtype, 1, &n);
    b = ds_tensor_make(y->data, y->dtype, 1, &n);
  }
  return ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&a}, 1, (const ds_tensor *[]){&b}, 1,
                    accumulate, NULL, 0, err);
}

/* A gradient that shares its memory with another must have its own before it is added to. */
static ds_status make_unique(ds_ctx *ctx, ds_value *root, ds_error *err) {
  ds_value *shared = root->grad;
  if (shared->storage->refs == 1) return DS_OK;
  ds_value *own;
  DS_TRY(new_grad(ctx, root, &own, err));
  DS_TRY(copy_tensor(ctx, &shared->t, &own->t, false, err));
  release(ctx, shared->storage);
  root->grad = own;
  return DS_OK;
}

/* The gradient memory of a root value, made on first use; *existed tells whether it holds anything.
 */
static ds_status root_grad(ds_ctx *ctx, ds_value *root, ds_tensor *out, bool *existed,
                           ds_error *err) {
  if (root->param >= 0) {
    ds_param_slot *slot = &ctx->slots[root->param];
    if (ds_parallel_summed(ctx, root->param)) return ds_parallel_grad(ctx, root, out, existed, err);
    if (ctx->hooks.grad) DS_TRY(ctx->hooks.grad(ctx->hooks.self, root->param, err));
    *out = ds_tensor_make(slot->grad, DS_F32, root->t.rank, root->t.shape);
    *existed = slot->has_grad;
    slot->has_grad = true;
    return DS_OK;
  }
  *existed = root->grad != NULL;
  if (*existed)
    DS_TRY(make_unique(ctx, root, err));
  else
    DS_TRY(new_grad(ctx, root, &root->grad, err));
  *out = root->grad->t;
  return DS_OK;
}

static bool covers(const ds_value *v, const ds_value *root) {
  return ds_tensor_numel(&v->t) == ds_tensor_numel(&root->t);
}

/* Where d(v) stands, whether v is a value, a view or a parameter. */
static ds_status grad_place(ds_ctx *ctx, ds_value *v, ds_tensor *out, bool *accumulate,
                            ds_error *err) {
  ds_value *root = v->base ? v->base : v;
  ds_tensor g;
  DS_TRY(root_grad(ctx, root, &g, accumulate, err));
  if (!*accumulate && !covers(v, root)) {
    /* The first gradient to arrive fills only a part; the rest must count as zero. */
    DS_TRY(ds_backend_fill(ctx->backend, g.data, 0, ds_tensor_bytes(&g), err));
    *accumulate = true;
  }
  size_t offset = v->base_offset / ds_dtype_size(root->t.dtype);
  *out = v->t;
  out->dtype = g.dtype;
  out->data = (char *)g.data + offset * ds_dtype_size(g.dtype);
  return DS_OK;
}

static bool layout_fits(const ds_tensor *t, ds_layout layout) {
  int64_t rows, cols, ld;
  if (layout == DS_LAYOUT_CONTIGUOUS) return ds_tensor_is_contiguous(t);
  if (layout == DS_LAYOUT_ROWS) return ds_tensor_as_rows(t, &rows, &cols, &ld);
  return true;
}

const ds_tensor *ds_grad_out(const ds_node *node) {
  return &node->out[0]->grad->t;
}

ds_status ds_grad_open(ds_ctx *ctx, ds_value *v, int32_t dtype, ds_layout layout, ds_grad *g,
                       ds_error *err) {
  memset(g, 0, sizeof *g);
  if (!v) return DS_OK;
  g->wanted = v->needs_grad;
  if (g->wanted) {
    DS_TRY(grad_place(ctx, v, &g->t, &g->accumulate, err));
    if (g->t.dtype == dtype && layout_fits(&g->t, layout)) return DS_OK;
    g->staged = true;
    g->final = g->t;
    g->final_accumulate = g->accumulate;
  }
  ds_value *scratch = ds_value_new(ctx, dtype, v->t.rank, v->t.shape);
  if (!scratch) return ds_ctx_status(ctx, err);
  g->t = scratch->t;
  g->scratch = scratch->storage;
  g->accumulate = false;
  return DS_OK;
}

ds_status ds_grad_close(ds_ctx *ctx, ds_grad *g, ds_error *err) {
  if (g->staged) DS_TRY(copy_tensor(ctx, &g->t, &g->final, g->final_accumulate, err));
  release(ctx, g->scratch);
  g->scratch = NULL;
  return DS_OK;
}

ds_status ds_grad_pass(ds_ctx *ctx, ds_value *v, ds_node *node, ds_error *err) {
  if (!v->needs_grad) return DS_OK;
  ds_value *root = v->base ? v->base : v;
  ds_value *dy = node->out[0]->grad;
  bool whole = covers(v, root) && ds_tensor_is_contiguous(&v->t);
  if (whole && root->param < 0 && !root->grad && dy->t.dtype == root->t.dtype) {
    ds_value *g = ds_pool_alloc(ctx, sizeof *g);
    if (!g) return ds_ctx_status(ctx, err);
    *g = *dy;
    g->t = ds_tensor_make(dy->t.data, root->t.dtype, root->t.rank, root->t.shape);
    g->storage->refs++;
    root->grad = g;
    return DS_OK;
  }
  ds_tensor place;
  bool accumulate;
  DS_TRY(grad_place(ctx, v, &place, &accumulate, err));
  ds_tensor from;
  if (!ds_tensor_reshape(&dy->t, v->t.rank, v->t.shape, &from))
    return ds_fail(err, DS_ERR_INTERNAL, "a gradient of another size than its value");
  return copy_tensor(ctx, &from, &place, accumulate, err);
}

/* ---------------------------------------------------------------- the walk */

/* Everything that reads these outputs came later on the tape, so it has run. */
static void release_outputs(ds_ctx *ctx, ds_node *node) {
  for (int i = 0; i < node->n_out; i++) {
    ds_value *v = node->out[i];
    if (!v) continue;
    if (v->grad) release(ctx, v->grad->storage);
    v->grad = NULL;
    if (v->keep) continue;
    release(ctx, v->storage);
    v->storage = NULL;
  }
}

static ds_status seed_gradient(ds_ctx *ctx, ds_value *loss, double scale, ds_error *err) {
  DS_TRY(new_grad(ctx, loss, &loss->grad, err));
  float s = (float)scale;
  const ds_attr value = {.f = (double)s};
  if (ds_record_under_way(ctx->backend)) /* gradients are added to in place: set at each launch */
    return ds_run_raw(ctx, DS_OP_FILL, NULL, 0, (const ds_tensor *[]){&loss->grad->t}, 1, 0, &value,
                      1, err);
  return ds_backend_upload(ctx->backend, loss->grad->t.data, &s, sizeof s, err);
}

/* To the tape's begin. */
static ds_status walk(ds_ctx *ctx, ds_error *err) {
  while (ctx->n_nodes > 0) {
    ds_node *node = ctx->nodes[--ctx->n_nodes];
    if (node->out[0]->grad) {
      DS_TRY(ds_need(ctx, node->in, node->n_in, err));
      DS_TRY(node->backward(ctx, node, err));
    }
    DS_TRY(uncount_uses(ctx, node, err));
    release_outputs(ctx, node);
  }
  return DS_OK;
}

ds_status ds_ctx_backward(ds_ctx *ctx, ds_value *loss, double scale, ds_error *err) {
  DS_TRY(ds_ctx_status(ctx, err));
  if (!loss) return ds_fail(err, DS_ERR_INVALID, "backward of no value");
  if (loss->base) loss = loss->base;
  if (ds_tensor_numel(&loss->t) != 1 || loss->t.dtype != DS_F32)
    return ds_fail(err, DS_ERR_INVALID,
                   "backward needs a loss of one f32 element, not %lld of %s; reduce it first "
                   "(ds_cross_entropy, ds_mean)",
                   (long long)ds_tensor_numel(&loss->t), ds_dtype_name(loss->t.dtype));
  if (ctx->n_nodes == 0 || !loss->needs_grad)
    return ds_fail(err, DS_ERR_STATE,
                   "backward of a loss that depends on no parameter: call forward in training "
                   "mode first, once per backward");
  loss->keep = true;
  DS_TRY(seed_gradient(ctx, loss, scale, err));
  return walk(ctx, err);
}

bool ds_ctx_needs_gradient(const ds_value *v) {
  return v->needs_grad;
}

ds_status ds_ctx_gradient(ds_ctx *ctx, ds_value *v, ds_tensor *out, ds_error *err) {
  DS_TRY(ds_ctx_status(ctx, err));
  ds_value *root = v->base ? v->base : v;
  if (!v->needs_grad || root->param >= 0 || !covers(v, root) || !ds_tensor_is_contiguous(&v->t))
    return ds_fail(err, DS_ERR_STATE, "the gradient of a value that has no place for one");
  if (!root->grad) DS_TRY(new_grad(ctx, root, &root->grad, err));
  *out = root->grad->t;
  return DS_OK;
}

ds_status ds_ctx_backward_from(ds_ctx *ctx, ds_value *v, ds_error *err) {
  DS_TRY(ds_ctx_status(ctx, err));
  if (ctx->n_nodes == 0 || !(v->base ? v->base : v)->grad)
    return ds_fail(err, DS_ERR_STATE,
                   "backward from a value without a gradient, or that nothing was recorded of");
  return walk(ctx, err);
}
