/* Fails every allocation in turn, through both engines' whole lives: each failure must come back as
 * a status with a message, nothing may crash, and nothing may leak. The program's own malloc stands
 * before the C library's, so the library's, cJSON's and a plugin's allocations count too.
 *
 * Usage: test_oom [BACKEND-SECTION]    the config's "backend" as JSON; the reference without, which
 * is also where saving and loading are tried: with another, only the run without faults saves. */
#include "ds.h"
#include "failing_malloc.h"
#include "train/export.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char model_config[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 8, \"intermediate_size\": 12, "
    "\"num_hidden_layers\": 1,"
    " \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"vocab_size\": 256,"
    " \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true}";
static const char train_format[] =
    "{\"train_batch_size\": 2, \"comms_logger\": {\"enabled\": true}, "
    "\"gradient_accumulation_steps\": 2, \"bf16\": {\"enabled\": true},"
    " \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.01}},"
    " \"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 3}},"
    " \"backend\": %s}";

static const char *folder;
static char exported[64]; /* a folder in it */
static int files = 1;
static const char *backend = "\"reference\"";
static char train_config[1024], generate_config[1024];

static ds_status train(ds_error *err) {
  int32_t ids[65];
  for (int i = 0; i < 65; i++) ids[i] = (i * 37) % 256;
  ds_model *model = NULL;
  ds_dataset *data = NULL;
  ds_engine *engine = NULL;
  char *state = NULL;
  float loss;
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  ds_status status = ds_model_from_config(model_config, &model, err);
  if (status == DS_OK) status = ds_dataset_tokens(ids, 65, 8, 256, &data, err);
  args.model = model;
  args.training_data = data;
  args.config = train_config;
  if (status == DS_OK) status = ds_initialize(&args, &engine, NULL, NULL, NULL, err);
  for (int i = 0; i < 2 && status == DS_OK; i++) status = ds_engine_train_batch(engine, &loss, err);
  if (status == DS_OK && (files || !armed))
    status = ds_engine_save_checkpoint(engine, folder, NULL, "{\"note\": 1}", err);
  if (status == DS_OK && files)
    status = ds_engine_load_checkpoint(engine, folder, NULL, &state, err);
  if (status == DS_OK && files) status = ds_engine_save_model(engine, exported, true, err);
  free(state);
  ds_engine_destroy(engine);
  ds_dataset_destroy(data);
  ds_model_destroy(model);
  return status;
}

static ds_status export(ds_error *err) {
  return ds_export_checkpoint(folder, NULL, exported, true, err);
}

static ds_status generate(ds_error *err) {
  ds_inference *engine = NULL;
  ds_init_inference_args args = DS_INIT_INFERENCE_ARGS_INIT;
  ds_generate_args how = DS_GENERATE_ARGS_INIT;
  int32_t *ids = NULL, *tokens = NULL;
  size_t n_ids, n_tokens, length;
  char *text = NULL;
  args.checkpoint = folder;
  args.config = generate_config;
  args.kwargs = "{\"max_out_tokens\": 12}";
  how.temperature = 0.9;
  how.top_k = 20;
  how.max_new_tokens = 6;
  ds_status status = ds_init_inference(&args, &engine, err);
  const ds_tokenizer *t = status == DS_OK ? ds_inference_tokenizer(engine) : NULL;
  if (status == DS_OK) status = ds_tokenizer_encode(t, "abc", 3, true, &ids, &n_ids, err);
  if (status == DS_OK)
    status = ds_inference_generate(engine, ids, n_ids, &how, &tokens, &n_tokens, err);
  if (status == DS_OK)
    status = ds_tokenizer_decode(t, tokens, n_tokens, false, &text, &length, err);
  free(text);
  free(tokens);
  free(ids);
  ds_inference_destroy(engine);
  return status;
}

static int run_all(const char *name, ds_status (*scenario)(ds_error *)) {
  ds_error err;
  int bad = 0;
  long tried = 0, refused = 0;
  memset(&err, 0, sizeof err);
  if (scenario(&err) != DS_OK) { /* also warms up what the process keeps */
    fprintf(stderr, "%s fails without any fault: %s\n", name, err.message);
    return 1;
  }
  for (fail_at = 1; bad < 10; fail_at++) {
    long before = outstanding;
    memset(&err, 0, sizeof err);
    allocation = 0;
    armed = 1;
    ds_status status = scenario(&err);
    armed = 0;
    if (outstanding != before) {
      fprintf(stderr, "%s: allocation %ld failing leaks %ld blocks (%s)\n", name, fail_at,
              outstanding - before, err.message);
      bad++;
    }
    if (status != DS_OK && !err.message[0]) {
      fprintf(stderr, "%s: allocation %ld failing gives status %d without a message\n", name,
              fail_at, (int)status);
      bad++;
    }
    tried++;
    refused += status != DS_OK;
    if (allocation < fail_at) break; /* there were no more */
  }
  printf("%s: %ld allocations failed in turn, %ld times an error came back\n", name, tried,
         refused);
  return bad || refused < 10;
}

int main(int argc, char **argv) {
  /* In memory where there is such a place: thousands of checkpoints are synced, one a failure. */
  static char shm[] = "/dev/shm/dscore-oom-XXXXXX", tmp[] = "/tmp/dscore-oom-XXXXXX";
  if (argc > 1) {
    backend = argv[1];
    files = 0;
  }
  snprintf(train_config, sizeof train_config, train_format, backend);
  snprintf(generate_config, sizeof generate_config, "{\"backend\": %s}", backend);
  folder = mkdtemp(shm);
  if (!folder) folder = mkdtemp(tmp);
  if (!folder) return 1;
  snprintf(exported, sizeof exported, "%s/hf", folder);
  int bad = run_all("train", train);
  bad |= run_all("export", export);
  bad |= run_all("generate", generate);
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command) != 0 || bad;
}
