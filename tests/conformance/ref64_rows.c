/* ref64_rows.c - embedding, moved rows, softmax, argmax and cross entropy in float64. */
#include "harness.h"

void ref64_op_embedding(test_case *c) {
  int64_t vocab = c->in[1].shape[0], cols = c->in[1].shape[1];
  c->out[0].exact = true;
  for (int64_t r = 0; r < c->in[0].n; r++) {
    int64_t id = (int64_t)c->in[0].val[r];
    for (int64_t i = 0; i < cols; i++)
      c->out[0].val[r * cols + i] = id >= 0 && id < vocab ? c->in[1].val[id * cols + i] : NAN;
  }
}

void ref64_op_embedding_backward(test_case *c) {
  int64_t cols = c->out[0].shape[1];
  double *mag = case_mag(c, 0);
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = 0;
  for (int64_t r = 0; r < c->in[0].n; r++)
    for (int64_t i = 0; i < cols; i++) {
      int64_t at = (int64_t)c->in[0].val[r] * cols + i;
      c->out[0].val[at] += c->in[1].val[r * cols + i];
      mag[at] += fabs(c->in[1].val[r * cols + i]);
    }
}

void ref64_op_gather_rows(test_case *c) {
  int64_t cols = c->in[0].shape[1];
  c->out[0].exact = true;
  for (int64_t r = 0; r < c->in[1].n; r++)
    for (int64_t i = 0; i < cols; i++)
      c->out[0].val[r * cols + i] = c->in[0].val[(int64_t)c->in[1].val[r] * cols + i];
}

/* The largest value and the log of the sum of exp(x - largest). */
static double log_sum(const double *x, int64_t n, double *top) {
  double sum = 0;
  *top = x[0];
  for (int64_t i = 1; i < n; i++) *top = fmax(*top, x[i]);
  for (int64_t i = 0; i < n; i++) sum += exp(x[i] - *top);
  return log(sum);
}

void ref64_op_softmax(test_case *c) {
  const slot *x = &c->in[0];
  int64_t cols = x->shape[x->rank - 1];
  double *mag = case_mag(c, 0), top;
  for (int64_t r = 0; r < x->n; r += cols) {
    double tail = log_sum(x->val + r, cols, &top);
    for (int64_t i = r; i < r + cols; i++) {
      double gap = x->val[i] - top;
      c->out[0].val[i] = exp(gap - tail);
      mag[i] = isinf(gap) ? 0 : c->out[0].val[i] * (1 + fabs(gap));
    }
  }
}

void ref64_op_argmax(test_case *c) {
  const slot *x = &c->in[0];
  int64_t cols = x->shape[x->rank - 1];
  for (int64_t r = 0; r < x->n / cols; r++) {
    const double *row = x->val + r * cols;
    int64_t best = 0;
    for (int64_t i = 1; i < cols; i++)
      if (row[i] > row[best] || (isnan(row[best]) && !isnan(row[i]))) best = i;
    c->out[0].val[r] = (double)best;
  }
}

void ref64_op_cross_entropy(test_case *c) {
  const slot *x = &c->in[0];
  int64_t cols = x->shape[x->rank - 1], rows = x->n / cols;
  double *mag_loss = case_mag(c, 0), *mag_lse = case_mag(c, 1);
  double sum = 0, mag = 0, count = 0, top;
  for (int64_t r = 0; r < rows; r++) {
    const double *row = x->val + r * cols;
    int64_t target = (int64_t)c->in[1].val[r];
    double tail = log_sum(row, cols, &top);
    c->out[1].val[r] = top + tail;
    mag_lse[r] = fabs(top) + tail + 1;
    if (target == c->attr[0].i) continue;
    count++;
    bool valid = target >= 0 && target < cols;
    sum += valid ? top + tail - row[target] : NAN;
    mag += valid ? mag_lse[r] + fabs(row[target]) : 0;
  }
  c->out[0].val[0] = count > 0 ? sum / count : 0;
  mag_loss[0] = count > 0 ? mag / count : 0;
  c->out[2].val[0] = count;
}

void ref64_op_cross_entropy_backward(test_case *c) {
  const slot *x = &c->in[1];
  int64_t cols = x->shape[x->rank - 1], rows = x->n / cols;
  double *mag = case_mag(c, 0), count = c->in[4].val[0];
  for (int64_t r = 0; r < rows; r++) {
    int64_t target = (int64_t)c->in[2].val[r];
    bool ignored = target == c->attr[0].i;
    double scale = ignored ? 0 : c->in[0].val[0] / count, lse = c->in[3].val[r];
    for (int64_t i = 0; i < cols; i++) {
      int64_t at = r * cols + i;
      double p = ignored ? 0 : exp(x->val[at] - lse), hit = !ignored && i == target;
      c->out[0].val[at] = scale * (p - hit);
      mag[at] = fabs(scale) * (p * (1 + fabs(x->val[at]) + fabs(lse)) + hit);
    }
  }
}

/* Everything stays but what is moved: outputs begin as what check.c poisons them with, NaN. */
void ref64_op_append_rows(test_case *c) {
  const slot *x = &c->in[0], *y = &c->out[0];
  int64_t time = x->shape[1], room = y->shape[1], row = x->shape[2] * x->shape[3];
  c->out[0].exact = true;
  for (int64_t i = 0; i < y->n; i++) y->val[i] = NAN;
  for (int64_t b = 0; b < x->shape[0]; b++)
    for (int64_t t = 0; t < time; t++) {
      double to = c->in[1].val[b] + (double)t;
      for (int64_t i = 0; i < row && to >= 0 && to < (double)room; i++)
        y->val[(b * room + (int64_t)to) * row + i] = x->val[(b * time + t) * row + i];
    }
}
