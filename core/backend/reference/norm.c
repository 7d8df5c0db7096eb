/* norm.c - layer_norm, rms_norm and their gradients; reduce_rows. */
#include <math.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"

enum { BLOCK = 256 };

static double row_mean(const ds_tensor *x, int64_t at, int64_t cols) {
  double sum = 0;
  for (int64_t c = 0; c < cols; c++) sum += (double)ds_element_get(x, at + c);
  return sum / (double)cols;
}

/* Mean of (x - mean)^2. */
static double row_square(const ds_tensor *x, int64_t at, int64_t cols, double mean) {
  double sum = 0;
  for (int64_t c = 0; c < cols; c++) {
    double d = (double)ds_element_get(x, at + c) - mean;
    sum += d * d;
  }
  return sum / (double)cols;
}

/* y = (x - mean) rstd weight + bias; bias may be NULL. */
static void write_row(const ds_tensor *x, const ds_tensor *weight, const ds_tensor *bias,
                      const ds_tensor *y, int64_t at, int64_t cols, double mean, double rstd) {
  for (int64_t c = 0; c < cols; c++) {
    double v =
        ((double)ds_element_get(x, at + c) - mean) * rstd * (double)ds_element_get(weight, c);
    if (bias) v += (double)ds_element_get(bias, c);
    ds_element_put(y, at + c, v, 0);
  }
}

static ds_status layer_norm_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  const ds_tensor *mean_out = ds_reference_out(a, 1), *rstd_out = ds_reference_out(a, 2);
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'C');
  double eps = ds_reference_attr_f(a, 0, 1e-5);
  for (int64_t r = 0; r < rows; r++) {
    double mean = row_mean(x, r * cols, cols);
    double rstd = 1 / sqrt(row_square(x, r * cols, cols, mean) + eps);
    write_row(x, ds_reference_in(a, 1), ds_reference_in(a, 2), y, r * cols, cols, mean, rstd);
    if (mean_out) ds_element_put(mean_out, r, mean, 0);
    if (rstd_out) ds_element_put(rstd_out, r, rstd, 0);
  }
  return DS_OK;
}

static ds_status rms_norm_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  const ds_tensor *rstd_out = ds_reference_out(a, 1);
  int64_t rows = ds_reference_dim(a, 'R'), cols = ds_reference_dim(a, 'C');
  double eps = ds_reference_attr_f(a, 0, 1e-6);
  for (int64_t r = 0; r < rows; r++) {
    double rstd = 1 / sqrt(row_square(x, r * cols, cols, 0) + eps);
    write_row(x, ds_reference_in(a, 1), NULL, y, r * cols, cols, 0, rstd);
    if (rstd_out) ds_element_put(rstd_out, r, rstd, 0);
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- gradients */

/* What both gradients read; mean is NULL for RMS norm. */
typedef struct saved {
  const ds_tensor *dy, *x, *weight, *mean, *rstd;
  int64_t rows, cols;
} saved;

/* The normalized value, (x - mean) rstd. */
static double normalized(const saved *s, int64_t r, int64_t c) {
  double mean = s->mean ? (double)ds_element_get(s->mean, r) : 0;
  return ((double)ds_element_get(s->x, r * s->cols + c) - mean) *
         (double)ds_element_get(s->rstd, r);
}

/* dx = rstd (g - mean(g) - n mean(g n)) with g = dy weight and n normalized; RMS norm has no
 * mean(g). */
static void gradient_row(const saved *s, int64_t r, const ds_tensor *dx, int accumulate) {
  double sum = 0, dot = 0, rstd = (double)ds_element_get(s->rstd, r);
  int64_t at = r * s->cols;
  for (int64_t c = 0; c < s->cols; c++) {
    double g = (double)ds_element_get(s->dy, at + c) * (double)ds_element_get(s->weight, c);
    sum += g;
    dot += g * normalized(s, r, c);
  }
  double mean_g = s->mean ? sum / (double)s->cols : 0, mean_dot = dot / (double)s->cols;
  for (int64_t c = 0; c < s->cols; c++) {
    double g = (double)ds_element_get(s->dy, at + c) * (double)ds_element_get(s->weight, c);
    ds_element_put(dx, at + c, rstd * (g - mean_g - normalized(s, r, c) * mean_dot), accumulate);
  }
}

/* Sums over rows, in blocks of columns so that the sums stay in double without scratch:
 * out[c] = sum of v[r,c], times the normalized value if s is given. */
static void column_sums(const ds_tensor *v, int64_t rows, int64_t cols, const saved *s,
                        const ds_tensor *out, int accumulate) {
  double sum[BLOCK];
  for (int64_t c0 = 0; c0 < cols; c0 += BLOCK) {
    int64_t n = cols - c0 < BLOCK ? cols - c0 : BLOCK;
    for (int64_t c = 0; c < n; c++) sum[c] = 0;
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < n; c++) {
        double factor = s ? normalized(s, r, c0 + c) : 1;
        sum[c] += (double)ds_element_get(v, r * cols + c0 + c) * factor;
      }
    }
    for (int64_t c = 0; c < n; c++) ds_element_put(out, c0 + c, sum[c], accumulate);
  }
}

