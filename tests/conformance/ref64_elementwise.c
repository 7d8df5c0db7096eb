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

/* What an update goes by. */
typedef struct adamw {
  double lr, b1, b2, eps, wd, scale, c1, c2;
  bool decoupled;
} adamw;

static void adamw64(test_case *c, const adamw *a) {
  double *mp = case_mag(c, 0), *mm = case_mag(c, 1), *mv = case_mag(c, 2);
  double *mh = c->out[3].present ? case_mag(c, 3) : NULL;
  for (int64_t i = 0; i < c->in[0].n; i++) {
    double p = c->in[1].val[i], scaled = c->in[0].val[i] * a->scale;
    double decay = a->decoupled ? 0 : a->wd * p;
    double g = scaled + decay, mag_g = fabs(scaled) + fabs(decay);
    double m = a->b1 * c->in[2].val[i] + (1 - a->b1) * g;
    double v = a->b2 * c->in[3].val[i] + (1 - a->b2) * g * g;
    double root = sqrt(v / a->c2) + a->eps;
    double step = a->lr * ((a->decoupled ? a->wd * p : 0) + m / a->c1 / root);
    mm[i] = a->b1 * fabs(c->in[2].val[i]) + (1 - a->b1) * mag_g;
    mv[i] = a->b2 * c->in[3].val[i] + (1 - a->b2) * mag_g * mag_g;
    /* the step moves by m's error over the root and, relatively, by v's error over v */
    double loose = mm[i] / a->c1 / root + fabs(m) / a->c1 / root * (v > 0 ? mv[i] / v : 1);
    mp[i] = fabs(p) + a->lr * (a->wd * fabs(p) + loose);
    c->out[0].val[i] = p - step;
    c->out[1].val[i] = m;
    c->out[2].val[i] = v;
    if (mh) c->out[3].val[i] = p - step, mh[i] = mp[i];
  }
}

void ref64_op_adamw(test_case *c) {
  adamw64(c, &(adamw){.lr = c->attr[0].f,
                      .b1 = c->attr[1].f,
                      .b2 = c->attr[2].f,
                      .eps = c->attr[3].f,
                      .wd = c->attr[4].f,
                      .scale = c->attr[5].f,
                      .c1 = c->attr[6].f,
                      .c2 = c->attr[7].f,
                      .decoupled = c->attr[8].f != 0});
}

/* Where the factor is NaN everything stays: p16 as well, which holds what check.c poisons outputs
 * with, NaN. */
void ref64_op_adamw_scheduled(test_case *c) {
  const double *schedule = c->in[4].val, factor = c->in[5].val[0];
  if (!isnan(factor)) {
    adamw64(c, &(adamw){.lr = schedule[0],
                        .b1 = c->attr[0].f,
                        .b2 = c->attr[1].f,
                        .eps = c->attr[2].f,
                        .wd = c->attr[3].f,
                        .scale = factor,
                        .c1 = schedule[1],
                        .c2 = schedule[2],
                        .decoupled = c->attr[4].f != 0});
    return;
  }
  for (int o = 0; o < MAX_OUT; o++) {
    for (int64_t i = 0; c->out[o].present && i < c->out[o].n; i++)
      c->out[o].val[i] = o < 3 ? c->in[o + 1].val[i] : NAN;
    c->out[o].exact = true;
  }
}

void ref64_op_clip_factor(test_case *c) {
  double norm = sqrt(c->in[0].val[0]), most = c->attr[0].f, *factor = c->out[0].val;
  bool good = isfinite(norm) && (!c->in[1].present || isfinite(c->in[1].val[0]));
  *factor = most > 0 && isfinite(norm) ? 1 / fmax(1, (norm + 1e-6) / most) : 1;
  if (c->attr[1].i == 1 && !good) *factor = NAN;
}
