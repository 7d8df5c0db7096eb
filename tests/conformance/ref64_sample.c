/* ref64_sample.c - sample in float64, and draws that leave no doubt about the answer. */
#include "harness.h"

#include <stdlib.h>

/* Sums in f32 may differ so much from those in f64, as a share of the whole. */
static const double doubt = 4e-6;

typedef struct candidate {
  double logit, p;
  int64_t id;
} candidate;

static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}

/* The candidates of a row in the order in which they are cut. */
static int64_t ordered(const test_case *c, int64_t row, candidate *list) {
  const slot *x = &c->in[0], *banned = &c->in[2];
  int64_t cols = x->shape[x->rank - 1], n = 0;
  for (int64_t i = 0; i < cols; i++) {
    double logit = x->val[row * cols + i];
    if (!isfinite(logit) || (banned->present && (double)i == banned->val[row])) continue;
    list[n++] = (candidate){.logit = logit, .id = i};
  }
  qsort(list, (size_t)n, sizeof *list, by_logit);
  for (int64_t i = 0; i < n && c->attr[0].f > 0; i++)
    list[i].p = exp((list[i].logit - list[0].logit) / c->attr[0].f);
  return n;
}

static double sum_of(const candidate *list, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += list[i].p;
  return sum;
}

/* How many stay; *close: one more or less by sums in f32. */
static int64_t cut(const test_case *c, const candidate *list, int64_t n, bool *close) {
  int64_t top_k = c->attr[1].i, stay = 0;
  double top_p = c->attr[2].f, have = 0;
  if (top_k > 0 && top_k < n) n = top_k;
  *close = false;
  if (top_p >= 1) return n;
  double sum = sum_of(list, n);
  while (stay < n && (stay == 0 || have < top_p * sum)) {
    have += list[stay++].p;
    if (fabs(have - top_p * sum) <= doubt * sum) *close = true;
  }
  return stay;
}

/* The answer, of candidates in the order of ids; *close: a neighbour by sums in f32. */
static int64_t drawn(const candidate *list, int64_t n, double draw, bool *close) {
  double sum = sum_of(list, n), have = 0;
  int64_t at = -1;
  *close = false;
  for (int64_t i = 0; i < n; i++) {
    have += list[i].p;
    if (list[i].p > 0 && fabs(have - draw * sum) <= doubt * sum) *close = true;
    if (at < 0 && have > draw * sum) at = i;
  }
  return list[at < 0 ? n - 1 : at].id;
}

/* Into the middle of the likeliest. */
static double clear_draw(const candidate *list, int64_t n) {
  double sum = sum_of(list, n), before = 0, have = 0;
  int64_t best = 0;
  for (int64_t i = 0; i < n; i++) {
    if (list[i].p > list[best].p) best = i, before = have;
    have += list[i].p;
  }
  return harness_round(DS_F32, (before + list[best].p / 2) / sum);
}

bool ref64_sample_settle(test_case *c) {
  const slot *x = &c->in[0];
  candidate *list = harness_alloc(&c->mem, (size_t)x->shape[x->rank - 1], sizeof *list);
  bool close = false, any = false;
  for (int64_t r = 0; r < c->in[1].n && c->attr[0].f > 0; r++) {
    int64_t n = ordered(c, r, list), stay = cut(c, list, n, &close);
    any |= close;
    if (stay == 0) continue;
    qsort(list, (size_t)stay, sizeof *list, by_id);
    (void)drawn(list, stay, c->in[1].val[r], &close);
    if (close) c->in[1].val[r] = clear_draw(list, stay);
  }
  return !any;
}

void ref64_op_sample(test_case *c) {
  const slot *x = &c->in[0];
  candidate *list = harness_alloc(&c->mem, (size_t)x->shape[x->rank - 1], sizeof *list);
  bool close;
  for (int64_t r = 0; r < c->in[1].n; r++) {
    int64_t n = ordered(c, r, list), stay = cut(c, list, n, &close);
    c->out[0].val[r] = n > 0 ? (double)list[0].id : -1;
    if (n == 0 || c->attr[0].f == 0) continue;
    qsort(list, (size_t)stay, sizeof *list, by_id);
    c->out[0].val[r] = (double)drawn(list, stay, c->in[1].val[r], &close);
  }
}
