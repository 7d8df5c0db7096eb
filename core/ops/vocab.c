/* vocab.c - tables and heads divided by vocabulary: a rank has the rows [begin, begin + V) of a
 * table, and of the logits these columns. */
#include "ops/vocab.h"

#include "ops/sequence.h"

enum { STRETCH = 2048, ALIGN = 64, NOBODY = -1 };

/* ---- numbers of a rank's own, made on the host a stretch at a time */

typedef struct own {
  int64_t begin, rows, ignore;
  int64_t whole, size; /* rows of all ranks, and ranks */
} own;

typedef int32_t own_fn(const own *o, int32_t id);

static ds_value *map_ids(ds_ctx *ctx, const int32_t *ids, int64_t n, const own *o, own_fn *f) {
  ds_error err;
  int32_t part[STRETCH];
  ds_value *v = ids ? ds_value_new(ctx, DS_I32, 1, &n) : NULL;
  if (!v) return NULL;
  for (int64_t at = 0; at < n; at += STRETCH) {
    int64_t count = n - at < STRETCH ? n - at : STRETCH;
    for (int64_t i = 0; i < count; i++) part[i] = f(o, ids[at + i]);
    if (ds_backend_upload(ctx->backend, (int32_t *)v->t.data + at, part,
                          (size_t)count * sizeof *part, &err) != DS_OK)
      return ds_ctx_take_error(ctx, &err);
  }
  return v;
}

static bool is_own(const own *o, int32_t id) {
  return id >= o->begin && id < o->begin + o->rows && id != o->ignore;
}
/* The row here, or none. */
static int32_t own_row(const own *o, int32_t id) {
  return is_own(o, id) ? (int32_t)(id - o->begin) : NOBODY;
}
/* Where append_rows puts the row: to the only place there is, or beyond it. */
static int32_t own_place(const own *o, int32_t id) {
  return is_own(o, id) ? 0 : 1;
}
/* The column of the gradient: that of nobody's logit where another rank has the target. */
static int32_t own_column(const own *o, int32_t id) {
  if (id == o->ignore) return NOBODY;
  return is_own(o, id) ? (int32_t)(id - o->begin) : (int32_t)o->rows;
}
/* The rank that has it: of whole rows, the first whole mod size ranks have one more. */
static int32_t owner(const own *o, int32_t id) {
  if (id == o->ignore) return NOBODY;
  if (id < 0 || id >= o->whole) return (int32_t)o->size; /* no rank: the loss is NaN */
  int64_t less = o->whole / o->size, more = o->whole % o->size, at = more * (less + 1);
  return (int32_t)(id < at ? id / (less + 1) : more + (id - at) / less);
}

/* ---- the embedding */

static bool run(ds_ctx *ctx, uint32_t op, const ds_tensor *const *in, int n_in,
                const ds_tensor *out, const ds_attr *attr) {
  ds_error err;
  if (ds_run_raw(ctx, op, in, n_in, &out, 1, 0, attr, attr ? 1 : 0, &err) == DS_OK) return true;
  ds_ctx_take_error(ctx, &err);
  return false;
}

/* Rows of others are zero. Looked up, they are no numbers: so what is found goes through a copy that
 * leaves these out. */
