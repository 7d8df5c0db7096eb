/* cases_quant.c - cases for the quant table: quantize, dequantize and the product with quantized
 * weights.
 *
 * Values to quantize are made as scale * (level + a bit), well away from the ties, so that every
 * level must come out exactly; some cases use a power of two as scale, where x / scale is exact,
 * and put values right on the ties: half to even then decides.
 */
#include "harness.h"

static int quant_supports(conformance *k, const test_case *c) {
  const ds_quant_gemm g = {.size = sizeof g,
                           .m = c->in[0].shape[0],
                           .lda = ((const ds_quant *)c->call)->cols,
                           .ldc = ((const ds_quant *)c->call)->rows};
  return k->plugin->quant->supports(k->dev, c->call, c->spec->id == 2002 ? &g : NULL);
}

static ds_status run_quantize(conformance *k, const test_case *c, void *const *in, void *const *out,
                              ds_error *err) {
  ds_quant q = *(const ds_quant *)c->call;
  q.values = out[0];
  q.scales = out[1];
  return k->plugin->quant->quantize(k->stream, &q, in[0], err);
}

static ds_status run_dequantize(conformance *k, const test_case *c, void *const *in,
                                void *const *out, ds_error *err) {
  ds_quant q = *(const ds_quant *)c->call;
  q.values = in[0];
  q.scales = in[1];
  return k->plugin->quant->dequantize(k->stream, &q, out[0], err);
}

static ds_status run_product(conformance *k, const test_case *c, void *const *in, void *const *out,
                             ds_error *err) {
  ds_quant q = *(const ds_quant *)c->call;
  q.values = in[1];
  q.scales = in[2];
  const ds_quant_gemm g = {.size = sizeof g,
                           .m = c->in[0].shape[0],
                           .lda = q.cols,
                           .ldc = q.rows,
                           .a = in[0],
                           .bias = in[3],
                           .c = out[0]};
  return k->plugin->quant->gemm(k->stream, &q, &g, err);
}

static double limit_of(const ds_quant *q) {
  return q->qtype == DS_I8 ? 127 : 7;
}

/* Levels as stored: a byte each, or two to a byte with the first in the low nibble. */
static int64_t stored_count(const ds_quant *q) {
  return q->qtype == DS_I8 ? q->rows * q->cols : q->rows * q->cols / 2;
}

static void store_level(const ds_quant *q, slot *s, int64_t i, double level) {
  if (q->qtype == DS_I8) {
    s->val[i] = level;
    return;
  }
  int byte = (int)s->val[i / 2] & 0xff, nibble = (int)level & 15;
  byte = i % 2 ? (byte & 0x0f) | nibble << 4 : (byte & 0xf0) | nibble;
  s->val[i / 2] = byte < 128 ? byte : byte - 256;
}

static double load_level(const ds_quant *q, const slot *s, int64_t i) {
  if (q->qtype == DS_I8) return s->val[i];
  int byte = (int)s->val[i / 2] & 0xff, nibble = i % 2 ? byte >> 4 : byte & 15;
  return nibble < 8 ? nibble : nibble - 16;
}

static ds_quant *choose(test_case *c) {
  static const int64_t groups[] = {2, 8, 16, 32, 64, 128, 6, 30};
  ds_quant *q = harness_alloc(&c->mem, 1, sizeof *q);
  *q = (ds_quant){.size = sizeof *q,
                  .qtype = c->variant & 2 ? DS_I4 : DS_I8,
                  .dtype = c->variant & 1 ? DS_BF16 : DS_F32,
                  .rows = c->big ? 4096 : case_dim(c, 97),
                  .group = c->big ? 128 : groups[case_range(c, 0, 7)]};
  q->cols = q->group * (c->big ? 32 : case_range(c, 1, 5));
  c->x = q->dtype;
  c->call = q;
  return q;
}

/* Fills one group of x: its first value is the largest, so the scale is known. */
static void quantizable(test_case *c, const ds_quant *q, double *x) {
  double top = limit_of(q), scale = exp2((double)case_range(c, -9, 3));
  bool ties = case_chance(c, 3), zero = case_chance(c, 8);
  if (!ties) scale *= 1 + harness_uniform(&c->rng);
  scale = zero ? 0 : harness_round(q->dtype, scale * top) / top;
  for (int64_t i = 0; i < q->group; i++) {
    double level = (double)case_range(c, (int64_t)-top + 1, (int64_t)top - 1);
    double bit = ties ? 0.5 * (double)case_range(c, -1, 1) : 0.4 * harness_uniform(&c->rng) - 0.2;
    if (ties && q->dtype == DS_BF16 && fabs(level) > 60) bit = 0; /* 8 bits hold no half there */
    x[i] = harness_round(q->dtype, i ? scale * (level + bit) : scale * top);
  }
  if (case_chance(c, 2)) x[0] = -x[0];
}

