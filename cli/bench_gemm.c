#include "bench_gemm.h"

#include "tensor/tensor.h"

#include <stdlib.h>

enum { GROUPS = 3 };

static const struct {
  const char *name;
  int64_t n, k;
} layers[] = {{"qkv", 2304, 768},
              {"proj", 768, 768},
              {"fc", 3072, 768},
              {"fcproj", 768, 3072},
              {"lm_head", 50257, 768}};
enum { N_LAYERS = sizeof layers / sizeof *layers };

static const char *const pass_names[] = {"forward", "forward_packed", "dx", "dw"};

/* Device memory of one product. */
typedef struct operands {
  ds_backend *backend;
  void *a, *b, *c, *packed;
  size_t a_bytes, b_bytes, c_bytes, packed_bytes;
} operands;

static void operands_finish(operands *o) {
  ds_backend_free(o->backend, o->a, o->a_bytes);
  ds_backend_free(o->backend, o->b, o->b_bytes);
  ds_backend_free(o->backend, o->c, o->c_bytes);
  ds_backend_free(o->backend, o->packed, o->packed_bytes);
}

static ds_gemm describe(bench_gemm_pass pass, int32_t dtype, int64_t m, int64_t n, int64_t k) {
  ds_gemm g = {.size = sizeof g,
               .flags = DS_GEMM_TRANS_B,
               .m = m,
               .n = n,
               .k = k,
               .lda = k,
               .ldb = k,
               .ldc = n,
               .batch = 1,
               .dtype_a = dtype,
               .dtype_b = dtype,
               .dtype_c = dtype,
               .dtype_bias = dtype,
               .alpha = 1};
  if (pass == BENCH_GEMM_DX) {
    g.flags = 0;
    g.n = k, g.k = n;
    g.lda = n, g.ldb = k, g.ldc = k;
  } else if (pass == BENCH_GEMM_DW) {
    g.flags = DS_GEMM_TRANS_A;
    g.m = n, g.n = k, g.k = m;
    g.lda = n, g.ldb = k, g.ldc = k;
    g.dtype_c = DS_F32;
    g.beta = 1;
  }
  return g;
}

static ds_status prepare(operands *o, ds_gemm *g, bool pack, ds_error *err) {
  o->a_bytes = (size_t)(g->m * g->k) * ds_dtype_size(g->dtype_a);
  o->b_bytes = (size_t)(g->k * g->n) * ds_dtype_size(g->dtype_b);
  o->c_bytes = (size_t)(g->m * g->n) * ds_dtype_size(g->dtype_c);
  DS_TRY(bench_make_random(o->backend, g->dtype_a, o->a_bytes, &o->a, err));
  DS_TRY(bench_make_random(o->backend, g->dtype_b, o->b_bytes, &o->b, err));
  DS_TRY(bench_make_random(o->backend, g->dtype_c, o->c_bytes, &o->c, err));
  g->a = o->a;
  g->b = o->b;
  g->c = o->c;
  if (!pack) return DS_OK;
  size_t bytes = ds_backend_pack_size(o->backend, g);
  DS_TRY(ds_backend_alloc(o->backend, bytes, &o->packed, err));
  o->packed_bytes = bytes;
  DS_TRY(ds_backend_pack(o->backend, g, o->packed, err));
  g->b = o->packed;
  g->flags |= DS_GEMM_PACKED_B;
  return DS_OK;
}

static ds_status time_calls(ds_backend *b, const ds_gemm *g, int calls, double *seconds,
                            ds_error *err) {
  double start = cli_now();
  for (int i = 0; i < calls; i++) DS_TRY(ds_backend_gemm(b, g, err));
  DS_TRY(ds_backend_sync(b, err));
  *seconds = cli_now() - start;
  return DS_OK;
}

static ds_status time_groups(bench *b, const ds_gemm *g, double seconds, bench_gemm_times *out,
                             ds_error *err) {
  double flops = 2.0 * (double)g->m * (double)g->n * (double)g->k, once, before, after;
  DS_TRY(time_calls(b->backend, g, 1, &once, err)); /* makes what is made once */
  DS_TRY(time_calls(b->backend, g, 1, &once, err));
  int calls = once * 1000 > seconds ? 1 + (int)(seconds / once) : 1000;
  before = bench_probe_peak(b->probe, g->dtype_a);
  for (int i = 0; i < GROUPS; i++) {
    double t;
    DS_TRY(time_calls(b->backend, g, calls, &t, err));
    after = bench_probe_peak(b->probe, g->dtype_a);
    double rate = 1e-9 * flops * calls / t;
    bench_samples_add(&out->gflops, rate);
    if (b->probe) bench_samples_add(&out->fraction, 2 * rate / (before + after));
    before = after;
  }
  return DS_OK;
}

