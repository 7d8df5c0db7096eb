/* bench_train.c - training steps through the public API: how long they take, what of it is the
 * engine's own, what they allocate, and how near they come to the machine's peak. */
#include "bench.h"
#include "bench_alloc.h"
#include "bench_model.h"
#include "bench_peer.h"

#include "base/rng.h"
#include "base/str.h"
#include "tensor/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { WARM_UP = 2 };

typedef struct train_bench {
  bench b;
  bench_common common;
  bench_model model;
  const char *model_path, *dtype_text, *peer_unit;
  bench_peer peer;
  option_list seq_list;
  int64_t batch, steps, stage, seq[BENCH_LIST_MAX];
  bool alone; /* communication waits for the passes */
  int n_seq, n_dtypes;
  int32_t dtypes[2];
} train_bench;

/* What the timed steps of one configuration gave. */
typedef struct train_times {
  bench_samples ms, cpu_ms, outside_ms, gflops, fraction;
  uint64_t device_allocs, fallbacks, page_faults;
} train_times;

static char *config_text(const train_bench *t, int32_t dtype) {
  return ds_format("{\"train_batch_size\":%lld,\"bf16\":{\"enabled\":%s},"
                   "\"zero_optimization\":{\"stage\":%lld,\"overlap_comm\":%s},"
                   "\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"lr\":1e-4}},\"backend\":%s}",
                   (long long)t->batch, dtype == DS_BF16 ? "true" : "false", (long long)t->stage,
                   t->alone ? "false" : "true", t->b.section);
}

/* Random tokens, enough for every step to see new ones. */
static ds_status make_dataset(const train_bench *t, int64_t seq_len, ds_dataset **out,
                              ds_error *err) {
  size_t n = (size_t)(t->batch * (t->steps + WARM_UP) * seq_len + 1);
  int32_t *ids = malloc(n * sizeof *ids);
  *out = NULL;
  if (!ids) return ds_fail_memory(err, "random tokens");
  ds_rng rng;
  ds_rng_init(&rng, 1, 0);
  for (size_t i = 0; i < n; i++)
    ids[i] = (int32_t)ds_rng_below(&rng, (uint64_t)t->model.info.vocab_size);
  ds_status status = ds_dataset_tokens(ids, n, seq_len, t->model.info.vocab_size, out, err);
  free(ids);
  return status;
}

static uint64_t page_faults(void) {
  struct rusage r;
  return getrusage(RUSAGE_SELF, &r) == 0 ? (uint64_t)r.ru_minflt : 0;
}

/* Of all threads; well below their number times the clock's, somebody else had the cores. */
static double cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ds_status time_step(train_bench *t, ds_engine *e, int32_t dtype, double flops,
                           train_times *out, ds_error *err) {
  ds_backend_stats s0 = {.size = sizeof s0}, s1 = {.size = sizeof s1};
  float loss;
  double before = bench_probe_peak(t->b.probe, dtype);
  DS_TRY(ds_engine_backend_stats(e, &s0, err));
  uint64_t faults = page_faults();
  bench_alloc_start();
  double start = cli_now(), cpu_start = cpu_seconds();
  ds_status status = ds_engine_train_batch(e, &loss, err);
  double seconds = cli_now() - start, cpu = cpu_seconds() - cpu_start;
  bench_alloc_stop();
  out->page_faults += page_faults() - faults;
  DS_TRY(status);
  DS_TRY(ds_engine_backend_stats(e, &s1, err));
  double after = bench_probe_peak(t->b.probe, dtype), rate = 1e-9 * flops / seconds;
  if (!isfinite(loss)) return ds_fail(err, DS_ERR_NUMERIC, "the loss is %g", (double)loss);
  bench_samples_add(&out->ms, 1e3 * seconds);
  bench_samples_add(&out->cpu_ms, 1e3 * cpu);
  bench_samples_add(&out->outside_ms, 1e3 * (seconds - s1.backend_seconds + s0.backend_seconds));
  bench_samples_add(&out->gflops, rate);
  if (t->b.probe) bench_samples_add(&out->fraction, 2 * rate / (before + after));
  out->device_allocs += s1.device_allocs - s0.device_allocs;
  out->fallbacks += s1.fallback_ops - s0.fallback_ops;
  return DS_OK;
}

