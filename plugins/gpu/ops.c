/* ops.c - every op of ds_ops.def: what it takes, and who runs it. Attention looks after itself (attention.c). */
#include "ops.h"

#include "attention.h"

static const gpu_op_entry entries[] = {
    [DS_OP_EMBEDDING] = {"iR VC | RC", gpu_check_row, NULL, gpu_run_embedding},
    [DS_OP_EMBEDDING_BACKWARD] = {"iR RC | fVC+", gpu_check_embedding_backward,
                                  gpu_scratch_embedding_backward, gpu_run_embedding_backward},
    [DS_OP_LAYER_NORM] = {"RC C C? | RC fR? fR?", gpu_check_rows, NULL, gpu_run_layer_norm},
    [DS_OP_LAYER_NORM_BACKWARD] = {"RC RC C fR fR | RC+ fC+ fC+?", gpu_check_rows,
                                   gpu_scratch_norm_backward, gpu_run_layer_norm_backward},
    [DS_OP_RMS_NORM] = {"RC C | RC fR?", gpu_check_rows, NULL, gpu_run_rms_norm},
    [DS_OP_RMS_NORM_BACKWARD] = {"RC RC C fR | RC+ fC+", gpu_check_rows, gpu_scratch_norm_backward,
                                 gpu_run_rms_norm_backward},
    [DS_OP_ACTIVATION] = {"N | N", gpu_check_activation, NULL, gpu_run_activation},
    [DS_OP_ACTIVATION_BACKWARD] = {"N N | N+", gpu_check_activation, NULL,
                                   gpu_run_activation_backward},
    [DS_OP_SWIGLU] = {"~RF ~RF | RF", gpu_check_row, NULL, gpu_run_swiglu},
    [DS_OP_SWIGLU_BACKWARD] = {"RF ~RF ~RF | ~RF+ ~RF+", gpu_check_row, NULL,
                               gpu_run_swiglu_backward},
    [DS_OP_ROPE] = {"~BTHD iBT fP | ~BTHD+", gpu_check_rope, NULL, gpu_run_rope},
    [DS_OP_CROSS_ENTROPY] = {"RV iR | f1 fR f1", gpu_check_rows, gpu_scratch_cross_entropy,
                             gpu_run_cross_entropy},
    [DS_OP_CROSS_ENTROPY_BACKWARD] = {"f1 RV iR fR f1 | RV", gpu_check_rows, NULL,
                                      gpu_run_cross_entropy_backward},
    [DS_OP_ADD] = {"N N | N", NULL, NULL, gpu_run_add},
    [DS_OP_MUL] = {"N N | N+", NULL, NULL, gpu_run_mul},
    [DS_OP_SCALE] = {"N | N+", NULL, NULL, gpu_run_scale},
    [DS_OP_REDUCE_ROWS] = {"RC | fC+", gpu_check_rows, gpu_scratch_reduce_rows,
                           gpu_run_reduce_rows},
    [DS_OP_COPY] = {"a* | a*+", gpu_check_copy, NULL, gpu_run_copy},
    [DS_OP_FILL] = {"| pN", gpu_check_fill, NULL, gpu_run_fill},
    [DS_OP_SUM_SQUARES] = {"N | d1+", NULL, gpu_scratch_total, gpu_run_sum_squares},
    [DS_OP_ADAMW] = {"fN fN fN fN | fN fN fN hN?", gpu_check_adamw, NULL, gpu_run_adamw},
    [DS_OP_SOFTMAX] = {"RC | RC", gpu_check_rows, NULL, gpu_run_softmax},
    [DS_OP_ARGMAX] = {"RC | iR", gpu_check_argmax, NULL, gpu_run_argmax},
    [DS_OP_GATHER_ROWS] = {"RC iK | KC", gpu_check_row, NULL, gpu_run_gather_rows},
    [DS_OP_MEAN] = {"N | f1", NULL, gpu_scratch_total, gpu_run_mean},
    [DS_OP_MEAN_BACKWARD] = {"f1 | N+", NULL, NULL, gpu_run_mean_backward},
    [DS_OP_APPEND_ROWS] = {"~BTGD iB | ~BSGD", gpu_check_append_rows, NULL, gpu_run_append_rows},
    [DS_OP_CLIP_FACTOR] = {"d1 f1? | f1", gpu_check_clip_factor, NULL, gpu_run_clip_factor},
    [DS_OP_ADAMW_SCHEDULED] = {"fN fN fN fN f3 f1 | fN fN fN hN?", gpu_check_adamw_scheduled, NULL,
                               gpu_run_adamw_scheduled},
    [DS_OP_SAMPLE] = {"RV fR iR? | iR", gpu_check_sample, NULL, gpu_run_sample},
};

