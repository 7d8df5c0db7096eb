/* parallel_rules.c - which ops can work on parts, and of what their results are parts. */
#include "ops/parallel.h"
#include "ops/tape.h"

const char *ds_parallel_part_name(ds_part part) {
  static const char *const names[] = {"all of it", "a part of the columns", "a part of the logits",
                                      "a part of the rows"};
  return names[part];
}

static bool refuse(ds_ctx *ctx, uint32_t op, ds_part part) {
  ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
              "%s: under tensor parallelism %d this rank has %s, and the op would need more; a "
              "row-parallel linear or ds_cross_entropy must come first",
              ds_op_name(op), ds_group_size(ctx->tensor.group), ds_parallel_part_name(part));
  return false;
}

/* Sequence parallelism sums the gradients of undivided parameters over the ranks: each has to
 * give its own rows'. */
static bool rows_needed(ds_ctx *ctx, uint32_t op, ds_part part, const ds_value *weight) {
  if (!ctx->tensor.sequence || part == DS_PART_ROWS || !weight || !weight->needs_grad) return true;
  ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
              "%s: sequence parallelism divides the rows from an embedding on, between "
              "row-parallel and column-parallel linears; here is %s",
              op == DS_OP_NONE ? "linear" : ds_op_name(op), ds_parallel_part_name(part));
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
                name, ds_parallel_part_name(x->part));
    return false;
  }
  if (columns && !(s && s->split == DS_SPLIT_ROW)) {
    ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED,
                "linear: x is %s under tensor parallelism, but \"%s\" isn't row-parallel; "
                "ds_params_set_split tells otherwise",
                ds_parallel_part_name(x->part), name);
    return false;
  }
  return s || rows_needed(ctx, DS_OP_NONE, x->part, w);
}
