/* bench_decode.c - generation at batch 1: tokens against the time it takes to read the weights
 * once, prompts against the products they are made of. */
#include "bench.h"
#include "bench_alloc.h"
#include "bench_gemm.h"
#include "bench_model.h"

#include "base/rng.h"
#include "base/str.h"
#include "tensor/tensor.h"

#include <stdlib.h>

enum { PROMPTS_MAX = 1 << 16 };

typedef struct decode_bench {
  bench b;
  bench_common common;
  bench_model model;
  const char *model_path, *dtype_text;
  int64_t prompt, tokens, long_prompt, runs;
  int n_dtypes;
  int32_t dtypes[2];
  int32_t *ids;
} decode_bench;

typedef struct decode_times {
  bench_samples tokens_per_s, gb_s, read_fraction;     /* token by token */
  bench_samples prompt_gflops, gemm_fraction, of_peak; /* a long prompt */
  bench_samples gemm_gflops;                           /* a large product, beside it */
  double allocs_per_token;
  uint64_t fallbacks;
} decode_times;

static ds_status generate(decode_bench *t, ds_inference *e, int64_t prompt, int64_t new_tokens,
                          ds_generate_times *times, ds_error *err) {
  ds_generate_args args = DS_GENERATE_ARGS_INIT;
  int32_t *tokens;
  size_t n;
  args.max_new_tokens = new_tokens;
  args.eos_token = -2;
  DS_TRY(ds_inference_generate(e, t->ids, (size_t)prompt, &args, &tokens, &n, err));
  free(tokens);
  times->size = sizeof *times;
  return ds_inference_times(e, times, err);
}

/* One token comes of the prompt, the others by reading all weights each. */
static ds_status time_tokens(decode_bench *t, ds_inference *e, double bytes, decode_times *out,
                             ds_error *err) {
  ds_generate_times times;
  DS_TRY(generate(t, e, t->prompt, 3, &times, err));
  bench_alloc_reset();
  double before = bench_probe_read(t->b.probe);
  for (int64_t i = 0; i < t->runs; i++) {
    bench_alloc_start();
    ds_status status = generate(t, e, t->prompt, t->tokens + 1, &times, err);
    bench_alloc_stop();
    DS_TRY(status);
    double after = bench_probe_read(t->b.probe);
    double rate = (double)times.decode_tokens / times.decode_seconds;
    bench_samples_add(&out->tokens_per_s, rate);
    bench_samples_add(&out->gb_s, 1e-9 * bytes * rate);
    if (t->b.probe) bench_samples_add(&out->read_fraction, 2e-9 * bytes * rate / (before + after));
    before = after;
  }
  out->allocs_per_token = (double)bench_alloc_calls() / (double)(t->runs * t->tokens);
  return DS_OK;
}

/* The fastest of the products that a prompt is made of, alone: packed weights, as many rows. */
static ds_status time_product(decode_bench *t, int32_t dtype, double *gflops, double *of_peak,
                              ds_error *err) {
  int64_t width = t->model.width, rows = t->long_prompt < 512 ? t->long_prompt : 512;
  bench_gemm_times times;
  DS_TRY(bench_gemm_measure(&t->b, BENCH_GEMM_PACKED, dtype, rows, 4 * width, width, 0.05, &times,
                            err));
  if (!times.measured)
    DS_TRY(bench_gemm_measure(&t->b, BENCH_GEMM_FORWARD, dtype, rows, 4 * width, width, 0.05,
                              &times, err));
  *gflops = bench_samples_max(&times.gflops);
  *of_peak = bench_samples_median(&times.fraction);
  return DS_OK;
}

static ds_status time_prompt(decode_bench *t, ds_inference *e, int32_t dtype, decode_times *out,
                             ds_error *err) {
  double flops = bench_model_prompt_flops(&t->model, t->long_prompt), before, after, of_peak;
  ds_generate_times times;
  DS_TRY(generate(t, e, t->long_prompt, 1, &times, err));
  DS_TRY(time_product(t, dtype, &before, &of_peak, err));
  for (int64_t i = 0; i < t->runs; i++) {
    DS_TRY(generate(t, e, t->long_prompt, 1, &times, err));
    double peak = bench_probe_peak(t->b.probe, dtype);
    DS_TRY(time_product(t, dtype, &after, &of_peak, err));
    double rate = 1e-9 * flops / times.prompt_seconds;
    bench_samples_add(&out->prompt_gflops, rate);
    bench_samples_add(&out->gemm_gflops, 0.5 * (before + after));
    bench_samples_add(&out->gemm_fraction, 2 * rate / (before + after));
    if (t->b.probe) bench_samples_add(&out->of_peak, rate / peak);
    before = after;
  }
  return DS_OK;
}

