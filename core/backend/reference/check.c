/* check.c - one validation for supports and run: an op against its signature. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "backend/reference/op.h"
#include "base/status.h"

#define ELEMENTS_MAX (INT64_MAX / 64)

typedef struct shape_text {
  char text[160];
} shape_text;

static shape_text shape_of(const ds_tensor *t) {
  shape_text s = {"["};
  size_t used = 1;
  for (int32_t i = 0; i < t->rank; i++) {
    used += (size_t)snprintf(s.text + used, sizeof s.text - used, "%s%lld", i ? "," : "",
                             (long long)t->shape[i]);
  }
  snprintf(s.text + used, sizeof s.text - used, "]");
  return s;
}

static const char *const dtypes[] = {"f32", "bf16", "f16", "f64",    "i32",   "i64",
                                     "i8",  "u8",   "i4",  "f8e4m3", "f8e5m2"};

static bool is_dtype(int32_t d) {
  return d >= 0 && d < (int32_t)(sizeof dtypes / sizeof *dtypes);
}

static const char *dtype_name(int32_t d) {
  return is_dtype(d) ? dtypes[d] : "unknown";
}

/* Shapes have been checked: no overflow. */
static int64_t elements(const ds_tensor *t, int32_t dims) {
  int64_t n = 1;
  for (int32_t i = 0; i < dims; i++) n *= t->shape[i];
  return n;
}

static int is_contiguous(const ds_tensor *t) {
  if (elements(t, t->rank) == 0) return 1;
  int64_t expected = 1;
  for (int32_t i = t->rank - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->stride[i] != expected) return 0;
    expected *= t->shape[i];
  }
  return 1;
}

static ds_status check_shape(const ds_reference_args *a, const ds_reference_tensor *spec,
                             const ds_tensor *t, ds_error *err) {
  if (t->rank < 0 || t->rank > DS_MAX_RANK) {
    return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" has rank %d; 0 to %d is possible", a->name,
                   spec->name, (int)t->rank, DS_MAX_RANK);
  }
  int64_t n = 1; /* zeros count as ones, so that no partial product overflows either */
  for (int32_t i = 0; i < t->rank; i++) {
    if (t->shape[i] < 0 || t->shape[i] > ELEMENTS_MAX / n) {
      return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" has the impossible shape %s", a->name,
                     spec->name, shape_of(t).text);
    }
    if (t->shape[i] > 0) n *= t->shape[i];
  }
  return DS_OK;
}

static ds_status check_dtype(ds_reference_args *a, const ds_reference_tensor *spec,
                             const ds_tensor *t, ds_error *err) {
  const char *allowed = NULL;
  int32_t d = t->dtype;
  /* What the op's definition or its other tensors rule out is wrong; the rest is not offered. */
  bool fixed = spec->type == DS_REFERENCE_X
                   ? a->x >= 0
                   : spec->type != DS_REFERENCE_FLOAT && spec->type != DS_REFERENCE_PLAIN;
  switch (spec->type) {
    case DS_REFERENCE_X:
      if (a->x < 0 && (d == DS_F32 || d == DS_BF16 || d == DS_F16)) a->x = d;
      if (a->x < 0 || d != a->x) allowed = a->x < 0 ? "f32, bf16 or f16" : dtype_name(a->x);
      break;
    case DS_REFERENCE_F32: allowed = d == DS_F32 ? NULL : "f32"; break;
    case DS_REFERENCE_F64: allowed = d == DS_F64 ? NULL : "f64"; break;
    case DS_REFERENCE_I32: allowed = d == DS_I32 ? NULL : "i32"; break;
    case DS_REFERENCE_BF16: allowed = d == DS_BF16 ? NULL : "bf16"; break;
    case DS_REFERENCE_FLOAT:
      if (d != DS_F32 && d != DS_BF16 && d != DS_F16) allowed = "f32, bf16 or f16";
      break;
    case DS_REFERENCE_PLAIN:
      if (d != DS_F32 && d != DS_BF16 && d != DS_I32) allowed = "f32, bf16 or i32";
      break;
  }
  if (!allowed) return DS_OK;
  return ds_fail(err, fixed && is_dtype(d) ? DS_ERR_INVALID : DS_ERR_UNSUPPORTED,
                 "%s: \"%s\" is %s, must be %s", a->name, spec->name, dtype_name(d), allowed);
}

