/* The estimate of memory against engines that run: bytes that the device gave them. */
#include "ds.h"
#include "zero/estimate_model.h"

#include "test.h"

#define GPT2(layers, width, heads, positions, vocabulary)                                          \
  "{\"model_type\": \"gpt2\", \"n_layer\": " #layers ", \"n_embd\": " #width                       \
  ", \"n_head\": " #heads ", \"n_positions\": " #positions ", \"vocab_size\": " #vocabulary "}"
#define LLAMA(layers, width, heads, kv_heads, inner, vocabulary)                                   \
  "{\"model_type\": \"llama\", \"num_hidden_layers\": " #layers ", \"hidden_size\": " #width       \
  ", \"num_attention_heads\": " #heads ", \"num_key_value_heads\": " #kv_heads                     \
  ", \"intermediate_size\": " #inner                                                               \
  ", \"max_position_embeddings\": 256, \"vocab_size\": " #vocabulary                               \
  ", \"tie_word_embeddings\": false}"

static int32_t tokens[8192];

static ds_batch batch_of(int64_t rows, int64_t length) {
  ds_batch b = {.n = 2};
  for (int i = 0; i < 2; i++) b.tensors[i] = (ds_host_tensor){DS_I32, 2, {rows, length}, tokens};
  return b;
}

/* A step of an engine on the reference; what it then has of the device. */
static double measure(ds_model *m, const ds_estimate_layout *l, bool bf16) {
  char config[256];
  snprintf(config, sizeof config,
           "{\"train_micro_batch_size_per_gpu\": %d, \"optimizer\": {\"type\": \"AdamW\"}, "
           "\"bf16\": {\"enabled\": %s}, \"backend\": \"reference\"}",
           (int)l->micro_batch, bf16 ? "true" : "false");
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  args.model = m;
  args.config = config;
  ds_engine *e = NULL;
  ds_error err;
  ds_backend_stats stats = {.size = sizeof stats};
  CHECK_OK(ds_initialize(&args, &e, NULL, NULL, NULL, &err), err);
  ds_batch b = batch_of(l->micro_batch, l->seq_len);
  if (e) {
    ds_value *loss;
    CHECK_OK(ds_engine_forward(e, &b, &loss, &err), err);
    CHECK_OK(ds_engine_backward(e, loss, &err), err);
    CHECK_OK(ds_engine_step(e, &err), err);
    CHECK_OK(ds_engine_backend_stats(e, &stats, &err), err);
  }
  ds_engine_destroy(e);
  return (double)stats.device_bytes;
}

static void test_one_rank(void) {
  static const struct {
    const char *config;
    int micro, length;
  } rows[] = {
      {GPT2(8, 32, 4, 128, 500), 32, 128},
      {GPT2(2, 256, 4, 64, 20000), 1, 16},
      {GPT2(3, 32, 2, 64, 5000), 24, 64},
      {LLAMA(6, 32, 4, 2, 88, 500), 32, 64},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int bf16 = 0; bf16 < 2; bf16++) {
      ds_error err;
      ds_model *m = NULL;
      ds_estimate_model sizes = {0};
      CHECK_OK(ds_model_from_config(rows[i].config, &m, &err), err);
      CHECK_OK(ds_estimate_model_of(m, &sizes, &err), err);
      ds_estimate_layout l = ds_estimate_layout_init();
      l.micro_batch = rows[i].micro;
      l.seq_len = rows[i].length;
      l.bytes = ds_estimate_bytes_of(bf16, 2);
      double have = measure(m, &l, bf16);
      ds_estimate_memory x = ds_estimate_memory_of(&sizes, &l);
      CHECK(fabs(x.device / have - 1) <= 0.05);
      ds_model_destroy(m);
    }
}

int main(void) {
  test_one_rank();
  return TEST_RESULT();
}
