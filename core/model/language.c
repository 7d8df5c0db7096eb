#include "model/language.h"

/* transformers' label of positions that don't count */
enum { IGNORED_LABEL = -100 };

bool ds_language_check(ds_ctx *ctx, const ds_value *ids, int64_t before, int64_t max_positions,
                       int64_t *batch, int64_t *length) {
  if (!ids) return false;
  const ds_tensor *t = ds_value_tensor(ids);
  if (t->rank != 2 || t->dtype != DS_I32 || t->shape[0] < 1 || t->shape[1] < 1) {
    ds_ctx_fail(ctx, DS_ERR_INVALID, "a language model's first input must be token ids i32[B,T]");
    return false;
  }
  *batch = t->shape[0];
  *length = t->shape[1];
  if (*length <= max_positions - before) return true;
  ds_ctx_fail(ctx, DS_ERR_INVALID, "%lld tokens are more than the model's %lld positions",
              (long long)(before + *length), (long long)max_positions);
  return false;
}

ds_status ds_language_hidden(const ds_batch *batch, int64_t max_positions, int64_t width,
                             int32_t *rank, int64_t *shape, ds_error *err) {
  const ds_host_tensor *ids = &batch->tensors[0];
  if (batch->n < 1 || ids->dtype != DS_I32 || ids->rank != 2 || ids->shape[0] < 1 ||
      ids->shape[1] < 1)
    return ds_fail(err, DS_ERR_INVALID,
                   "a language model's first input must be token ids i32[B,T]");
  if (ids->shape[1] > max_positions)
    return ds_fail(err, DS_ERR_INVALID, "%lld tokens are more than the model's %lld positions",
                   (long long)ids->shape[1], (long long)max_positions);
  *rank = 3;
  shape[0] = ids->shape[0];
  shape[1] = ids->shape[1];
  shape[2] = width;
  return DS_OK;
}

ds_value *ds_language_last(ds_ctx *ctx, ds_value *x) {
  if (!x) return NULL;
  const ds_tensor *t = ds_value_tensor(x);
  int64_t rows = t->shape[0], last = t->shape[1] - 1, width = t->shape[2];
  x = ds_reshape(ctx, x, 2, (int64_t[]){rows, (last + 1) * width});
  return ds_slice_last(ctx, x, last * width, width);
}

ds_value *ds_language_output(ds_ctx *ctx, ds_value *logits, ds_value *const *inputs, int n_inputs) {
  if (!logits) return NULL;
  const ds_tensor *t = ds_value_tensor(logits), *ids = ds_value_tensor(inputs[0]);
  int64_t batch = ids->shape[0], length = ids->shape[1], vocab = t->shape[t->rank - 1];
  int64_t rows = batch * length;
  if (n_inputs == 1) return ds_reshape(ctx, logits, 3, (int64_t[]){batch, length, vocab});
  ds_value *labels = ds_reshape(ctx, inputs[1], 1, &rows);
  logits = ds_reshape(ctx, logits, 2, (int64_t[]){rows, vocab});
  return ds_cross_entropy(ctx, logits, labels, IGNORED_LABEL);
}
