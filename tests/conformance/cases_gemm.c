/* cases_gemm.c - cases for the gemm table. */
#include "harness.h"

#include <stdio.h>
#include <string.h>

/* The packed form of B lies in out[1]: run writes it (pack_b) and then uses it. */
typedef struct gemm_call {
  ds_gemm g;
  bool packed;
  double scale; /* of DS_GEMM_SCALES, both together */
} gemm_call;

static int gemm_supports(conformance *k, const test_case *c) {
  const gemm_call *call = c->call;
  return k->plugin->gemm->supports(k->dev, &call->g);
}

static ds_status gemm_run(conformance *k, const test_case *c, void *const *in, void *const *out,
                          ds_error *err) {
  const gemm_call *call = c->call;
  ds_gemm g = call->g;
  g.a = in[0];
  g.b = in[1];
  g.bias = in[2];
  g.c = out[0];
  g.scale_a = in[3];
  g.scale_b = in[4];
  if (!call->packed) return k->plugin->gemm->run(k->stream, &g, err);
  ds_status st = k->plugin->gemm->pack_b(k->stream, &g, out[1], err);
  if (st != DS_OK) return st;
  g.flags |= DS_GEMM_PACKED_B;
  g.b = out[1];
  g.ldb = 0;
  return k->plugin->gemm->run(k->stream, &g, err);
}

static const call_hooks gemm_hooks = {gemm_supports, gemm_run};

static void gemm_reference(test_case *c) {
  const gemm_call *call = c->call;
  const ds_gemm *g = &call->g;
  double *mag = case_mag(c, 0);
  int64_t mk = g->m * g->k, kn = g->k * g->n, mn = g->m * g->n;
  for (int64_t b = 0; b < g->batch; b++) {
    gemm64 r = {.trans_a = g->flags & DS_GEMM_TRANS_A,
                .trans_b = g->flags & DS_GEMM_TRANS_B,
                .m = g->m,
                .n = g->n,
                .k = g->k,
                .ldc = g->n,
                .epilogue = g->epilogue,
                .alpha = g->alpha * call->scale,
                .a = c->in[0].val + (g->stride_a ? b * mk : 0),
                .b = c->in[1].val + (g->stride_b ? b * kn : 0),
                .bias = c->in[2].present ? c->in[2].val : NULL,
                .c = c->out[0].val + b * mn,
                .mag = mag + b * mn};
    r.lda = r.trans_a ? g->m : g->k;
    r.ldb = r.trans_b ? g->k : g->n;
    ref64_gemm(&r);
  }
}

typedef struct types {
  const char *name;
  int32_t a, b, c, bias;
} types;

static const types combinations[] = {
    {"f32", DS_F32, DS_F32, DS_F32, DS_F32},
    {"bf16", DS_BF16, DS_BF16, DS_BF16, DS_BF16},
    {"bf16,bf16,f32", DS_BF16, DS_BF16, DS_F32, DS_F32},
    {"bf16 bias f32", DS_BF16, DS_BF16, DS_BF16, DS_F32},
    {"f32,bf16,f32", DS_F32, DS_BF16, DS_F32, DS_F32},
    {"bf16,f32,f32", DS_BF16, DS_F32, DS_F32, DS_F32},
    {"f32,f32,bf16", DS_F32, DS_F32, DS_BF16, DS_F32},
    {"f32 bias bf16", DS_F32, DS_F32, DS_F32, DS_BF16},
    {"f16", DS_F16, DS_F16, DS_F16, DS_F16},
    {"f16,f16,f32", DS_F16, DS_F16, DS_F32, DS_F32},
    /* only with scales, which fp8 needs */
    {"f8e4m3,f8e4m3,f32", DS_F8E4M3, DS_F8E4M3, DS_F32, DS_F32},
    {"f8e4m3,f8e4m3,bf16", DS_F8E4M3, DS_F8E4M3, DS_BF16, DS_BF16},
    {"f8e5m2,f8e4m3,f32", DS_F8E5M2, DS_F8E4M3, DS_F32, DS_F32},
};
enum { COMBINATIONS = sizeof combinations / sizeof *combinations, WITH_FP8 = 3 };

static const types *chosen(const test_case *c) {
  return &combinations[c->variant];
}

/* A stored matrix [batch, rows, cols] with gaps at the end of rows and between matrices. */
static void stored(test_case *c, slot *s, int64_t rows, int64_t cols, int64_t *ld,
                   int64_t *stride) {
  int64_t gap = case_chance(c, 2) || c->big ? 0 : case_range(c, 1, 9);
  int64_t space = case_chance(c, 2) || c->big ? 0 : case_range(c, 1, 33);
  *ld = cols + gap;
  *stride = rows * *ld + space;
  if (!s->present) return;
  s->stride[0] = *stride;
  s->stride[1] = *ld;
}

