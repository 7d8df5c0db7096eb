/* cases_quant.c - cases for the quant table: quantize, dequantize, and the products with quantized
 * weights, plain and with dynamic activation scales.
 *
 * Granularity goes by the case's number: groups (odd ones too), rows, the whole tensor. Values to
 * quantize keep away from ties by more than rounding errors reach, so that every level must come
 * out exactly; some cases use a power of two as scale, where x / scale is exact, and put values
 * right on the ties: half to even then decides.
 */
#include "ref64_quant.h"

#include <stdio.h>

enum { QUANTIZE = 2000, DEQUANTIZE = 2001, PRODUCT = 2002, DYNAMIC = 2003 };
enum { VARIANTS = 12, DYNAMIC_VARIANTS = 4 };

typedef struct quant_call {
  ds_quant q;
  ds_quant_gemm g; /* for products */
} quant_call;

static const ds_quant *quant_of(const test_case *c) {
  return &((const quant_call *)c->call)->q;
}

static int quant_supports(conformance *k, const test_case *c) {
  const quant_call *call = c->call;
  return k->plugin->quant->supports(k->dev, &call->q, c->spec->id < PRODUCT ? NULL : &call->g);
}

static ds_status run_quantize(conformance *k, const test_case *c, void *const *in, void *const *out,
                              ds_error *err) {
  ds_quant q = *quant_of(c);
  q.values = out[0];
  q.scales = out[1];
  q.zeros = out[2];
  return k->plugin->quant->quantize(k->stream, &q, in[0], err);
}

static ds_status run_dequantize(conformance *k, const test_case *c, void *const *in,
                                void *const *out, ds_error *err) {
  ds_quant q = *quant_of(c);
  q.values = in[0];
  q.scales = in[1];
  q.zeros = in[2];
  return k->plugin->quant->dequantize(k->stream, &q, out[0], err);
}

static ds_status run_product(conformance *k, const test_case *c, void *const *in, void *const *out,
                             ds_error *err) {
  ds_quant q = *quant_of(c);
  ds_quant_gemm g = ((const quant_call *)c->call)->g;
  q.values = in[0];
  q.scales = in[1];
  q.zeros = in[2];
  g.a = in[3];
  g.bias = in[4];
  g.c = out[0];
  return k->plugin->quant->gemm(k->stream, &q, &g, err);
}

/* ---------------------------------------------------------------- shapes */

/* Variants: dtype, then qtype, then symmetry (which fp8 has only one of). */
static void kind_of(const test_case *c, ds_quant *q) {
  static const int32_t types[] = {DS_I8, DS_I4, DS_I8, DS_I4, DS_F8E4M3, DS_F8E5M2};
  int kind = c->variant / 2;
  q->dtype = c->variant % 2 ? DS_BF16 : DS_F32;
  if (c->spec->id == DYNAMIC) {
    q->qtype = DS_I8;
    q->flags = kind ? DS_QUANT_ASYMMETRIC : 0;
  } else {
    q->qtype = types[kind];
    q->flags = kind == 2 || kind == 3 ? DS_QUANT_ASYMMETRIC : 0;
  }
}

static ds_quant *choose(test_case *c) {
  static const int64_t groups[] = {2, 8, 16, 32, 64, 128, 256, 24, 30, 3, 5, 1};
  quant_call *call = harness_alloc(&c->mem, 1, sizeof *call);
  ds_quant *q = &call->q;
  *q = (ds_quant){.size = sizeof *q, .rows = case_dim(c, 97)};
  kind_of(c, q);
  if (c->index % 3 == 0) {
    q->group = groups[case_range(c, 0, 11)];
    q->cols = q->group * case_range(c, 1, 5);
    if (q->qtype == DS_I4 && q->cols % 2) q->cols *= 2;
  } else {
    q->cols = case_dim(c, 700);
    if (q->qtype == DS_I4 && q->cols % 2) q->cols++;
    q->group = q->cols;
  }
  if (c->index % 3 == 2) {
    q->flags |= DS_QUANT_PER_TENSOR;
    q->group = case_range(c, -1, 1); /* ignored */
  }
  c->x = q->dtype;
  c->call = call;
  return q;
}

