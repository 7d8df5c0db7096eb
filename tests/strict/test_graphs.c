/* Work that is recorded and launched gives the same bits as work that isn't: training and generating on
 * the strict plugin, or another, with "graph" true and "auto", against false. Usage: test_graphs
 * MODELS-FOLDER SCRATCH-FOLDER [NAME FOLDER-OF-PLUGIN] */
#include "strict_run.h"
#include "train/tiny.h"

#include "../golden/golden_train.h"
#include "backend/record.h"
#include "tensor/tensor.h"

enum { STEPS = 9, ROWS = 16 };

static const char *models, *scratch;
static strict_log messages;

static uint64_t launches(const ds_backend_stats *s) {
  for (size_t i = 0; i < s->n_per_op; i++)
    if (strcmp(s->per_op[i].name, "graph launch") == 0) return s->per_op[i].calls;
  return 0;
}

static const char *options = ""; /* more of the plugin's */

static const char *other, *other_folder; /* the plugin, unless it is strict */

static void section(char *out, size_t size, const char *graph, int seed) {
  char all[64];
  snprintf(all, sizeof all, "\"seed\": %d%s", seed, options);
  if (!other)
    strict_section(out, size, graph, all);
  else
    snprintf(out, size,
             "\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\", \"fallback\": \"error\", "
             "\"graph\": %s}",
             other, other_folder, graph);
}

/* ---- training */

/* Rows of a model's golden ids and labels, again and again; one of them may be spoiled. */
typedef struct rows {
  golden_data golden;
  int spoiled; /* the get that gives an id out of range; 0: none */
  int lengths; /* batches of so many lengths take turns */
  int gets;
} rows;

static int64_t rows_length(void *self) {
  (void)self;
  return ROWS;
}

static ds_status rows_get(void *self, int64_t index, ds_batch *sample, ds_error *err) {
  rows *r = self;
  (void)err;
  const ds_host_tensor *t = r->golden.batch.tensors;
  int64_t row = index % t[0].shape[0], whole = t[0].shape[1];
  int64_t length = whole - (r->lengths ? r->gets / 2 % r->lengths : 0); /* of both of a batch */
  sample->n = 2;
  for (int i = 0; i < 2; i++)
    sample->tensors[i] = (ds_host_tensor){DS_I32, 1, {length}, r->golden.values[i] + row * whole};
  static int32_t wrong[256];
  if (++r->gets != r->spoiled) return DS_OK;
  memcpy(wrong, sample->tensors[0].data, (size_t)length * sizeof *wrong);
  wrong[1] = 1000000;
  sample->tensors[0].data = wrong;
  return DS_OK;
}

static const ds_dataset_vtable rows_dataset = {
    sizeof(ds_dataset_vtable), rows_length, rows_get, NULL, NULL, NULL};

/* All that a training came to. */
typedef struct outcome {
  ds_status status[STEPS];
  float loss[STEPS], evaluated;
  double norm[STEPS], lr[STEPS];
  char message[STEPS][200];
  int64_t skipped;
  float params[4096];
} outcome;

typedef struct how {
  const char *model, *more; /* of the config */
  bool by_hand, groups, reload, evaluate, resize;
  int spoiled, lengths;
} how;

static ds_status by_hand(ds_engine *e, rows *r, float *loss, ds_error *err) {
  ds_value *v;
  DS_TRY(ds_engine_forward(e, &r->golden.batch, &v, err));
  DS_TRY(ds_engine_loss(e, v, loss, err));
  DS_TRY(ds_engine_backward(e, v, err));
  return ds_engine_step(e, err);
}

static ds_status evaluate(ds_engine *e, rows *r, float *loss, ds_error *err) {
  ds_value *v;
  ds_engine_train(e, false);
  DS_TRY(ds_engine_forward(e, &r->golden.batch, &v, err));
  DS_TRY(ds_engine_loss(e, v, loss, err));
  ds_engine_train(e, true);
  return DS_OK;
}

