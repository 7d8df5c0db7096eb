/* cases_quant_special.c - the quant table where numbers end: NaN and infinity, denormals, empty
 * matrices; and descriptions that must be refused. */
#include "ref64_quant.h"

#include <stdio.h>
#include <string.h>

#define NEED(condition, ...)                                                                       \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      check_fail(t, __VA_ARGS__);                                                                  \
      goto out;                                                                                    \
    }                                                                                              \
  } while (0)

enum { ROWS = 6, COLS = 192, GROUP = 32, M = 3, GROUPS = ROWS * COLS / GROUP, LONGEST = 1 << 14 };

/* Buffers of one check, as the plugin sees them and as the host last saw them. */
typedef enum buffer { X, VALUES, SCALES, ZEROS, A, C, BIAS, BUFFERS } buffer;
typedef struct bench {
  conformance *k;
  tally *t;
  ds_quant q;
  guarded memory[BUFFERS];
  float x[ROWS * COLS], a[M * COLS], c[M * ROWS];
  signed char values[ROWS * COLS], zeros[GROUPS];
  float scales[GROUPS];
} bench;

static void *address(const bench *b, buffer which) {
  return GUARDED_AT(&b->memory[which], 0);
}

static bool bench_make(bench *b) {
  for (int i = 0; i < BUFFERS; i++)
    if (!check_make(b->k, &b->memory[i], LONGEST, b->t) || !check_upload(b->k, &b->memory[i], b->t))
      return false;
  b->q.values = address(b, VALUES);
  b->q.scales = (float *)address(b, SCALES);
  b->q.zeros = b->q.flags & DS_QUANT_ASYMMETRIC ? (int8_t *)address(b, ZEROS) : NULL;
  return true;
}

/* What was uploaded may still be on its way, whatever became of the check. */
static void bench_drop(bench *b) {
  ds_error err;
  if (b->k->plugin->device->stream_sync(b->k->stream, &err) != DS_OK)
    check_fail(b->t, "stream_sync: %.300s", err.message);
  for (int i = 0; i < BUFFERS; i++) check_drop(b->k, &b->memory[i]);
}

/* n numbers to a buffer of the ds_quant's dtype, and back. */
static bool give(bench *b, buffer which, const float *from, int n) {
  for (int i = 0; i < n; i++)
    harness_store(b->q.dtype, b->memory[which].image + GUARD, i, (double)from[i]);
  return check_upload(b->k, &b->memory[which], b->t);
}

static bool take(bench *b, buffer which, float *to, int n) {
  unsigned char all[LONGEST + 2 * GUARD];
  if (!check_download(b->k, &b->memory[which], all, b->t)) return false;
  for (int i = 0; i < n; i++) to[i] = (float)harness_load(b->q.dtype, all + GUARD, i);
  return true;
}

static bool take_bytes(bench *b, buffer which, void *to, size_t n) {
  unsigned char all[LONGEST + 2 * GUARD];
  if (!check_download(b->k, &b->memory[which], all, b->t)) return false;
  memcpy(to, all + GUARD, n);
  return true;
}

static bool quantize(bench *b) {
  ds_error err = {0};
  memset(b->values, 0, sizeof b->values);
  if (!give(b, X, b->x, ROWS * COLS)) return false;
  ds_status st = b->k->plugin->quant->quantize(b->k->stream, &b->q, address(b, X), &err);
  if (st != DS_OK) check_fail(b->t, "quantize gave %d: %s", (int)st, err.message);
  return st == DS_OK && take_bytes(b, VALUES, b->values, (size_t)quant64_bytes(&b->q)) &&
         take_bytes(b, SCALES, b->scales, (size_t)quant64_groups(&b->q) * sizeof(float)) &&
         (!b->q.zeros || take_bytes(b, ZEROS, b->zeros, (size_t)quant64_groups(&b->q)));
}

static bool product(bench *b, uint32_t flags) {
  ds_error err = {0};
  const ds_quant_gemm g = {.size = sizeof g,
                           .flags = flags,
                           .m = M,
                           .lda = COLS,
                           .ldc = ROWS,
                           .a = address(b, A),
                           .c = address(b, C)};
  if (!give(b, A, b->a, M * COLS)) return false;
  ds_status st = b->k->plugin->quant->gemm(b->k->stream, &b->q, &g, &err);
  if (st != DS_OK) check_fail(b->t, "the product gave %d: %s", (int)st, err.message);
  return st == DS_OK && take(b, C, b->c, M * ROWS);
}

