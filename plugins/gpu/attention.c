/* attention.c - attention and its gradient: what is offered, and which kernel takes it. */
#include "attention.h"

#include <math.h>

#include "kernels/attention.h"

enum {
  MOST_ROWS_OF_FEW = 32, /* queries that share keys, up to which the kernel for few is taken */
  MOST_SPLITS = 128
};

/* One op, as it is checked tensor by tensor. */
typedef struct checked {
  const ds_device *dev;
  const ds_op *op;
  const char *name;
  ds_error *err;
  gpu_attention a;
} checked;

static const ds_tensor *input(const ds_op *op, uint32_t i) {
  return i < op->n_in ? op->in[i] : NULL;
}
static const ds_tensor *output(const ds_op *op, uint32_t i) {
  return i < op->n_out ? op->out[i] : NULL;
}

static bool in_range(int64_t n, int64_t most) {
  return n >= 0 && n <= most;
}

/* ---------------------------------------------------------------- tensors */

/* [B,T,H,D] or [B,S,G,D], whose sizes are known. */
static ds_status heads_tensor(checked *c, const char *what, const ds_tensor *t, int32_t rows,
                              int32_t heads, gpu_attention_tensor *out) {
  gpu_attention *a = &c->a;
  if (!t) return gpu_fail(c->err, DS_ERR_INVALID, "%s: \"%s\" is missing", c->name, what);
  if (t->dtype != a->dtype)
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED, "%s: \"%s\" has another dtype than \"q\"", c->name,
                    what);
  if (t->rank != 4 || t->shape[0] != a->batch || t->shape[1] != rows || t->shape[2] != heads ||
      t->shape[3] != a->dim)
    return gpu_fail(c->err, DS_ERR_INVALID, "%s: \"%s\" is not [%d,%d,%d,%d]", c->name, what,
                    a->batch, rows, heads, a->dim);
  int64_t stride[3];
  for (int i = 0; i < 3; i++) stride[i] = t->shape[i] > 1 ? t->stride[i] : 0;
  if (a->dim > 1 && t->stride[3] != 1)
    return gpu_fail(c->err, DS_ERR_INVALID, "%s: the last dimension of \"%s\" is not contiguous",
                    c->name, what);
  if (!in_range(stride[1], INT32_MAX))
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED, "%s: rows of \"%s\" are %lld elements apart",
                    c->name, what, (long long)stride[1]);
  *out = (gpu_attention_tensor){t->data, stride[0], stride[2], (int32_t)stride[1]};
  const int64_t chunk = a->dtype == DS_F32 ? 4 : 8; /* of 16 bytes */
  if ((uintptr_t)t->data % 16 || a->dim % chunk || stride[0] % chunk || stride[1] % chunk ||
      stride[2] % chunk)
    a->vector = 0;
  return DS_OK;
}

static ds_status kv_len_tensor(checked *c, const ds_tensor *t) {
  if (!t) return DS_OK;
  if (t->dtype != DS_I32 || t->rank != 1 || t->shape[0] != c->a.batch ||
      (c->a.batch > 1 && t->stride[0] != 1))
    return gpu_fail(c->err, DS_ERR_INVALID, "%s: \"kv_len\" is not a contiguous i32[%d]", c->name,
                    c->a.batch);
  c->a.kv_len = t->data;
  return DS_OK;
}

static ds_status lse_tensor(checked *c, const ds_tensor *t) {
  const int64_t shape[3] = {c->a.batch, c->a.heads, c->a.time};
  bool fits = t->dtype == DS_F32 && t->rank == 3;
  int64_t expected = 1;
  for (int d = 2; fits && d >= 0; d--) {
    fits = t->shape[d] == shape[d] && (shape[d] == 1 || t->stride[d] == expected);
    expected *= shape[d];
    if (expected == 0) expected = t->shape[d]; /* nothing is there to be strided */
  }
  if (!fits && (int64_t)shape[0] * shape[1] * shape[2] > 0)
    return gpu_fail(c->err, DS_ERR_INVALID, "%s: \"lse\" is not a contiguous f32[%d,%d,%d]",
                    c->name, c->a.batch, c->a.heads, c->a.time);
  c->a.lse = t->data;
  return DS_OK;
}

/* Nothing beyond what ds_ops.def names. */
static ds_status no_more(checked *c, uint32_t n_in, uint32_t n_out, uint32_t accumulate) {
  const ds_op *op = c->op;
  bool more = op->n_attr > 3 || (op->accumulate & ~accumulate);
  for (uint32_t i = n_in; i < op->n_in; i++) more |= op->in[i] != NULL;
  for (uint32_t i = n_out; i < op->n_out; i++) more |= op->out[i] != NULL;
  if (more)
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED,
                    "%s: a tensor, attribute or accumulate bit that is not known here", c->name);
  return DS_OK;
}

