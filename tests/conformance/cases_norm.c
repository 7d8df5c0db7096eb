/* cases_norm.c - cases for layer norm and RMS norm. */
#include "harness.h"

#include <string.h>

/* Rows of ordinary values, around a large mean, tiny (eps decides), or constant (variance 0). */
static void norm_values(test_case *c, slot *x) {
  switch (c->proof || c->big ? 0 : case_range(c, 0, 5)) {
    case 1: case_normal(c, x, 300, 1); break;
    case 2: case_normal(c, x, 0, 1e-4); break;
    case 3: case_normal(c, x, 2.5, 0); break;
    case 4: case_normal(c, x, 0, 1e4); break;
    default: case_normal(c, x, 0.3, 1.5); break;
  }
}

static void norm_inputs(test_case *c, int x_at, int64_t *rows) {
  int64_t shape[4], cols = c->big ? 768 : case_dim(c, 1031);
  *rows = c->big ? 4096 : case_dim(c, 97);
  int rank = case_rows(c, *rows, cols, shape);
  norm_values(c, case_in(c, x_at, c->x, rank, shape));
  case_normal(c, case_in1(c, x_at + 1, c->x, cols), 1, 0.3);
}

static void norm_eps(test_case *c, double usual) {
  bool is_default = case_chance(c, 2);
  case_attr_f(c, 0, is_default ? usual : case_chance(c, 2) ? 1e-3 : 1e-5, is_default);
}

void make_layer_norm(test_case *c) {
  int64_t rows;
  norm_inputs(c, 0, &rows);
  const slot *x = &c->in[0];
  norm_eps(c, 1e-5);
  if (c->proof || c->big || !case_chance(c, 3))
    case_normal(c, case_in1(c, 2, c->x, x->shape[x->rank - 1]), 0, 0.5);
  case_out(c, 0, c->x, x->rank, x->shape);
  if (!case_chance(c, 3)) case_out1(c, 1, DS_F32, rows);
  if (!case_chance(c, 3)) case_out1(c, 2, DS_F32, rows);
}

void make_rms_norm(test_case *c) {
  int64_t rows;
  norm_inputs(c, 0, &rows);
  norm_eps(c, 1e-6);
  case_out(c, 0, c->x, c->in[0].rank, c->in[0].shape);
  if (!case_chance(c, 3)) case_out1(c, 1, DS_F32, rows);
}

/* dy, x, weight and the statistics, as the forward pass gives them. */
static void norm_backward(test_case *c, uint32_t op, int statistics, double eps) {
  test_case *f = case_forward(c, op);
  int64_t rows;
  norm_inputs(f, 0, &rows);
  const slot *x = &f->in[0], *w = &f->in[1];
  case_attr_f(f, 0, eps, true);
  if (op == DS_OP_LAYER_NORM) case_normal(f, case_in1(f, 2, f->x, w->n), 0, 0.5);
  case_out(f, 0, f->x, x->rank, x->shape);
  for (int i = 1; i <= statistics; i++) case_out1(f, i, DS_F32, rows);
  f->spec->reference(f);
  case_normal(c, case_in(c, 0, c->x, x->rank, x->shape), 0, 1);
  case_values(c, case_in(c, 1, c->x, x->rank, x->shape), x->val);
  case_values(c, case_in1(c, 2, c->x, w->n), w->val);
  for (int i = 1; i <= statistics; i++)
    case_values(c, case_in1(c, 2 + i, DS_F32, rows), f->out[i].val);
  case_out(c, 0, c->x, x->rank, x->shape);
  case_out1(c, 1, DS_F32, w->n);
  c->gradient_of[0] = 0;
  c->gradient_of[1] = 1;
}

void make_layer_norm_backward(test_case *c) {
  norm_backward(c, DS_OP_LAYER_NORM, 2, 1e-5);
  if (c->proof || !case_chance(c, 3)) case_out1(c, 2, DS_F32, c->in[2].n);
  c->gradient_of[2] = 2;
  case_accumulate(c, 7);
}

void make_rms_norm_backward(test_case *c) {
  norm_backward(c, DS_OP_RMS_NORM, 1, 1e-6);
  case_accumulate(c, 3);
}