static void make_quantize(test_case *c) {
  const ds_quant *q = choose(c);
  const int64_t shape[2] = {q->rows, q->cols}, scales[2] = {q->rows, q->cols / q->group};
  slot *x = case_in(c, 0, q->dtype, 2, shape);
  for (int64_t g = 0; g < x->n; g += q->group) quantizable(c, q, x->val + g);
  case_out1(c, 0, DS_I8, stored_count(q));
  case_out(c, 1, DS_F32, 2, scales);
  c->out[0].offset = c->out[1].offset = x->offset = 0;
}

static void reference_quantize(test_case *c) {
  const ds_quant *q = c->call;
  c->out[0].exact = true;
  for (int64_t g = 0; g < c->out[1].n; g++) {
    double most = 0;
    const double *x = c->in[0].val + g * q->group;
    for (int64_t i = 0; i < q->group; i++) most = fmax(most, fabs(x[i]));
    double scale = most > 0 ? most / limit_of(q) : 1;
    c->out[1].val[g] = scale;
    for (int64_t i = 0; i < q->group; i++) {
      double level = fmin(fmax(nearbyint(x[i] / scale), -limit_of(q)), limit_of(q)) + 0.0;
      store_level(q, &c->out[0], g * q->group + i, level);
    }
  }
}

/* Random levels and scales at in[at], in[at + 1]. */
static void quantized(test_case *c, const ds_quant *q, int at) {
  const int64_t scales[2] = {q->rows, q->cols / q->group};
  slot *v = case_in1(c, at, DS_I8, stored_count(q)), *s = case_in(c, at + 1, DS_F32, 2, scales);
  v->offset = s->offset = 0;
  int64_t top = (int64_t)limit_of(q);
  for (int64_t i = 0; i < q->rows * q->cols; i++)
    store_level(q, v, i, (double)case_range(c, -top, top));
  for (int64_t i = 0; i < s->n; i++)
    s->val[i] = harness_round(DS_F32, (0.5 + harness_uniform(&c->rng)) / (double)top);
}

static double weight(const test_case *c, int at, int64_t i) {
  const ds_quant *q = c->call;
  return load_level(q, &c->in[at], i) * c->in[at + 1].val[i / q->group];
}

static void make_dequantize(test_case *c) {
  const ds_quant *q = choose(c);
  const int64_t shape[2] = {q->rows, q->cols};
  quantized(c, q, 0);
  case_out(c, 0, q->dtype, 2, shape)->offset = 0;
}

static void reference_dequantize(test_case *c) {
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = weight(c, 0, i);
}

static void make_product(test_case *c) {
  const ds_quant *q = choose(c);
  int64_t m = c->index % 2 ? 1 : case_dim(c, 33);
  const int64_t a[2] = {m, q->cols}, out[2] = {m, q->rows};
  case_normal(c, case_in(c, 0, q->dtype, 2, a), 0, 1);
  quantized(c, q, 1);
  if (case_chance(c, 2)) case_normal(c, case_in1(c, 3, q->dtype, q->rows), 0, 1);
  case_out(c, 0, q->dtype, 2, out);
}

static void reference_product(test_case *c) {
  const ds_quant *q = c->call;
  double *mag = case_mag(c, 0), *mag_x = case_mag_x(c, 0);
  for (int64_t e = 0; e < c->out[0].n; e++) {
    double bias = c->in[3].present ? c->in[3].val[e % q->rows] : 0, sum = bias;
    mag[e] = fabs(bias);
    for (int64_t i = 0; i < q->cols; i++) {
      double term =
          c->in[0].val[e / q->rows * q->cols + i] * weight(c, 1, e % q->rows * q->cols + i);
      sum += term;
      mag[e] += fabs(term);
    }
    c->out[0].val[e] = sum;
    mag_x[e] = mag[e];
  }
}

static const call_hooks hooks[] = {{quant_supports, run_quantize},
                                   {quant_supports, run_dequantize},
                                   {quant_supports, run_product}};

/* Scales are one division; a dequantized value is one product; the product of matrices is a sum in
 * f32 whose weights may have been rounded to bf16 when A is bf16. */
static const op_spec specs[] = {
    {2000, "quantize", 4, make_quantize, reference_quantize, 2e-7, 0, &hooks[0]},
    {2001, "dequantize", 4, make_dequantize, reference_dequantize, 1e-7, 0, &hooks[1]},
    {2002, "quant gemm", 4, make_product, reference_product, 2e-6, 4e-3, &hooks[2]}};

void cases_quant(conformance *k) {
  static const char *const names[] = {"i8,f32", "i8,bf16", "i4,f32", "i4,bf16"};
  if (!k->plugin->quant || !check_wanted(k, "quant")) return;
  for (int i = 0; i < 3; i++)
    for (int v = 0; v < specs[i].variants; v++) {
      tally t = {0};
      for (int n = 0; n < k->cases; n++) {
        test_case c;
        case_init(&c, &specs[i], v, n, k->seed);
        specs[i].make(&c);
        check_case(k, &c, &t);
        case_finish(&c);
      }
      check_report(k, &t, specs[i].name, names[v]);
    }
}
