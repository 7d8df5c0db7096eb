/* test_masked.c - a whole plugin with one thing hidden at a time (tests/plugins/mask.c), through
 * both engines: always the golden numbers, and exactly what is hidden falls back.
 *
 * A plugin is asked once a process, so each mask has a process of its own.
 *
 * Usage: test_masked MODELS-FOLDER MASK-FOLDER PLUGIN-FILE */
#include "golden_train.h"
#include "masked_ops.h"

#include <sys/wait.h>
#include <unistd.h>

/* What there is to hide, besides single ops. */
static const char *const masks[] = {"ops",
                                    "gemm",
                                    "quant",
                                    "comm",
                                    "copy",
                                    "fill",
                                    "copy,fill",
                                    "events",
                                    "pack",
                                    "workspace",
                                    "gemm:trans_a",
                                    "gemm:trans_b",
                                    "gemm:add",
                                    "gemm:epilogue",
                                    "gemm:f32.f32.f32",
                                    "gemm:bf16.bf16.bf16",
                                    "gemm:bf16.bf16.f32"};
static const char *const ops[] = {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) #lower,
#include "ds_ops.def"
#undef DS_OP
};
enum { N_MASKS = sizeof masks / sizeof *masks, N_OPS = sizeof ops / sizeof *ops };
static const char backend[] = "{\"name\": \"mask\", \"fallback\": \"allow\"}";

/* Of a run in f32 and one in bf16, by name. */
enum { KINDS_MAX = 64 };
typedef struct counts {
  int n;
  struct {
    const char *name;
    uint64_t calls, fallbacks;
  } kinds[KINDS_MAX];
} counts;

static void add(counts *c, const ds_backend_stats *stats) {
  for (size_t i = 0; i < stats->n_per_op; i++) {
    const ds_op_stats *s = &stats->per_op[i];
    int k = 0;
    while (k < c->n && strcmp(c->kinds[k].name, s->name) != 0) k++;
    if (k == c->n) c->kinds[c->n++].name = s->name;
    c->kinds[k].calls += s->calls;
    c->kinds[k].fallbacks += s->fallbacks;
  }
}

static void add_training(void *ctx, ds_engine *e) {
  ds_backend_stats stats = {.size = sizeof stats};
  ds_error err;
  CHECK_OK(ds_engine_backend_stats(e, &stats, &err), err);
  add(ctx, &stats);
}

static double worst(const float *have, const float *want, size_t n) {
  double most = 0;
  for (size_t i = 0; i < n; i++) {
    double d = fabs((double)have[i] - (double)want[i]);
    if (!(d <= most)) most = d; /* NaN too */
  }
  return most;
}

/* Greedy tokens behind a prompt must be the largest logits of a forward pass over them. */
static void check_greedy(ds_inference *e, const int32_t *prompt, size_t n, double tolerance) {
  ds_error err;
  ds_generate_args how = DS_GENERATE_ARGS_INIT;
  int32_t *tokens = NULL, all[64];
  size_t n_tokens = 0;
  float *logits = NULL;
  int64_t vocab = 0;
  how.max_new_tokens = 6;
  how.eos_token = -2;
  CHECK_OK(ds_inference_generate(e, prompt, n, &how, &tokens, &n_tokens, &err), err);
  CHECK(n_tokens == 6);
  memcpy(all, prompt, n * sizeof *all);
  for (size_t i = 0; i < n_tokens; i++) all[n + i] = tokens[i];
  CHECK_OK(ds_inference_forward(e, all, n + n_tokens, &logits, &vocab, &err), err);
  for (size_t i = 0; i < n_tokens && logits; i++) {
    const float *row = logits + (n + i - 1) * (size_t)vocab;
    for (int64_t v = 0; v < vocab; v++) CHECK(row[tokens[i]] >= row[v] - tolerance);
  }
  free(logits);
  free(tokens);
}

static void infer(const char *folder, bool bf16, counts *c) {
  double tolerance = bf16 ? 0.3 : 2e-5;
  char config[512], path[600];
  ds_error err;
  ds_inference *e = NULL;
  ds_safetensors *file = NULL;
  golden_data data;
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  snprintf(config, sizeof config, "{\"dtype\": \"%s\", \"backend\": %s}", bf16 ? "bf16" : "fp32",
           backend);
  snprintf(path, sizeof path, "%s/golden.safetensors", folder);
  args.checkpoint = folder;
  args.config = config;
  golden_read(folder, &data);
  CHECK_OK(ds_safetensors_open(path, &file, &err), err);
  CHECK_OK(ds_init_inference(&args, &e, &err), err);
  const ds_safetensor *golden = file ? ds_safetensors_find(file, "logits") : NULL;
  CHECK(golden && golden->rank == 3);
  for (int64_t row = 0; e && golden && row < golden->shape[0]; row++) {
    size_t length = (size_t)golden->shape[1], n = length * (size_t)golden->shape[2];
    const int32_t *ids = data.values[0] + (size_t)row * length;
    float *logits = NULL, *want = malloc(n * sizeof *want);
    int64_t vocab = 0;
    CHECK_OK(ds_inference_forward(e, ids, length, &logits, &vocab, &err), err);
    CHECK(want && vocab == golden->shape[2]);
    if (want && logits) {
      memcpy(want, (const char *)golden->data + (size_t)row * n * sizeof *want, n * sizeof *want);
      CHECK(worst(logits, want, n) <= tolerance);
    }
    check_greedy(e, ids, 4, tolerance);
    free(logits);
    free(want);
  }
  ds_backend_stats stats = {.size = sizeof stats};
  if (e) CHECK_OK(ds_inference_backend_stats(e, &stats, &err), err);
  add(c, &stats);
  ds_inference_destroy(e);
  ds_safetensors_close(file);
}

