/* ops.c - the ops table: finds an op by its id, checks it, runs it. */
#include "backend/reference/op.h"
#include "backend/reference/tables.h"
#include "base/status.h"

static const ds_reference_entry entries[] = {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr)                                               \
  [id] = {#lower, n_in, n_out, n_attr, &ds_reference_op_##lower},
#include "ds_ops.def"
#undef DS_OP
};

#define DS_OP(id, upper, lower, n_in, n_out, n_attr)                                               \
  _Static_assert((n_in) <= DS_REFERENCE_MAX_IN && (n_out) <= DS_REFERENCE_MAX_OUT, #lower);
#include "ds_ops.def"
#undef DS_OP

static ds_status check(const ds_op *op, ds_reference_args *a, ds_error *err) {
  if (!DS_HAS(op, workspace_size)) {
    return ds_fail(err, DS_ERR_INVALID, "op: size is %u, must be at least %zu (sizeof(ds_op))",
                   (unsigned)op->size, sizeof(ds_op));
  }
  if (op->id >= sizeof entries / sizeof *entries || !entries[op->id].name) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "op: the reference backend knows no op %u",
                   (unsigned)op->id);
  }
  return ds_reference_check(&entries[op->id], op, a, err);
}

static int ops_supports(ds_device *dev, const ds_op *op) {
  (void)dev;
  ds_reference_args a;
  return check(op, &a, NULL) == DS_OK;
}

static size_t needed(const ds_reference_args *a) {
  return a->entry->op->workspace ? a->entry->op->workspace(a) : 0;
}

static size_t ops_workspace(ds_device *dev, const ds_op *op) {
  (void)dev;
  ds_reference_args a;
  return check(op, &a, NULL) == DS_OK ? needed(&a) : 0;
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  (void)s;
  ds_reference_args a;
  DS_TRY(check(op, &a, err));
  DS_TRY(ds_reference_check_data(&a, err));
  size_t bytes = needed(&a);
  if (bytes > 0 && (!op->workspace || op->workspace_size < bytes)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "%s: needs a workspace of %zu bytes, got %zu; ask workspace()", a.name, bytes,
                   op->workspace ? op->workspace_size : 0);
  }
  return a.entry->op->run(&a, err);
}

const ds_ops_table ds_reference_ops = {
    .base = DS_REFERENCE_TABLE(ds_ops_table),
    .supports = ops_supports,
    .workspace = ops_workspace,
    .run = ops_run,
};
