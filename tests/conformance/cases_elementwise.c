/* cases_elementwise.c - cases for activations, sums, products, copies, reductions and AdamW. */
#include "harness.h"

/* Activation kinds in turn, independently of the accumulate bit. */
static void activation_kind(test_case *c) {
  case_attr_i(c, 0, c->big ? DS_ACTIVATION_GELU_TANH : 1 + c->index % 6, false);
}

/* Values that reach into both tails of an activation. */
static void activation_values(test_case *c, slot *x) {
  case_normal(c, x, 0, !c->proof && !c->big && case_chance(c, 4) ? 30 : 2);
}

static int64_t elements(test_case *c) {
  if (c->big) return (int64_t)4 << 20;
  return case_chance(c, 4) ? case_dim(c, 1031) * case_dim(c, 33) : case_dim(c, 1031);
}

void make_activation(test_case *c) {
  activation_values(c, case_in1(c, 0, c->x, elements(c)));
  activation_kind(c);
  case_out1(c, 0, c->x, c->in[0].n);
  if (case_chance(c, 3)) case_alias(&c->out[0], &c->in[0]);
}

void make_activation_backward(test_case *c) {
  test_case *f = case_forward(c, DS_OP_ACTIVATION);
  int64_t n = elements(c);
  activation_values(f, case_in1(f, 0, f->x, n));
  case_out1(f, 0, f->x, n);
  case_normal(c, case_in1(c, 0, c->x, n), 0, 1);
  case_values(c, case_in1(c, 1, c->x, n), f->in[0].val);
  activation_kind(c);
  activation_kind(f);
  case_out1(c, 0, c->x, n);
  if (case_chance(c, 3)) case_alias(&c->out[0], &c->in[0]);
  c->index /= 6; /* the bit changes when all kinds have had their turn */
  case_accumulate(c, 1);
}

void make_swiglu(test_case *c) {
  int64_t shape[2] = {c->big ? 2048 : case_dim(c, 33), c->big ? 2048 : case_dim(c, 768)};
  for (int i = 0; i < 2; i++) activation_values(c, case_in(c, i, c->x, 2, shape));
  case_out(c, 0, c->x, 2, shape);
  for (int i = 0; i < 2; i++) case_stride_rows(c, &c->in[i]);
}

void make_swiglu_backward(test_case *c) {
  test_case *f = case_forward(c, DS_OP_SWIGLU);
  make_swiglu(f);
  const int64_t *shape = f->in[0].shape;
  case_normal(c, case_in(c, 0, c->x, 2, shape), 0, 1);
  for (int i = 0; i < 2; i++) {
    case_values(c, case_in(c, 1 + i, c->x, 2, shape), f->in[i].val);
    case_stride_rows(c, &c->in[1 + i]);
    case_stride_rows(c, case_out(c, i, c->x, 2, shape));
    c->gradient_of[i] = i;
  }
  case_accumulate(c, 3);
}

static void two_inputs(test_case *c) {
  int64_t n = elements(c);
  for (int i = 0; i < 2; i++)
    case_normal(c, case_in1(c, i, c->x, n), 0, case_chance(c, 4) ? 1e3 : 1);
  case_out1(c, 0, c->x, n);
}

void make_add(test_case *c) {
  two_inputs(c);
  if (case_chance(c, 2)) case_alias(&c->out[0], &c->in[case_range(c, 0, 1)]);
}

void make_mul(test_case *c) {
  two_inputs(c);
  case_accumulate(c, 1);
  if (!c->accumulate && case_chance(c, 2)) case_alias(&c->out[0], &c->in[case_range(c, 0, 1)]);
}

void make_scale(test_case *c) {
  case_normal(c, case_in1(c, 0, c->x, elements(c)), 0, 2);
  bool is_default = case_chance(c, 4);
  case_attr_f(c, 0, is_default ? 1 : case_chance(c, 4) ? 0 : -0.37, is_default);
  case_out1(c, 0, c->x, c->in[0].n);
  if (case_chance(c, 3)) case_alias(&c->out[0], &c->in[0]);
  case_accumulate(c, 1);
}