static scale64 scale_at(const test_case *c, const slot *scales, const slot *zeros, int64_t i) {
  int64_t g = i / quant64_group(quant_of(c));
  return (scale64){scales->val[g], zeros->present ? zeros->val[g] : 0};
}

/* ---------------------------------------------------------------- quantize */

/* Ordinary numbers around some middle; what lies too near to a tie becomes 0. */
static void ordinary(test_case *c, const ds_quant *q, double *x, int64_t n) {
  double size = exp2((double)case_range(c, -12, 6));
  double middle = case_chance(c, 2) ? 0 : 6 * harness_uniform(&c->rng) - 3;
  do {
    for (int64_t i = 0; i < n; i++)
      x[i] = harness_round(q->dtype, size * (middle + harness_normal(&c->rng)));
  } while (quant64_unsure_zero(q, x, n));
  scale64 s = quant64_scale(q, x, n);
  for (int64_t i = 0; i < n; i++)
    if (quant64_unsure(q, s, x[i])) x[i] = 0;
}

/* A number halfway between two that can be stored, times the scale. */
static double tie(test_case *c, const ds_quant *q) {
  if (quant64_is_fp8(q)) {
    int code = (int)case_range(c, 0, q->qtype == DS_F8E4M3 ? 125 : 122);
    return 0.5 * (quant64_fp8_value(q->qtype, code) + quant64_fp8_value(q->qtype, code + 1));
  }
  return (double)case_range(c, 0, q->qtype == DS_I8 ? 60 : 6) + 0.5;
}

/* The scale is a power of two; the zero point is on a tie as well. */
static void ties(test_case *c, const ds_quant *q, double *x, int64_t n) {
  double s = exp2((double)case_range(c, -9, 3)), top = quant64_qmax(q), low = top;
  if (q->flags & DS_QUANT_ASYMMETRIC) {
    double steps = top - quant64_qmin(q);
    low = (double)case_range(c, 0, (int64_t)steps - 1) + 0.5;
    if (q->dtype == DS_BF16 && q->qtype == DS_I8) low = floor(low); /* has 8 bits */
    top = steps - low;
  }
  for (int64_t i = 0; i < n; i++) {
    double t = tie(c, q);
    bool negative = case_chance(c, 2) && t < low;
    x[i] = t > top ? 0 : s * (negative ? -t : t);
    if (quant64_is_fp8(q) && negative && t < quant64_fp8_value(q->qtype, 1)) x[i] = -x[i];
  }
  x[0] = s * top;
  if (n > 1) x[n - 1] = -s * low;
}

static void make_quantize(test_case *c) {
  const ds_quant *q = choose(c);
  const int64_t shape[2] = {q->rows, q->cols};
  slot *x = case_in(c, 0, q->dtype, 2, shape);
  bool on_ties = case_chance(c, 3);
  for (int64_t at = 0, n = quant64_group(q); at < x->n; at += n) {
    if (case_chance(c, 8)) continue; /* zeros */
    if (on_ties)
      ties(c, q, x->val + at, n);
    else
      ordinary(c, q, x->val + at, n);
  }
  case_out1(c, 0, DS_I8, quant64_bytes(q));
  case_out1(c, 1, DS_F32, quant64_groups(q));
  if (q->flags & DS_QUANT_ASYMMETRIC) case_out1(c, 2, DS_I8, quant64_groups(q));
}

static void reference_quantize(test_case *c) {
  const ds_quant *q = quant_of(c);
  int64_t n = quant64_group(q);
  c->out[0].exact = c->out[2].exact = true;
  for (int64_t g = 0; g < c->out[1].n; g++) {
    const double *x = c->in[0].val + g * n;
    scale64 s = quant64_scale(q, x, n);
    c->out[1].val[g] = s.s;
    if (c->out[2].present) c->out[2].val[g] = s.z;
    for (int64_t i = 0; i < n; i++)
      quant64_store(q, &c->out[0], g * n + i, quant64_code(q, s, x[i], 1));
  }
}