static void ordinary(bench *b) {
  uint64_t rng = 7;
  for (int i = 0; i < ROWS * COLS; i++)
    b->x[i] = (float)harness_round(b->q.dtype, harness_normal(&rng));
  for (int i = 0; i < M * COLS; i++)
    b->a[i] = (float)harness_round(b->q.dtype, harness_normal(&rng));
}

/* ---------------------------------------------------------------- NaN and infinity */

static int group_at(const bench *b, int i) {
  return b->q.flags & DS_QUANT_PER_TENSOR ? 0 : i / GROUP;
}

/* A group with a NaN or an infinity has such a scale and comes back as no numbers; all others are
 * as if it weren't there. */
static void check_lost_groups(bench *b, const bool *lost, const signed char *values,
                              const float *scales) {
  tally *t = b->t;
  ds_error err = {0};
  float back[ROWS * COLS];
  int found[GROUPS] = {0};
  bool i4 = b->q.qtype == DS_I4;
  for (int g = 0; g < (int)quant64_groups(&b->q); g++) {
    NEED(isfinite(b->scales[g]) == !lost[g], "group %d has a NaN or an infinity: %d; its scale %g",
         g, lost[g], (double)b->scales[g]);
    NEED(lost[g] || b->scales[g] == scales[g], "the scale of group %d changed with another group",
         g);
  }
  for (int i = 0; i < ROWS * COLS; i++)
    NEED(lost[group_at(b, i)] || b->values[i4 ? i / 2 : i] == values[i4 ? i / 2 : i],
         "value %d changed with another group", i);
  NEED(b->k->plugin->quant->dequantize(b->k->stream, &b->q, address(b, X), &err) == DS_OK, "%s",
       err.message);
  if (!take(b, X, back, ROWS * COLS)) return;
  for (int i = 0; i < ROWS * COLS; i++) {
    if (!isfinite(back[i])) found[group_at(b, i)]++;
    NEED(lost[group_at(b, i)] || isfinite(back[i]), "value %d of an ordinary group came back %g", i,
         (double)back[i]);
  }
  for (int g = 0; g < (int)quant64_groups(&b->q); g++)
    NEED(!lost[g] || found[g], "group %d had a NaN or an infinity and came back as numbers", g);
out:
  return;
}

/* What the product makes of the lost groups' rows and, in A, of the row with a NaN. */
static void check_lost_products(bench *b, const bool *lost_row, uint32_t flags) {
  tally *t = b->t;
  b->a[COLS + 5] = NAN;
  if (!product(b, flags)) return;
  for (int i = 0; i < M; i++)
    for (int j = 0; j < ROWS; j++)
      NEED(isfinite(b->c[i * ROWS + j]) == (i != 1 && !lost_row[j]),
           "C[%d,%d] is %g; A's row 1 has a NaN, row %d of the weights %s", i, j,
           (double)b->c[i * ROWS + j], j, lost_row[j] ? "too" : "has none");
  b->a[COLS + 5] = 0;
out:
  return;
}

static void not_finite(bench *b) {
  static const struct {
    int at;
    float value;
  } bad[] = {{70, NAN}, {3 * COLS, INFINITY}, {3 * COLS + 1, NAN}, {5 * COLS - 1, -INFINITY}};
  signed char values[ROWS * COLS];
  float scales[GROUPS];
  bool lost[GROUPS] = {0}, lost_row[ROWS] = {0};
  ordinary(b);
  if (!quantize(b)) return;
  memcpy(values, b->values, sizeof values);
  memcpy(scales, b->scales, sizeof scales);
  for (int i = 0; i < 4; i++) {
    b->x[bad[i].at] = bad[i].value;
    lost[group_at(b, bad[i].at)] = lost_row[bad[i].at / COLS] = true;
  }
  for (int r = 0; r < ROWS && b->q.flags & DS_QUANT_PER_TENSOR; r++) lost_row[r] = true;
  if (!quantize(b)) return;
  check_lost_groups(b, lost, values, scales);
  check_lost_products(b, lost_row, 0);
  if (b->q.qtype == DS_I8) check_lost_products(b, lost_row, DS_QUANT_GEMM_DYNAMIC);
}

