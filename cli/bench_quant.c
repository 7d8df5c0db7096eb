/* bench_quant.c - products with quantized weights: one row against the bandwidth of reading the
 * quantized values once, several rows against the multiply-add peak. */
#include "bench.h"

#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

enum { PAIRS_MAX = 64 };

typedef struct quant_bench {
  bench b;
  bench_common common;
  const char *dtype_text, *form_text; /* forms: NULL = all, else names with commas */
  option_list m_list, group_list;
  double seconds;
  int64_t rows, cols, pairs, working_set; /* MiB */
  int64_t m[BENCH_LIST_MAX], groups[BENCH_LIST_MAX];
  int n_m, n_groups, n_dtypes;
  int32_t dtypes[2];
} quant_bench;

/* One kind of product, and the matrices that it goes through in turn. */
typedef struct weights {
  ds_quant q; /* of the first */
  ds_quant_gemm g;
  int64_t count;                /* matrices */
  size_t values, scales, zeros; /* bytes of each */
  void *memory, *a, *c;
  size_t memory_bytes, a_bytes, c_bytes;
  bool dynamic;
} weights;

typedef struct quant_times {
  bench_samples gb_s, read_fraction; /* of one row */
  bench_samples gflops, peak_fraction;
} quant_times;

/* What one product has to move: values, scales, zero points, A and C, each once. */
static double bytes_of(const weights *w) {
  return (double)(w->values + w->scales + w->zeros + w->a_bytes + w->c_bytes);
}

static void describe(const quant_bench *t, int32_t qtype, uint32_t flags, int32_t dtype, int64_t m,
                     int64_t group, bool dynamic, weights *w) {
  size_t n = (size_t)(t->rows * t->cols), groups = (size_t)(t->rows * (t->cols / group));
  *w = (weights){.q = {.size = sizeof w->q,
                       .flags = flags,
                       .qtype = qtype,
                       .dtype = dtype,
                       .rows = t->rows,
                       .cols = t->cols,
                       .group = group},
                 .g = {.size = sizeof w->g,
                       .flags = dynamic ? DS_QUANT_GEMM_DYNAMIC : 0,
                       .m = m,
                       .lda = t->cols,
                       .ldc = t->rows},
                 .values = qtype == DS_I4 ? n / 2 : n,
                 .scales = groups * sizeof(float),
                 .zeros = flags & DS_QUANT_ASYMMETRIC ? groups : 0,
                 .a_bytes = (size_t)(m * t->cols) * ds_dtype_size(dtype),
                 .c_bytes = (size_t)(m * t->rows) * ds_dtype_size(dtype),
                 .dynamic = dynamic};
}