static const op_spec gemm_spec, scaled_spec;

static void gemm_tensors(test_case *c, ds_gemm *g, bool bias) {
  const types *t = chosen(c);
  bool ta = g->flags & DS_GEMM_TRANS_A, tb = g->flags & DS_GEMM_TRANS_B;
  /* One matrix for all of the batch: a stride of 0. */
  bool one_a = g->batch > 1 && case_chance(c, 3), one_b = g->batch > 1 && case_chance(c, 3);
  const int64_t a[3] = {one_a ? 1 : g->batch, ta ? g->k : g->m, ta ? g->m : g->k};
  const int64_t b[3] = {one_b ? 1 : g->batch, tb ? g->n : g->k, tb ? g->k : g->n};
  const int64_t out[3] = {g->batch, g->m, g->n};
  case_normal(c, case_in(c, 0, t->a, 3, a), 0, 1);
  case_normal(c, case_in(c, 1, t->b, 3, b), 0, 1);
  if (bias) case_normal(c, case_in1(c, 2, t->bias, g->n), 0, 1);
  case_out(c, 0, t->c, 3, out);
  stored(c, &c->in[0], a[1], a[2], &g->lda, &g->stride_a);
  stored(c, &c->in[1], b[1], b[2], &g->ldb, &g->stride_b);
  stored(c, &c->out[0], g->m, g->n, &g->ldc, &g->stride_c);
  if (one_a) g->stride_a = 0;
  if (one_b) g->stride_b = 0;
  *g = (ds_gemm){.size = sizeof *g,
                 .flags = g->flags,
                 .m = g->m,
                 .n = g->n,
                 .k = g->k,
                 .lda = g->lda,
                 .ldb = g->ldb,
                 .ldc = g->ldc,
                 .batch = g->batch,
                 .stride_a = g->stride_a,
                 .stride_b = g->stride_b,
                 .stride_c = g->stride_c,
                 .dtype_a = t->a,
                 .dtype_b = t->b,
                 .dtype_c = t->c,
                 .dtype_bias = bias ? t->bias : DS_F32,
                 .epilogue = g->epilogue,
                 .alpha = g->alpha,
                 .beta = g->beta};
}

static void gemm_sizes(test_case *c, ds_gemm *g) {
  g->m = case_dim(c, 129);
  g->n = case_dim(c, 257);
  g->k = case_dim(c, 257);
  g->batch = 1;
  if (c->index == 7) { /* past the blocks of any kernel in all three */
    g->m = case_range(c, 130, 300);
    g->n = case_range(c, 257, 400);
    g->k = case_range(c, 257, 600);
    return;
  }
  switch (c->index % 8) {
    case 1:
      g->m = 1;
      g->k = case_dim(c, 1031);
      break;
    case 2: g->m = case_range(c, 2, 8); break;
    case 3:
      g->batch = case_range(c, 2, 5);
      g->n = case_dim(c, 65);
      break;
    case 4: g->n = 1; break;
    case 5: g->k = case_chance(c, 3) ? 0 : case_range(c, 1, 3); break;
    case 6:
      if (case_chance(c, 2))
        *(case_chance(c, 3) ? &g->m : case_chance(c, 2) ? &g->n : &g->batch) = 0;
      break;
    default: break;
  }
}

/* DS_GEMM_SCALES with both, one or none of them. */
static void add_scales(test_case *c, gemm_call *call) {
  static const double scales[] = {1, 0.03125, -2.7, 3e-6, 1.5e4};
  call->g.flags |= DS_GEMM_SCALES;
  for (int i = 3; i < 5; i++) {
    if (case_chance(c, 4)) continue;
    slot *s = case_in1(c, i, DS_F32, 1);
    s->val[0] = harness_round(DS_F32, scales[case_range(c, 0, 4)]);
    call->scale *= s->val[0];
  }
}

