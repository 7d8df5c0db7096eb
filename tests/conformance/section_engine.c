/* section_engine.c - trains and generates through core's public API, on the plugin as core's own
 * loader brings it in, and compares with the reference backend. */
#include "suite.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/note.h"
#include "ds.h"

static const char gpt2_config[] =
    "{\"model_type\": \"gpt2\", \"vocab_size\": 61, \"n_positions\": 48, \"n_embd\": 40, "
    "\"n_layer\": 2, \"n_head\": 4, \"activation_function\": \"gelu_new\", "
    "\"tie_word_embeddings\": true}";
static const char llama_config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 61, \"max_position_embeddings\": 48, "
    "\"hidden_size\": 40, \"intermediate_size\": 72, \"num_hidden_layers\": 2, "
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"hidden_act\": \"silu\", "
    "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false}";

enum { STEPS = 25, SEQ = 24, TOKENS = 1200, VOCAB = 61, PROMPT = 9, NEW = 24 };

/* What one backend made of it. */
typedef struct outcome_of_run {
  float losses[STEPS];
  float logits[PROMPT * VOCAB];
  int32_t tokens[NEW];
  size_t n_tokens;
  uint64_t calls, fallbacks;
} outcome_of_run;

/* The "backend" section that brings in the plugin by its file. */
static char *backend_section(conformance *k, bool reference, ds_error *err) {
  ds_note note;
  cJSON *o = cJSON_CreateObject();
  if (reference || strcmp(k->path, "reference") == 0) {
    cJSON_AddStringToObject(o, "name", "reference");
  } else {
    if (ds_note_read(k->path, &note, err) != DS_OK) {
      cJSON_Delete(o);
      return NULL;
    }
    cJSON_AddStringToObject(o, "name", note.name);
    cJSON_AddItemToArray(cJSON_AddArrayToObject(o, "plugin_path"), cJSON_CreateString(k->path));
    if (k->options) cJSON_AddItemToObject(o, "options", cJSON_Parse(k->options));
  }
  cJSON_AddStringToObject(o, "fallback", "allow");
  char *text = cJSON_PrintUnformatted(o);
  cJSON_Delete(o);
  return text;
}

/* A sequence with a rule that can be learnt a little. */
static void make_tokens(uint64_t seed, int32_t *ids) {
  uint64_t rng = seed;
  ids[0] = 1;
  for (int i = 1; i < TOKENS; i++)
    ids[i] = harness_uniform(&rng) < 0.15 ? (int32_t)(harness_random(&rng) % VOCAB)
                                          : (ids[i - 1] * 7 + ids[i > 2 ? i - 3 : 0] + 3) % VOCAB;
}

static ds_status train(conformance *k, const char *model_config, const char *backend, bool bf16,
                       const char *save_to, outcome_of_run *out, ds_error *err) {
  static int32_t ids[TOKENS];
  char config[2048];
  ds_model *model = NULL;
  ds_dataset *data = NULL;
  ds_engine *engine = NULL;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  ds_backend_stats stats = {.size = sizeof stats};
  make_tokens(k->seed, ids);
  snprintf(config, sizeof config,
           "{\"train_batch_size\": 4, \"gradient_clipping\": 1.0, \"backend\": %s, "
           "\"bf16\": {\"enabled\": %s}, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
           "{\"lr\": 5e-3, \"weight_decay\": 0.01}}}",
           backend, bf16 ? "true" : "false");
  ds_status st = ds_model_from_config(model_config, &model, err);
  if (st == DS_OK) st = ds_dataset_tokens(ids, TOKENS, SEQ, VOCAB, &data, err);
  a.model = model;
  a.training_data = data;
  a.config = config;
  a.seed = k->seed;
  check_doing(k, "ds_initialize");
  if (st == DS_OK) st = ds_initialize(&a, &engine, NULL, NULL, NULL, err);
  for (int i = 0; i < STEPS && st == DS_OK; i++) {
    check_doing(k, "training step %d", i);
    st = ds_engine_train_batch(engine, &out->losses[i], err);
  }
  if (st == DS_OK) st = ds_engine_backend_stats(engine, &stats, err);
  if (st == DS_OK && save_to) st = ds_engine_save_model(engine, save_to, false, err);
  out->calls += stats.ops;
  out->fallbacks += stats.fallback_ops;
  ds_engine_destroy(engine);
  ds_dataset_destroy(data);
  ds_model_destroy(model);
  return st;
}

