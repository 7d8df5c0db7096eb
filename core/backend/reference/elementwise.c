/* elementwise.c - ops where each result depends on one place: activation, swiglu, add, mul, scale,
 * copy, fill, and mean_backward; and the sums over all elements, mean and sum_squares. */
#include <math.h>

#include "backend/reference/activation.h"
#include "backend/reference/element.h"
#include "backend/reference/op.h"
#include "base/status.h"

static ds_status activation_check(const ds_reference_args *a, ds_error *err) {
  int64_t kind = ds_reference_attr_i(a, 0, 0);
  if (a->op->n_attr < 1) {
    return ds_fail(err, DS_ERR_INVALID, "%s: attribute 0 (kind) is missing", a->name);
  }
  if (kind < DS_ACTIVATION_GELU_TANH || kind > DS_ACTIVATION_SIGMOID) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: there is no activation kind %lld", a->name,
                   (long long)kind);
  }
  return DS_OK;
}

static ds_status activation_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  int64_t n = ds_reference_dim(a, 'N'), kind = ds_reference_attr_i(a, 0, 0);
  for (int64_t i = 0; i < n; i++) {
    ds_element_put(y, i, ds_activation_value(kind, (double)ds_element_get(x, i)), 0);
  }
  return DS_OK;
}

static ds_status activation_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *dy = ds_reference_in(a, 0), *x = ds_reference_in(a, 1);
  const ds_tensor *dx = ds_reference_out(a, 0);
  int64_t n = ds_reference_dim(a, 'N'), kind = ds_reference_attr_i(a, 0, 0);
  for (int64_t i = 0; i < n; i++) {
    double slope = ds_activation_slope(kind, (double)ds_element_get(x, i));
    ds_element_put(dx, i, (double)ds_element_get(dy, i) * slope, ds_reference_acc(a, 0));
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- swiglu */

/* Elements from one row of a [R,F] tensor to the next; only rank 2 has strided rows. */
static int64_t row_step(const ds_tensor *t, int64_t cols) {
  return t->rank == 2 ? t->stride[0] : cols;
}

static ds_status swiglu_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *gate = ds_reference_in(a, 0), *up = ds_reference_in(a, 1);
  const ds_tensor *y = ds_reference_out(a, 0);
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'F');
  int64_t gate_step = row_step(gate, cols), up_step = row_step(up, cols);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < cols; c++) {
      double g = (double)ds_element_get(gate, r * gate_step + c);
      double u = (double)ds_element_get(up, r * up_step + c);
      ds_element_put(y, r * cols + c, ds_activation_value(DS_ACTIVATION_SILU, g) * u, 0);
    }
  }
  return DS_OK;
}

static ds_status swiglu_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *dy = ds_reference_in(a, 0);
  const ds_tensor *gate = ds_reference_in(a, 1), *up = ds_reference_in(a, 2);
  const ds_tensor *dgate = ds_reference_out(a, 0), *dup = ds_reference_out(a, 1);
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'F');
  int64_t gate_step = row_step(gate, cols), up_step = row_step(up, cols);
  int64_t dgate_step = row_step(dgate, cols), dup_step = row_step(dup, cols);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < cols; c++) {
      double d = (double)ds_element_get(dy, r * cols + c);
      double g = (double)ds_element_get(gate, r * gate_step + c);
      double u = (double)ds_element_get(up, r * up_step + c);
      double slope = ds_activation_slope(DS_ACTIVATION_SILU, g);
      double value = ds_activation_value(DS_ACTIVATION_SILU, g);
      ds_element_put(dgate, r * dgate_step + c, d * u * slope, ds_reference_acc(a, 0));
      ds_element_put(dup, r * dup_step + c, d * value, ds_reference_acc(a, 1));
    }
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- arithmetic */

static ds_status add_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *z = ds_reference_in(a, 1);
  int64_t n = ds_reference_dim(a, 'N');
  for (int64_t i = 0; i < n; i++) {
    double v = (double)ds_element_get(x, i) + (double)ds_element_get(z, i);
    ds_element_put(ds_reference_out(a, 0), i, v, 0);
  }
  return DS_OK;
}