static void norm_backward(const ds_reference_args *a, const saved *s) {
  for (int64_t r = 0; r < s->rows; r++) {
    gradient_row(s, r, ds_reference_out(a, 0), ds_reference_acc(a, 0));
  }
  column_sums(s->dy, s->rows, s->cols, s, ds_reference_out(a, 1), ds_reference_acc(a, 1));
}

static ds_status layer_norm_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  saved s = {ds_reference_in(a, 0),   ds_reference_in(a, 1), ds_reference_in(a, 2),
             ds_reference_in(a, 3),   ds_reference_in(a, 4), ds_reference_dim(a, 'R'),
             ds_reference_dim(a, 'C')};
  const ds_tensor *dbias = ds_reference_out(a, 2);
  norm_backward(a, &s);
  if (dbias) column_sums(s.dy, s.rows, s.cols, NULL, dbias, ds_reference_acc(a, 2));
  return DS_OK;
}

static ds_status rms_norm_backward_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  saved s = {ds_reference_in(a, 0), ds_reference_in(a, 1),    ds_reference_in(a, 2),   NULL,
             ds_reference_in(a, 3), ds_reference_dim(a, 'R'), ds_reference_dim(a, 'C')};
  norm_backward(a, &s);
  return DS_OK;
}

static ds_status reduce_rows_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  column_sums(ds_reference_in(a, 0), ds_reference_dim(a, 'R'), ds_reference_dim(a, 'C'), NULL,
              ds_reference_out(a, 0), ds_reference_acc(a, 0));
  return DS_OK;
}

const ds_reference_op ds_reference_op_layer_norm = {
    .in = {{"x", "RC", DS_REFERENCE_X, 0, 0},
           {"weight", "C", DS_REFERENCE_X, 0, 0},
           {"bias", "C", DS_REFERENCE_X, DS_REFERENCE_OPTIONAL, 0}},
    .out = {{"y", "RC", DS_REFERENCE_X, 0, 0},
            {"mean", "R", DS_REFERENCE_F32, DS_REFERENCE_OPTIONAL, 0},
            {"rstd", "R", DS_REFERENCE_F32, DS_REFERENCE_OPTIONAL, 0}},
    .run = layer_norm_run,
};

const ds_reference_op ds_reference_op_layer_norm_backward = {
    .in = {{"dy", "RC", DS_REFERENCE_X, 0, 0},
           {"x", "RC", DS_REFERENCE_X, 0, 0},
           {"weight", "C", DS_REFERENCE_X, 0, 0},
           {"mean", "R", DS_REFERENCE_F32, 0, 0},
           {"rstd", "R", DS_REFERENCE_F32, 0, 0}},
    .out = {{"dx", "RC", DS_REFERENCE_X, DS_REFERENCE_ACC, 0},
            {"dweight", "C", DS_REFERENCE_F32, DS_REFERENCE_ACC, 0},
            {"dbias", "C", DS_REFERENCE_F32, DS_REFERENCE_ACC | DS_REFERENCE_OPTIONAL, 0}},
    .run = layer_norm_backward_run,
};

const ds_reference_op ds_reference_op_rms_norm = {
    .in = {{"x", "RC", DS_REFERENCE_X, 0, 0}, {"weight", "C", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "RC", DS_REFERENCE_X, 0, 0},
            {"rstd", "R", DS_REFERENCE_F32, DS_REFERENCE_OPTIONAL, 0}},
    .run = rms_norm_run,
};

const ds_reference_op ds_reference_op_rms_norm_backward = {
    .in = {{"dy", "RC", DS_REFERENCE_X, 0, 0},
           {"x", "RC", DS_REFERENCE_X, 0, 0},
           {"weight", "C", DS_REFERENCE_X, 0, 0},
           {"rstd", "R", DS_REFERENCE_F32, 0, 0}},
    .out = {{"dx", "RC", DS_REFERENCE_X, DS_REFERENCE_ACC, 0},
            {"dweight", "C", DS_REFERENCE_F32, DS_REFERENCE_ACC, 0}},
    .run = rms_norm_backward_run,
};

const ds_reference_op ds_reference_op_reduce_rows = {
    .in = {{"x", "RC", DS_REFERENCE_X, 0, 0}},
    .out = {{"y", "C", DS_REFERENCE_F32, DS_REFERENCE_ACC, 0}},
    .run = reduce_rows_run,
};
