/* loss.c - cross entropy and its gradient, softmax, argmax: ops over rows of scores. */
#include <math.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"
#include "base/status.h"

static double row_max(const ds_tensor *x, int64_t at, int64_t cols) {
  double most = -INFINITY;
  for (int64_t c = 0; c < cols; c++) most = fmax(most, (double)ds_element_get(x, at + c));
  return most;
}

/* Sum of exp(x - most): NaN if one is. */
static double row_exp_sum(const ds_tensor *x, int64_t at, int64_t cols, double most) {
  double sum = 0;
  for (int64_t c = 0; c < cols; c++) sum += exp((double)ds_element_get(x, at + c) - most);
  return sum;
}

static double row_lse(const ds_tensor *x, int64_t at, int64_t cols) {
  double most = row_max(x, at, cols);
  return cols ? most + log(row_exp_sum(x, at, cols, most)) : -INFINITY;
}

static ds_status cross_entropy_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *logits = ds_reference_in(a, 0);
  const int32_t *target = ds_reference_in(a, 1)->data;
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'V'), count = 0;
  int64_t ignore = ds_reference_attr_i(a, 0, -100);
  double sum = 0;
  for (int64_t r = 0; r < rows; r++) {
    double lse = row_lse(logits, r * cols, cols);
    ds_element_put(ds_reference_out(a, 1), r, lse, 0);
    if (target[r] == ignore) continue;
    count++;
    int known = target[r] >= 0 && target[r] < cols;
    sum += known ? lse - (double)ds_element_get(logits, r * cols + target[r]) : NAN;
  }
  ds_element_put(ds_reference_out(a, 0), 0, count ? sum / (double)count : 0, 0);
  ds_element_put(ds_reference_out(a, 2), 0, (double)count, 0);
  return DS_OK;
}

static ds_status cross_entropy_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *logits = ds_reference_in(a, 1), *dlogits = ds_reference_out(a, 0);
  const int32_t *target = ds_reference_in(a, 2)->data;
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'V');
  int64_t ignore = ds_reference_attr_i(a, 0, -100);
  double count = (double)ds_element_get(ds_reference_in(a, 4), 0);
  double factor = (double)ds_element_get(ds_reference_in(a, 0), 0) / count;
  for (int64_t r = 0; r < rows; r++) {
    double lse = (double)ds_element_get(ds_reference_in(a, 3), r);
    int ignored = target[r] == ignore, known = target[r] >= 0 && target[r] < cols;
    for (int64_t c = 0; c < cols; c++) {
      double p = exp((double)ds_element_get(logits, r * cols + c) - lse);
      double d = known ? factor * (p - (c == target[r])) : NAN;
      ds_element_put(dlogits, r * cols + c, ignored ? 0 : d, 0);
    }
  }
  return DS_OK;
}

static ds_status softmax_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'C');
  for (int64_t r = 0; r < rows; r++) {
    double most = row_max(x, r * cols, cols), sum = row_exp_sum(x, r * cols, cols, most);
    for (int64_t c = 0; c < cols; c++) {
      int64_t at = r * cols + c;
      ds_element_put(y, at, exp((double)ds_element_get(x, at) - most) / sum, 0);
    }
  }
  return DS_OK;
}

static ds_status argmax_check(const ds_reference_args *a, ds_error *err) {
  int64_t cols = ds_reference_dim(a, 'C');
  if ((cols > 0 || ds_reference_dim(a, 'R') == 0) && cols <= INT32_MAX) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "argmax: rows of %lld elements have no index of type i32",
                 (long long)cols);
}

static ds_status argmax_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0);
  int32_t *y = ds_reference_out(a, 0)->data;
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'C');
  for (int64_t r = 0; r < rows; r++) {
    int64_t best = 0;
    float most = ds_element_get(x, r * cols);
    for (int64_t c = 1; c < cols; c++) {
      float v = ds_element_get(x, r * cols + c);
      if (v > most || (isnan(most) && !isnan(v))) {
        best = c;
        most = v;
      }
    }
    y[r] = (int32_t)best;
  }
  return DS_OK;
}

const ds_reference_op ds_reference_op_cross_entropy = {
    .in = {{"logits", "RV", DS_REFERENCE_X, 0, 0}, {"targets", "R", DS_REFERENCE_I32, 0, 0}},
    .out = {{"loss", "1", DS_REFERENCE_F32, 0, 0},
            {"lse", "R", DS_REFERENCE_F32, 0, 0},
            {"count", "1", DS_REFERENCE_F32, 0, 0}},
    .run = cross_entropy_run,
};

const ds_reference_op ds_reference_op_cross_entropy_backward = {
    .in = {{"dloss", "1", DS_REFERENCE_F32, 0, 0},
           {"logits", "RV", DS_REFERENCE_X, 0, 0},
           {"targets", "R", DS_REFERENCE_I32, 0, 0},
           {"lse", "R", DS_REFERENCE_F32, 0, 0},
           {"count", "1", DS_REFERENCE_F32, 0, 0}},
    .out = {{"dlogits", "RV", DS_REFERENCE_X, 0, 1u << 1}},
    .run = cross_entropy_backward_run,
};

const ds_reference_op ds_reference_op_softmax = {
    .in = {{"x", "RC", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "RC", DS_REFERENCE_X, 0, 1u << 0}},
    .run = softmax_run,
};

const ds_reference_op ds_reference_op_argmax = {
    .in = {{"x", "RC", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "R", DS_REFERENCE_I32, 0, 0}},
    .check = argmax_check,
    .run = argmax_run,
};
