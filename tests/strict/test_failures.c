/* A device that fails, at every call and in every piece of work in turn: each failure is a status
 * with a message, nothing leaks or breaks a rule of the ABI, the last checkpoint stays whole, and a
 * training engine that loads it goes on to the same losses bit for bit; inference loses only what
 * was in flight. Usage: test_failures MODELS-FOLDER SCRATCH-FOLDER [FAILURES-OF-A-KIND] */
#include "train/tiny.h"
#include "strict_run.h"

#include "base/file.h"

#include <sys/stat.h>

enum { STEPS = 4, SAVED = 2, PROMPT = 9, TOKENS = 3, WEIGHTS = TINY_OUT * TINY_IN + TINY_OUT };

static const char *scratch, *models;
static int went_on; /* engines that trained on after a failure that changed nothing */

/* How the device fails. */
typedef enum kind { NEVER, CALL, MEMORY, WORK, HANG, LOST_CALL, LOST_WORK } kind;

static void describe(char *out, size_t size, kind k, unsigned long long n, int seed) {
  static const char *const formats[] = {
      [NEVER] = "\"seed\": %d",
      [CALL] = "\"seed\": %d, \"fail_call\": %llu",
      [MEMORY] = "\"seed\": %d, \"fail_call\": %llu, \"status\": 3",
      [WORK] = "\"seed\": %d, \"fail_work\": %llu",
      [HANG] = "\"seed\": %d, \"hang_work\": %llu, \"hang_ms\": 2",
      [LOST_CALL] = "\"seed\": %d, \"fail_call\": %llu, \"lost\": true",
      [LOST_WORK] = "\"seed\": %d, \"fail_work\": %llu, \"lost\": true",
  };
  static const char *const tables[] = {"all", "none", "gemm"};
  char text[128];
  snprintf(text, sizeof text, formats[k], seed, n);
  snprintf(out, size, "%s, \"tables\": \"%s\"", text, tables[seed % 3]);
}

static bool is_lost(kind k) {
  return k == LOST_CALL || k == LOST_WORK;
}

static bool is_late(kind k) {
  return k == WORK || k == HANG || k == LOST_WORK;
}

/* ---- training */

/* What an engine that never fails gives. */
typedef struct golden {
  float losses[STEPS];
  float weights[STEPS + 1][WEIGHTS]; /* after so many steps */
} golden;

static void empty(const char *dir) {
  char command[600];
  snprintf(command, sizeof command, "rm -rf '%s'", dir);
  CHECK(system(command) == 0);
}

static bool has_checkpoint(const char *dir) {
  char path[600];
  snprintf(path, sizeof path, "%s/latest", dir);
  return ds_file_exists(path);
}

static ds_status open_engine(tiny_run *r, const char *section, const char *more, strict_log *log,
                             ds_error *err) {
  char config[1024];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  /* Two groups: an update is two pieces of work, and can be half done. */
  const int w = 0, b = 1;
  ds_param_group groups[] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  groups[0].indices = &w;
  groups[1].indices = &b;
  groups[0].n_indices = groups[1].n_indices = 1;
  a.model_parameters = groups;
  a.n_model_parameters = 2;
  a.log = strict_log_write;
  a.log_ctx = log;
  snprintf(config, sizeof config,
           "{%s, \"train_batch_size\": 8, \"gradient_accumulation_steps\": 2, "
           "\"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\"}%s}",
           section, more);
  return tiny_open(r, config, &a, true, err);
}

/* Steps from `from` on, with a checkpoint after SAVED of them. */
static ds_status train(tiny_run *r, int from, const char *dir, float *losses, ds_error *err) {
  ds_status status = DS_OK;
  for (int i = from; i < STEPS && status == DS_OK; i++) {
    status = ds_engine_train_batch(r->engine, &losses[i], err);
    if (status == DS_OK && i + 1 == SAVED)
      status = ds_engine_save_checkpoint(r->engine, dir, "t", NULL, err);
  }
  return status;
}