static void between(ds_engine *e, const how *h, rows *r, int step, outcome *out) {
  ds_error err;
  if (h->evaluate && step % 3 == 1) CHECK_OK(evaluate(e, r, &out->evaluated, &err), err);
  if (h->reload && step == 5) {
    CHECK_OK(ds_engine_save_checkpoint(e, scratch, "t", NULL, &err), err);
    CHECK_OK(ds_engine_load_checkpoint(e, scratch, NULL, NULL, &err), err);
  }
  if (h->resize && step == 3) CHECK_OK(ds_engine_set_train_batch_size(e, 4, &err), err);
  if (h->resize && step == 6) CHECK_OK(ds_engine_set_train_batch_size(e, 2, &err), err);
}

static void read_params(ds_engine *e, outcome *out) {
  ds_error err;
  size_t at = 0;
  static float values[1 << 16];
  for (int i = 0; i < ds_params_count(ds_engine_params(e)); i++) {
    int64_t shape[DS_MAX_RANK], n = 1;
    int32_t rank = ds_params_shape(ds_engine_params(e), i, shape);
    for (int32_t d = 0; d < rank; d++) n *= shape[d];
    CHECK(n <= 1 << 16);
    CHECK_OK(ds_engine_read_param(e, i, values, (size_t)n, &err), err);
    for (int64_t k = 0; k < n; k++) out->params[at++ % 4096] += values[k] * (float)(1 + k % 7);
  }
}

static void run_steps(ds_engine *e, const how *h, rows *r, outcome *out) {
  for (int i = 0; i < STEPS; i++) {
    ds_error err = {DS_OK, ""};
    out->status[i] = h->by_hand ? by_hand(e, r, &out->loss[i], &err)
                                : ds_engine_train_batch(e, &out->loss[i], &err);
    if (out->status[i] != DS_OK)
      snprintf(out->message[i], sizeof out->message[i], "%.199s", err.message);
    out->norm[i] = ds_engine_get_global_grad_norm(e);
    out->lr[i] = ds_engine_get_lr(e);
    between(e, h, r, i, out);
  }
}

static uint64_t train(const how *h, const char *graph, int seed, outcome *out) {
  char folder[512], backend[700], config[1500];
  ds_error err;
  ds_model *model = NULL;
  ds_engine *e = NULL;
  ds_dataset *data = NULL;
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  const int some[] = {0, 2, 3}, others[] = {1, 4, 5};
  ds_param_group groups[] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  static rows r;
  memset(out, 0, sizeof *out);
  memset(&r, 0, sizeof r);
  r.spoiled = h->spoiled;
  r.lengths = h->lengths;
  snprintf(folder, sizeof folder, "%s/%s", models, h->model);
  section(backend, sizeof backend, graph, seed);
  snprintf(config, sizeof config, "{\"train_batch_size\": 2, %s, %s}", backend, h->more);
  golden_read(folder, &r.golden);
  CHECK_OK(ds_model_load(folder, &model, &err), err);
  CHECK_OK(ds_dataset_create(&rows_dataset, &r, &data, &err), err);
  args.model = model;
  args.config = config;
  args.training_data = data;
  args.log = strict_log_write;
  args.log_ctx = &messages;
  groups[0].indices = some; /* the rest is frozen */
  groups[1].indices = others;
  groups[0].n_indices = groups[1].n_indices = 3;
  groups[1].lr = 0.003;
  groups[1].weight_decay = 0;
  if (h->groups) args.model_parameters = groups;
  if (h->groups) args.n_model_parameters = 2;
  CHECK_OK(ds_initialize(&args, &e, NULL, NULL, NULL, &err), err);
  uint64_t n = 0;
  if (e) {
    ds_backend_stats stats = {.size = sizeof stats};
    run_steps(e, h, &r, out);
    out->skipped = ds_engine_skipped_steps(e);
    read_params(e, out);
    CHECK_OK(ds_engine_backend_stats(e, &stats, &err), err);
    n = launches(&stats);
  }
  ds_engine_destroy(e);
  ds_dataset_destroy(data);
  ds_model_destroy(model);
  return n;
}

#define ADAMW                                                                                      \
  "\"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.01, "   \
  "\"weight_decay\": 0.1}}"
#define WARMUP                                                                                     \
  ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 5, "               \
  "\"warmup_max_lr\": 0.02}}"
#define ONE_CYCLE                                                                                  \
  ", \"scheduler\": {\"type\": \"OneCycle\", \"params\": {\"cycle_min_lr\": 0.001, "               \
  "\"cycle_max_lr\": 0.02, \"cycle_first_step_size\": 4}}"