/* ---------------------------------------------------------------- dequantize */

static bool finite_code(const ds_quant *q, int64_t code) {
  return !quant64_is_fp8(q) || isfinite(quant64_fp8_value(q->qtype, (int)code));
}

/* Any code that can be stored (for fp8 in products: of a number), scales of ordinary size and
 * either sign's zero points, at in[0], in[1], in[2]. */
static void quantized(test_case *c, const ds_quant *q, bool finite) {
  slot *v = case_in1(c, 0, DS_I8, quant64_bytes(q));
  slot *s = case_in1(c, 1, DS_F32, quant64_groups(q));
  bool fp8 = quant64_is_fp8(q), asymmetric = q->flags & DS_QUANT_ASYMMETRIC;
  int64_t low = q->qtype == DS_I4 ? -8
                : fp8             ? 0
                                  : -128,
          high = low + (q->qtype == DS_I4 ? 15 : 255);
  for (int64_t i = 0; i < q->rows * q->cols; i++) {
    int64_t code = case_range(c, low, high);
    quant64_store(q, v, i, (double)(finite && !finite_code(q, code) ? 0 : code));
  }
  for (int64_t i = 0; i < s->n; i++)
    s->val[i] = harness_round(DS_F32, (0.5 + harness_uniform(&c->rng)) / quant64_qmax(q));
  if (!asymmetric) return;
  slot *z = case_in1(c, 2, DS_I8, s->n);
  for (int64_t i = 0; i < z->n; i++) z->val[i] = (double)case_range(c, low, high);
}

static double weight(const test_case *c, int64_t i) {
  const ds_quant *q = quant_of(c);
  return quant64_value(q, scale_at(c, &c->in[1], &c->in[2], i), quant64_load(q, &c->in[0], i));
}

static void make_dequantize(test_case *c) {
  const ds_quant *q = choose(c);
  const int64_t shape[2] = {q->rows, q->cols};
  quantized(c, q, false);
  case_out(c, 0, q->dtype, 2, shape);
}

static void reference_dequantize(test_case *c) {
  for (int64_t i = 0; i < c->out[0].n; i++) c->out[0].val[i] = weight(c, i);
}

/* ---------------------------------------------------------------- products */

static const ds_quant row_kind = {.qtype = DS_I8}; /* how dynamic scales treat a row of A */

/* Rows of ordinary numbers; some have one that is far larger, some are 0. */
static void activations(test_case *c, slot *a, int64_t m, int64_t cols) {
  for (int64_t i = 0; i < m; i++) {
    double *row = a->val + i * cols;
    if (case_chance(c, 12)) continue;
    for (int64_t p = 0; p < cols; p++) row[p] = harness_round(a->dtype, harness_normal(&c->rng));
    if (cols > 1 && case_chance(c, 4)) row[case_range(c, 0, cols - 1)] *= 64;
    scale64 s = quant64_scale(&row_kind, row, cols);
    for (int64_t p = 0; p < cols && c->spec->id == DYNAMIC; p++)
      if (quant64_unsure(&row_kind, s, row[p])) row[p] = 0;
  }
}

static void make_product(test_case *c) {
  const ds_quant *q = choose(c);
  int64_t m = c->index % 2 ? 1 : case_dim(c, 40);
  const int64_t a_shape[2] = {m, q->cols}, c_shape[2] = {m, q->rows};
  quantized(c, q, true);
  slot *a = case_in(c, 3, q->dtype, 2, a_shape);
  if (case_chance(c, 2)) case_normal(c, case_in1(c, 4, q->dtype, q->rows), 0, 1);
  slot *out = case_out(c, 0, q->dtype, 2, c_shape);
  activations(c, a, m, q->cols);
  case_stride_rows(c, a);
  case_stride_rows(c, out);
  ((quant_call *)(uintptr_t)c->call)->g =
      (ds_quant_gemm){.size = sizeof(ds_quant_gemm),
                      .flags = c->spec->id == DYNAMIC ? DS_QUANT_GEMM_DYNAMIC : 0,
                      .m = m,
                      .lda = a->stride[0],
                      .ldc = out->stride[0]};
}