static void check_message(const ds_error *err, ds_status status, kind k) {
  ds_status expected = k == HANG ? DS_ERR_TIMEOUT : k == MEMORY ? DS_ERR_MEMORY : DS_ERR_DEVICE;
  if (status == DS_ERR_NOT_FOUND && strstr(err->message, "strict: "))
    return; /* it was to be opened: the list of candidates says why it could not */
  if (status != expected || !strstr(err->message, "strict:0"))
    fprintf(stderr, "status %d: %s\n", status, err->message);
  CHECK(status == expected);
  CHECK(strstr(err->message, "strict:0") != NULL);
}

/* Every function that uses parameters says that they are undefined, and what to do. */
static void check_refused(tiny_run *r, const char *dir, bool saved, const char *todo) {
  ds_error err;
  float loss, w[TINY_OUT * TINY_IN];
  ds_batch batch = tiny_batch(0, 4);
  ds_value *v;
  ds_engine *e = r->engine;
  CHECK_FAILS(ds_engine_train_batch(e, &loss, &err), DS_ERR_STATE, err, todo);
  CHECK(strstr(err.message, "since step ") && strstr(err.message, "strict:0"));
  CHECK(!saved || strstr(err.message, dir) != NULL);
  CHECK_FAILS(ds_engine_forward(e, &batch, &v, &err), DS_ERR_STATE, err, todo);
  CHECK_FAILS(ds_engine_backward(e, NULL, &err), DS_ERR_STATE, err, todo);
  CHECK_FAILS(ds_engine_step(e, &err), DS_ERR_STATE, err, todo);
  CHECK_FAILS(ds_engine_save_checkpoint(e, dir, "bad", NULL, &err), DS_ERR_STATE, err, todo);
  CHECK_FAILS(ds_engine_save_model(e, dir, false, &err), DS_ERR_STATE, err, todo);
  CHECK_FAILS(ds_engine_read_param(e, r->self.w, w, TINY_OUT * TINY_IN, &err), DS_ERR_STATE, err,
              todo);
  CHECK_FAILS(ds_engine_write_param(e, r->self.w, w, TINY_OUT * TINY_IN, &err), DS_ERR_STATE, err,
              todo);
}

/* The checkpoint in another engine, on a device that works. */
static void check_elsewhere(const char *dir, const char *more, const golden *want) {
  ds_error err;
  tiny_run r = {0};
  strict_log log = {0};
  float have[STEPS] = {0};
  CHECK_OK(open_engine(&r, TINY_BACKEND, more, &log, &err), err);
  CHECK_OK(ds_engine_load_checkpoint(r.engine, dir, NULL, NULL, &err), err);
  CHECK_OK(train(&r, SAVED, dir, have, &err), err);
  CHECK(memcmp(have + SAVED, want->losses + SAVED, (STEPS - SAVED) * sizeof *have) == 0);
  tiny_close(&r);
}

/* After a failure in training. */
/* An engine that isn't refused has the weights of a whole number of steps. */
static void check_sound(tiny_run *r, const golden *want) {
  ds_error err;
  float have[WEIGHTS];
  bool whole = false;
  ds_status status = tiny_weights(r->engine, &r->self, have, &err);
  if (status == DS_ERR_STATE) return;
  CHECK_OK(status, err);
  for (int i = 0; i <= STEPS; i++) whole |= memcmp(have, want->weights[i], sizeof have) == 0;
  CHECK(whole);
  status = ds_engine_train_batch(r->engine, NULL, &err);
  CHECK_OK(status, err);
  went_on += status == DS_OK;
}

static void recover(tiny_run *r, kind k, const char *dir, const golden *want) {
  ds_error err;
  float have[STEPS] = {0};
  bool saved = has_checkpoint(dir);
  if (is_lost(k)) {
    check_refused(r, dir, saved, "the device is lost");
    CHECK_FAILS(ds_engine_load_checkpoint(r->engine, dir, NULL, NULL, &err), DS_ERR_DEVICE, err,
                "the device is lost");
  } else {
    if (is_late(k))
      check_refused(r, dir, saved, "load ");
    else
      check_sound(r, want);
    if (!saved) {
      CHECK_FAILS(ds_engine_load_checkpoint(r->engine, dir, NULL, NULL, &err), DS_ERR_NOT_FOUND,
                  err, "");
      if (is_late(k)) check_refused(r, dir, saved, "load ");
      return;
    }
    CHECK_OK(ds_engine_load_checkpoint(r->engine, dir, NULL, NULL, &err), err);
    CHECK_OK(train(r, SAVED, dir, have, &err), err);
    CHECK(memcmp(have + SAVED, want->losses + SAVED, (STEPS - SAVED) * sizeof *have) == 0);
  }
}