ds_value *ds_vocab_embedding(ds_ctx *ctx, ds_value *ids, ds_value *table, const ds_param_split *s,
                             ds_backward_fn backward) {
  const own o = {.begin = s->begin, .rows = table->t.shape[0], .ignore = INT64_MIN};
  int64_t n = ds_tensor_numel(&ids->t), width = table->t.shape[1], shape[DS_MAX_RANK];
  const int32_t *host = ds_parallel_read_ids(ctx, ids);
  ds_value *rows = map_ids(ctx, host, n, &o, own_row);
  ds_value *place = map_ids(ctx, host, n, &o, own_place);
  for (int32_t i = 0; i < ids->t.rank; i++) shape[i] = ids->t.shape[i];
  shape[ids->t.rank] = width;
  ds_value *found = ds_value_new(ctx, table->t.dtype, 2, (int64_t[]){n, width});
  ds_value *y = ds_value_new(ctx, table->t.dtype, ids->t.rank + 1, shape);
  if (!rows || !place || !found || !y) return NULL;
  const int64_t each[] = {n, 1, 1, width};
  ds_tensor from = ds_tensor_make(found->t.data, found->t.dtype, 4, each);
  ds_tensor to = ds_tensor_make(y->t.data, y->t.dtype, 4, each);
  const ds_attr zero = {.f = 0};
  ds_error err;
  if (ds_need(ctx, &table, 1, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  if (!run(ctx, DS_OP_EMBEDDING, (const ds_tensor *[]){&rows->t, &table->t}, 2, &found->t, NULL) ||
      !run(ctx, DS_OP_FILL, NULL, 0, &y->t, &zero) ||
      !run(ctx, DS_OP_APPEND_ROWS, (const ds_tensor *[]){&from, &place->t}, 2, &to, NULL))
    return NULL;
  y = ds_record(ctx, backward, (ds_value *[]){rows, table}, 2, &y, 1, NULL, 0);
  return ds_parallel_leave(ctx, y);
}

/* ---- logits */

int64_t ds_vocab_padded(int64_t width) {
  return (width + ALIGN) / ALIGN * ALIGN;
}

bool ds_vocab_pad(ds_ctx *ctx, ds_value *buffer, int64_t width) {
  int64_t rows, all, ld;
  ds_tensor_as_rows(&buffer->t, &rows, &all, &ld);
  ds_value *none = ds_value_new(ctx, buffer->t.dtype, 2, (int64_t[]){rows, all - width});
  if (!none) return false;
  const ds_attr least = {.f = -1e30}; /* its exp is 0, and it is a number in every dtype */
  ds_tensor to = none->t;
  to.data = (char *)buffer->t.data + (size_t)width * ds_dtype_size(to.dtype);
  to.stride[0] = all;
  return run(ctx, DS_OP_FILL, NULL, 0, &none->t, &least) &&
         run(ctx, DS_OP_COPY, (const ds_tensor *[]){&none->t}, 1, &to, NULL);
}

static ds_status unpad_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0];
  ds_grad d;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_STRIDED, &d, err));
  ds_tensor from = *ds_grad_out(node);
  from.shape[1] = x->t.shape[1];
  DS_TRY(ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1, (const ds_tensor *[]){&d.t},
                    1, d.accumulate, NULL, 0, err));
  return ds_grad_close(ctx, &d, err);
}

/* Logits [R,V] in a buffer [R,P] whose further columns are nobody's: the one they came in, or a new
 * one where a model changed them on the way. */
static ds_value *padded(ds_ctx *ctx, ds_value *logits) {
  int64_t rows = logits->t.shape[0], width = logits->t.shape[1], all = ds_vocab_padded(width);
  ds_value *base = logits->base;
  if (base && base->t.data == logits->t.data && base->t.shape[base->t.rank - 1] == all &&
      ds_tensor_numel(&base->t) == rows * all && base->part == DS_PART_VOCAB)
    return ds_reshape(ctx, base, 2, (int64_t[]){rows, all});
  ds_value *y = ds_value_new(ctx, logits->t.dtype, 2, (int64_t[]){rows, all});
  if (!y || !ds_vocab_pad(ctx, y, width)) return NULL;
  ds_tensor to = y->t;
  to.shape[1] = width;
  if (!run(ctx, DS_OP_COPY, (const ds_tensor *[]){&logits->t}, 1, &to, NULL)) return NULL;
  return ds_record(ctx, unpad_backward, &logits, 1, &y, 1, NULL, 0);
}

/* ---- the loss: mean over counted rows of log(sum of exp(logits)) - logit of the target.
 *
 * With L_i the log-sum-exp of rank i's columns of a row, and j the rank that has the target:
 *     log(sum) - target = (L_j - target) + (log(sum_i exp(L_i)) - L_j)
 * Both terms are cross entropies: of the columns here, where only rows count whose target is
 * here; and of the ranks' L, with the number of the rank as target. The latter also gives
 * log(sum), of which the gradient is made. Only L goes between the ranks, and one number. */

typedef struct entropy {
  ds_value *loss, *lse, *count;
} entropy;

