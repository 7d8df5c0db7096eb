/* ref64_norm.c - layer norm and RMS norm in float64.
 *
 * Layer norm: xhat = (x - mean) rstd, y = xhat w + b (Ba et al. 2016). Its gradient, with a = dy w:
 * dx = rstd (a - mean(a) - xhat mean(a xhat)). RMS norm: xhat = x rstd, y = xhat w (Zhang and
 * Sennrich 2019); dx = rstd (a - xhat mean(a xhat)).
 * Magnitudes use (|x| + |mean|) rstd for xhat: subtracting the mean in f32 loses that much.
 */
#include "harness.h"

static double row_mean(const double *x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum / (double)n;
}

void ref64_op_layer_norm(test_case *c) {
  int64_t cols = c->in[1].n, rows = c->in[0].n / cols;
  double *my = case_mag(c, 0);
  double *mm = c->out[1].present ? case_mag(c, 1) : NULL;
  double *mr = c->out[2].present ? case_mag(c, 2) : NULL;
  for (int64_t r = 0; r < rows; r++) {
    const double *x = c->in[0].val + r * cols;
    double mean = row_mean(x, cols), var = 0, top = 0, sum = 0;
    for (int64_t i = 0; i < cols; i++) {
      var += (x[i] - mean) * (x[i] - mean) / (double)cols;
      top = fmax(top, fabs(x[i]));
      sum += fabs(x[i]) / (double)cols;
    }
    double rstd = 1 / sqrt(var + c->attr[0].f), spread = 1 + top * rstd;
    for (int64_t i = 0; i < cols; i++) {
      double w = c->in[1].val[i], b = c->in[2].present ? c->in[2].val[i] : 0;
      double xhat = (x[i] - mean) * rstd;
      c->out[0].val[r * cols + i] = xhat * w + b;
      my[r * cols + i] =
          fabs(w) * ((fabs(x[i]) + fabs(mean)) * rstd + fabs(xhat) * spread) + fabs(b);
    }
    if (mm) c->out[1].val[r] = mean, mm[r] = sum;
    if (mr) c->out[2].val[r] = rstd, mr[r] = rstd * spread;
  }
}

/* One row of dx, and its share of dweight and dbias; mean is 0 and centred false for RMS norm. */
static void backward_row(test_case *c, int64_t r, int64_t cols, double mean, double rstd,
                         bool centred) {
  const double *dy = c->in[0].val + r * cols, *x = c->in[1].val + r * cols, *w = c->in[2].val;
  double *mdx = case_mag(c, 0) + r * cols, *mdw = case_mag(c, 1);
  double *mdb = c->out[2].present ? case_mag(c, 2) : NULL;
  double ma = 0, max = 0, mag_a = 0, mag_ax = 0, n = (double)cols;
  for (int64_t i = 0; i < cols; i++) {
    double a = dy[i] * w[i], xhat = (x[i] - mean) * rstd;
    double mag_xhat = (fabs(x[i]) + fabs(mean)) * rstd;
    ma += a / n;
    max += a * xhat / n;
    mag_a += fabs(a) / n;
    mag_ax += fabs(a) * mag_xhat / n;
    c->out[1].val[i] += dy[i] * xhat;
    mdw[i] += fabs(dy[i]) * mag_xhat;
    if (mdb) c->out[2].val[i] += dy[i], mdb[i] += fabs(dy[i]);
  }
  for (int64_t i = 0; i < cols; i++) {
    double a = dy[i] * w[i], xhat = (x[i] - mean) * rstd;
    double mag_xhat = (fabs(x[i]) + fabs(mean)) * rstd;
    c->out[0].val[r * cols + i] = rstd * (a - (centred ? ma : 0) - xhat * max);
    mdx[i] = rstd * (fabs(a) + (centred ? mag_a : 0) + mag_xhat * mag_ax);
  }
}

static void clear_parameters(test_case *c) {
  for (int o = 1; o <= 2; o++)
    for (int64_t i = 0; c->out[o].present && i < c->out[o].n; i++) c->out[o].val[i] = 0;
}

void ref64_op_layer_norm_backward(test_case *c) {
  int64_t cols = c->in[2].n, rows = c->in[0].n / cols;
  clear_parameters(c);
  for (int64_t r = 0; r < rows; r++)
    backward_row(c, r, cols, c->in[3].val[r], c->in[4].val[r], true);
}

void ref64_op_rms_norm(test_case *c) {
  int64_t cols = c->in[1].n, rows = c->in[0].n / cols;
  double *my = case_mag(c, 0);
  for (int64_t r = 0; r < rows; r++) {
    const double *x = c->in[0].val + r * cols;
    double square = 0;
    for (int64_t i = 0; i < cols; i++) square += x[i] * x[i] / (double)cols;
    double rstd = 1 / sqrt(square + c->attr[0].f);
    for (int64_t i = 0; i < cols; i++) {
      c->out[0].val[r * cols + i] = x[i] * rstd * c->in[1].val[i];
      my[r * cols + i] = fabs(x[i] * rstd * c->in[1].val[i]);
    }
    if (c->out[1].present) c->out[1].val[r] = rstd;
  }
}

void ref64_op_rms_norm_backward(test_case *c) {
  int64_t cols = c->in[2].n, rows = c->in[0].n / cols;
  clear_parameters(c);
  for (int64_t r = 0; r < rows; r++) backward_row(c, r, cols, 0, c->in[3].val[r], false);
}
