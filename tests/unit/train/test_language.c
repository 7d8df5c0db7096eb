/* A small GPT-2 and a small LLaMA through the engine: they learn a pattern, a checkpoint folder is
 * a Hugging Face folder, and training goes on from it to the bit - with weights that are stored
 * transposed, and tied ones. */
#include "base/file.h"
#include "ds.h"
#include "test.h"

#include <stdlib.h>

enum { TOKENS = 400, STEPS = 30, T = 16, VOCAB = 17 };

static const char gpt2[] =
    "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": 2, \"n_head\": 2, "
    "\"vocab_size\": 17, \"n_positions\": 16}";
static const char llama[] =
    "{\"model_type\": \"llama\", \"hidden_size\": 16, \"intermediate_size\": 24, \"vocab_size\": "
    "17, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 16}";

static ds_dataset *data;

static void make_data(void) {
  ds_error err;
  int32_t ids[TOKENS];
  for (int i = 0; i < TOKENS; i++) ids[i] = (i * i + i / 3) % VOCAB;
  CHECK_OK(ds_dataset_tokens(ids, TOKENS, T, VOCAB, &data, &err), err);
}

static ds_engine *open_engine(ds_model *model, const char *more) {
  ds_error err;
  ds_engine *e = NULL;
  char config[512];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  snprintf(config, sizeof config,
           "{\"backend\": \"reference\", \"train_batch_size\": 4, "
           "\"gradient_accumulation_steps\": 2, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
           "{\"lr\": 0.01}}%s}",
           more);
  a.model = model;
  a.config = config;
  a.training_data = data;
  CHECK_OK(ds_initialize(&a, &e, NULL, NULL, NULL, &err), err);
  return e;
}

static void train(ds_engine *e, int from, int to, float *losses) {
  ds_error err;
  for (int i = from; i < to && e; i++) CHECK_OK(ds_engine_train_batch(e, &losses[i], &err), err);
}

static void check_weights(ds_engine *a, ds_engine *b) {
  ds_error err;
  const ds_params *p = ds_engine_params(a);
  CHECK(ds_params_count(p) == ds_params_count(ds_engine_params(b)));
  for (int i = 0; i < ds_params_count(p); i++) {
    int64_t shape[DS_MAX_RANK];
    size_t n = 1;
    for (int k = ds_params_shape(p, i, shape); k > 0; k--) n *= (size_t)shape[k - 1];
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    CHECK_OK(ds_engine_read_param(a, i, x, n, &err), err);
    CHECK_OK(ds_engine_read_param(b, i, y, n, &err), err);
    CHECK(memcmp(x, y, n * sizeof *x) == 0);
    free(x);
    free(y);
  }
}

static void test_model(const char *model_config, const char *more, const char *dir) {
  ds_error err;
  ds_model *model, *loaded;
  float straight[STEPS], resumed[STEPS];
  char folder[256];
  CHECK_OK(ds_model_from_config(model_config, &model, &err), err);
  ds_engine *a = open_engine(model, more), *b = open_engine(model, more);
  train(a, 0, STEPS / 2, straight);
  CHECK_OK(ds_engine_save_checkpoint(a, dir, "half", NULL, &err), err);
  snprintf(folder, sizeof folder, "%s/half", dir);
  CHECK_OK(ds_model_load(folder, &loaded, &err), err); /* a Hugging Face folder */
  ds_engine *c = open_engine(loaded, more);
  check_weights(a, c);
  train(a, STEPS / 2, STEPS, straight);
  CHECK_OK(ds_engine_load_checkpoint(b, dir, "half", NULL, &err), err);
  train(b, STEPS / 2, STEPS, resumed);
  CHECK(memcmp(straight + STEPS / 2, resumed + STEPS / 2, STEPS / 2 * sizeof *straight) == 0);
  check_weights(a, b);
  CHECK(straight[STEPS - 1] < straight[0] - 0.5f);
  ds_engine_destroy(a);
  ds_engine_destroy(b);
  ds_engine_destroy(c);
  ds_model_destroy(loaded);
  ds_model_destroy(model);
}

int main(void) {
  char dir[] = "/tmp/ds_language_XXXXXX", command[64];
  if (!mkdtemp(dir)) return 1;
  make_data();
  test_model(gpt2, "", dir);
  test_model(gpt2, ", \"bf16\": {\"enabled\": true}", dir);
  test_model(llama, "", dir);
  test_model(llama, ", \"bf16\": {\"enabled\": true}", dir);
  ds_dataset_destroy(data);
  snprintf(command, sizeof command, "rm -rf '%s'", dir);
  CHECK(system(command) == 0);
  return TEST_RESULT();
}