static ds_status mul_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *z = ds_reference_in(a, 1);
  int64_t n = ds_reference_dim(a, 'N');
  for (int64_t i = 0; i < n; i++) {
    double v = (double)ds_element_get(x, i) * (double)ds_element_get(z, i);
    ds_element_put(ds_reference_out(a, 0), i, v, ds_reference_acc(a, 0));
  }
  return DS_OK;
}

static ds_status scale_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0);
  int64_t n = ds_reference_dim(a, 'N');
  double factor = ds_reference_attr_f(a, 0, 1);
  for (int64_t i = 0; i < n; i++) {
    ds_element_put(ds_reference_out(a, 0), i, factor * (double)ds_element_get(x, i),
                   ds_reference_acc(a, 0));
  }
  return DS_OK;
}

static ds_status mean_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  int64_t n = ds_reference_dim(a, 'N');
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)ds_element_get(ds_reference_in(a, 0), i);
  ds_element_put(ds_reference_out(a, 0), 0, sum / (double)n, 0);
  return DS_OK;
}

static ds_status mean_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  int64_t n = ds_reference_dim(a, 'N');
  double dy = (double)ds_element_get(ds_reference_in(a, 0), 0);
  for (int64_t i = 0; i < n; i++) {
    ds_element_put(ds_reference_out(a, 0), i, dy / (double)n, ds_reference_acc(a, 0));
  }
  return DS_OK;
}

static ds_status sum_squares_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0);
  double *y = ds_reference_out(a, 0)->data;
  int64_t n = ds_reference_dim(a, 'N');
  double sum = 0;
  for (int64_t i = 0; i < n; i++) {
    double v = (double)ds_element_get(x, i);
    sum += v * v;
  }
  *y = ds_reference_acc(a, 0) ? *y + sum : sum;
  return DS_OK;
}

/* ---------------------------------------------------------------- copy and fill */

enum { COPY_RANK = 4 };

static ds_status copy_check(const ds_reference_args *a, ds_error *err) {
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  if (x->rank > COPY_RANK) {
    return ds_fail(err, DS_ERR_INVALID, "copy: \"x\" has rank %d; up to %d is possible",
                   (int)x->rank, COPY_RANK);
  }
  if (x->rank != y->rank) {
    return ds_fail(err, DS_ERR_INVALID, "copy: \"x\" has rank %d and \"y\" rank %d", (int)x->rank,
                   (int)y->rank);
  }
  for (int32_t i = 0; i < x->rank; i++) {
    if (x->shape[i] == y->shape[i]) continue;
    return ds_fail(err, DS_ERR_INVALID, "copy: dimension %d is %lld in \"x\" and %lld in \"y\"",
                   (int)i, (long long)x->shape[i], (long long)y->shape[i]);
  }
  return DS_OK;
}

static ds_status copy_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  int64_t n[COPY_RANK] = {1, 1, 1, 1}, sx[COPY_RANK] = {0}, sy[COPY_RANK] = {0};
  for (int32_t i = 0, to = COPY_RANK - x->rank; i < x->rank; i++, to++) {
    n[to] = x->shape[i];
    sx[to] = x->stride[i];
    sy[to] = y->stride[i];
  }
  int accumulate = ds_reference_acc(a, 0);
  for (int64_t i = 0; i < n[0]; i++) {
    for (int64_t j = 0; j < n[1]; j++) {
      for (int64_t k = 0; k < n[2]; k++) {
        int64_t at_x = i * sx[0] + j * sx[1] + k * sx[2];
        int64_t at_y = i * sy[0] + j * sy[1] + k * sy[2];
        for (int64_t l = 0; l < n[3]; l++) {
          ds_element_put(y, at_y + l * sy[3], (double)ds_element_get(x, at_x + l * sx[3]),
                         accumulate);
        }
      }
    }
  }
  return DS_OK;
}