static ds_status run_engine(decode_bench *t, int32_t dtype, decode_times *out, ds_error *err) {
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  ds_inference *e = NULL;
  ds_backend_stats stats = {.size = sizeof stats};
  char *config =
      ds_format("{\"dtype\":\"%s\",\"max_out_tokens\":%lld,\"backend\":%s}", ds_dtype_name(dtype),
                (long long)t->model.info.max_positions, t->b.section);
  ds_status status = config ? DS_OK : ds_fail_memory(err, "config");
  args.model = t->model.model;
  args.config = config;
  args.log = t->model_path ? cli_log : NULL; /* random weights are meant, not warned of */
  if (status == DS_OK) status = ds_init_inference(&args, &e, err);
  if (status == DS_OK)
    status = time_tokens(t, e, t->model.weights * (double)ds_dtype_size(dtype), out, err);
  if (status == DS_OK) status = time_prompt(t, e, dtype, out, err);
  if (status == DS_OK) status = ds_inference_backend_stats(e, &stats, err);
  out->fallbacks = stats.fallback_ops;
  ds_inference_destroy(e);
  free(config);
  return status;
}

static void print_times(const decode_bench *t, const decode_times *x) {
  printf("  token by token  %9.1f tokens/s (%.1f to %.1f), %.1f GB/s of weights",
         bench_samples_median(&x->tokens_per_s), bench_samples_min(&x->tokens_per_s),
         bench_samples_max(&x->tokens_per_s), bench_samples_median(&x->gb_s));
  if (t->b.probe) printf(", %.2f of the read bandwidth", bench_samples_median(&x->read_fraction));
  printf("\n  prompt          %9.1f GF/s, %.2f of a product's %.1f",
         bench_samples_median(&x->prompt_gflops), bench_samples_median(&x->gemm_fraction),
         bench_samples_median(&x->gemm_gflops));
  if (t->b.probe) printf(", %.2f of the peak", bench_samples_median(&x->of_peak));
  printf("\n  allocations     host %.2f a token; fallbacks %llu\n", x->allocs_per_token,
         (unsigned long long)x->fallbacks);
}

static void add_result(decode_bench *t, int32_t dtype, const decode_times *x) {
  cJSON *r = bench_result(&t->b);
  cJSON_AddStringToObject(r, "model", ds_model_name(t->model.model));
  cJSON_AddNumberToObject(r, "params", t->model.params);
  cJSON_AddStringToObject(r, "dtype", ds_dtype_name(dtype));
  cJSON_AddNumberToObject(r, "prompt_tokens", (double)t->prompt);
  cJSON_AddNumberToObject(r, "new_tokens", (double)t->tokens);
  bench_samples_json(&x->tokens_per_s, r, "tokens_per_s");
  cJSON_AddNumberToObject(r, "weight_bytes", t->model.weights * (double)ds_dtype_size(dtype));
  bench_samples_json(&x->gb_s, r, "weight_gb_s");
  bench_add_number(r, "read_fraction", bench_samples_median(&x->read_fraction));
  cJSON_AddNumberToObject(r, "long_prompt_tokens", (double)t->long_prompt);
  bench_samples_json(&x->prompt_gflops, r, "prompt_gflops");
  bench_samples_json(&x->gemm_gflops, r, "gemm_gflops");
  bench_add_number(r, "gemm_fraction", bench_samples_median(&x->gemm_fraction));
  bench_add_number(r, "peak_fraction", bench_samples_median(&x->of_peak));
  if (bench_alloc_counts())
    cJSON_AddNumberToObject(r, "host_allocs_per_token", x->allocs_per_token);
  cJSON_AddNumberToObject(r, "fallback_ops", (double)x->fallbacks);
}