static ds_status generate(conformance *k, const char *backend, bool bf16, const char *folder,
                          outcome_of_run *out, ds_error *err) {
  static int32_t ids[TOKENS];
  char config[1024];
  ds_inference *engine = NULL;
  ds_init_inference_args a = DS_INIT_INFERENCE_ARGS_INIT;
  ds_generate_args g = DS_GENERATE_ARGS_INIT;
  ds_backend_stats stats = {.size = sizeof stats};
  float *logits = NULL;
  int32_t *tokens = NULL;
  int64_t vocab = 0;
  make_tokens(k->seed + 1, ids);
  snprintf(config, sizeof config, "{\"dtype\": \"%s\", \"backend\": %s}", bf16 ? "bf16" : "fp32",
           backend);
  a.checkpoint = folder;
  a.config = config;
  g.max_new_tokens = NEW;
  g.eos_token = -2;
  check_doing(k, "ds_init_inference");
  ds_status st = ds_init_inference(&a, &engine, err);
  check_doing(k, "logits of a prompt");
  if (st == DS_OK) st = ds_inference_forward(engine, ids, PROMPT, &logits, &vocab, err);
  if (st == DS_OK && vocab == VOCAB) memcpy(out->logits, logits, sizeof out->logits);
  check_doing(k, "generating");
  if (st == DS_OK)
    st = ds_inference_generate(engine, ids, PROMPT, &g, &tokens, &out->n_tokens, err);
  for (size_t i = 0; st == DS_OK && i < out->n_tokens && i < NEW; i++) out->tokens[i] = tokens[i];
  if (st == DS_OK) st = ds_inference_backend_stats(engine, &stats, err);
  out->calls += stats.ops;
  out->fallbacks += stats.fallback_ops;
  free(logits);
  free(tokens);
  ds_inference_destroy(engine);
  return st;
}

static void compare(const outcome_of_run *got, const outcome_of_run *want, bool bf16, tally *t) {
  double loss_tol = bf16 ? 3e-2 : 1e-3, logit_tol = bf16 ? 6e-2 : 1e-3, top = 0;
  t->tol = loss_tol;
  for (int i = 0; i < STEPS; i++) {
    double error = fabs((double)got->losses[i] - (double)want->losses[i]) / (double)want->losses[i];
    if (error > t->max_err) t->max_err = error;
    NEED(error <= loss_tol, "the loss of step %d is %.6g, the reference's %.6g", i,
         (double)got->losses[i], (double)want->losses[i]);
  }
  for (int i = 0; i < PROMPT * VOCAB; i++) top = fmax(top, fabs((double)want->logits[i]));
  for (int i = 0; i < PROMPT * VOCAB; i++)
    NEED(fabs((double)got->logits[i] - (double)want->logits[i]) <= logit_tol * top,
         "logit %d of position %d is %.6g, the reference's %.6g", i % VOCAB, i / VOCAB,
         (double)got->logits[i], (double)want->logits[i]);
  for (size_t i = 0; i < NEW && !bf16; i++) /* rounding may turn a near tie */
    NEED(got->n_tokens == want->n_tokens && got->tokens[i] == want->tokens[i],
         "generated token %zu is %d, the reference's %d", i, (int)got->tokens[i],
         (int)want->tokens[i]);
}

static void remove_model(const char *folder) {
  static const char *const files[] = {"config.json", "model.safetensors", "generation_config.json"};
  char path[300];
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, files[i]);
    unlink(path);
  }
  rmdir(folder);
}

/* The reference trains and saves; both generate from what it saved. */
static void run_model(conformance *k, const char *model_config, bool bf16, tally *t) {
  static outcome_of_run want, got;
  const char *tmp = getenv("TMPDIR");
  char folder[200];
  ds_error err;
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  unsetenv("RANK");
  unsetenv("WORLD_SIZE");
  memset(&want, 0, sizeof want);
  memset(&got, 0, sizeof got);
  snprintf(folder, sizeof folder, "%.100s/ds-conform-XXXXXX", tmp && *tmp == '/' ? tmp : "/tmp");
  NEED(mkdtemp(folder), "no folder could be made in %.100s", folder);
  char *reference = backend_section(k, true, &err), *plugin = backend_section(k, false, &err);
  ds_status st = plugin && reference ? DS_OK : DS_ERR_FORMAT;
  if (st == DS_OK) st = train(k, model_config, reference, bf16, folder, &want, &err);
  if (st == DS_OK) st = generate(k, reference, bf16, folder, &want, &err);
  if (st != DS_OK) check_fail(t, "on the reference: %.600s", err.message);
  if (st == DS_OK) st = train(k, model_config, plugin, bf16, NULL, &got, &err);
  if (st == DS_OK) st = generate(k, plugin, bf16, folder, &got, &err);
  if (st != DS_OK && !t->failed) check_fail(t, "%.600s", err.message);
  if (st == DS_OK) compare(&got, &want, bf16, t);
  if (!t->failed)
    snprintf(t->message, sizeof t->message, "%llu calls, %llu of them fell back to the reference",
             (unsigned long long)got.calls, (unsigned long long)got.fallbacks);
  t->cases = STEPS;
  remove_model(folder);
  cJSON_free(reference);
  cJSON_free(plugin);
}

static void run_both(conformance *k, const char *name, const char *model_config) {
  for (int bf16 = 0; bf16 < 2; bf16++) {
    tally t = {0};
    run_model(k, model_config, bf16 != 0, &t);
    check_report(k, &t, name, bf16 ? "bf16" : "f32");
  }
}

static void gpt2(conformance *k) {
  run_both(k, "gpt2", gpt2_config);
}

static void llama(conformance *k) {
  run_both(k, "llama", llama_config);
}

const unit engine_units[] = {
    {"gpt2", gpt2, NEEDS_NOTHING, false}, {"llama", llama, NEEDS_NOTHING, false}, {0}};