static bool cross_entropy(ds_ctx *ctx, const ds_tensor *logits, ds_value *targets, entropy *out) {
  ds_error err;
  int64_t one = 1;
  const ds_attr ignore = {.i = NOBODY};
  out->loss = ds_value_new(ctx, DS_F32, 1, &one);
  out->lse = ds_value_new(ctx, DS_F32, 1, &logits->shape[0]);
  out->count = ds_value_new(ctx, DS_F32, 1, &one);
  if (!targets || !out->loss || !out->lse || !out->count) return false;
  if (ds_run_raw(ctx, DS_OP_CROSS_ENTROPY, (const ds_tensor *[]){logits, &targets->t}, 2,
                 (const ds_tensor *[]){&out->loss->t, &out->lse->t, &out->count->t}, 3, 0, &ignore,
                 1, &err) == DS_OK)
    return true;
  ds_ctx_take_error(ctx, &err);
  return false;
}

/* The ranks' log-sum-exps of each row: [R,ranks]. */
static ds_value *gather_lse(ds_ctx *ctx, ds_value *lse) {
  ds_error err;
  int64_t n = ds_tensor_numel(&lse->t), size = ds_group_size(ctx->tensor.group);
  ds_value *all = ds_value_new(ctx, DS_F32, 2, (int64_t[]){size, n});
  ds_value *y = ds_value_new(ctx, DS_F32, 2, (int64_t[]){n, size});
  if (!all || !y) return NULL;
  if (ds_group_allgather(ctx->tensor.group, NULL, lse->t.data, all->t.data, n, DS_F32, &err) !=
      DS_OK)
    return ds_ctx_take_error(ctx, &err);
  ds_tensor turned = y->t;
  turned.data = all->t.data;
  turned.stride[0] = 1;
  turned.stride[1] = n;
  return run(ctx, DS_OP_COPY, (const ds_tensor *[]){&turned}, 1, &y->t, NULL) ? y : NULL;
}

/* loss += the sum over ranks of share times what each has. */
static bool add_share(ds_ctx *ctx, ds_value *loss, ds_value *mine, double share) {
  ds_error err;
  const ds_attr factor = {.f = share};
  if (!run(ctx, DS_OP_SCALE, (const ds_tensor *[]){&mine->t}, 1, &mine->t, &factor)) return false;
  if (ds_group_allreduce(ctx->tensor.group, NULL, mine->t.data, mine->t.data, 1, DS_F32,
                         DS_REDUCE_SUM, &err) != DS_OK) {
    ds_ctx_take_error(ctx, &err);
    return false;
  }
  return run(ctx, DS_OP_ADD, (const ds_tensor *[]){&loss->t, &mine->t}, 2, &loss->t, NULL);
}

ds_value *ds_vocab_loss(ds_ctx *ctx, ds_value *logits, ds_value *targets, int64_t ignore,
                        ds_backward_fn backward) {
  const ds_param_split *s = logits->vocab;
  const own o = {s->begin, logits->t.shape[1], ignore, s->whole, ds_group_size(ctx->tensor.group)};
  int64_t n = ds_tensor_numel(&targets->t), counted = 0, here = 0;
  const int32_t *host = ds_parallel_read_ids(ctx, targets);
  if (!host) return NULL;
  for (int64_t i = 0; i < n; i++) {
    counted += host[i] != ignore;
    here += is_own(&o, host[i]);
  }
  ds_value *own_targets = map_ids(ctx, host, n, &o, own_row);
  ds_value *columns = map_ids(ctx, host, n, &o, own_column);
  ds_value *who = map_ids(ctx, host, n, &o, owner);
  logits = padded(ctx, logits);
  entropy mine, all;
  if (!logits || !columns || !cross_entropy(ctx, &logits->t, own_targets, &mine)) return NULL;
  ds_value *lse = gather_lse(ctx, mine.lse);
  if (!lse || !cross_entropy(ctx, &lse->t, who, &all)) return NULL;
  if (!add_share(ctx, all.loss, mine.loss, counted ? (double)here / (double)counted : 0))
    return NULL;
  if (!ds_sequence_mean_loss(ctx, all.loss, all.count)) return NULL;
  const ds_attr attr = {.i = NOBODY};
  ds_value *out[] = {all.loss, all.lse, all.count};
  return ds_record(ctx, backward, (ds_value *[]){logits, columns}, 2, out, 3, &attr, 1);
}