#define BF16 ", \"bf16\": {\"enabled\": true}"
#define TWO  ", \"gradient_accumulation_steps\": 2"

static void test_training(void) {
  static const how all[] = {
      {.model = "gpt2", .more = ADAMW},
      {.model = "llama", .more = ADAMW BF16 WARMUP, .reload = true, .evaluate = true},
      {.model = "gpt2", .more = ADAMW TWO, .groups = true, .evaluate = true},
      {.model = "llama", .more = ADAMW ONE_CYCLE, .resize = true},
      {.model = "gpt2", .more = ADAMW BF16, .by_hand = true},
      {.model = "gpt2", .more = ADAMW, .spoiled = 9},
      {.model = "llama", .more = ADAMW, .lengths = 2},
      {.model = "gpt2", .more = ADAMW, .lengths = 6},
      /* of an infinite rate nothing is a number any more */
      {.model = "gpt2", .more = "\"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 1e38}}"},
  };
  static outcome plain, recorded, by_itself;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    int seed = 5 * (int)i;
    uint64_t none = train(&all[i], "false", seed, &plain);
    uint64_t some = train(&all[i], "true", seed + 1, &recorded);
    uint64_t own = train(&all[i], "\"auto\"", seed + 2, &by_itself);
    bool same = memcmp(&plain, &recorded, sizeof plain) == 0 &&
                memcmp(&plain, &by_itself, sizeof plain) == 0;
    bool counted = none == 0 && some >= STEPS / 2 && own == some;
    if (!same || !counted)
      fprintf(stderr, "training %zu: launches %llu, %llu, %llu; status %d, %d: %s | %s\n", i,
              (unsigned long long)none, (unsigned long long)some, (unsigned long long)own,
              plain.status[STEPS - 1], recorded.status[STEPS - 1], plain.message[STEPS - 1],
              recorded.message[STEPS - 1]);
    CHECK(same);
    CHECK(counted);
    if (all[i].spoiled) CHECK(plain.status[4] == DS_ERR_INVALID || plain.status[3] != DS_OK);
  }
  CHECK(plain.skipped > 0); /* the last */
}

/* ---- inference */

typedef struct said {
  int32_t tokens[200];
  size_t n;
} said;

static bool stop_at_five(void *ctx, int32_t token) {
  (void)token;
  return ++*(int *)ctx < 5;
}

static void speak(ds_inference *e, said *out) {
  ds_error err;
  for (int turn = 0; turn < 8; turn++) {
    ds_generate_args turn_args = DS_GENERATE_ARGS_INIT;
    int32_t prompt[7], *tokens;
    size_t n;
    int heard = 0;
    for (int i = 0; i < 7; i++) prompt[i] = (7 * i + 3 + turn) % 29;
    turn_args.max_new_tokens = turn == 3 ? 1 : 6;
    turn_args.eos_token = turn % 2 ? 5 : -2;
    turn_args.min_new_tokens = turn % 3;
    turn_args.seed = (uint64_t)turn / 4; /* the same settings twice in a row, too */
    turn_args.temperature = turn < 2 ? 0 : 0.8;
    turn_args.top_k = turn / 2 == 2 ? 9 : 0;
    turn_args.top_p = turn > 5 ? 0.7 : 1;
    if (turn == 6) turn_args.on_token = stop_at_five;
    turn_args.on_token_ctx = &heard;
    CHECK_OK(
        ds_inference_generate(e, prompt, (size_t)(7 - turn % 3), &turn_args, &tokens, &n, &err),
        err);
    for (size_t i = 0; i < n; i++) out->tokens[out->n++] = tokens[i];
    free(tokens);
  }
}

static uint64_t generate(const char *model, const char *graph, int seed, const char *dtype,
                         said *out) {
  char folder[512], backend[700], config[900];
  ds_error err;
  ds_inference *e = NULL;
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  ds_backend_stats stats = {.size = sizeof stats};
  memset(out, 0, sizeof *out);
  snprintf(folder, sizeof folder, "%s/%s", models, model);
  section(backend, sizeof backend, graph, seed);
  snprintf(config, sizeof config, "{%s, \"dtype\": \"%s\"}", backend, dtype);
  args.checkpoint = folder;
  args.config = config;
  args.log = strict_log_write;
  args.log_ctx = &messages;
  CHECK_OK(ds_init_inference(&args, &e, &err), err);
  if (!e) return 0;
  speak(e, out);
  CHECK_OK(ds_inference_backend_stats(e, &stats, &err), err);
  uint64_t n = launches(&stats);
  ds_inference_destroy(e);
  return n;
}