static size_t padded(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

/* Bytes from one matrix of the working set to the next. */
static size_t each(const weights *w) {
  return padded(w->values) + padded(w->scales) + padded(w->zeros);
}

/* Matrix i of the working set. */
static ds_quant matrix(const weights *w, int64_t i) {
  ds_quant q = w->q;
  char *at = (char *)w->memory + (size_t)i * each(w);
  q.values = at;
  q.scales = (float *)(at + padded(w->values));
  if (w->zeros) q.zeros = (int8_t *)(at + padded(w->values) + padded(w->scales));
  return q;
}

/* The first matrix is quantized from random numbers, the others are copies of it. */
static ds_status fill(quant_bench *t, weights *w, ds_error *err) {
  ds_backend *b = t->b.backend;
  size_t bytes = (size_t)(t->rows * t->cols) * ds_dtype_size(w->q.dtype);
  void *x = NULL;
  ds_quant first = matrix(w, 0);
  ds_status st = bench_make_random(b, w->q.dtype, bytes, &x, err);
  if (st == DS_OK) st = ds_backend_quantize(b, &first, x, err);
  if (st == DS_OK) st = ds_backend_sync(b, err);
  ds_backend_free(b, x, bytes);
  for (int64_t i = 1; i < w->count && st == DS_OK; i++)
    st = ds_backend_copy(b, (char *)w->memory + (size_t)i * each(w), w->memory, each(w), err);
  return st;
}

static ds_status prepare(quant_bench *t, weights *w, ds_error *err) {
  ds_backend *b = t->b.backend;
  w->count = 1 + (int64_t)(((size_t)t->working_set << 20) / each(w));
  w->memory_bytes = each(w) * (size_t)w->count;
  DS_TRY(ds_backend_alloc(b, w->memory_bytes, &w->memory, err));
  DS_TRY(bench_make_random(b, w->q.dtype, w->a_bytes, &w->a, err));
  DS_TRY(ds_backend_alloc(b, w->c_bytes, &w->c, err));
  w->g.a = w->a;
  w->g.c = w->c;
  return fill(t, w, err);
}

static void weights_finish(quant_bench *t, weights *w) {
  ds_backend_free(t->b.backend, w->memory, w->memory_bytes);
  ds_backend_free(t->b.backend, w->a, w->a_bytes);
  ds_backend_free(t->b.backend, w->c, w->c_bytes);
}

static ds_status time_calls(quant_bench *t, const weights *w, int64_t calls, double *seconds,
                            ds_error *err) {
  double start = cli_now();
  for (int64_t i = 0; i < calls; i++) {
    ds_quant q = matrix(w, i % w->count);
    DS_TRY(ds_backend_quant_gemm(t->b.backend, &q, &w->g, err));
  }
  DS_TRY(ds_backend_sync(t->b.backend, err));
  *seconds = cli_now() - start;
  return DS_OK;
}

/* Each group of calls stands between two probes: of reading for one row, else of the peak. */
static ds_status time_pairs(quant_bench *t, const weights *w, quant_times *out, ds_error *err) {
  bool one = w->g.m == 1;
  double flops = 2.0 * (double)w->g.m * (double)t->rows * (double)t->cols, once, seconds;
  DS_TRY(time_calls(t, w, w->count, &once, err)); /* makes what is made once */
  DS_TRY(time_calls(t, w, 1, &once, err));
  int64_t calls = once * 10000 > t->seconds ? 1 + (int64_t)(t->seconds / once) : 10000;
  double before = one ? bench_probe_read(t->b.probe) : bench_probe_peak(t->b.probe, w->q.dtype);
  for (int64_t i = 0; i < t->pairs; i++) {
    DS_TRY(time_calls(t, w, calls, &seconds, err));
    double after = one ? bench_probe_read(t->b.probe) : bench_probe_peak(t->b.probe, w->q.dtype);
    double rate = (double)calls / seconds;
    bench_samples_add(&out->gb_s, 1e-9 * bytes_of(w) * rate);
    bench_samples_add(&out->gflops, 1e-9 * flops * rate);
    if (t->b.probe)
      bench_samples_add(one ? &out->read_fraction : &out->peak_fraction,
                        1e-9 * (one ? bytes_of(w) : flops) * rate * 2 / (before + after));
    before = after;
  }
  return DS_OK;
}

static void report(quant_bench *t, const weights *w, const char *form, const quant_times *x) {
  bool one = w->g.m == 1;
  if (!t->common.json) {
    printf("%-14s %-5s group %-6lld m %-4lld %8.1f GF/s %7.1f GB/s", form,
           ds_dtype_name(w->q.dtype), (long long)w->q.group, (long long)w->g.m,
           bench_samples_median(&x->gflops), bench_samples_median(&x->gb_s));
    const bench_samples *f = one ? &x->read_fraction : &x->peak_fraction;
    if (t->b.probe)
      printf("   %.2f (%.2f to %.2f) of the %s", bench_samples_median(f), bench_samples_min(f),
             bench_samples_max(f), one ? "read bandwidth" : "peak");
    printf("\n");
    fflush(stdout);
  }
  cJSON *r = bench_result(&t->b);
  cJSON_AddStringToObject(r, "form", form);
  cJSON_AddStringToObject(r, "dtype", ds_dtype_name(w->q.dtype));
  cJSON_AddNumberToObject(r, "m", (double)w->g.m);
  cJSON_AddNumberToObject(r, "rows", (double)t->rows);
  cJSON_AddNumberToObject(r, "cols", (double)t->cols);
  cJSON_AddNumberToObject(r, "group", (double)w->q.group);
  cJSON_AddNumberToObject(r, "bytes", bytes_of(w));
  bench_samples_json(&x->gb_s, r, "gb_s");
  bench_samples_json(&x->gflops, r, "gflops");
  bench_samples_json(&x->read_fraction, r, "read_fraction");
  bench_samples_json(&x->peak_fraction, r, "peak_fraction");
}

static const struct {
  const char *name;
  int32_t qtype;
  uint32_t flags;
  bool dynamic;
} forms[] = {{"i8", DS_I8, 0, false},
             {"i4", DS_I4, 0, false},
             {"i8 asymmetric", DS_I8, DS_QUANT_ASYMMETRIC, false},
             {"i4 asymmetric", DS_I4, DS_QUANT_ASYMMETRIC, false},
             {"f8e4m3", DS_F8E4M3, 0, false},
             {"i8 dynamic", DS_I8, 0, true}};
enum { N_FORMS = sizeof forms / sizeof *forms };

static ds_status measure_one(quant_bench *t, int form, int32_t dtype, int64_t m, int64_t group,
                             ds_error *err) {
  weights w;
  quant_times x = {0};
  describe(t, forms[form].qtype, forms[form].flags, dtype, m, group, forms[form].dynamic, &w);
  const ds_quant_table *table = ds_backend_plugin(t->b.backend)->quant;
  if (!table->supports(ds_backend_raw_device(t->b.backend), &w.q, &w.g))
    return ds_fail(err, DS_ERR_UNSUPPORTED, "this backend does not take %s of %s", forms[form].name,
                   ds_dtype_name(dtype));
  ds_status st = prepare(t, &w, err);
  if (st == DS_OK) st = time_pairs(t, &w, &x, err);
  weights_finish(t, &w);
  if (st == DS_OK) report(t, &w, forms[form].name, &x);
  return st;
}

/* Whether a name is among those asked for. */
static bool wanted(const quant_bench *t, const char *name) {
  size_t n = strlen(name);
  for (const char *p = t->form_text; p; p = strchr(p, ',')) {
    p += *p == ',';
    if (strncmp(p, name, n) == 0 && (p[n] == ',' || p[n] == '\0')) return true;
  }
  return !t->form_text;
}

/* Whether every name of the list is a form's. */
static bool are_forms(const char *text) {
  for (const char *p = text; p; p = strchr(p, ',')) {
    p += p != text;
    bool known = false;
    for (int f = 0; f < N_FORMS; f++)
      known |= strlen(forms[f].name) == strcspn(p, ",") &&
               strncmp(p, forms[f].name, strcspn(p, ",")) == 0;
    if (!known) return false;
  }
  return true;
}

static ds_status measure_all(quant_bench *t, ds_error *err) {
  const ds_plugin *p = ds_backend_plugin(t->b.backend);
  if (!p->quant) return ds_fail(err, DS_ERR_UNSUPPORTED, "%s has no quant table", p->name);
  if (!t->common.json)
    printf("weights %lld x %lld, f32 scales; GB/s counts values, scales, zero points, A and C\n",
           (long long)t->rows, (long long)t->cols);
  for (int i = 0; i < t->n_m; i++)
    for (int f = 0; f < N_FORMS; f++)
      for (int g = 0; g < t->n_groups && wanted(t, forms[f].name); g++)
        for (int d = 0; d < t->n_dtypes; d++)
          DS_TRY(measure_one(t, f, t->dtypes[d], t->m[i], t->groups[g], err));
  return bench_report(&t->b, err);
}

static bool sizes_fit(const quant_bench *t) {
  const char *wrong = NULL;
  if (!are_forms(t->form_text))
    wrong = "--form knows i8, i4, i8 asymmetric, i4 asymmetric, f8e4m3 and i8 dynamic";
  if (t->rows < 1 || t->rows > 1 << 20) wrong = "--rows must be from 1 to 2^20";
  if (t->cols < 2 || t->cols > 1 << 20 || t->cols % 2)
    wrong = "--cols must be even and from 2 to 2^20";
  for (int i = 0; i < t->n_groups && !wrong; i++)
    if (t->cols % t->groups[i]) wrong = "every --group must divide --cols";
  if (!(t->seconds >= 0 && t->seconds <= 60)) wrong = "--seconds must be from 0 to 60";
  if (t->pairs < 1 || t->pairs > PAIRS_MAX) wrong = "--pairs must be from 1 to 64";
  if (t->working_set < 0 || t->working_set > 1 << 14) wrong = "--working-set must be up to 16384";
  if (wrong) fprintf(stderr, "ds bench quant: %s\n", wrong);
  return !wrong;
}

int bench_quant(int argc, char **argv) {
  quant_bench t = {.dtype_text = "both",
                   .seconds = 0.1,
                   .rows = 4096,
                   .cols = 14336,
                   .pairs = 5,
                   .working_set = 256,
                   .m = {1, 8, 512},
                   .n_m = 3,
                   .groups = {32, 128},
                   .n_groups = 2};
  option_list words;
  ds_error err;
  const command c = {
      "bench quant",
      "Times products with quantized weights [rows,cols]: one row of activations against the\n"
      "bandwidth of reading memory, more rows against the multiply-add peak of their type.",
      "[--m ROWS...] [--group N...] [--dtype f32|bf16|both] [--threads N] [--json]",
      "Several matrices are used in turn, so that they don't come out of a cache.",
      {{"--m", OPTION_LIST, &t.m_list, "ROWS", "rows of activations (1 8 512)"},
       {"--group", OPTION_LIST, &t.group_list, "N", "values that share a scale (32 128)"},
       {"--form", OPTION_STRING, &t.form_text, "NAMES", "\"i8,i4 asymmetric\" (all)"},
       {"--rows", OPTION_INT, &t.rows, "N", "rows of the weights (4096)"},
       {"--cols", OPTION_INT, &t.cols, "N", "columns of the weights (14336)"},
       {"--dtype", OPTION_STRING, &t.dtype_text, "TYPE", "f32, bf16 or both (both)"},
       {"--seconds", OPTION_NUMBER, &t.seconds, "S", "about how long a group of calls takes (0.1)"},
       {"--pairs", OPTION_INT, &t.pairs, "N", "groups of calls, each between two probes (5)"},
       {"--working-set", OPTION_INT, &t.working_set, "MIB", "of matrices in turn, at least (256)"},
       BENCH_COMMON_OPTIONS(&t.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0) {
    fprintf(stderr, "ds bench quant: unexpected \"%s\" (ds bench quant --help)\n", words.values[0]);
    return 2;
  }
  if (!bench_dtypes(c.name, t.dtype_text, t.dtypes, &t.n_dtypes) ||
      !bench_numbers(c.name, "--m", &t.m_list, 1 << 14, t.m, &t.n_m) ||
      !bench_numbers(c.name, "--group", &t.group_list, 1 << 20, t.groups, &t.n_groups) ||
      !sizes_fit(&t))
    return 2;
  ds_status status = bench_open("quant", &t.common, &t.b, &err);
  if (status == DS_OK) {
    status = measure_all(&t, &err);
    bench_finish(&t.b);
  }
  return status == DS_OK ? 0 : cli_fail("bench quant", &err);
}