/* ---------------------------------------------------------------- the smallest numbers */

/* Denormals: 660 of the smallest steps make a scale of one step for fp8 E4M3, and a quotient that
 * saturates; flushing them all to zero is right too. Scales that vanish leave zeros. */
static void smallest(bench *b) {
  tally *t = b->t;
  const double step = exp2(b->q.dtype == DS_F32 ? -149 : -133);
  const double sizes[] = {660 * step, 3 * step, exp2(-126), 90 * step};
  float back[ROWS * COLS];
  ds_error err = {0};
  for (int i = 0; i < 4; i++) {
    for (int e = 0; e < ROWS * COLS; e++) b->x[e] = (float)(e % 2 ? -sizes[i] : sizes[i]);
    if (!quantize(b)) return;
    for (int g = 0; g < (int)quant64_groups(&b->q); g++)
      NEED(b->scales[g] > 0 && b->scales[g] <= 1, "values of %g gave a scale of %g", sizes[i],
           (double)b->scales[g]);
    NEED(b->k->plugin->quant->dequantize(b->k->stream, &b->q, address(b, X), &err) == DS_OK, "%s",
         err.message);
    if (!take(b, X, back, ROWS * COLS)) return;
    for (int e = 0; e < ROWS * COLS; e++)
      NEED((double)fabsf(back[e] - b->x[e]) <= sizes[i], "%g came back as %g", (double)b->x[e],
           (double)back[e]);
  }
out:
  return;
}

/* ---------------------------------------------------------------- refusals and empty matrices */

static void refuse(bench *b, const char *what, const ds_quant *q, const ds_quant_gemm *g) {
  tally *t = b->t;
  ds_error err = {0};
  const ds_quant_table *table = b->k->plugin->quant;
  ds_status st;
  NEED(!table->supports(b->k->dev, q, g), "supports() is true for %s", what);
  if (g)
    st = table->gemm(b->k->stream, q, g, &err);
  else
    st = table->quantize(b->k->stream, q, address(b, X), &err);
  NEED(st != DS_OK && st == err.status && err.message[0], "%s gave %d \"%s\"", what, (int)st,
       err.message);
  NEED(g || table->dequantize(b->k->stream, q, address(b, X), NULL) == st,
       "dequantize and quantize differ on %s", what);
out:
  return;
}

#define REFUSE_Q(what, field, value)                                                               \
  do {                                                                                             \
    ds_quant other = b->q;                                                                         \
    other.field = (value);                                                                         \
    refuse(b, what, &other, NULL);                                                                 \
    refuse(b, "a product with " what, &other, &g);                                                 \
  } while (0)
#define REFUSE_G(what, field, value)                                                               \
  do {                                                                                             \
    ds_quant_gemm other = g;                                                                       \
    other.field = (value);                                                                         \
    refuse(b, what, &b->q, &other);                                                                \
  } while (0)

static void refusals(bench *b) {
  const ds_quant_gemm g = {
      .size = sizeof g, .m = M, .lda = COLS, .ldc = ROWS, .a = address(b, A), .c = address(b, C)};
  REFUSE_Q("a ds_quant of size 0", size, 0);
  REFUSE_Q("a short ds_quant", size, offsetof(ds_quant, zeros));
  REFUSE_Q("an unknown flag", flags, b->q.flags | 1u << 20);
  REFUSE_Q("qtype i32", qtype, DS_I32);
  REFUSE_Q("dtype i64", dtype, DS_I64);
  REFUSE_Q("rows -1", rows, -1);
  REFUSE_Q("cols -2", cols, -2);
  if (quant64_is_fp8(&b->q)) REFUSE_Q("zero points of fp8", flags, DS_QUANT_ASYMMETRIC);
  if (b->q.qtype == DS_I4) REFUSE_Q("odd cols of i4", cols, 1);
  if (!(b->q.flags & DS_QUANT_PER_TENSOR)) {
    REFUSE_Q("group 0", group, 0);
    REFUSE_Q("a group that does not divide cols", group, 40);
  }
  REFUSE_G("a ds_quant_gemm of size 0", size, 0);
  REFUSE_G("a short ds_quant_gemm", size, offsetof(ds_quant_gemm, c));
  REFUSE_G("an unknown flag of the product", flags, 1u << 20);
  REFUSE_G("m -1", m, -1);
  REFUSE_G("lda shorter than a row", lda, COLS - 1);
  REFUSE_G("ldc shorter than a row", ldc, ROWS - 1);
  if (b->q.qtype != DS_I8) REFUSE_G("dynamic scales", flags, DS_QUANT_GEMM_DYNAMIC);
}