static void make_gemm(test_case *c) {
  gemm_call *call = harness_alloc(&c->mem, 1, sizeof *call);
  ds_gemm *g = &call->g;
  c->x = chosen(c)->c;
  c->call = call;
  g->flags = (uint32_t)(c->index + c->index / 8) & 3; /* all four with each kind of size */
  g->alpha = case_chance(c, 2) ? 1.0f : case_chance(c, 4) ? 0.0f : -0.3f;
  g->beta = case_chance(c, 3) ? 1 : 0;
  g->epilogue = c->index * 7 % 10 <= DS_EPILOGUE_SILU ? c->index * 7 % 10 : DS_EPILOGUE_NONE;
  gemm_sizes(c, g);
  gemm_tensors(c, g, case_chance(c, 2));
  call->scale = 1;
  if (c->spec != &gemm_spec) add_scales(c, call);
  if (g->beta == 0) return;
  slot *s = &c->out[0];
  s->prior = case_array(c, s->n);
  for (int64_t e = 0; e < s->n; e++) s->prior[e] = harness_round(s->dtype, harness_normal(&c->rng));
}

static const op_spec gemm_spec = {
    .id = 1000,
    .name = "gemm",
    .make = make_gemm,
    .reference = gemm_reference,
    /* sums of up to 1031 products in f32; the epilogue's exp and tanh */
    .tol = 2e-6,
    .hooks = &gemm_hooks};

static const op_spec scaled_spec = {.id = 1003,
                                    .name = "gemm",
                                    .make = make_gemm,
                                    .reference = gemm_reference,
                                    .tol = 2e-6, /* as gemm; two roundings of the scales */
                                    .hooks = &gemm_hooks};

/* Asks for the packed size and gives out[1] that room. Leaves the case alone if it is 0. */
static bool want_packed(conformance *k, test_case *c) {
  const ds_gemm_table *table = k->plugin->gemm;
  gemm_call *call = (gemm_call *)(uintptr_t)c->call;
  if (!DS_HAS(table, pack_size) || !table->pack_size || call->g.batch != 1) return false;
  if (!table->supports(k->dev, &call->g)) return false;
  size_t bytes = table->pack_size(k->dev, &call->g);
  if (bytes == 0) return false;
  slot *s = case_out1(c, 1, DS_U8, (int64_t)bytes);
  s->any = true;
  s->offset = 0;
  ds_gemm packed = call->g;
  packed.flags |= DS_GEMM_PACKED_B;
  packed.ldb = 0;
  call->packed = table->supports(k->dev, &packed) != 0;
  s->present = call->packed;
  return call->packed;
}

bool cases_gemm_sized(conformance *k, test_case *c, int variant, const int64_t *size, bool packed) {
  case_init(c, &gemm_spec, variant, 0, k->seed);
  gemm_call *call = harness_alloc(&c->mem, 1, sizeof *call);
  c->call = call;
  c->big = true;
  call->scale = 1;
  call->g = (ds_gemm){
      .flags = DS_GEMM_TRANS_B, .m = size[0], .n = size[1], .k = size[2], .batch = 1, .alpha = 1};
  gemm_tensors(c, &call->g, false);
  return !packed || want_packed(k, c);
}

static void must_take(const test_case *c, tally *t) {
  const ds_gemm *g = &((const gemm_call *)c->call)->g;
  char text[600];
  case_describe(c, text, sizeof text);
  check_fail(t,
             "every gemm table takes f32,f32,f32, but supports() is 0 for flags %u, alpha %g, "
             "beta %g, epilogue %d, %s",
             g->flags, (double)g->alpha, (double)g->beta, (int)g->epilogue, text);
}

/* How a line of the report is called, and what its cases are. */
typedef struct form {
  const char *name;
  const op_spec *spec;
  bool packed;
} form;

static void run_gemm(conformance *k, const form *f) {
  bool packed = f->packed, plain = f->spec == &gemm_spec && !packed;
  int last = f->spec == &scaled_spec ? COMBINATIONS : COMBINATIONS - WITH_FP8;
  for (int v = 0; v < last; v++) {
    tally t = {0};
    for (int n = 0; n < (v < 3 ? 2 : 1) * k->cases; n++) {
      test_case c;
      case_init(&c, f->spec, v, n, k->seed + packed);
      make_gemm(&c);
      int unsupported = t.unsupported;
      if (!packed || want_packed(k, &c)) check_case(k, &c, &t);
      if (v == 0 && plain && t.unsupported > unsupported) must_take(&c, &t);
      case_finish(&c);
    }
    if (packed && !t.cases) t.cases = t.unsupported = 1;
    check_report(k, &t, f->name, combinations[v].name);
  }
}

void cases_gemm(conformance *k) {
  if (!k->plugin->gemm) {
    tally t = {0};
    check_unsupported(&t, "the plugin has no gemm table");
    check_report(k, &t, "gemm", "");
    return;
  }
  static const form forms[] = {
      {"gemm", &gemm_spec, false}, {"packed", &gemm_spec, true}, {"scaled", &scaled_spec, false}};
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) run_gemm(k, &forms[i]);
}
