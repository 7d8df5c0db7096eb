/* cases_rows.c - cases for embedding, moved rows, softmax, argmax, sampling and cross entropy. */
#include "harness.h"

static void table_shape(test_case *c, int64_t *shape) {
  shape[0] = c->big ? 8192 : case_dim(c, 257);
  shape[1] = c->big ? 768 : case_dim(c, 768);
}

void make_embedding(test_case *c) {
  int64_t table[2], shape[4];
  table_shape(c, table);
  int64_t rows = c->big ? 4096 : case_dim(c, 129);
  int rank = case_rows(c, rows, table[1], shape);
  case_ids(c, case_in(c, 0, DS_I32, rank - 1, shape), table[0]);
  case_normal(c, case_in(c, 1, c->x, 2, table), 0, 1);
  if (!c->proof && case_chance(c, 3)) { /* ids out of range give rows of NaN */
    static const double wrong[] = {-1, -2147483647, 2147483647};
    c->in[0].val[case_range(c, 0, rows - 1)] = wrong[case_range(c, 0, 2)];
    c->in[0].val[case_range(c, 0, rows - 1)] = (double)table[0];
  }
  case_out(c, 0, c->x, rank, shape);
}

void make_embedding_backward(test_case *c) {
  test_case *f = case_forward(c, DS_OP_EMBEDDING);
  int64_t table[2], shape[4];
  table_shape(c, table);
  int rank = case_rows(c, c->big ? 4096 : case_dim(c, 384), table[1], shape);
  /* many repeats in some cases: sums in one row */
  int64_t used = case_chance(c, 3) ? (table[0] < 3 ? table[0] : 3) : table[0];
  case_ids(c, case_in(c, 0, DS_I32, rank - 1, shape), used);
  case_normal(c, case_in(c, 1, c->x, rank, shape), 0, 1);
  case_out(c, 0, DS_F32, 2, table);
  case_accumulate(c, 1);
  case_values(f, case_in(f, 0, DS_I32, rank - 1, shape), c->in[0].val);
  case_normal(f, case_in(f, 1, DS_F32, 2, table), 0, 1);
  case_out(f, 0, c->x, rank, shape);
  c->dy_in = 1;
  c->gradient_of[0] = 1;
}

void make_gather_rows(test_case *c) {
  int64_t table[2];
  table_shape(c, table);
  if (c->big) table[0] = 4096;
  int64_t rows = c->big ? 4096 : case_dim(c, 129), shape[2] = {rows, table[1]};
  case_normal(c, case_in(c, 0, c->x, 2, table), 0, 1);
  case_ids(c, case_in1(c, 1, DS_I32, rows), table[0]);
  case_out(c, 0, c->x, 2, shape);
}

/* Ordinary logits; huge ones (exp would overflow); all far below zero; subnormal; all equal. */
static void logits(test_case *c, slot *x) {
  switch (c->proof || c->big ? 0 : case_range(c, 0, 6)) {
    case 1: case_normal(c, x, 0, 200); break;
    case 2: case_normal(c, x, 3e4, 5); break;
    case 3: case_normal(c, x, -3e4, 5); break;
    case 4: case_normal(c, x, 0, 1e-39); break;
    case 5: case_normal(c, x, 7, 0); break;
    default: case_normal(c, x, 0, 2); break;
  }
}

static int logits_shape(test_case *c, int64_t *shape) {
  bool wide = c->index == 7 && !c->proof; /* one case with a real vocabulary */
  if (c->big) return case_rows(c, 64, 50257, shape);
  return case_rows(c, wide ? 3 : case_dim(c, 65), wide ? 50257 : case_dim(c, 1031), shape);
}

void make_softmax(test_case *c) {
  int64_t shape[4];
  int rank = logits_shape(c, shape);
  slot *x = case_in(c, 0, c->x, rank, shape);
  logits(c, x);
  bool masked = !c->big && case_chance(c, 4); /* as sampling does: all but some tokens at -inf */
  for (int64_t i = 0; masked && i < x->n; i++)
    if (i % shape[rank - 1] && case_chance(c, 2)) x->val[i] = -INFINITY;
  case_out(c, 0, c->x, rank, shape);
  if (case_chance(c, 3)) case_alias(&c->out[0], &c->in[0]);
}

void make_argmax(test_case *c) {
  int64_t shape[4];
  int rank = logits_shape(c, shape);
  slot *x = case_in(c, 0, c->x, rank, shape);
  logits(c, x);
  case_out(c, 0, DS_I32, rank - 1, shape);
  if (c->big) return;
  for (int64_t i = 0; i < x->n; i++) {
    if (c->index % 3 == 1) x->val[i] = rint(fmin(fmax(x->val[i], -9), 9)); /* many equals */
    if (c->index % 3 == 2 && case_chance(c, 2)) x->val[i] = NAN;
  }
  if (c->index % 5 == 4)
    for (int64_t i = 0; i < x->n; i++) x->val[i] = -INFINITY;
}

static void targets(test_case *c, int at, const slot *x, int64_t ignore) {
  int64_t cols = x->shape[x->rank - 1];
  slot *s = case_in(c, at, DS_I32, x->rank - 1, x->shape);
  case_ids(c, s, cols);
  if (c->proof || c->big) return;
  for (int64_t r = 0; r < s->n; r++) /* in some cases none, all, or some are ignored */
    if (c->index % 6 == 5 || (c->index % 3 == 1 && case_chance(c, 3))) s->val[r] = (double)ignore;
}