static ds_status fill_check(const ds_reference_args *a, ds_error *err) {
  double value = ds_reference_attr_f(a, 0, 0);
  if (ds_reference_out(a, 0)->dtype != DS_I32) return DS_OK;
  if (value >= INT32_MIN && value <= INT32_MAX && value == floor(value)) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "fill: %g is no value for \"y\" of type i32", value);
}

static ds_status fill_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *y = ds_reference_out(a, 0);
  int64_t n = ds_reference_dim(a, 'N');
  double value = ds_reference_attr_f(a, 0, 0);
  for (int64_t i = 0; i < n; i++) {
    if (y->dtype == DS_I32) {
      ((int32_t *)y->data)[i] = (int32_t)value;
    } else {
      ds_element_put(y, i, value, 0);
    }
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- descriptions */

const ds_reference_op ds_reference_op_activation = {
    .in = {{"x", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "N", DS_REFERENCE_X, 0, 1u << 0}},
    .check = activation_check,
    .run = activation_run,
};

const ds_reference_op ds_reference_op_activation_backward = {
    .in = {{"dy", "N", DS_REFERENCE_X, 0, 0}, {"x", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"dx", "N", DS_REFERENCE_X, DS_REFERENCE_ACC, 1u << 0}},
    .check = activation_check,
    .run = activation_backward_run,
};

const ds_reference_op ds_reference_op_swiglu = {
    .in = {{"gate", "RF", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"up", "RF", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0}},
    .out = {{"y", "RF", DS_REFERENCE_X, 0, 0}},
    .run = swiglu_run,
};

const ds_reference_op ds_reference_op_swiglu_backward = {
    .in = {{"dy", "RF", DS_REFERENCE_X, 0, 0},
           {"gate", "RF", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"up", "RF", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0}},
    .out = {{"dgate", "RF", DS_REFERENCE_X, DS_REFERENCE_ROWS | DS_REFERENCE_ACC, 0},
            {"dup", "RF", DS_REFERENCE_X, DS_REFERENCE_ROWS | DS_REFERENCE_ACC, 0}},
    .run = swiglu_backward_run,
};

const ds_reference_op ds_reference_op_add = {
    .in = {{"a", "N", DS_REFERENCE_X, 0, 0}, {"b", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "N", DS_REFERENCE_X, 0, 1u << 0 | 1u << 1}},
    .run = add_run,
};

const ds_reference_op ds_reference_op_mul = {
    .in = {{"a", "N", DS_REFERENCE_X, 0, 0}, {"b", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "N", DS_REFERENCE_X, DS_REFERENCE_ACC | DS_REFERENCE_ALIAS_OR_ACC,
             1u << 0 | 1u << 1}},
    .run = mul_run,
};

const ds_reference_op ds_reference_op_scale = {
    .in = {{"x", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "N", DS_REFERENCE_X, DS_REFERENCE_ACC, 1u << 0}},
    .run = scale_run,
};

const ds_reference_op ds_reference_op_mean = {
    .in = {{"x", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "1", DS_REFERENCE_F32, 0, 0}},
    .run = mean_run,
};

const ds_reference_op ds_reference_op_mean_backward = {
    .in = {{"dy", "1", DS_REFERENCE_F32, 0, 0}},
    .out = {{"dx", "N", DS_REFERENCE_X, DS_REFERENCE_ACC, 0}},
    .run = mean_backward_run,
};

const ds_reference_op ds_reference_op_sum_squares = {
    .in = {{"x", "N", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "1", DS_REFERENCE_F64, DS_REFERENCE_ACC, 0}},
    .run = sum_squares_run,
};

const ds_reference_op ds_reference_op_copy = {
    .in = {{"x", "*", DS_REFERENCE_FLOAT, DS_REFERENCE_STRIDED, 0}},
    .out = {{"y", "*", DS_REFERENCE_FLOAT, DS_REFERENCE_STRIDED | DS_REFERENCE_ACC, 0}},
    .check = copy_check,
    .run = copy_run,
};

const ds_reference_op ds_reference_op_fill = {
    .out = {{"y", "N", DS_REFERENCE_PLAIN, 0, 0}},
    .check = fill_check,
    .run = fill_run,
};
