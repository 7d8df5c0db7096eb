#include "ops/sequence.h"
#include "ops/tape.h"
#include "ops/vocab.h"

/* The logits' memory becomes the gradient's: it is the largest tensor of a language model's step,
 * and nothing else reads it. Only where that is sure: a value of its own, or a view of all of one.
 */
static bool may_overwrite(const ds_value *logits) {
  const ds_value *root = logits->base ? logits->base : logits;
  return logits->needs_grad && root->param < 0 && !root->grad && !root->keep && root->uses == 1 &&
         root->storage && root->storage->refs == 1 &&
         ds_tensor_numel(&root->t) == ds_tensor_numel(&logits->t);
}

static ds_status reuse_logits(ds_ctx *ctx, ds_value *logits, ds_grad *g, ds_error *err) {
  ds_value *root = logits->base ? logits->base : logits;
  ds_value *grad = ds_pool_alloc(ctx, sizeof *grad);
  if (!grad) return ds_ctx_status(ctx, err);
  *grad = *root;
  grad->grad = NULL;
  grad->storage->refs++;
  root->grad = grad;
  *g = (ds_grad){.t = logits->t, .wanted = true};
  return DS_OK;
}

static ds_status cross_entropy_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *logits = node->in[0];
  ds_grad d;
  if (may_overwrite(logits))
    DS_TRY(reuse_logits(ctx, logits, &d, err));
  else
    DS_TRY(ds_grad_open(ctx, logits, logits->t.dtype, DS_LAYOUT_CONTIGUOUS, &d, err));
  const ds_tensor *in[] = {ds_grad_out(node), &logits->t, &node->in[1]->t, &node->out[1]->t,
                           &node->out[2]->t};
  if (d.accumulate) { /* the op overwrites: take a detour */
    ds_value *part = ds_value_new(ctx, logits->t.dtype, 2, logits->t.shape);
    if (!part) return ds_ctx_status(ctx, err);
    DS_TRY(ds_run_raw(ctx, DS_OP_CROSS_ENTROPY_BACKWARD, in, 5, (const ds_tensor *[]){&part->t}, 1,
                      0, node->attr, 1, err));
    DS_TRY(ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&part->t}, 1,
                      (const ds_tensor *[]){&d.t}, 1, 1, NULL, 0, err));
  } else {
    DS_TRY(ds_run_raw(ctx, DS_OP_CROSS_ENTROPY_BACKWARD, in, 5, (const ds_tensor *[]){&d.t}, 1, 0,
                      node->attr, 1, err));
  }
  return ds_grad_close(ctx, &d, err);
}

static bool check_shapes(ds_ctx *ctx, const ds_value *logits, const ds_value *targets) {
  if (logits->t.rank == 2 && targets->t.dtype == DS_I32 &&
      ds_tensor_numel(&targets->t) == logits->t.shape[0])
    return true;
  char ls[96], ts[96];
  ds_ctx_fail(ctx, DS_ERR_INVALID,
              "cross_entropy: wanted logits [R,V] and targets i32[R], got %s and %s %s",
              ds_tensor_describe(&logits->t, ls, sizeof ls), ds_dtype_name(targets->t.dtype),
              ds_tensor_describe(&targets->t, ts, sizeof ts));
  return false;
}

static bool check_targets(ds_ctx *ctx, const ds_value *targets, int64_t classes, int64_t ignore) {
  bool known = targets->id_min <= targets->id_max;
  bool low = targets->id_min < 0 && targets->id_min != ignore;
  if (!known || (targets->id_max < classes && !low)) return true;
  ds_ctx_fail(ctx, DS_ERR_INVALID,
              "cross_entropy: target %d is neither in [0,%lld) nor the ignored %lld",
              low ? targets->id_min : targets->id_max, (long long)classes, (long long)ignore);
  return false;
}

ds_value *ds_cross_entropy(ds_ctx *ctx, ds_value *logits, ds_value *targets, int64_t ignore) {
  if (!logits || !targets) return NULL;
  bool parts = logits->part == DS_PART_VOCAB; /* whose rows are strided */
  if (!parts) logits = ds_contiguous(ctx, logits);
  if (!logits || !check_shapes(ctx, logits, targets)) return NULL;
  int64_t classes = parts ? logits->vocab->whole : logits->t.shape[1], one = 1;
  if (!check_targets(ctx, targets, classes, ignore)) return NULL;
  targets = ds_reshape(ctx, targets, 1, &logits->t.shape[0]);
  if (!targets) return NULL;
  if (parts) return ds_vocab_loss(ctx, logits, targets, ignore, cross_entropy_backward);
  ds_attr attr = {.i = ignore};
  ds_value *in[] = {logits, targets};
  ds_value *out[] = {ds_value_new(ctx, DS_F32, 1, &one),
                     ds_value_new(ctx, DS_F32, 1, &logits->t.shape[0]),
                     ds_value_new(ctx, DS_F32, 1, &one)};
  if (!ds_run(ctx, DS_OP_CROSS_ENTROPY, in, 2, out, 3, &attr, 1)) return NULL;
  if (!ds_sequence_mean_loss(ctx, out[0], out[2])) return NULL;
  return ds_record(ctx, cross_entropy_backward, in, 2, out, 3, &attr, 1);
}