/* A as the product sees it. */
static const double *seen_a(test_case *c) {
  const slot *a = &c->in[3];
  int64_t cols = a->shape[1];
  if (c->spec->id != DYNAMIC) return a->val;
  double *seen = case_array(c, a->n);
  for (int64_t i = 0; i < a->n; i++) {
    scale64 s = quant64_scale(&row_kind, a->val + i / cols * cols, cols);
    seen[i] = quant64_value(&row_kind, s, quant64_code(&row_kind, s, a->val[i], 1));
  }
  return seen;
}

static void reference_product(test_case *c) {
  const ds_quant *q = quant_of(c);
  const double *a = seen_a(c);
  double *mag = case_mag(c, 0), *mag_x = case_mag_x(c, 0);
  for (int64_t e = 0; e < c->out[0].n; e++) {
    int64_t row = e / q->rows, column = e % q->rows;
    double sum = c->in[4].present ? c->in[4].val[column] : 0;
    mag[e] = fabs(sum);
    for (int64_t p = 0; p < q->cols; p++) {
      double term = a[row * q->cols + p] * weight(c, column * q->cols + p);
      sum += term;
      mag[e] += fabs(term);
    }
    c->out[0].val[e] = sum;
    mag_x[e] = mag[e];
  }
}

/* ---------------------------------------------------------------- all */

static const call_hooks quantize_hooks = {quant_supports, run_quantize},
                        dequantize_hooks = {quant_supports, run_dequantize},
                        product_hooks = {quant_supports, run_product};

/* Scales are one or two operations; a dequantized value is one product. The product of matrices is
 * a sum in f32, or of A in whole numbers that are as good for all but single terms; weights may
 * have been rounded to bf16 when A is bf16. When A is quantized by the contract, sums are exact but
 * for f32's rounding. */
static const op_spec specs[] = {
    {QUANTIZE, "quantize", VARIANTS, make_quantize, reference_quantize, 2e-7, 0, &quantize_hooks},
    {DEQUANTIZE, "dequantize", VARIANTS, make_dequantize, reference_dequantize, 1e-7, 0,
     &dequantize_hooks},
    {PRODUCT, "quant gemm", VARIANTS, make_product, reference_product, 1e-5, 4e-3, &product_hooks},
    {DYNAMIC, "quant gemm dynamic", DYNAMIC_VARIANTS, make_product, reference_product, 2e-6, 0,
     &product_hooks}};

static void variant_name(const test_case *c, char *text, size_t room) {
  static const char *const names[] = {
      [DS_I8] = "i8", [DS_I4] = "i4", [DS_F8E4M3] = "f8e4m3", [DS_F8E5M2] = "f8e5m2"};
  ds_quant q = {0};
  kind_of(c, &q);
  snprintf(text, room, "%s%s,%s", names[q.qtype], q.flags ? " asym" : "",
           harness_dtype_name(q.dtype));
}

void cases_quant(conformance *k) {
  if (!k->plugin->quant || !check_wanted(k, "quant")) return;
  for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
    for (int v = 0; v < specs[i].variants; v++) {
      tally t = {0};
      char name[24];
      test_case c;
      for (int n = 0; n < k->cases; n++) {
        case_init(&c, &specs[i], v, n, k->seed);
        specs[i].make(&c);
        check_case(k, &c, &t);
        case_finish(&c);
      }
      variant_name(&c, name, sizeof name);
      check_report(k, &t, specs[i].name, name);
    }
  cases_quant_special(k);
}