static void run_all(const char *models, bool bf16, counts *c) {
  static const char *const names[] = {"gpt2", "llama", "gpt2-base-f16", "llama-variant"};
  ds_backend_stats stats = {.size = sizeof stats};
  char folder[512];
  for (int i = 0; i < 4; i++) {
    snprintf(folder, sizeof folder, "%s/%s", models, names[i]);
    infer(folder, bf16, c);
    if (i < 2)
      golden_train(folder, backend, bf16 ? DS_BF16 : DS_F32, i ? llama_steps : gpt2_steps,
                   add_training, c);
  }
  ds_error err;
  ds_backend *b = masked_ops_open(backend, &err);
  CHECK_OK(b ? DS_OK : err.status, err);
  if (!b) return;
  masked_ops_run(b, bf16 ? DS_BF16 : DS_F32);
  CHECK_OK(ds_backend_stats_fill(b, &stats, &err), err);
  add(c, &stats);
  ds_backend_close(b);
}

static bool is_op(const char *name) {
  for (int i = 0; i < N_OPS; i++)
    if (strcmp(ops[i], name) == 0) return true;
  return false;
}

/* How much of a kind must fall back under a mask. */
typedef enum amount { NONE, SOME, ALL } amount;

static amount expected(const char *mask, const char *name, bool bf16) {
  bool quant = strcmp(name, "quantize") == 0 || strcmp(name, "dequantize") == 0 ||
               strcmp(name, "quant gemm") == 0;
  if (strncmp(mask, "op:", 3) == 0) return strcmp(mask + 3, name) == 0 ? ALL : NONE;
  if (strcmp(mask, "ops") == 0) return is_op(name) ? ALL : NONE;
  if (strcmp(mask, "quant") == 0) return quant ? ALL : NONE;
  if (strcmp(mask, "gemm") == 0) return strcmp(name, "gemm") == 0 ? ALL : NONE;
  if (strncmp(mask, "gemm:", 5) == 0 && strcmp(name, "gemm") == 0) {
    bool f32 = strcmp(mask, "gemm:f32.f32.f32") == 0;
    if (f32 || strncmp(mask, "gemm:bf16", 9) == 0) return f32 != bf16 ? SOME : NONE;
    return SOME;
  }
  if (strstr(mask, "copy") && strcmp(name, "device copy") == 0) return ALL;
  if (strstr(mask, "fill") && strcmp(name, "device fill") == 0) return ALL;
  return NONE;
}

static void check_counts(const char *mask, bool bf16, const counts *c) {
  uint64_t scratch = 0;
  for (int i = 0; i < c->n; i++) {
    const char *name = c->kinds[i].name;
    uint64_t calls = c->kinds[i].calls, fallbacks = c->kinds[i].fallbacks;
    bool good = fallbacks <= calls;
    if (strcmp(mask, "workspace") == 0) {
      good = good && (is_op(name) || fallbacks == 0);
      scratch += fallbacks;
    } else {
      switch (expected(mask, name, bf16)) {
        case NONE: good = fallbacks == 0; break;
        case SOME: good = good && fallbacks > 0; break;
        case ALL: good = fallbacks == calls && calls > 0; break;
      }
    }
    if (!good)
      fprintf(stderr, "%s: %s: %llu calls, %llu fallbacks\n", mask, name, (unsigned long long)calls,
              (unsigned long long)fallbacks);
    CHECK(good);
  }
  CHECK(strcmp(mask, "workspace") != 0 || scratch > 0);
}

/* Every op is run, so that a mask always hides something that is used; and packing. But for those
 * that only recorded work has: append_rows, clip_factor, adamw_scheduled, sample. */
static void check_coverage(const counts *c) {
  int found = 0;
  bool pack = false;
  for (int i = 0; i < c->n; i++) {
    found += is_op(c->kinds[i].name);
    if (strcmp(c->kinds[i].name, "gemm pack") == 0) pack = true;
  }
  CHECK(found == N_OPS - 4);
  CHECK(pack);
}

/* In a process of its own. */
static int run_mask(char **argv, const char *mask) {
  test_failures = test_checks = 0;
  setenv("DS_PLUGIN_PATH", argv[2], 1);
  setenv("DS_TEST_MASK_PLUGIN", argv[3], 1);
  setenv("DS_TEST_MASK_HIDE", mask, 1);
  unsetenv("DS_BACKEND");
  for (int bf16 = 0; bf16 < 2; bf16++) {
    counts c = {0};
    run_all(argv[1], bf16, &c);
    check_counts(mask, bf16, &c);
    if (!*mask) check_coverage(&c);
    for (int i = 0; i < c.n && strcmp(mask, "pack") == 0; i++)
      CHECK(strcmp(c.kinds[i].name, "gemm pack") != 0);
  }
  return TEST_RESULT();
}

static void fork_mask(char **argv, const char *mask) {
  int status = -1;
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) exit(run_mask(argv, mask));
  CHECK(child > 0 && waitpid(child, &status, 0) == child);
  if (status != 0) fprintf(stderr, "FAILED without \"%s\": status %d\n", mask, status);
  CHECK(status == 0);
}

int main(int argc, char **argv) {
  char mask[64];
  if (argc != 4) {
    fprintf(stderr, "usage: %s MODELS-FOLDER MASK-FOLDER PLUGIN-FILE\n", argv[0]);
    return 2;
  }
  fork_mask(argv, "");
  for (int i = 0; i < N_OPS; i++) {
    snprintf(mask, sizeof mask, "op:%s", ops[i]);
    fork_mask(argv, mask);
  }
  for (int i = 0; i < N_MASKS; i++) fork_mask(argv, masks[i]);
  return TEST_RESULT();
}