/* A later core's descriptors are longer. */
static void longer(bench *b) {
  tally *t = b->t;
  struct {
    ds_quant q;
    unsigned char more[32];
  } q = {.q = b->q};
  struct {
    ds_quant_gemm g;
    unsigned char more[32];
  } g = {.g = {.m = M, .lda = COLS, .ldc = ROWS, .a = address(b, A), .c = address(b, C)}};
  ds_error err = {0};
  memset(q.more, 0xff, sizeof q.more);
  memset(g.more, 0xff, sizeof g.more);
  q.q.size = sizeof q;
  g.g.size = sizeof g;
  ordinary(b);
  if (!quantize(b) || !give(b, A, b->a, M * COLS)) return;
  NEED(b->k->plugin->quant->supports(b->k->dev, &q.q, &g.g) &&
           b->k->plugin->quant->gemm(b->k->stream, &q.q, &g.g, &err) == DS_OK,
       "descriptors that are longer must do as well: %s", err.message);
out:
  return;
}

/* No rows, no columns: nothing is touched, and a product without columns is its bias. */
static void empty(bench *b) {
  tally *t = b->t;
  ds_error err = {0};
  const float bias[ROWS] = {1, 2, 3, 4, 5, 6};
  const ds_quant_table *table = b->k->plugin->quant;
  ds_quant q = b->q;
  ds_quant_gemm g = {.size = sizeof g,
                     .m = M,
                     .lda = COLS,
                     .ldc = ROWS,
                     .a = address(b, A),
                     .bias = address(b, BIAS),
                     .c = address(b, C)};
  if (!give(b, BIAS, bias, ROWS)) return;
  q.cols = 0;
  NEED(table->gemm(b->k->stream, &q, &g, &err) == DS_OK, "a product without columns: %s",
       err.message);
  if (!take(b, C, b->c, M * ROWS)) return;
  for (int i = 0; i < M * ROWS; i++)
    NEED(b->c[i] == bias[i % ROWS], "without columns C is its bias; element %d is %g", i,
         (double)b->c[i]);
  NEED(table->quantize(b->k->stream, &q, NULL, &err) == DS_OK, "no columns: %s", err.message);
  g.m = 0;
  NEED(table->gemm(b->k->stream, &b->q, &g, &err) == DS_OK, "a product of no rows: %s",
       err.message);
  q = b->q;
  q.rows = 0;
  g.m = M;
  NEED(table->gemm(b->k->stream, &q, &g, &err) == DS_OK && /* C has no columns then */
           table->quantize(b->k->stream, &q, NULL, &err) == DS_OK &&
           table->dequantize(b->k->stream, &q, NULL, &err) == DS_OK,
       "a matrix without rows: %s", err.message);
out:
  return;
}

/* ---------------------------------------------------------------- all */

void cases_quant_special(conformance *k) {
  static const int32_t types[] = {DS_I8, DS_I4, DS_F8E4M3, DS_F8E5M2};
  static const struct {
    const char *name;
    void (*run)(bench *b);
  } all[] = {{"not finite", not_finite},
             {"denormal", smallest},
             {"refusals", refusals},
             {"longer", longer},
             {"empty", empty}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    tally t = {0};
    for (int form = 0; form < 32; form++) {
      bench b = {.k = k, .t = &t};
      b.q = (ds_quant){.size = sizeof b.q,
                       .flags = (form & 1 ? DS_QUANT_PER_TENSOR : 0) |
                                (form & 2 ? DS_QUANT_ASYMMETRIC : 0),
                       .qtype = types[form >> 3],
                       .dtype = form & 4 ? DS_BF16 : DS_F32,
                       .rows = ROWS,
                       .cols = COLS,
                       .group = GROUP};
      if (form & 2 && quant64_is_fp8(&b.q)) continue;
      t.cases++;
      if (!k->plugin->quant->supports(k->dev, &b.q, NULL))
        t.unsupported++;
      else if (bench_make(&b))
        all[i].run(&b);
      bench_drop(&b);
    }
    check_report(k, &t, "quant", all[i].name);
  }
}