/* ds_ops.def's line. */
typedef struct op_line {
  const char *name;
  uint32_t n_in, n_out, n_attr;
} op_line;
static const op_line lines[] = {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) [id] = {#lower, n_in, n_out, n_attr},
#include "ds_ops.def"
#undef DS_OP
};

enum { ENTRIES = sizeof entries / sizeof *entries, SCRATCH_ALIGNMENT = 64 };

static ds_status check(const ds_op *op, gpu_shape *shape, ds_error *err) {
  if (!DS_HAS(op, workspace_size))
    return gpu_fail(err, DS_ERR_INVALID,
                    "op: size is %u, which is no ds_op; set it to sizeof(ds_op)",
                    (unsigned)op->size);
  if (op->id >= ENTRIES || !entries[op->id].signature)
    return gpu_fail(err, DS_ERR_UNSUPPORTED, "op %u is not offered here", (unsigned)op->id);
  const gpu_op_entry *e = &entries[op->id];
  const op_line *line = &lines[op->id];
  if (op->n_in > line->n_in || op->n_out > line->n_out || op->n_attr > line->n_attr)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "%s: %u inputs, %u outputs, %u attributes; at most %u, %u, %u are known",
                    line->name, (unsigned)op->n_in, (unsigned)op->n_out, (unsigned)op->n_attr,
                    (unsigned)line->n_in, (unsigned)line->n_out, (unsigned)line->n_attr);
  if ((op->n_in && !op->in) || (op->n_out && !op->out) || (op->n_attr && !op->attr))
    return gpu_fail(err, DS_ERR_INVALID, "%s: in, out or attr is NULL though its count is not 0",
                    line->name);
  const ds_status st = gpu_signature_check(line->name, e->signature, op, shape, err);
  return st == DS_OK && e->check ? e->check(line->name, op, shape, err) : st;
}

static bool is_attention(const ds_op *op) {
  return DS_HAS(op, workspace_size) &&
         (op->id == DS_OP_ATTENTION || op->id == DS_OP_ATTENTION_BACKWARD);
}

static int ops_supports(ds_device *dev, const ds_op *op) {
  gpu_shape shape;
  if (is_attention(op)) return gpu_attention_supports(dev, op);
  return check(op, &shape, NULL) == DS_OK;
}

/* With room to align what is given. */
static size_t scratch_bytes(const ds_device *dev, const ds_op *op, const gpu_shape *shape) {
  const gpu_op_entry *e = &entries[op->id];
  const size_t bytes = e->scratch ? e->scratch(dev, op, shape) : 0;
  return bytes ? bytes + SCRATCH_ALIGNMENT : 0;
}

/* Asked before every op, and most need none. */
static size_t ops_workspace(ds_device *dev, const ds_op *op) {
  gpu_shape shape;
  if (is_attention(op)) return gpu_attention_workspace(dev, op);
  if (DS_HAS(op, id) && op->id < ENTRIES && !entries[op->id].scratch) return 0;
  return check(op, &shape, NULL) == DS_OK ? scratch_bytes(dev, op, &shape) : 0;
}

/* What data says, which supports doesn't see. */
static ds_status check_data(ds_device *dev, const ds_op *op, const gpu_shape *shape,
                            ds_error *err) {
  const char *name = lines[op->id].name;
  ds_status st = gpu_signature_data(name, op, err);
  if (st == DS_OK && (op->id == DS_OP_ADAMW || op->id == DS_OP_ADAMW_SCHEDULED))
    st = gpu_check_in_place(name, op, err);
  if (st != DS_OK) return st;
  const size_t need = scratch_bytes(dev, op, shape), has = op->workspace ? op->workspace_size : 0;
  if (need <= has) return DS_OK;
  return gpu_fail(err, DS_ERR_INVALID, "%s: a workspace of %zu bytes is needed, %zu were given",
                  name, need, has);
}

static ds_status run(ds_stream *s, const ds_op *op, ds_error *err) {
  gpu_shape shape;
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK) st = check(op, &shape, err);
  if (st == DS_OK) st = check_data(s->dev, op, &shape, err);
  if (st != DS_OK) return st;
  const uintptr_t at = (uintptr_t)op->workspace + SCRATCH_ALIGNMENT - 1;
  const gpu_call c = {
      .dev = s->dev,
      .stream = s->handle,
      .op = op,
      .shape = &shape,
      .scratch = op->workspace ? (void *)(at / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT) : NULL};
  return gpu_given(s, entries[op->id].run(&c), lines[op->id].name, err);
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  return gpu_done(s, is_attention(op) ? gpu_attention_run(s, op, err) : run(s, op, err), err);
}

const ds_ops_table gpu_ops_table = {
    .base = {sizeof(ds_ops_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = ops_supports,
    .workspace = ops_workspace,
    .run = ops_run,
};