/* The memory's bandwidth is no limit of a whole step, but tells in which mode the machine is. */
static ds_status time_steps(train_bench *t, ds_engine *e, int32_t dtype, int64_t seq_len,
                            train_times *out, ds_error *err) {
  double flops = bench_model_train_flops(&t->model, t->batch, seq_len);
  float loss;
  for (int i = 0; i < WARM_UP; i++) DS_TRY(ds_engine_train_batch(e, &loss, err));
  bench_probe_read(t->b.probe);
  bench_alloc_reset();
  for (int64_t i = 0; i < t->steps; i++) DS_TRY(time_step(t, e, dtype, flops, out, err));
  bench_probe_read(t->b.probe);
  return DS_OK;
}

static ds_status run_engine(train_bench *t, int32_t dtype, int64_t seq_len, train_times *out,
                            ds_error *err) {
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  ds_engine *engine = NULL;
  ds_dataset *data = NULL;
  char *config = config_text(t, dtype);
  ds_status status = config ? make_dataset(t, seq_len, &data, err) : ds_fail_memory(err, "config");
  args.model = t->model.model;
  args.training_data = data;
  args.config = config;
  args.log = cli_log;
  if (status == DS_OK) status = ds_initialize(&args, &engine, NULL, NULL, NULL, err);
  if (status == DS_OK) status = time_steps(t, engine, dtype, seq_len, out, err);
  ds_engine_destroy(engine);
  ds_dataset_destroy(data);
  free(config);
  return status;
}

static void print_times(const train_bench *t, const train_times *x, double tokens, double outside) {
  char allocs[400];
  bench_alloc_describe(allocs, sizeof allocs);
  printf("  step            %9.1f ms (%.1f to %.1f)   %.1f tokens/s\n",
         bench_samples_median(&x->ms), bench_samples_min(&x->ms), bench_samples_max(&x->ms),
         tokens * 1e3 / bench_samples_median(&x->ms));
  double cores = bench_samples_median(&x->cpu_ms) / bench_samples_median(&x->ms);
  bool shared = t->b.probe && cores < 0.8 * bench_threads(&t->b);
  printf("  processor time  %9.1f ms, %.2f cores%s\n", bench_samples_median(&x->cpu_ms), cores,
         shared ? ": others are at work on this machine, measure again" : "");
  printf("  arithmetic      %9.1f GF/s", bench_samples_median(&x->gflops));
  if (t->b.probe) printf(", %.2f of the peak", bench_samples_median(&x->fraction));
  printf("\n  outside backend %9.3f ms, %.2f %% of the step%s\n",
         bench_samples_median(&x->outside_ms), 100 * outside,
         t->b.probe ? "" : " (a device works on after calls return)");
  printf("  allocations     host %s; device %llu; page faults %llu; fallbacks %llu\n", allocs,
         (unsigned long long)x->device_allocs, (unsigned long long)x->page_faults,
         (unsigned long long)x->fallbacks);
}

