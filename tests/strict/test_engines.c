/* Both engines on the strict plugin: training with the built-in optimizer and with one in host
 * code, a checkpoint in the middle, and generating, bit for bit as on the reference; and a backend
 * that is closed with work under way. Usage: test_engines MODELS-FOLDER SCRATCH-FOLDER OPTIONS */
#include "strict_run.h"
#include "train/tiny.h"

#include "backend/backend.h"
#include "tensor/tensor.h"

enum { WEIGHTS = TINY_OUT * TINY_IN + TINY_OUT, STEPS = 6, PROMPT = 9, TOKENS = 3 };

static const char *models, *scratch;
static strict_log messages;

/* ---- training */

typedef struct momentum {
  double lr, scale;
} momentum;

static void momentum_elements(void *arg, float *param, const float *grad, float *const *state,
                              int64_t count) {
  momentum *m = arg;
  for (int64_t i = 0; i < count; i++) {
    state[0][i] = 0.9f * state[0][i] + (float)m->scale * grad[i];
    param[i] -= (float)m->lr * state[0][i];
  }
}

static ds_status momentum_update(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice,
                                 double lr, double grad_scale, int64_t step, ds_error *err) {
  momentum *m = self;
  (void)step;
  m->lr = lr;
  m->scale = grad_scale;
  return ds_slice_update(ctx, slice, momentum_elements, m, err);
}

static const char *const momentum_states[] = {"momentum"};
static const ds_optimizer_vtable momentum_vtable = {sizeof momentum_vtable, "momentum",      1,
                                                    momentum_states,        momentum_update, NULL};

static ds_status make_momentum(void *ctx, const ds_params *params, ds_optimizer **out,
                               ds_error *err) {
  (void)params;
  return ds_optimizer_create(&momentum_vtable, ctx, 0.1, out, err);
}

/* STEPS losses and the weights. The last step is still under way when the engine is destroyed. */
static void train(const char *section, bool own, const char *more, float *out) {
  ds_error err;
  tiny_run r = {.self = {.with_unused = true}};
  momentum m = {0, 0};
  char config[1200];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.optimizer_fn = own ? make_momentum : NULL;
  a.optimizer_ctx = &m;
  a.log = strict_log_write;
  a.log_ctx = &messages;
  snprintf(config, sizeof config,
           "{%s, \"train_batch_size\": 8, \"optimizer\": {\"type\": \"AdamW\"}%s}", section, more);
  CHECK_OK(tiny_open(&r, config, &a, true, &err), err);
  if (!r.engine) return;
  for (int i = 0; i < STEPS - 1; i++) {
    CHECK_OK(ds_engine_train_batch(r.engine, &out[i], &err), err);
    if (i != STEPS / 2) continue;
    CHECK_OK(ds_engine_save_checkpoint(r.engine, scratch, "t", NULL, &err), err);
    CHECK_OK(ds_engine_load_checkpoint(r.engine, scratch, NULL, NULL, &err), err);
  }
  CHECK_OK(tiny_weights(r.engine, &r.self, out + STEPS, &err), err);
  CHECK_OK(ds_engine_train_batch(r.engine, &out[STEPS - 1], &err), err);
  tiny_close(&r);
}

static void test_training(const char *section) {
  static const char *const more[] = {"", ", \"bf16\": {\"enabled\": true}",
                                     ", \"fp16\": {\"enabled\": true}",
                                     ", \"gradient_accumulation_steps\": 2"};
  for (int own = 0; own < 2; own++)
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
      float want[STEPS + WEIGHTS] = {0}, have[STEPS + WEIGHTS] = {1};
      train(TINY_BACKEND, own, more[i], want);
      train(section, own, more[i], have);
      CHECK(memcmp(want, have, sizeof want) == 0);
    }
}

/* ---- inference */

static void generate(const char *section, int32_t out[TOKENS]) {
  char folder[512], config[1200];
  ds_error err;
  ds_inference *e = NULL;
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  ds_generate_args how = DS_GENERATE_ARGS_INIT;
  int32_t prompt[PROMPT], *tokens;
  size_t n;
  snprintf(folder, sizeof folder, "%s/gpt2", models);
  snprintf(config, sizeof config, "{%s}", section);
  args.checkpoint = folder;
  args.config = config;
  args.log = strict_log_write;
  args.log_ctx = &messages;
  how.max_new_tokens = TOKENS;
  how.eos_token = -2;
  CHECK_OK(ds_init_inference(&args, &e, &err), err);
  for (int seed = 0; seed < 2 && e; seed++) {
    for (int i = 0; i < PROMPT; i++) prompt[i] = (7 * i + 3 + seed) % 29;
    CHECK_OK(ds_inference_generate(e, prompt, PROMPT, &how, &tokens, &n, &err), err);
    CHECK(n == TOKENS);
    for (size_t i = 0; i < n; i++) out[i] += 64 * out[i] + tokens[i];
    free(tokens);
  }
  ds_inference_destroy(e);
}

static void test_inference(const char *section) {
  int32_t want[TOKENS] = {0}, have[TOKENS] = {0};
  generate(TINY_BACKEND, want);
  generate(section, have);
  CHECK(memcmp(want, have, sizeof want) == 0);
}

/* ---- a backend that is closed amid work: its own memory - the workspace - must outlive that. */
static void test_close(const char *section) {
  char text[1200];
  ds_error err;
  ds_backend_config config;
  ds_backend *b = NULL;
  ds_logger logger = {strict_log_write, &messages};
  snprintf(text, sizeof text, "{%s}", section);
  cJSON *tree = cJSON_Parse(text);
  CHECK_OK(ds_backend_config_parse(cJSON_GetObjectItem(tree, "backend"), &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &logger, &b, &err), err);
  ds_backend_config_finish(&config);
  cJSON_Delete(tree);
  if (!b) return;
  void *x;
  CHECK_OK(ds_backend_alloc(b, 64, &x, &err), err);
  ds_tensor t = ds_tensor_make(x, DS_F32, 1, (int64_t[]){16});
  ds_op op = {.size = sizeof op, .id = DS_OP_FILL, .n_out = 1, .out = (const ds_tensor *[]){&t}};
  CHECK_OK(ds_backend_op(b, &op, &err), err);
  ds_backend_free(b, x, 64);
  t.shape[0] = 0;
  CHECK_OK(ds_backend_op(b, &op, &err), err); /* of no elements, but with a workspace */
  ds_backend_close(b);
}

int main(int argc, char **argv) {
  char section[1024], command[600];
  if (argc != 4) return 2;
  models = argv[1];
  scratch = argv[2];
  unsetenv("DS_STRICT");
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  strict_section(section, sizeof section, "\"auto\"", argv[3]);
  test_training(section);
  test_inference(section);
  test_close(section);
  strict_check_log(&messages);
  snprintf(command, sizeof command, "rm -rf '%s'", scratch);
  CHECK(system(command) == 0);
  return TEST_RESULT();
}