/* ---------------------------------------------------------------- the op */

static ds_status read_sizes(checked *c, const ds_tensor *q, const ds_tensor *k) {
  gpu_attention *a = &c->a;
  if (!q || !k) return gpu_fail(c->err, DS_ERR_INVALID, "%s: q or k is missing", c->name);
  if (q->dtype != DS_F32 && q->dtype != DS_BF16)
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED, "%s: only f32 and bf16 are offered", c->name);
  if (q->rank != 4 || k->rank != 4)
    return gpu_fail(c->err, DS_ERR_INVALID, "%s: q and k have rank %d and %d, not 4", c->name,
                    q->rank, k->rank);
  const int64_t heads = q->shape[2], groups = k->shape[2];
  for (int i = 0; i < 4; i++)
    if (q->shape[i] < 0 || k->shape[i] < 0)
      return gpu_fail(c->err, DS_ERR_INVALID, "%s: a size is negative", c->name);
  if (groups ? heads % groups != 0 : heads > 0)
    return gpu_fail(c->err, DS_ERR_INVALID,
                    "%s: %lld key/value heads do not divide %lld query heads", c->name,
                    (long long)groups, (long long)heads);
  if (q->shape[3] < 1 || q->shape[3] > GPU_ATTENTION_MOST_DIM)
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED, "%s: heads of %lld elements; 1 to %d are offered",
                    c->name, (long long)q->shape[3], GPU_ATTENTION_MOST_DIM);
  const int64_t most = (int64_t)1 << 28;
  if (!in_range(q->shape[0], most) || !in_range(q->shape[1], most) || !in_range(heads, most) ||
      !in_range(k->shape[1], most) || !in_range(groups, most) ||
      (double)q->shape[0] * (double)heads * (double)(q->shape[1] + k->shape[1] + 1) * MOST_SPLITS >
          INT32_MAX * 64.0)
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED, "%s: too many queries or keys for one launch",
                    c->name);
  a->dtype = q->dtype;
  a->batch = (int32_t)q->shape[0];
  a->time = (int32_t)q->shape[1];
  a->keys = (int32_t)k->shape[1];
  a->heads = (int32_t)heads;
  a->groups = (int32_t)groups;
  a->dim = (int32_t)q->shape[3];
  return DS_OK;
}

static ds_status read_attributes(checked *c) {
  const ds_op *op = c->op;
  gpu_attention *a = &c->a;
  const double scale = op->n_attr > 0 ? op->attr[0].f : 1 / sqrt((double)a->dim);
  const int64_t window = op->n_attr > 2 ? op->attr[2].i : 0;
  a->causal = op->n_attr > 1 ? op->attr[1].i != 0 : 1;
  if (window < 0)
    return gpu_fail(c->err, DS_ERR_INVALID,
                    "%s: attribute 2 (window) is %lld, must not be negative", c->name,
                    (long long)window);
  a->window = (int32_t)(window < (1 << 29) ? window : 1 << 29);
  a->scale = (float)scale;
  if (!(a->scale > 0) || !isfinite(a->scale))
    return gpu_fail(c->err, DS_ERR_UNSUPPORTED, "%s: scale is %g; positive ones are offered",
                    c->name, scale);
  return DS_OK;
}

/* Parts that the keys are read in, or 0 where the queries are many. */
static int32_t splits(const ds_device *dev, const gpu_attention *a) {
  if (!a->groups || (int64_t)a->time * (a->heads / a->groups) > MOST_ROWS_OF_FEW) return 0;
  const int64_t rows = (int64_t)a->time * (a->heads / a->groups);
  const int64_t tiles = (rows + GPU_ATTENTION_FEW_ROWS - 1) / GPU_ATTENTION_FEW_ROWS;
  const int64_t blocks = tiles * a->batch * a->groups;
  int64_t parts = blocks ? (4 * (int64_t)dev->multiprocessors + blocks - 1) / blocks : 1;
  const int64_t most = (a->keys + GPU_ATTENTION_LEAST_KEYS - 1) / GPU_ATTENTION_LEAST_KEYS;
  if (parts > most) parts = most;
  if (parts > MOST_SPLITS) parts = MOST_SPLITS;
  return parts > 1 ? (int32_t)parts : 1;
}