static int64_t ignore_index(test_case *c) {
  bool is_default = case_chance(c, 2);
  int64_t ignore = is_default ? -100 : case_chance(c, 2) ? 0 : -1;
  case_attr_i(c, 0, ignore, is_default);
  return ignore;
}

void make_cross_entropy(test_case *c) {
  int64_t shape[4];
  int rank = logits_shape(c, shape);
  slot *x = case_in(c, 0, c->x, rank, shape);
  logits(c, x);
  targets(c, 1, x, ignore_index(c));
  case_out1(c, 0, DS_F32, 1);
  case_out(c, 1, DS_F32, rank - 1, shape);
  case_out1(c, 2, DS_F32, 1);
  if (c->proof || c->big || c->index % 8 != 2) return;
  c->in[1].val[c->in[1].n / 2] = case_chance(c, 2) ? (double)shape[rank - 1] : -7;
  c->out[2].any = true; /* the loss is NaN; what is counted is left open */
}

void make_cross_entropy_backward(test_case *c) {
  test_case *f = case_forward(c, DS_OP_CROSS_ENTROPY);
  int64_t shape[4];
  int rank = logits_shape(c, shape);
  slot *x = case_in(f, 0, f->x, rank, shape);
  logits(f, x);
  targets(f, 1, x, ignore_index(f));
  case_out1(f, 0, DS_F32, 1);
  case_out(f, 1, DS_F32, rank - 1, shape);
  case_out1(f, 2, DS_F32, 1);
  f->spec->reference(f);
  case_normal(c, case_in1(c, 0, DS_F32, 1), 1, 0.5);
  case_values(c, case_in(c, 1, c->x, rank, shape), x->val);
  case_values(c, case_in(c, 2, DS_I32, rank - 1, shape), f->in[1].val);
  case_values(c, case_in(c, 3, DS_F32, rank - 1, shape), f->out[1].val);
  case_values(c, case_in1(c, 4, DS_F32, 1), f->out[2].val);
  case_attr_i(c, 0, f->attr[0].i, f->attr_default[0]);
  case_out(c, 0, c->x, rank, shape);
  if (case_chance(c, 3)) case_alias(&c->out[0], &c->in[1]);
  c->gradient_of[0] = 0;
}

/* Most places fit; in some cases rows fall outside, or nothing is moved. */
void make_append_rows(test_case *c) {
  int64_t batch = c->big ? 8 : case_dim(c, 5), groups = case_dim(c, 9), width = case_dim(c, 129);
  int64_t room = c->big ? 4096 : case_dim(c, 65), time = case_chance(c, 2) ? 1 : case_dim(c, 33);
  const int64_t x[] = {batch, time, groups, width}, y[] = {batch, room, groups, width};
  case_normal(c, case_in(c, 0, c->x, 4, x), 0, 1);
  slot *at = case_in1(c, 1, DS_I32, batch), *out = case_out(c, 0, c->x, 4, y);
  for (int64_t b = 0; b < batch; b++) {
    at->val[b] = (double)case_range(c, 0, room > time ? room - time : 0);
    if (!c->proof && case_chance(c, 4)) at->val[b] = (double)case_range(c, -time - 2, room + 2);
    if (!c->proof && case_chance(c, 12)) at->val[b] = case_chance(c, 2) ? 2147483647 : -2147483647;
  }
  case_stride_any(c, &c->in[0], true);
  case_stride_any(c, out, true);
}

/* Draws and top_p far enough from the edges of sums that f32 leaves no doubt. */
void make_sample(test_case *c) {
  int64_t shape[4];
  static const double temperatures[] = {1, 0, 0.3, 2.5, 1e-3};
  static const double top_ps[] = {1, 0.9, 0.5, 1e-9};
  int rank = logits_shape(c, shape);
  double temperature = temperatures[c->index % 5], top_p = top_ps[case_range(c, 0, 3)];
  int64_t cols = shape[rank - 1], top_k = case_chance(c, 2) ? 0 : case_dim(c, 65);
  slot *x = case_in(c, 0, c->x, rank, shape), *draw = case_in(c, 1, DS_F32, rank - 1, shape);
  logits(c, x);
  for (int64_t i = 0; i < x->n && !c->big; i++) {
    if (c->index % 3 == 1) x->val[i] = rint(fmin(fmax(x->val[i], -9), 9)); /* many equals */
    if (c->index % 4 == 2 && case_chance(c, 3))
      x->val[i] = case_chance(c, 3) ? (double)NAN : case_chance(c, 2) ? -INFINITY : INFINITY;
    if (c->index % 8 == 6 && i / cols == 0) x->val[i] = NAN; /* no candidate */
  }
  for (int64_t r = 0; r < draw->n; r++)
    draw->val[r] = case_chance(c, 5) ? 0 : case_round(c, DS_F32, harness_uniform(&c->rng) * 0.999);
  if (!case_chance(c, 3)) {
    slot *banned = case_in(c, 2, DS_I32, rank - 1, shape);
    for (int64_t r = 0; r < banned->n; r++)
      banned->val[r] = case_chance(c, 3) ? -1 : (double)case_range(c, 0, cols - 1);
  }
  case_attr_f(c, 0, temperature, temperature == 1);
  case_attr_i(c, 1, top_k, top_k == 0);
  case_attr_f(c, 2, top_p, top_p == 1);
  case_out(c, 0, DS_I32, rank - 1, shape);
  while (!c->big && !ref64_sample_settle(c)) {
    top_p = top_p > 0.99 ? 1 : top_p + 0.0123;
    case_attr_f(c, 2, top_p, top_p == 1);
  }
}