static void test_inference(void) {
  for (int i = 0; i < 4; i++) {
    const char *model = i % 2 ? "llama" : "gpt2", *dtype = i / 2 ? "bf16" : "fp32";
    said plain, recorded, by_itself;
    uint64_t none = generate(model, "false", i, dtype, &plain);
    uint64_t some = generate(model, "true", i + 20, dtype, &recorded);
    uint64_t own = generate(model, "\"auto\"", i + 40, dtype, &by_itself);
    CHECK(plain.n > 20 && memcmp(&plain, &recorded, sizeof plain) == 0);
    CHECK(memcmp(&plain, &by_itself, sizeof plain) == 0);
    if (!(none == 0 && some > 15 && own == some))
      fprintf(stderr, "%s: launches %llu, %llu, %llu\n", model, (unsigned long long)none,
              (unsigned long long)some, (unsigned long long)own);
    CHECK(none == 0 && some > 15 && own == some);
  }
}

/* ---- recordings and memory */

typedef struct bench {
  ds_backend *b;
  float *x, *y, *spare;
} bench;

/* y = x + y, or, with a workspace of its own size, x * y. */
static ds_status give(bench *t, uint32_t id, ds_error *err) {
  ds_tensor x = ds_tensor_make(t->x, DS_F32, 1, (int64_t[]){4}), y = x;
  y.data = t->y;
  const ds_op op = {.size = sizeof op,
                    .id = id,
                    .n_in = 2,
                    .n_out = 1,
                    .in = (const ds_tensor *[]){&x, &y},
                    .out = (const ds_tensor *[]){&y}};
  return ds_backend_op(t->b, &op, err);
}

static void record(bench *t, ds_recording **r) {
  ds_error err;
  CHECK_OK(give(t, DS_OP_ADD, &err), err);
  CHECK_OK(ds_record_begin(t->b, 0, &err), err);
  CHECK(ds_record_under_way(t->b));
  CHECK_OK(give(t, DS_OP_ADD, &err), err);
  CHECK_OK(ds_record_end(t->b, r, &err), err);
  CHECK(ds_recording_alive(*r) && !ds_record_under_way(t->b));
}

static float first(bench *t) {
  ds_error err;
  float y[4] = {0};
  CHECK_OK(ds_backend_download(t->b, y, t->y, sizeof y, &err), err);
  return y[0];
}

static void bench_open(bench *t) {
  char text[900];
  ds_error err;
  ds_backend_config config;
  ds_logger logger = {strict_log_write, &messages};
  const float ones[4] = {1, 1, 1, 1};
  void *p[3];
  snprintf(text, sizeof text, "{");
  section(text + 1, sizeof text - 2, "\"auto\"", 3);
  strcat(text, "}");
  cJSON *tree = cJSON_Parse(text);
  CHECK_OK(ds_backend_config_parse(cJSON_GetObjectItem(tree, "backend"), &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &logger, &t->b, &err), err);
  ds_backend_config_finish(&config);
  cJSON_Delete(tree);
  for (int i = 0; i < 3; i++) CHECK_OK(ds_backend_alloc(t->b, 64, &p[i], &err), err);
  t->x = p[0];
  t->y = p[1];
  t->spare = p[2];
  CHECK_OK(ds_backend_upload(t->b, t->x, ones, sizeof ones, &err), err);
  CHECK_OK(ds_backend_upload(t->b, t->y, ones, sizeof ones, &err), err);
}