static ds_status check_strides(const ds_reference_args *a, const ds_reference_tensor *spec,
                               const ds_tensor *t, int is_out, ds_error *err) {
  int strided = (spec->flags & DS_REFERENCE_STRIDED) != 0;
  if (spec->flags & DS_REFERENCE_ROWS) {
    int32_t last = t->rank - 1;
    strided = t->rank == (int32_t)strlen(spec->dims);
    if (strided && t->shape[last] > 1 && t->stride[last] != 1) {
      return ds_fail(err, DS_ERR_INVALID,
                     "%s: the last dimension of \"%s\" must be contiguous, its stride is %lld",
                     a->name, spec->name, (long long)t->stride[last]);
    }
  }
  if (!strided) {
    if (is_contiguous(t)) return DS_OK;
    return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" of shape %s must be contiguous", a->name,
                   spec->name, shape_of(t).text);
  }
  for (int32_t i = 0; is_out && i < t->rank; i++) {
    if (t->shape[i] > 1 && t->stride[i] == 0) {
      return ds_fail(err, DS_ERR_INVALID, "%s: output \"%s\" overlaps itself: stride 0 in dim %d",
                     a->name, spec->name, (int)i);
    }
  }
  return DS_OK;
}

static ds_status bind_dim(ds_reference_args *a, const ds_reference_tensor *spec, const ds_tensor *t,
                          char letter, int64_t size, ds_error *err) {
  int i = letter - 'A';
  if (!a->dim_source[i]) {
    a->dim[i] = size;
    a->dim_source[i] = spec->name;
  }
  if (a->dim[i] == size) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID,
                 "%s: \"%s\" of shape %s has %c = %lld, but \"%s\" has %c = %lld", a->name,
                 spec->name, shape_of(t).text, letter, (long long)size, a->dim_source[i], letter,
                 (long long)a->dim[i]);
}

static ds_status bind_dims(ds_reference_args *a, const ds_reference_tensor *spec,
                           const ds_tensor *t, ds_error *err) {
  const char *dims = spec->dims;
  if (dims[0] == '*') return DS_OK;
  if (dims[0] == '1') {
    if (elements(t, t->rank) == 1) return DS_OK;
    return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" must have one element, its shape is %s",
                   a->name, spec->name, shape_of(t).text);
  }
  int32_t letters = (int32_t)strlen(dims);
  int folds = strchr("RKN", dims[0]) != NULL;
  int32_t leading = t->rank - letters + 1; /* dimensions that the first letter stands for */
  if (folds ? leading < 0 : leading != 1) {
    return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" of shape %s must have rank %d%s [%s]", a->name,
                   spec->name, shape_of(t).text, (int)letters, folds ? " (or more):" : ":", dims);
  }
  DS_TRY(bind_dim(a, spec, t, dims[0], elements(t, leading), err));
  for (int32_t i = 1; i < letters; i++) {
    DS_TRY(bind_dim(a, spec, t, dims[i], t->shape[leading + i - 1], err));
  }
  return DS_OK;
}

static ds_status check_tensor(ds_reference_args *a, const ds_reference_tensor *spec,
                              const ds_tensor *t, int is_out, ds_error *err) {
  if (!t) {
    if (spec->flags & DS_REFERENCE_OPTIONAL) return DS_OK;
    return ds_fail(err, DS_ERR_INVALID, "%s: %s \"%s\" is missing", a->name,
                   is_out ? "output" : "input", spec->name);
  }
  DS_TRY(check_shape(a, spec, t, err));
  DS_TRY(check_dtype(a, spec, t, err));
  DS_TRY(bind_dims(a, spec, t, err));
  return check_strides(a, spec, t, is_out, err);
}