void make_reduce_rows(test_case *c) {
  int64_t shape[4], cols = c->big ? 768 : case_dim(c, 768);
  int rank = case_rows(c, c->big ? 4096 : case_dim(c, 384), cols, shape);
  case_normal(c, case_in(c, 0, c->x, rank, shape), 0.1, 1);
  case_out1(c, 0, DS_F32, cols);
  case_accumulate(c, 1);
}

/* Every edge of the formats: signed zeros, subnormals, ties, overflow, infinities, NaN. */
static void copy_specials(test_case *c, slot *x) {
  /* rounding the bits of the first NaN as if it were a number would carry into its sign */
  const double specials[] = {nan("0x7ffffffffffff"),
                             NAN,
                             INFINITY,
                             -INFINITY,
                             0.0,
                             -0.0,
                             0x1p-149,
                             0x1p-24,
                             0x1p-25,
                             0x1.8p-25,
                             0x1p-133,
                             0x1.01p0,
                             -0x1.8p-134,
                             65504,
                             65519.9,
                             65520,
                             0x1.03p0,
                             0x1.002p0,
                             0x1.fep127,
                             0x1.ffp127,
                             0x1.fffffep127};
  for (int64_t i = 0; i < x->n; i++)
    if (case_chance(c, 3)) {
      double v = specials[case_range(c, 0, sizeof specials / sizeof *specials - 1)];
      x->val[i] = harness_round(x->dtype, v);
    }
}

void make_copy(test_case *c) {
  static const int32_t types[] = {DS_F32, DS_BF16, DS_F16};
  int32_t from = types[c->variant / 3], to = types[c->variant % 3];
  int64_t shape[4], big[4] = {8, 512, 12, 64};
  int rank = c->big ? 4 : (int)case_range(c, 1, 4);
  static const int64_t most[] = {1031, 129, 33, 17};
  for (int d = 0; d < rank; d++) shape[d] = c->big ? big[d] : case_dim(c, most[rank - 1]);
  c->x = DS_F32; /* the sum of an accumulating copy is made in f32 */
  case_normal(c, case_in(c, 0, from, rank, shape), 0, 1);
  case_out(c, 0, to, rank, shape);
  case_stride_any(c, &c->in[0], false);
  case_stride_any(c, &c->out[0], false);
  case_accumulate(c, 1);
  if (!c->accumulate && !c->big) copy_specials(c, &c->in[0]);
}

void make_fill(test_case *c) {
  static const int32_t types[] = {DS_F32, DS_BF16, DS_I32};
  bool is_default = case_chance(c, 3), whole = types[c->variant] == DS_I32;
  double v = whole ? -123456.0 : case_chance(c, 3) ? -INFINITY : 0.3;
  case_attr_f(c, 0, is_default ? 0 : v, is_default);
  case_out1(c, 0, types[c->variant], elements(c));
}

void make_sum_squares(test_case *c) {
  case_normal(c, case_in1(c, 0, c->x, elements(c)), 0, case_chance(c, 3) ? 1e-3 : 10);
  case_out1(c, 0, DS_F64, 1);
  case_accumulate(c, 1);
}

void make_mean(test_case *c) {
  case_normal(c, case_in1(c, 0, c->x, elements(c)), 0.2, 1);
  case_out1(c, 0, DS_F32, 1);
}

void make_mean_backward(test_case *c) {
  test_case *f = case_forward(c, DS_OP_MEAN);
  make_mean(f);
  case_normal(c, case_in1(c, 0, DS_F32, 1), 0, 10);
  case_out1(c, 0, c->x, f->in[0].n);
  c->gradient_of[0] = 0;
  case_accumulate(c, 1);
}

