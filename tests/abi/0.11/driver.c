/* driver.c - trains two small models on a backend and lets them generate, for the ABI's matrix.
 *
 *     driver BACKEND FOLDER [STEPS]
 *
 * Prints what came out, a line each, for a script to compare with another backend's:
 *
 *     log TEXT                     what core and the plugin said
 *     gpt2 loss 0 5.54 norm 1.2    each step
 *     gpt2 logits 0.1 -0.2 ...     of the trained model, after a checkpoint in FOLDER
 *     gpt2 tokens 5 6 7            what it generates
 *     stats BACKEND CALLS FALLBACKS
 *
 * Uses the public API alone, since it is frozen with each core.
 */
#include "ds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 40, LENGTH = 12, VOCAB = 61, PROMPT = 4, NEW = 6, TOKENS = 8 * LENGTH + 1 };

static const struct {
  const char *name, *config;
} models[] = {
    {"gpt2", "{\"model_type\": \"gpt2\", \"activation_function\": \"gelu_new\", \"n_embd\": 32, "
             "\"n_head\": 4, \"n_layer\": 2, \"n_positions\": 12, \"vocab_size\": 61, "
             "\"layer_norm_epsilon\": 1e-5, \"bos_token_id\": 60, \"eos_token_id\": 60, "
             "\"tie_word_embeddings\": true}"},
    {"llama", "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"hidden_size\": 32, "
              "\"intermediate_size\": 48, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
              "\"num_hidden_layers\": 2, \"max_position_embeddings\": 12, \"vocab_size\": 61, "
              "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"bos_token_id\": 1, "
              "\"eos_token_id\": 2, \"tie_word_embeddings\": false}"}};

static void on_log(void *ctx, ds_log_level level, const char *message) {
  (void)ctx;
  (void)level;
  printf("log %s\n", message);
}

/* A walk through the vocabulary that a model learns fast, so that what it generates is far from a
 * tie. */
static void make_tokens(int32_t *ids) {
  for (int i = 0; i < TOKENS; i++) ids[i] = (i * 7 + 3) % VOCAB;
}

static ds_status train(const char *name, ds_model *model, const char *backend, const char *folder,
                       int steps, ds_error *err) {
  int32_t ids[TOKENS];
  char config[600];
  ds_dataset *data = NULL;
  ds_engine *engine = NULL;
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  make_tokens(ids);
  snprintf(config, sizeof config,
           "{\"train_batch_size\": 4, \"train_micro_batch_size_per_gpu\": 2, "
           "\"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": "
           "0.01, \"weight_decay\": 0.01}}, \"backend\": {\"name\": \"%s\", \"fallback\": "
           "\"warn\"}}",
           backend);
  ds_status status = ds_dataset_tokens(ids, TOKENS, LENGTH, VOCAB, &data, err);
  args.model = model;
  args.training_data = data;
  args.config = config;
  args.seed = 7;
  args.log = on_log;
  if (status == DS_OK) status = ds_initialize(&args, &engine, NULL, NULL, NULL, err);
  for (int i = 0; i < steps && status == DS_OK; i++) {
    float loss = 0;
    status = ds_engine_train_batch(engine, &loss, err);
    if (status == DS_OK)
      printf("%s loss %d %.9g norm %.9g\n", name, i, (double)loss,
             ds_engine_get_global_grad_norm(engine));
  }
  if (status == DS_OK) status = ds_engine_save_checkpoint(engine, folder, name, NULL, err);
  ds_backend_stats stats = {.size = sizeof stats};
  if (status == DS_OK) status = ds_engine_backend_stats(engine, &stats, err);
  if (status == DS_OK)
    printf("stats %s %llu %llu\n", stats.backend, (unsigned long long)stats.ops,
           (unsigned long long)stats.fallback_ops);
  ds_engine_destroy(engine);
  ds_dataset_destroy(data);
  return status;
}

static ds_status generate(const char *name, const char *backend, const char *folder,
                          ds_error *err) {
  int32_t ids[TOKENS], *tokens = NULL;
  char config[200], checkpoint[600];
  ds_inference *engine = NULL;
  float *logits = NULL;
  int64_t vocab = 0;
  size_t count = 0;
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  ds_generate_args how = DS_GENERATE_ARGS_INIT;
  make_tokens(ids);
  snprintf(config, sizeof config,
           "{\"dtype\": \"fp32\", \"backend\": {\"name\": \"%s\", \"fallback\": \"warn\"}}",
           backend);
  snprintf(checkpoint, sizeof checkpoint, "%s/%s", folder, name);
  args.checkpoint = checkpoint;
  args.config = config;
  args.log = on_log;
  how.max_new_tokens = NEW;
  how.eos_token = -2;
  ds_status status = ds_init_inference(&args, &engine, err);
  if (status == DS_OK) status = ds_inference_forward(engine, ids, PROMPT, &logits, &vocab, err);
  if (status == DS_OK)
    status = ds_inference_generate(engine, ids, PROMPT, &how, &tokens, &count, err);
  if (status == DS_OK) {
    printf("%s logits", name);
    for (int64_t i = 0; i < PROMPT * vocab; i++) printf(" %.6g", (double)logits[i]);
    printf("\n%s tokens", name);
    for (size_t i = 0; i < count; i++) printf(" %d", tokens[i]);
    printf("\n");
  }
  ds_backend_stats stats = {.size = sizeof stats};
  if (status == DS_OK) status = ds_inference_backend_stats(engine, &stats, err);
  if (status == DS_OK)
    printf("stats %s %llu %llu\n", stats.backend, (unsigned long long)stats.ops,
           (unsigned long long)stats.fallback_ops);
  free(logits);
  free(tokens);
  ds_inference_destroy(engine);
  return status;
}

int main(int argc, char **argv) {
  int steps = argc == 4 ? atoi(argv[3]) : STEPS;
  if (argc < 3 || argc > 4) return 2;
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    ds_error err;
    ds_model *model = NULL;
    ds_status status = ds_model_from_config(models[i].config, &model, &err);
    if (status == DS_OK) status = train(models[i].name, model, argv[1], argv[2], steps, &err);
    ds_model_destroy(model);
    if (status == DS_OK) status = generate(models[i].name, argv[1], argv[2], &err);
    if (status != DS_OK) {
      printf("%s failed: %s\n", models[i].name, err.message);
      return 1;
    }
  }
  return 0;
}