static cJSON *add_result(train_bench *t, int32_t dtype, int64_t seq_len, const train_times *x,
                         double outside) {
  double ms = bench_samples_median(&x->ms), tokens = (double)(t->batch * seq_len);
  cJSON *r = bench_result(&t->b);
  cJSON_AddStringToObject(r, "model", ds_model_name(t->model.model));
  cJSON_AddNumberToObject(r, "params", t->model.params);
  cJSON_AddStringToObject(r, "dtype", ds_dtype_name(dtype));
  cJSON_AddNumberToObject(r, "batch", (double)t->batch);
  cJSON_AddNumberToObject(r, "seq_len", (double)seq_len);
  cJSON_AddNumberToObject(r, "steps", x->ms.count);
  bench_samples_json(&x->ms, r, "ms_per_step");
  bench_samples_json(&x->cpu_ms, r, "cpu_ms_per_step");
  bench_add_number(r, "tokens_per_s", 1e3 * tokens / ms);
  bench_add_number(r, "flops_per_step", bench_model_train_flops(&t->model, t->batch, seq_len));
  bench_samples_json(&x->gflops, r, "gflops");
  bench_add_number(r, "peak_fraction", bench_samples_median(&x->fraction));
  bench_samples_json(&x->outside_ms, r, "outside_backend_ms");
  bench_add_number(r, "outside_backend_fraction", outside);
  bench_alloc_json(r);
  cJSON_AddNumberToObject(r, "device_allocs", (double)x->device_allocs);
  cJSON_AddNumberToObject(r, "page_faults", (double)x->page_faults);
  cJSON_AddNumberToObject(r, "fallback_ops", (double)x->fallbacks);
  return r;
}

static ds_status measure(train_bench *t, int32_t dtype, int64_t seq_len, cJSON **result,
                         ds_error *err) {
  train_times x = {0};
  if (!t->common.json)
    printf("\n%s, %.1f M parameters, %s, B=%lld, T=%lld\n", ds_model_name(t->model.model),
           1e-6 * t->model.params, ds_dtype_name(dtype), (long long)t->batch, (long long)seq_len);
  fflush(stdout);
  DS_TRY(run_engine(t, dtype, seq_len, &x, err));
  double outside = bench_samples_median(&x.outside_ms) / bench_samples_median(&x.ms);
  *result = add_result(t, dtype, seq_len, &x, outside);
  if (!t->common.json) print_times(t, &x, (double)(t->batch * seq_len), outside);
  fflush(stdout);
  return DS_OK;
}

static ds_status run_peer(const train_bench *t, int64_t seq_len, bench_samples *out,
                          ds_error *err) {
  double rate;
  if (!t->peer.command) return DS_OK;
  DS_TRY(bench_peer_run(&t->peer, t->batch, seq_len, bench_threads(&t->b), &rate, err));
  bench_samples_add(out, rate);
  return DS_OK;
}

static void add_peer(const train_bench *t, cJSON *r, int32_t dtype, const bench_samples *peer) {
  double ours = cJSON_GetNumberValue(cJSON_GetObjectItem(r, "tokens_per_s"));
  double ratio = ours / bench_samples_median(peer);
  bench_samples_json(peer, r, "peer_tokens_per_s");
  bench_add_number(r, "peer_ratio", ratio);
  if (!t->common.json)
    printf("  %s is %.2f times the peer's %.1f tokens/s (%.1f before, %.1f after)\n",
           ds_dtype_name(dtype), ratio, bench_samples_median(peer), peer->values[0],
           peer->values[1]);
}

/* All dtypes of one length, between two runs of the peer. */
static ds_status measure_length(train_bench *t, int64_t seq_len, ds_error *err) {
  bench_samples peer = {0};
  cJSON *results[2] = {NULL, NULL};
  DS_TRY(run_peer(t, seq_len, &peer, err));
  for (int d = 0; d < t->n_dtypes; d++) DS_TRY(measure(t, t->dtypes[d], seq_len, &results[d], err));
  DS_TRY(run_peer(t, seq_len, &peer, err));
  for (int d = 0; d < t->n_dtypes && t->peer.command; d++)
    add_peer(t, results[d], t->dtypes[d], &peer);
  return DS_OK;
}

static ds_status measure_all(train_bench *t, ds_error *err) {
  ds_status status = bench_model_open(t->model_path, &t->model, err);
  for (int i = 0; i < t->n_seq && status == DS_OK; i++) {
    if (t->seq[i] > t->model.info.max_positions)
      status =
          ds_fail(err, DS_ERR_INVALID, "--seq-len %lld is more than the model's %lld positions",
                  (long long)t->seq[i], (long long)t->model.info.max_positions);
    else
      status = measure_length(t, t->seq[i], err);
  }
  if (status == DS_OK) status = bench_report(&t->b, err);
  bench_model_finish(&t->model);
  return status;
}