/* g, p, m and v of n elements, p, m and v in place, and in some cases the bf16 copy. */
static void moments(test_case *c, int64_t n, bool first_step) {
  case_normal(c, case_in1(c, 0, DS_F32, n), 0, 1);
  case_normal(c, case_in1(c, 1, DS_F32, n), 0, 1);
  case_normal(c, case_in1(c, 2, DS_F32, n), 0, 0.1);
  case_normal(c, case_in1(c, 3, DS_F32, n), 0, 0.1);
  for (int64_t i = 0; i < n; i++) {
    c->in[3].val[i] = fabs(c->in[3].val[i]);
    if (first_step || case_chance(c, 50)) c->in[2].val[i] = c->in[3].val[i] = 0;
    if (!c->big && case_chance(c, 50)) c->in[0].val[i] = 0;
  }
  for (int i = 0; i < 3; i++) case_alias(case_out1(c, i, DS_F32, n), &c->in[i + 1]);
  if (c->index & 2) case_out1(c, 3, DS_BF16, n);
}

void make_adamw(test_case *c) {
  int64_t n = elements(c);
  int step = (int)case_range(c, 1, 1000);
  double eps = case_chance(c, 3) ? 1e-6 : 1e-8;
  double values[MAX_ATTR] = {3e-3,
                             0.9,
                             0.999,
                             eps,
                             case_chance(c, 3) ? 0 : 0.1,
                             case_chance(c, 2) ? 1 : 0.125,
                             1 - pow(0.9, step),
                             1 - pow(0.999, step),
                             c->index & 1};
  for (int i = 0; i < MAX_ATTR; i++) case_attr_f(c, i, values[i], false);
  moments(c, n, step == 1);
}

void make_adamw_scheduled(test_case *c) {
  int step = (int)case_range(c, 1, 1000);
  const double attrs[] = {0.9, 0.999, case_chance(c, 3) ? 1e-6 : 1e-8, case_chance(c, 3) ? 0 : 0.1,
                          c->index & 1};
  const double schedule[] = {3e-3, 1 - pow(0.9, step), 1 - pow(0.999, step)};
  for (int i = 0; i < 5; i++) case_attr_f(c, i, attrs[i], false);
  moments(c, elements(c), step == 1);
  case_values(c, case_in1(c, 4, DS_F32, 3), schedule);
  slot *factor = case_in1(c, 5, DS_F32, 1);
  factor->val[0] = case_chance(c, 2) ? 1 : 0.125;
  if (!c->proof && !c->big && c->index % 4 == 3) factor->val[0] = NAN; /* the step is skipped */
}

/* Norms below, at and far above the bound; no bound; norms and losses that are no numbers. */
void make_clip_factor(test_case *c) {
  static const double norms[] = {0, 1e-8, 0.5, 1, 1.0000005, 3, 1e5, 1e150, 1e-150};
  static const double wrong[] = {(double)NAN, (double)INFINITY};
  double norm = norms[case_range(c, 0, 8)],
         loss = case_round(c, DS_F32, case_range(c, -3, 9) * 0.7);
  bool wrong_loss = !c->proof && c->index % 4 == 2, checks = wrong_loss || !case_chance(c, 3);
  if (!c->proof && c->index % 4 == 1) norm = wrong[case_range(c, 0, 1)];
  if (wrong_loss) loss = case_chance(c, 2) ? -wrong[1] : wrong[0];
  case_attr_f(c, 0, case_chance(c, 4) ? 0 : case_chance(c, 2) ? 1 : 0.3, false);
  case_attr_i(c, 1, checks, checks);
  case_in1(c, 0, DS_F64, 1)->val[0] = norm * norm;
  if (wrong_loss || !case_chance(c, 3)) case_in1(c, 1, DS_F32, 1)->val[0] = loss;
  case_out1(c, 0, DS_F32, 1);
}