ds_status bench_gemm_measure(bench *b, bench_gemm_pass pass, int32_t dtype, int64_t m, int64_t n,
                             int64_t k, double seconds, bench_gemm_times *out, ds_error *err) {
  operands o = {.backend = b->backend};
  ds_gemm g = describe(pass, dtype, m, n, k);
  *out = (bench_gemm_times){0};
  if (pass == BENCH_GEMM_PACKED && ds_backend_pack_size(b->backend, &g) == 0) return DS_OK;
  ds_status status = prepare(&o, &g, pass == BENCH_GEMM_PACKED, err);
  if (status == DS_OK) status = time_groups(b, &g, seconds, out, err);
  operands_finish(&o);
  out->measured = status == DS_OK;
  return status;
}

typedef struct gemm_bench {
  bench b;
  bench_common common;
  const char *dtype_text;
  option_list m_list;
  double seconds;
  int64_t m[BENCH_LIST_MAX];
  int n_m, n_dtypes;
  int32_t dtypes[2];
} gemm_bench;

static ds_status measure_one(gemm_bench *t, int32_t dtype, int64_t m, int layer,
                             bench_gemm_pass pass, ds_error *err) {
  bench_gemm_times times;
  DS_TRY(bench_gemm_measure(&t->b, pass, dtype, m, layers[layer].n, layers[layer].k, t->seconds,
                            &times, err));
  double fraction = bench_samples_median(&times.fraction);
  if (!t->common.json) {
    char cell[48] = "-";
    int n = times.measured
                ? snprintf(cell, sizeof cell, "%.1f", bench_samples_median(&times.gflops))
                : 1;
    if (times.measured && t->b.probe)
      snprintf(cell + n, sizeof cell - (size_t)n, " (%.2f)", fraction);
    printf("  %-16s", cell);
  }
  fflush(stdout);
  if (!times.measured) return DS_OK;
  cJSON *r = bench_result(&t->b);
  cJSON_AddStringToObject(r, "layer", layers[layer].name);
  cJSON_AddStringToObject(r, "pass", pass_names[pass]);
  cJSON_AddStringToObject(r, "dtype", ds_dtype_name(dtype));
  cJSON_AddNumberToObject(r, "m", (double)m);
  cJSON_AddNumberToObject(r, "n", (double)layers[layer].n);
  cJSON_AddNumberToObject(r, "k", (double)layers[layer].k);
  bench_samples_json(&times.gflops, r, "gflops");
  bench_add_number(r, "peak_fraction", fraction);
  return DS_OK;
}

static ds_status measure_block(gemm_bench *t, int32_t dtype, int64_t m, ds_error *err) {
  if (!t->common.json) {
    printf("\n%s, %lld rows, GF/s (fraction of the peak)\n%-9s", ds_dtype_name(dtype), (long long)m,
           "");
    for (int p = 0; p < BENCH_GEMM_PASSES; p++) printf("  %-16s", pass_names[p]);
    printf("\n");
  }
  for (int l = 0; l < N_LAYERS; l++) {
    if (!t->common.json) printf("%-9s", layers[l].name);
    for (int p = 0; p < BENCH_GEMM_PASSES; p++)
      DS_TRY(measure_one(t, dtype, m, l, (bench_gemm_pass)p, err));
    if (!t->common.json) printf("\n");
  }
  return DS_OK;
}

static ds_status measure_all(gemm_bench *t, ds_error *err) {
  for (int d = 0; d < t->n_dtypes; d++)
    for (int i = 0; i < t->n_m; i++) DS_TRY(measure_block(t, t->dtypes[d], t->m[i], err));
  return bench_report(&t->b, err);
}

int bench_gemm(int argc, char **argv) {
  gemm_bench t = {.dtype_text = "both", .seconds = 0.05, .m = {256, 1024}, .n_m = 2};
  option_list words;
  ds_error err;
  const command c = {
      "bench gemm",
      "Times the matrix products of GPT-2 124M's layers through the backend: forward, gradient of\n"
      "the input (dx) and of the weight (dw).",
      "[--m ROWS...] [--dtype f32|bf16|both] [--threads N] [--json]",
      "A forward product whose weight was packed beforehand is what inference runs.",
      {{"--m", OPTION_LIST, &t.m_list, "ROWS", "rows: batch x sequence length (256 1024)"},
       {"--dtype", OPTION_STRING, &t.dtype_text, "TYPE", "f32, bf16 or both (both)"},
       {"--seconds", OPTION_NUMBER, &t.seconds, "S",
        "about how long a group of calls takes (0.05)"},
       BENCH_COMMON_OPTIONS(&t.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0) {
    fprintf(stderr, "ds bench gemm: unexpected \"%s\" (ds bench gemm --help)\n", words.values[0]);
    return 2;
  }
  if (!(t.seconds >= 0 && t.seconds <= 60)) {
    fprintf(stderr, "ds bench gemm: --seconds must be from 0 to 60\n");
    return 2;
  }
  if (!bench_dtypes(c.name, t.dtype_text, t.dtypes, &t.n_dtypes) ||
      !bench_numbers(c.name, "--m", &t.m_list, 1 << 20, t.m, &t.n_m))
    return 2;
  ds_status status = bench_open("gemm", &t.common, &t.b, &err);
  if (status == DS_OK) {
    status = measure_all(&t, &err);
    bench_finish(&t.b);
  }
  return status == DS_OK ? 0 : cli_fail("bench gemm", &err);
}
