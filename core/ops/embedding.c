#include "ops/tape.h"
#include "ops/vocab.h"

static ds_status embedding_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_grad d;
  DS_TRY(ds_grad_open(ctx, node->in[1], DS_F32, DS_LAYOUT_CONTIGUOUS, &d, err));
  DS_TRY(ds_run_raw(ctx, DS_OP_EMBEDDING_BACKWARD,
                    (const ds_tensor *[]){&node->in[0]->t, ds_grad_out(node)}, 2,
                    (const ds_tensor *[]){&d.t}, 1, d.accumulate, NULL, 0, err));
  return ds_grad_close(ctx, &d, err);
}

static bool check_ids(ds_ctx *ctx, const ds_value *ids, int64_t limit, const char *what) {
  if (ids->t.dtype != DS_I32 || !ds_tensor_is_contiguous(&ids->t) || ids->t.rank >= DS_MAX_RANK) {
    ds_ctx_fail(ctx, DS_ERR_INVALID, "%s: ids must be contiguous i32, not %s", what,
                ds_dtype_name(ids->t.dtype));
    return false;
  }
  bool known = ids->id_min <= ids->id_max;
  if (known && (ids->id_min < 0 || ids->id_max >= limit)) {
    ds_ctx_fail(ctx, DS_ERR_INVALID,
                "%s: id %d is outside [0,%lld); does the tokenizer belong to the model?", what,
                ids->id_min < 0 ? ids->id_min : ids->id_max, (long long)limit);
    return false;
  }
  return true;
}

ds_value *ds_embedding(ds_ctx *ctx, ds_value *ids, ds_value *table) {
  if (!ids || !table) return NULL;
  if (table->t.rank != 2 || !ds_tensor_is_contiguous(&table->t))
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "embedding: the table must be contiguous [V,C]");
  const ds_param_split *split = ds_parallel_split(ctx, table);
  if (split && (split->split != DS_SPLIT_VOCAB || table->base))
    return ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                       "embedding: the table \"%s\" is divided by %s; ds_params_set_split with "
                       "DS_SPLIT_VOCAB or DS_SPLIT_NONE says otherwise",
                       split->name,
                       table->base ? "tensor parallelism, and this is a view of it"
                                   : "tensor parallelism as a linear's weight");
  int64_t vocab = split ? split->whole : table->t.shape[0];
  if (!check_ids(ctx, ids, vocab, "embedding")) return NULL;
  if (split) return ds_vocab_embedding(ctx, ids, table, split, embedding_backward);
  ids = ds_parallel_ids(ctx, ids);
  if (!ids) return NULL;
  int64_t shape[DS_MAX_RANK];
  for (int32_t i = 0; i < ids->t.rank; i++) shape[i] = ids->t.shape[i];
  shape[ids->t.rank] = table->t.shape[1];
  ds_value *y = ds_value_new(ctx, table->t.dtype, ids->t.rank + 1, shape);
  ds_value *in[] = {ids, table};
  if (!y || !ds_run(ctx, DS_OP_EMBEDDING, in, 2, &y, 1, NULL, 0)) return NULL;
  return ds_record(ctx, embedding_backward, in, 2, &y, 1, NULL, 0);
}

ds_value *ds_gather_rows(ds_ctx *ctx, ds_value *x, ds_value *ids) {
  if (!x || !ids) return NULL;
  if (ds_will_record(ctx, &x, 1))
    return ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED, "gather_rows has no gradient; not for training");
  x = ds_contiguous(ctx, x);
  if (!x) return NULL;
  if (x->t.rank != 2 || ids->t.rank != 1)
    return ds_ctx_fail(ctx, DS_ERR_INVALID, "gather_rows: x must be [R,C] and ids [K]");
  if (!check_ids(ctx, ids, x->t.shape[0], "gather_rows")) return NULL;
  ds_value *y = ds_value_new(ctx, x->t.dtype, 2, (int64_t[]){ids->t.shape[0], x->t.shape[1]});
  if (!y || !ds_run(ctx, DS_OP_GATHER_ROWS, (ds_value *[]){x, ids}, 2, &y, 1, NULL, 0)) return NULL;
  return y;
}
