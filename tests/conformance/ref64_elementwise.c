/* ref64_elementwise.c - sums, products, copies, reductions over elements and rows in float64. */
#include "harness.h"

void ref64_op_add(test_case *c) {
  double *mag = case_mag(c, 0);
  for (int64_t i = 0; i < c->out[0].n; i++) {
    c->out[0].val[i] = c->in[0].val[i] + c->in[1].val[i];
    mag[i] = fabs(c->in[0].val[i]) + fabs(c->in[1].val[i]);
  }
}

void ref64_op_mul(test_case *c) {
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = c->in[0].val[i] * c->in[1].val[i];
}

void ref64_op_scale(test_case *c) {
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = c->attr[0].f * c->in[0].val[i];
}

void ref64_op_reduce_rows(test_case *c) {
  double *mag = case_mag(c, 0);
  int64_t cols = c->out[0].n;
  for (int64_t i = 0; i < cols; i++) c->out[0].val[i] = 0;
  for (int64_t i = 0; i < c->in[0].n; i++) {
    c->out[0].val[i % cols] += c->in[0].val[i];
    mag[i % cols] += fabs(c->in[0].val[i]);
  }
}

void ref64_op_copy(test_case *c) {
  c->out[0].exact = !c->out[0].prior;
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = c->in[0].val[i];
}

void ref64_op_fill(test_case *c) {
  c->out[0].exact = true;
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = c->attr[0].f;
}

void ref64_op_sum_squares(test_case *c) {
  c->out[0].val[0] = 0;
  for (int64_t i = 0; i < c->in[0].n; i++) c->out[0].val[0] += c->in[0].val[i] * c->in[0].val[i];
}

void ref64_op_mean(test_case *c) {
  double *mag = case_mag(c, 0), n = (double)c->in[0].n;
  c->out[0].val[0] = mag[0] = 0;
  for (int64_t i = 0; i < c->in[0].n; i++) {
    c->out[0].val[0] += c->in[0].val[i] / n;
    mag[0] += fabs(c->in[0].val[i]) / n;
  }
}

void ref64_op_mean_backward(test_case *c) {
  int64_t n = c->out[0].n;
  for (int64_t i = 0; i < n; i++) c->out[0].val[i] = c->in[0].val[0] / (double)n;
}

void ref64_op_adamw(test_case *c) {
  const double lr = c->attr[0].f, b1 = c->attr[1].f, b2 = c->attr[2].f, eps = c->attr[3].f;
  const double wd = c->attr[4].f, gs = c->attr[5].f, c1 = c->attr[6].f, c2 = c->attr[7].f;
  const bool decoupled = c->attr[8].f != 0;
  double *mp = case_mag(c, 0), *mm = case_mag(c, 1), *mv = case_mag(c, 2);
  double *mh = c->out[3].present ? case_mag(c, 3) : NULL;
  for (int64_t i = 0; i < c->in[0].n; i++) {
    double p = c->in[1].val[i], scaled = c->in[0].val[i] * gs, decay = decoupled ? 0 : wd * p;
    double g = scaled + decay, mag_g = fabs(scaled) + fabs(decay);
    double m = b1 * c->in[2].val[i] + (1 - b1) * g;
    double v = b2 * c->in[3].val[i] + (1 - b2) * g * g;
    double root = sqrt(v / c2) + eps;
    double step = lr * ((decoupled ? wd * p : 0) + m / c1 / root);
    mm[i] = b1 * fabs(c->in[2].val[i]) + (1 - b1) * mag_g;
    mv[i] = b2 * c->in[3].val[i] + (1 - b2) * mag_g * mag_g;
    /* the step moves by m's error over the root and, relatively, by v's error over v */
    double loose = mm[i] / c1 / root + fabs(m) / c1 / root * (v > 0 ? mv[i] / v : 1);
    mp[i] = fabs(p) + lr * (wd * fabs(p) + loose);
    c->out[0].val[i] = p - step;
    c->out[1].val[i] = m;
    c->out[2].val[i] = v;
    if (mh) c->out[3].val[i] = p - step, mh[i] = mp[i];
  }
}