/* One life of an engine with one failure. Returns whether there was one. */
static bool training_life(kind k, unsigned long long n, int seed, const char *more,
                          const golden *want, strict_log *log) {
  char options[256], section[640], dir[512];
  ds_error err;
  tiny_run r = {0};
  float have[STEPS] = {0};
  describe(options, sizeof options, k, n, seed);
  /* A model of our own is recorded only where that is asked for, and by one stream alone. */
  bool whole = strstr(options, "\"tables\": \"all\"") && !strstr(more, "offload");
  strict_section(section, sizeof section, whole ? "true" : "\"auto\"", options);
  snprintf(dir, sizeof dir, "%s/training", scratch);
  empty(dir);
  memset(log, 0, sizeof *log);
  ds_status status = open_engine(&r, section, more, log, &err);
  if (status == DS_OK) status = train(&r, 0, dir, have, &err);
  if (status != DS_OK)
    check_message(&err, status, k);
  else
    CHECK(memcmp(have, want->losses, sizeof have) == 0);
  if (status != DS_OK && r.engine) recover(&r, k, dir, want);
  tiny_close(&r);
  strict_check_log(log);
  if (has_checkpoint(dir)) check_elsewhere(dir, more, want);
  if (test_failures) fprintf(stderr, "in training with %s%s\n", options, more);
  return status != DS_OK;
}

/* `most` failures, evenly over all that can be. */
static void test_training(const char *more, int most) {
  char dir[512];
  golden want = {{0}, {{0}}};
  tiny_run r = {0};
  strict_log log = {0};
  ds_error err;
  snprintf(dir, sizeof dir, "%s/training", scratch);
  empty(dir);
  CHECK_OK(open_engine(&r, TINY_BACKEND, more, &log, &err), err);
  for (int i = 0; i <= STEPS; i++) {
    if (i > 0) CHECK_OK(ds_engine_train_batch(r.engine, &want.losses[i - 1], &err), err);
    CHECK_OK(tiny_weights(r.engine, &r.self, want.weights[i], &err), err);
  }
  tiny_close(&r);
  for (kind k = CALL; k <= LOST_WORK; k++)
    for (int seed = 0; seed < 3 && test_failures == 0; seed++) {
      CHECK(!training_life(NEVER, 0, seed, more, &want, &log));
      unsigned long long all = is_late(k) ? log.works : log.calls;
      unsigned long long stride = all / (unsigned long long)most + 1, failures = 0;
      for (unsigned long long n = 1; n <= all && test_failures == 0; n += stride)
        failures += training_life(k, n, seed, more, &want, &log);
      /* The last few calls and works are of closing, which tells nobody. */
      CHECK(failures + 8 >= all / stride);
    }
}

/* ---- inference */

/* TOKENS and a logit. */
static ds_status generate(ds_inference *e, int32_t *out, ds_error *err) {
  int32_t prompt[PROMPT], *tokens;
  size_t n;
  ds_generate_args args = DS_GENERATE_ARGS_INIT;
  for (int i = 0; i < PROMPT; i++) prompt[i] = (7 * i + 3) % 29;
  args.max_new_tokens = TOKENS;
  args.eos_token = -2;
  ds_status status = ds_inference_generate(e, prompt, PROMPT, &args, &tokens, &n, err);
  if (status != DS_OK) return status;
  CHECK(n == TOKENS);
  memcpy(out, tokens, TOKENS * sizeof *out);
  free(tokens);
  float *logits;
  int64_t vocab;
  status = ds_inference_forward(e, prompt, PROMPT, &logits, &vocab, err);
  if (status != DS_OK) return status;
  memcpy(&out[TOKENS], &logits[PROMPT * vocab - 1], sizeof *out);
  free(logits);
  return DS_OK;
}