static ds_status prepare(decode_bench *t, ds_error *err) {
  DS_TRY(bench_model_open(t->model_path, &t->model, err));
  int64_t most = t->model.info.max_positions, longest = t->prompt + t->tokens + 1;
  if (t->long_prompt + 1 > longest) longest = t->long_prompt + 1;
  if (longest > most)
    return ds_fail(err, DS_ERR_INVALID,
                   "%lld tokens in all are more than the model's %lld positions",
                   (long long)longest, (long long)most);
  t->ids = malloc((size_t)longest * sizeof *t->ids);
  if (!t->ids) return ds_fail_memory(err, "random tokens");
  ds_rng rng;
  ds_rng_init(&rng, 1, 0);
  for (int64_t i = 0; i < longest; i++)
    t->ids[i] = (int32_t)ds_rng_below(&rng, (uint64_t)t->model.info.vocab_size);
  return DS_OK;
}

static ds_status measure_all(decode_bench *t, ds_error *err) {
  ds_status status = prepare(t, err);
  for (int d = 0; d < t->n_dtypes && status == DS_OK; d++) {
    decode_times x = {0};
    if (!t->common.json)
      printf("\n%s, %.1f M parameters, %s, batch 1: %lld tokens after %lld; a prompt of %lld\n",
             ds_model_name(t->model.model), 1e-6 * t->model.params, ds_dtype_name(t->dtypes[d]),
             (long long)t->tokens, (long long)t->prompt, (long long)t->long_prompt);
    fflush(stdout);
    status = run_engine(t, t->dtypes[d], &x, err);
    if (status != DS_OK) break;
    add_result(t, t->dtypes[d], &x);
    if (!t->common.json) print_times(t, &x);
  }
  if (status == DS_OK) status = bench_report(&t->b, err);
  free(t->ids);
  bench_model_finish(&t->model);
  return status;
}

static bool in_range(const char *name, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return true;
  fprintf(stderr, "ds bench decode: %s may be 1 to %lld\n", name, (long long)max);
  return false;
}

int bench_decode(int argc, char **argv) {
  decode_bench t = {
      .dtype_text = "both", .prompt = 64, .tokens = 64, .long_prompt = 512, .runs = 3};
  option_list words;
  ds_error err;
  const command c = {
      "bench decode",
      "Times generation at batch 1: token by token against the bandwidth of reading the weights, "
      "and\n"
      "the reading of a long prompt against a large matrix product.",
      "[--model M] [--dtype f32|bf16|both] [--prompt N] [--tokens N] [--long-prompt N] [--json]",
      NULL,
      {{"--model", OPTION_STRING, &t.model_path, "M",
        "a Hugging Face folder or config.json (GPT-2 124M, random)"},
       {"--dtype", OPTION_STRING, &t.dtype_text, "TYPE", "f32, bf16 or both (both)"},
       {"--prompt", OPTION_INT, &t.prompt, "N", "tokens before the generated ones (64)"},
       {"--tokens", OPTION_INT, &t.tokens, "N", "tokens to generate (64)"},
       {"--long-prompt", OPTION_INT, &t.long_prompt, "N", "tokens of the prompt to time (512)"},
       {"--runs", OPTION_INT, &t.runs, "N", "how often (3)"},
       BENCH_COMMON_OPTIONS(&t.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0) {
    fprintf(stderr, "ds bench decode: unexpected \"%s\" (ds bench decode --help)\n",
            words.values[0]);
    return 2;
  }
  if (!in_range("--prompt", t.prompt, PROMPTS_MAX) ||
      !in_range("--tokens", t.tokens, PROMPTS_MAX) ||
      !in_range("--long-prompt", t.long_prompt, PROMPTS_MAX) ||
      !in_range("--runs", t.runs, BENCH_SAMPLES_MAX) ||
      !bench_dtypes(c.name, t.dtype_text, t.dtypes, &t.n_dtypes))
    return 2;
  ds_status status = bench_open("decode", &t.common, &t.b, &err);
  if (status == DS_OK) {
    status = measure_all(&t, &err);
    bench_finish(&t.b);
  }
  return status == DS_OK ? 0 : cli_fail("bench decode", &err);
}