static bool check(train_bench *t, const char *who, const option_list *words) {
  bool ms = strcmp(t->peer_unit, "ms") == 0;
  t->peer.milliseconds = ms;
  if (words->count > 0) {
    fprintf(stderr, "ds %s: unexpected \"%s\" (ds %s --help)\n", who, words->values[0], who);
    return false;
  }
  if (t->stage < 0 || t->stage > 3) {
    fprintf(stderr, "ds %s: --stage may be 0 to 3\n", who);
    return false;
  }
  if (t->batch < 1 || t->batch > 4096 || t->steps < 1 || t->steps > BENCH_SAMPLES_MAX) {
    fprintf(stderr, "ds %s: --batch may be 1 to 4096, --steps 1 to %d\n", who, BENCH_SAMPLES_MAX);
    return false;
  }
  if (!ms && strcmp(t->peer_unit, "tokens/s") != 0) {
    fprintf(stderr, "ds %s: --peer-unit is \"%s\"; it may be ms or tokens/s\n", who, t->peer_unit);
    return false;
  }
  return bench_dtypes(who, t->dtype_text, t->dtypes, &t->n_dtypes) &&
         bench_numbers(who, "--seq-len", &t->seq_list, 1 << 20, t->seq, &t->n_seq);
}

int bench_train(int argc, char **argv) {
  train_bench t = {.dtype_text = "both",
                   .peer = {.pattern = "took ([0-9.]+) ms"},
                   .peer_unit = "ms",
                   .batch = 4,
                   .steps = 5,
                   .seq = {64, 256},
                   .n_seq = 2};
  option_list words;
  ds_error err;
  const command c = {
      "bench train",
      "Times training steps on random tokens: GPT-2 124M with random weights, or another model. "
      "Two\n"
      "steps warm up (first touch of the memory) and are not timed.",
      "[--model M] [--batch B] [--seq-len T...] [--dtype f32|bf16|both] [--steps N] [--json]",
      "A peer's command runs before and after ours for each length; {B}, {T} and {threads} in it "
      "are\n"
      "filled in. bench/compare-llmc uses this. Under mpirun the ranks train together, each times\n"
      "the same steps, and rank 0 prints; --batch is that of all ranks (bench/compare-ranks).",
      {{"--model", OPTION_STRING, &t.model_path, "M", "a Hugging Face folder or config.json"},
       {"--batch", OPTION_INT, &t.batch, "B", "sequences a step (4)"},
       {"--seq-len", OPTION_LIST, &t.seq_list, "T", "tokens a sequence (64 256)"},
       {"--dtype", OPTION_STRING, &t.dtype_text, "TYPE", "f32, bf16 or both (both)"},
       {"--steps", OPTION_INT, &t.steps, "N", "steps to time (5)"},
       {"--stage", OPTION_INT, &t.stage, "S", "ZeRO's stage (0)"},
       {"--no-overlap", OPTION_FLAG, &t.alone, NULL, "no communication beside the passes"},
       {"--peer", OPTION_STRING, &t.peer.command, "COMMAND", "another program, to compare with"},
       {"--peer-pattern", OPTION_STRING, &t.peer.pattern, "REGEX",
        "finds its figures; group 1 is the number\n(took ([0-9.]+) ms)"},
       {"--peer-unit", OPTION_STRING, &t.peer_unit, "UNIT", "ms (a step) or tokens/s (ms)"},
       BENCH_COMMON_OPTIONS(&t.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (!check(&t, c.name, &words)) return 2;
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  if (rank && strcmp(rank, "0") != 0 && !freopen("/dev/null", "w", stdout)) return 1;
  ds_status status = bench_open("train", &t.common, &t.b, &err);
  if (status == DS_OK) {
    status = measure_all(&t, &err);
    bench_finish(&t.b);
  }
  return status == DS_OK ? 0 : cli_fail("bench train", &err);
}