static ds_status open_inference(const char *section, strict_log *log, ds_inference **out,
                                ds_error *err) {
  char folder[512], config[1024];
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  snprintf(folder, sizeof folder, "%s/gpt2", models);
  snprintf(config, sizeof config, "{%s}", section);
  args.checkpoint = folder;
  args.config = config;
  args.log = strict_log_write;
  args.log_ctx = log;
  return ds_init_inference(&args, out, err);
}

static bool inference_life(kind k, unsigned long long n, int seed, const int32_t *want,
                           strict_log *log) {
  char options[256], section[640];
  ds_error err;
  ds_inference *e = NULL;
  int32_t have[TOKENS + 1] = {0};
  describe(options, sizeof options, k, n, seed);
  strict_section(section, sizeof section, "\"auto\"", options);
  memset(log, 0, sizeof *log);
  ds_status status = open_inference(section, log, &e, &err);
  /* What fails while it packs a weight may fail nothing: the plain one does. */
  if (status == DS_OK) status = generate(e, have, &err);
  if (status != DS_OK)
    check_message(&err, status, k);
  else
    CHECK(memcmp(have, want, sizeof have) == 0);
  for (int again = 0; again < 2 && e && status != DS_OK; again++) {
    if (is_lost(k)) {
      CHECK_FAILS(generate(e, have, &err), DS_ERR_DEVICE, err, "lost");
    } else {
      CHECK_OK(generate(e, have, &err), err);
      CHECK(memcmp(have, want, sizeof have) == 0);
    }
  }
  ds_inference_destroy(e);
  strict_check_log(log);
  if (test_failures) fprintf(stderr, "in inference with %s\n", options);
  return status != DS_OK;
}

static void test_inference(int most) {
  int32_t want[TOKENS + 1] = {0};
  strict_log log = {0};
  ds_error err;
  ds_inference *e = NULL;
  CHECK_OK(open_inference(TINY_BACKEND, &log, &e, &err), err);
  if (!e) return;
  CHECK_OK(generate(e, want, &err), err);
  ds_inference_destroy(e);
  for (kind k = CALL; k <= LOST_WORK; k++)
    for (int seed = 0; seed < 3 && test_failures == 0; seed++) {
      CHECK(!inference_life(NEVER, 0, seed, want, &log));
      unsigned long long all = is_late(k) ? log.works : log.calls;
      unsigned long long stride = all / (unsigned long long)most + 1, failures = 0;
      for (unsigned long long n = 1; n <= all && test_failures == 0; n += stride)
        failures += inference_life(k, n, seed, want, &log);
      CHECK(failures > 0);
    }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  int most = argc > 3 ? atoi(argv[3]) : 60;
  models = argv[1];
  scratch = argv[2];
  char memory[] = "/dev/shm/dscore-strict-XXXXXX"; /* hundreds of checkpoints: rather not to disk */
  if (mkdtemp(memory)) scratch = memory;
  unsetenv("DS_STRICT");
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  mkdir(scratch, 0777);
  test_training("", most);
  test_training(", \"bf16\": {\"enabled\": true}", most / 5);
  /* Work on two streams, and on the host's side of them. */
  static const char *const places[] = {"\"device\": \"cpu\"",
                                       "\"device\": \"nvme\", \"nvme_path\": \"/tmp\""};
  for (int i = 0; i < 2; i++) {
    char more[512];
    snprintf(more, sizeof more,
             ", \"zero_optimization\": {\"stage\": 3, \"stage3_param_persistence_threshold\": 0, "
             "\"offload_optimizer\": {%s}, \"offload_param\": {%s}}",
             places[i], places[i]);
    test_training(more, most / 10);
  }
  CHECK(went_on > most / 6);
  test_inference(most);
  empty(scratch);
  return TEST_RESULT();
}