static ds_status check_counts(const ds_reference_entry *e, const ds_op *op, ds_error *err) {
  if (op->n_in > e->n_in || op->n_out > e->n_out || op->n_attr > e->n_attr) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: takes at most %u inputs, %u outputs and %u attributes, got %u, %u and %u",
                   e->name, (unsigned)e->n_in, (unsigned)e->n_out, (unsigned)e->n_attr,
                   (unsigned)op->n_in, (unsigned)op->n_out, (unsigned)op->n_attr);
  }
  if ((op->n_in && !op->in) || (op->n_out && !op->out) || (op->n_attr && !op->attr)) {
    return ds_fail(err, DS_ERR_INVALID, "%s: in, out or attr is NULL though its count is not 0",
                   e->name);
  }
  for (uint32_t i = 0; i < 32; i++) {
    if (!(op->accumulate >> i & 1u)) continue;
    if (i < e->n_out && (e->op->out[i].flags & DS_REFERENCE_ACC)) continue;
    return ds_fail(err, DS_ERR_INVALID, "%s: output %u%s%s%s can't be accumulated into", e->name,
                   (unsigned)i, i < e->n_out ? " (\"" : "", i < e->n_out ? e->op->out[i].name : "",
                   i < e->n_out ? "\")" : "");
  }
  return DS_OK;
}

ds_status ds_reference_check(const ds_reference_entry *e, const ds_op *op, ds_reference_args *a,
                             ds_error *err) {
  DS_TRY(check_counts(e, op, err));
  *a = (ds_reference_args){.op = op, .entry = e, .name = e->name, .x = -1};
  for (uint32_t i = 0; i < e->n_in; i++) {
    DS_TRY(check_tensor(a, &e->op->in[i], ds_reference_in(a, i), 0, err));
  }
  for (uint32_t i = 0; i < e->n_out; i++) {
    DS_TRY(check_tensor(a, &e->op->out[i], ds_reference_out(a, i), 1, err));
  }
  return e->op->check ? e->op->check(a, err) : DS_OK;
}

/* ---------------------------------------------------------------- data */

static int same_strides(const ds_tensor *a, const ds_tensor *b) {
  if (is_contiguous(a) && is_contiguous(b)) return 1;
  if (a->rank != b->rank) return 0;
  for (int32_t i = 0; i < a->rank; i++) {
    if (a->shape[i] > 1 && a->stride[i] != b->stride[i]) return 0;
  }
  return 1;
}

static int shares_data(const ds_tensor *a, const ds_tensor *b) {
  return a && b && a->data == b->data && elements(a, a->rank) > 0 && elements(b, b->rank) > 0;
}

static ds_status check_present(const char *op, const char *name, const ds_tensor *t,
                               ds_error *err) {
  if (!t || t->data || elements(t, t->rank) == 0) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" of shape %s has a NULL data pointer", op, name,
                 shape_of(t).text);
}

static ds_status check_alias(const ds_reference_args *a, uint32_t o, uint32_t i, ds_error *err) {
  const ds_reference_tensor *out = &a->entry->op->out[o], *in = &a->entry->op->in[i];
  const ds_op *op = a->op;
  if (!shares_data(op->out[o], op->in[i])) return DS_OK;
  if (!(out->alias >> i & 1u)) {
    return ds_fail(err, DS_ERR_INVALID, "%s: output \"%s\" must not be the input \"%s\"", a->name,
                   out->name, in->name);
  }
  if ((out->flags & DS_REFERENCE_ALIAS_OR_ACC) && (op->accumulate >> o & 1u)) {
    return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" can't be accumulated into while it is \"%s\"",
                   a->name, out->name, in->name);
  }
  if (!same_strides(op->out[o], op->in[i])) {
    return ds_fail(err, DS_ERR_INVALID, "%s: \"%s\" is \"%s\" but their strides differ", a->name,
                   out->name, in->name);
  }
  return DS_OK;
}

ds_status ds_reference_check_data(const ds_reference_args *a, ds_error *err) {
  const ds_reference_op *spec = a->entry->op;
  const ds_op *op = a->op;
  for (uint32_t i = 0; i < op->n_in; i++) {
    DS_TRY(check_present(a->name, spec->in[i].name, op->in[i], err));
  }
  for (uint32_t o = 0; o < op->n_out; o++) {
    DS_TRY(check_present(a->name, spec->out[o].name, op->out[o], err));
    for (uint32_t i = 0; i < op->n_in; i++) DS_TRY(check_alias(a, o, i, err));
    for (uint32_t i = 0; i < o; i++) {
      if (!shares_data(op->out[o], op->out[i])) continue;
      return ds_fail(err, DS_ERR_INVALID, "%s: outputs \"%s\" and \"%s\" are the same memory",
                     a->name, spec->out[i].name, spec->out[o].name);
    }
  }
  return DS_OK;
}