static void test_memory(void) {
  bench t;
  ds_error err;
  ds_recording *r, *second, *none;
  void *p;
  bench_open(&t);
  if (!t.b) return;
  record(&t, &r); /* 2, by what ran before */
  for (int i = 0; i < 3; i++) CHECK_OK(ds_recording_launch(t.b, r, &err), err);
  CHECK(first(&t) == 5);
  /* An op that needs more workspace takes the place of that which was recorded. */
  CHECK_OK(give(&t, DS_OP_MUL, &err), err);
  CHECK(!ds_recording_alive(r));
  CHECK_FAILS(ds_recording_launch(t.b, r, &err), DS_ERR_STATE, err, "dropped");
  record(&t, &second);
  CHECK_OK(ds_recording_launch(t.b, second, &err), err);
  CHECK(first(&t) == 7);
  ds_backend_free(t.b, t.spare, 64);
  CHECK(!ds_recording_alive(second));
  /* Nothing is allocated meanwhile, and a recording that is given up leaves nothing. */
  CHECK_OK(ds_record_begin(t.b, 0, &err), err);
  CHECK_FAILS(ds_backend_alloc(t.b, 64, &p, &err), DS_ERR_STATE, err, "while work is recorded");
  CHECK_FAILS(ds_record_input(t.b, 4096, &p, &p, &err), DS_ERR_STATE, err, "more bytes");
  CHECK_OK(give(&t, DS_OP_ADD, &err), err);
  ds_record_cancel(t.b);
  CHECK(first(&t) == 7);
  CHECK_FAILS(ds_record_end(t.b, &none, &err), DS_ERR_STATE, err, "nothing is being recorded");
  ds_recording_destroy(t.b, r);
  ds_recording_destroy(t.b, second);
  ds_recording_destroy(t.b, NULL);
  ds_backend_free(t.b, t.x, 64);
  ds_backend_free(t.b, t.y, 64);
  ds_backend_close(t.b);
}

/* ---- where it can't be had */

static void refused(const char *backend, const char *text) {
  char folder[512], config[900];
  ds_error err;
  ds_model *model = NULL;
  ds_engine *engine = NULL;
  ds_inference *inference = NULL;
  ds_initialize_args train = DS_INITIALIZE_ARGS_INIT;
  ds_init_inference_args infer = DS_INIT_INFERENCE_ARGS_INIT;
  snprintf(folder, sizeof folder, "%s/gpt2", models);
  snprintf(config, sizeof config, "{\"train_batch_size\": 2, \"backend\": %s, " ADAMW "}", backend);
  CHECK_OK(ds_model_load(folder, &model, &err), err);
  train.model = model;
  train.config = config;
  CHECK_FAILS(ds_initialize(&train, &engine, NULL, NULL, NULL, &err), DS_ERR_UNSUPPORTED, err,
              text);
  snprintf(config, sizeof config, "{\"backend\": %s}", backend);
  infer.checkpoint = folder;
  infer.config = config;
  CHECK_FAILS(ds_init_inference(&infer, &inference, &err), DS_ERR_UNSUPPORTED, err, text);
  ds_model_destroy(model);
}

static void test_refusals(void) {
  char backend[700];
  refused("{\"name\": \"reference\", \"graph\": true}", "no graph table");
  snprintf(backend, sizeof backend,
           "{\"name\": \"strict\", \"plugin_path\": \"%s\", \"fallback\": \"allow\", \"graph\": "
           "true, \"options\": {\"tables\": \"none\"}}",
           STRICT_PLUGIN_DIR);
  refused(backend, "lacks the op");
}

/* A plugin whose begin refuses: engines go on as ever, once they have said so. */
static void test_given_up(void) {
  static outcome plain, without;
  const how h = {.model = "gpt2", .more = ADAMW};
  said spoken, unrecorded;
  options = ", \"graph\": false";
  train(&h, "false", 1, &plain);
  CHECK(train(&h, "\"auto\"", 2, &without) == 0);
  CHECK(memcmp(&plain, &without, sizeof plain) == 0);
  generate("gpt2", "false", 1, "fp32", &spoken);
  CHECK(generate("gpt2", "\"auto\"", 2, "fp32", &unrecorded) == 0);
  CHECK(memcmp(&spoken, &unrecorded, sizeof spoken) == 0);
  options = "";
}

int main(int argc, char **argv) {
  char command[600];
  if (argc != 3 && argc != 5) return 2;
  models = argv[1];
  scratch = argv[2];
  unsetenv("DS_STRICT");
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  other = argc == 5 ? argv[3] : NULL;
  other_folder = argc == 5 ? argv[4] : NULL;
  test_training();
  test_inference();
  if (!other) {
    test_memory();
    test_refusals();
    test_given_up();
  }
  strict_check_log(&messages);
  snprintf(command, sizeof command, "rm -rf '%s'", scratch);
  CHECK(system(command) == 0);
  return TEST_RESULT();
}