static ds_status read_forward(checked *c) {
  const ds_op *op = c->op;
  gpu_attention *a = &c->a;
  ds_status st = heads_tensor(c, "q", input(op, 0), a->time, a->heads, &a->q);
  if (!st) st = heads_tensor(c, "k", input(op, 1), a->keys, a->groups, &a->k);
  if (!st) st = heads_tensor(c, "v", input(op, 2), a->keys, a->groups, &a->v);
  if (!st) st = heads_tensor(c, "o", output(op, 0), a->time, a->heads, &a->o);
  if (!st) st = kv_len_tensor(c, input(op, 3));
  if (!st && output(op, 1)) st = lse_tensor(c, output(op, 1));
  if (!st) st = no_more(c, 4, 2, 0);
  a->splits = splits(c->dev, a);
  return st;
}

static ds_status read_backward(checked *c) {
  const ds_op *op = c->op;
  gpu_attention *a = &c->a;
  ds_status st = heads_tensor(c, "do", input(op, 0), a->time, a->heads, &a->d_o);
  if (!st) st = heads_tensor(c, "q", input(op, 1), a->time, a->heads, &a->q);
  if (!st) st = heads_tensor(c, "k", input(op, 2), a->keys, a->groups, &a->k);
  if (!st) st = heads_tensor(c, "v", input(op, 3), a->keys, a->groups, &a->v);
  if (!st) st = heads_tensor(c, "o", input(op, 4), a->time, a->heads, &a->o);
  if (!st) st = heads_tensor(c, "dq", output(op, 0), a->time, a->heads, &a->dq);
  if (!st) st = heads_tensor(c, "dk", output(op, 1), a->keys, a->groups, &a->dk);
  if (!st) st = heads_tensor(c, "dv", output(op, 2), a->keys, a->groups, &a->dv);
  if (!st && !input(op, 5))
    st = gpu_fail(c->err, DS_ERR_INVALID, "%s: \"lse\" is missing", c->name);
  if (!st) st = lse_tensor(c, input(op, 5));
  if (!st) st = kv_len_tensor(c, input(op, 6));
  if (!st) st = no_more(c, 7, 3, 7);
  a->accumulate = op->accumulate;
  return st;
}

static ds_status read_op(checked *c, const ds_device *dev, const ds_op *op, ds_error *err) {
  if (!DS_HAS(op, workspace_size))
    return gpu_fail(err, DS_ERR_INVALID, "attention: the op's size is %u, too small", op->size);
  const bool backward = op->id == DS_OP_ATTENTION_BACKWARD;
  *c = (checked){.dev = dev,
                 .op = op,
                 .name = backward ? "attention_backward" : "attention",
                 .err = err,
                 .a = {.vector = 1, .wave = dev->wave}};
  ds_status st = read_sizes(c, input(op, backward), input(op, 1 + backward));
  if (!st) st = backward ? read_backward(c) : read_forward(c);
  if (!st) st = read_attributes(c);
  if (st) return st;
  const int64_t shared =
      backward ? gpu_attention_backward_shared(&c->a) : gpu_attention_forward_shared(&c->a);
  if (!c->a.splits && shared > (int64_t)dev->shared_per_block)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "%s: heads of %d elements take %lld bytes of shared memory, of %zu", c->name,
                    c->a.dim, (long long)shared, dev->shared_per_block);
  return DS_OK;
}

int gpu_attention_supports(ds_device *dev, const ds_op *op) {
  checked c;
  return read_op(&c, dev, op, NULL) == DS_OK;
}

static size_t scratch_of(const checked *c) {
  const gpu_attention *a = &c->a;
  if (c->op->id == DS_OP_ATTENTION_BACKWARD)
    return (size_t)a->batch * (size_t)a->heads * (size_t)a->time * sizeof(float);
  return a->splits ? (size_t)gpu_attention_few_scratch(a) * sizeof(float) : 0;
}

size_t gpu_attention_workspace(ds_device *dev, const ds_op *op) {
  checked c;
  return read_op(&c, dev, op, NULL) == DS_OK ? scratch_of(&c) : 0;
}

ds_status gpu_attention_run(ds_stream *s, const ds_op *op, ds_error *err) {
  checked c;
  ds_status st = gpu_ready(s, err);
  if (!st) st = read_op(&c, s->dev, op, err);
  if (st) return st;
  const size_t bytes = scratch_of(&c);
  if (bytes > (op->workspace ? op->workspace_size : 0))
    return gpu_fail(err, DS_ERR_INVALID, "%s: needs a workspace of %zu bytes, has %zu", c.name,
                    bytes, op->workspace ? op->workspace_size : 0);
  c.a.scratch = op->workspace;
  if (!c.a.batch || !c.a.groups) return DS_OK; /* no output has an element */
  if (op->id == DS_OP_ATTENTION_BACKWARD)
    return gpu_given(s, gpu_attention_backward(s->handle, &c.a), c.name, err);
  return gpu_given(
      s, c.a.splits ? gpu_attention_few(s->handle, &c.a) : gpu_attention_forward(s->handle, &c.a),
      c.name, err);
}
