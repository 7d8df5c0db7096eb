/* ops.c - three ops; what each takes and gives stands in ds_ops.def. Everything else falls back.
 *
 * To add one: a check in `offered`, a case in `ops_run`. `ds train --stats` tells what fell back
 * and how long it took. Attention and its gradient come first, then norms, cross entropy, adamw. */
#include "plugin.h"

#include <math.h>

float activate(int64_t kind, float x) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH:
      return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    case DS_ACTIVATION_GELU_ERF: return 0.5f * x * erfcf(-x * 0.7071067812f);
    case DS_ACTIVATION_RELU: return x > 0 || isnan(x) ? x : 0;
    case DS_ACTIVATION_SILU: return x / (1 + expf(-x));
    case DS_ACTIVATION_TANH: return tanhf(x);
    case DS_ACTIVATION_SIGMOID: return 1 / (1 + expf(-x));
    default: return x;
  }
}

/* ---------------------------------------------------------------- reading a ds_op */

static const ds_tensor *in(const ds_op *op, uint32_t i) {
  return i < op->n_in ? op->in[i] : NULL; /* trailing absent tensors may be left off */
}

static const ds_tensor *out(const ds_op *op, uint32_t i) {
  return i < op->n_out ? op->out[i] : NULL;
}

static int64_t elements(const ds_tensor *t) {
  int64_t n = 1;
  for (int32_t d = 0; d < t->rank; d++) n *= t->shape[d];
  return n;
}

/* An f32 tensor of n elements. These three ops get theirs contiguous: ds_ops.def doesn't say
 * "strided". */
static int is_f32(const ds_tensor *t, int64_t n) {
  return t && t->dtype == DS_F32 && elements(t) == n;
}

/* Whether the op is one of the three, with types and shapes they take. */
static int offered(const ds_op *op) {
  const ds_tensor *x = in(op, 0);
  if (!DS_HAS(op, workspace_size) || op->accumulate || !x || !is_f32(x, elements(x))) return 0;
  if (!is_f32(out(op, 0), elements(x))) return 0;
  switch (op->id) {
    case DS_OP_ADD: return is_f32(in(op, 1), elements(x));
    case DS_OP_ACTIVATION:
      return op->n_attr > 0 && op->attr[0].i >= DS_ACTIVATION_GELU_TANH &&
             op->attr[0].i <= DS_ACTIVATION_SIGMOID;
    case DS_OP_RMS_NORM: {
      if (x->rank < 1) return 0;
      const int64_t cols = x->shape[x->rank - 1];
      const ds_tensor *rstd = out(op, 1); /* optional */
      return is_f32(in(op, 1), cols) && cols > 0 && (!rstd || is_f32(rstd, elements(x) / cols));
    }
    default: return 0;
  }
}

/* ---------------------------------------------------------------- the ops */

static void rms_norm(const ds_op *op) {
  const ds_tensor *x_in = op->in[0], *rstd_out = out(op, 1);
  const float *x = x_in->data, *weight = op->in[1]->data;
  float *y = op->out[0]->data;
  const int64_t cols = x_in->shape[x_in->rank - 1], rows = elements(x_in) / cols;
  const double eps = op->n_attr > 0 ? op->attr[0].f : 1e-6; /* a missing attribute: its default */
  for (int64_t r = 0; r < rows; r++, x += cols, y += cols) {
    double sum = 0; /* one order of summation, always: the same bits for the same input */
    for (int64_t c = 0; c < cols; c++) sum += (double)x[c] * (double)x[c];
    const float rstd = (float)(1 / sqrt(sum / (double)cols + eps));
    for (int64_t c = 0; c < cols; c++) y[c] = x[c] * rstd * weight[c];
    if (rstd_out) ((float *)rstd_out->data)[r] = rstd; /* for the gradient */
  }
}

/* [any-thread] The same answer for the same description, always. */
static int ops_supports(ds_device *dev, const ds_op *op) {
  (void)dev;
  return offered(op);
}

/* [per-stream]. Also asked for what supports() refuses: DS_ERR_UNSUPPORTED makes core fall back.
 * Scratch comes in op->workspace, of the size that a `workspace` function in the table asks for; an
 * op allocates nothing, since a step repeats it a thousand times. */
static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  (void)s;
  if (!offered(op))
    return fail(err, DS_ERR_UNSUPPORTED, "op %u is not offered with these tensors", op->id);
  const int64_t n = elements(op->in[0]);
  const float *a = op->in[0]->data;
  float *y = op->out[0]->data;
  switch (op->id) {
    case DS_OP_ADD: {
      const float *b = op->in[1]->data;
      for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
      break;
    }
    case DS_OP_ACTIVATION:
      for (int64_t i = 0; i < n; i++) y[i] = activate(op->attr[0].i, a[i]);
      break;
    default: rms_norm(op); break;
  }
  return DS_OK;
}

const ds_ops_table ops_table = {
    .base = {sizeof(ds_ops_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = ops_supports,
    .run = ops_run,
};
