/* Models by blocks: which block a parameter is of, and that blocks run one part after the other, with
 * the gradient handed back between them, are the whole model to the bit. */
#include "test.h"

#include "backend/backend.h"
#include "model/model.h"
#include "model/params.h"
#include "ops/ctx.h"
#include "tensor/tensor.h"

#include <stdlib.h>

enum { LAYERS = 4, MOST = 96, ROWS = 2, LENGTH = 6, VOCAB = 19 };

static const char *const models[] = {
    "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_layer\": 4, \"n_head\": 2, \"vocab_size\": 19, "
    "\"n_positions\": 8}",
    "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_layer\": 4, \"n_head\": 2, \"vocab_size\": 19, "
    "\"n_positions\": 8, \"tie_word_embeddings\": false}",
    "{\"model_type\": \"llama\", \"hidden_size\": 8, \"intermediate_size\": 12, \"vocab_size\": "
    "19, "
    "\"num_hidden_layers\": 4, \"num_attention_heads\": 2, \"max_position_embeddings\": 8}",
    "{\"model_type\": \"llama\", \"hidden_size\": 8, \"intermediate_size\": 12, \"vocab_size\": "
    "19, "
    "\"num_hidden_layers\": 4, \"num_attention_heads\": 2, \"max_position_embeddings\": 8, "
    "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": true}"};

static ds_error err;
static ds_backend *backend;

/* The names of Hugging Face's files say the layer. */
static void check_param(ds_model *m, const ds_params *p, int i, bool tied) {
  int at[DS_PARAM_BLOCKS], n, layer;
  const char *name = ds_params_name(p, i);
  const char *number = strstr(name, ".h.") ? strstr(name, ".h.") + 3 : strstr(name, "layers.");
  if (number && *number == 'l') number += strlen("layers.");
  bool table = strstr(name, "wte") || strstr(name, "embed_tokens");
  CHECK_OK(ds_model_param_blocks(m, i, at, &n, &err), err);
  if (number && sscanf(number, "%d", &layer) == 1)
    CHECK(n == 1 && at[0] == layer);
  else if (table)
    CHECK(n == (tied ? 2 : 1) && at[0] == 0 && (!tied || at[1] == LAYERS - 1));
  else if (strstr(name, "wpe"))
    CHECK(n == 1 && at[0] == 0);
  else /* the last norm, the head */
    CHECK(n == 1 && at[0] == LAYERS - 1);
}

typedef struct numbers {
  ds_model *model;
  ds_params *params;
  ds_param_slot slots[MOST];
  ds_ctx *ctx[2];
} numbers;

static void open_numbers(numbers *x, const char *config) {
  memset(x, 0, sizeof *x);
  CHECK_OK(ds_model_from_config(config, &x->model, &err), err);
  CHECK_OK(ds_model_declare(x->model, &x->params, &err), err);
  CHECK(ds_params_count(x->params) <= MOST);
  for (int i = 0; i < ds_params_count(x->params); i++) {
    int64_t shape[DS_MAX_RANK];
    int32_t rank = ds_params_shape(x->params, i, shape);
    size_t n = (size_t)ds_params_numel(x->params, i);
    float *value = malloc(n * sizeof *value);
    CHECK_OK(ds_params_init_values(x->params, i, 3, value), err);
    x->slots[i] = (ds_param_slot){.value = ds_tensor_make(value, DS_F32, rank, shape),
                                  .grad = calloc(n, sizeof(float))};
  }
  for (int k = 0; k < 2; k++) {
    CHECK_OK(ds_ctx_create(backend, DS_F32, &x->ctx[k], &err), err);
    ds_ctx_bind_params(x->ctx[k], x->slots, ds_params_count(x->params));
    ds_ctx_set_training(x->ctx[k], true);
    CHECK_OK(ds_ctx_begin(x->ctx[k], &err), err);
  }
}

static void close_numbers(numbers *x) {
  for (int k = 0; k < 2; k++) ds_ctx_destroy(x->ctx[k]);
  for (int i = 0; i < ds_params_count(x->params); i++) {
    free(x->slots[i].value.data);
    free(x->slots[i].grad);
  }
  ds_params_destroy(x->params);
  ds_model_destroy(x->model);
}

static int32_t ids[ROWS * LENGTH], labels[ROWS * LENGTH];

static void make_inputs(ds_ctx *ctx, ds_value *in[2]) {
  const int64_t shape[] = {ROWS, LENGTH};
  for (int i = 0; i < ROWS * LENGTH; i++) {
    ids[i] = i * i % VOCAB;
    labels[i] = i * 5 % VOCAB;
  }
  in[0] = ds_input(ctx, DS_I32, 2, shape, ids);
  in[1] = ds_input(ctx, DS_I32, 2, shape, labels);
}

static float run_whole(numbers *x) {
  ds_value *in[2];
  float loss = NAN;
  make_inputs(x->ctx[0], in);
  ds_value *v = ds_model_forward(x->model, x->ctx[0], in, 2);
  CHECK_OK(ds_value_read(x->ctx[0], v, &loss, 1, &err), err);
  CHECK_OK(ds_ctx_backward(x->ctx[0], v, 1, &err), err);
  return loss;
}

/* Blocks before `cut` in one context, the others in another. */
static float run_parts(numbers *x, int cut) {
  ds_value *in[2][2];
  ds_tensor gradient;
  int64_t shape[DS_MAX_RANK];
  int32_t rank;
  float loss = NAN;
  for (int k = 0; k < 2; k++) make_inputs(x->ctx[k], in[k]);
  const ds_batch batch = {
      .n = 2, .tensors = {{DS_I32, 2, {ROWS, LENGTH}, ids}, {DS_I32, 2, {ROWS, LENGTH}, labels}}};
  CHECK_OK(ds_model_hidden_shape(x->model, &batch, &rank, shape, &err), err);
  CHECK(rank == 3 && shape[0] == ROWS && shape[1] == LENGTH && shape[2] == 8);
  ds_value *h = ds_model_forward_blocks(x->model, x->ctx[0], 0, cut, NULL, in[0], 2);
  CHECK_OK(ds_ctx_status(x->ctx[0], &err), err);
  CHECK(ds_ctx_needs_gradient(h) && ds_value_tensor(h)->shape[2] == 8);
  ds_value *leaf = ds_ctx_wrap_leaf(x->ctx[1], ds_value_tensor(h));
  ds_value *v = ds_model_forward_blocks(x->model, x->ctx[1], cut, LAYERS, leaf, in[1], 2);
  CHECK_OK(ds_value_read(x->ctx[1], v, &loss, 1, &err), err);
  CHECK(ds_ctx_leaf_gradient(leaf) == NULL);
  CHECK_FAILS(ds_ctx_backward_from(x->ctx[0], h, &err), DS_ERR_STATE, err, "without a gradient");
  CHECK_OK(ds_ctx_backward(x->ctx[1], v, 1, &err), err);
  CHECK_OK(ds_ctx_gradient(x->ctx[0], h, &gradient, &err), err);
  CHECK(ds_tensor_bytes(&gradient) == ds_tensor_bytes(ds_value_tensor(h)));
  memcpy(gradient.data, ds_ctx_leaf_gradient(leaf)->data, ds_tensor_bytes(&gradient));
  CHECK_OK(ds_ctx_backward_from(x->ctx[0], h, &err), err);
  CHECK_FAILS(ds_ctx_gradient(x->ctx[0], ds_param(x->ctx[0], 0), &gradient, &err), DS_ERR_STATE,
              err, "no place");
  return loss;
}

static void test_model(const char *config, bool tied) {
  numbers whole, parts;
  int blocks;
  open_numbers(&whole, config);
  CHECK_OK(ds_model_blocks(whole.model, &blocks, &err), err);
  CHECK(blocks == LAYERS);
  for (int i = 0; i < ds_params_count(whole.params); i++)
    check_param(whole.model, whole.params, i, tied);
  float loss = run_whole(&whole);
  for (int cut = 1; cut < LAYERS; cut++) {
    open_numbers(&parts, config);
    CHECK(run_parts(&parts, cut) == loss);
    for (int i = 0; i < ds_params_count(whole.params); i++)
      CHECK(memcmp(whole.slots[i].grad, parts.slots[i].grad,
                   (size_t)ds_params_numel(whole.params, i) * sizeof(float)) == 0);
    close_numbers(&parts);
  }
  close_numbers(&whole);
}

static void test_wrong(void) {
  ds_model *m;
  int64_t shape[DS_MAX_RANK];
  int32_t rank;
  ds_batch batch = {.n = 1, .tensors = {{DS_I32, 2, {1, 9}, ids}}};
  CHECK_OK(ds_model_from_config(models[0], &m, &err), err);
  CHECK_FAILS(ds_model_hidden_shape(m, &batch, &rank, shape, &err), DS_ERR_INVALID, err,
              "9 tokens are more than the model's 8 positions");
  batch.tensors[0].rank = 1;
  CHECK_FAILS(ds_model_hidden_shape(m, &batch, &rank, shape, &err), DS_ERR_INVALID, err,
              "token ids i32[B,T]");
  ds_model_destroy(m);
}

int main(void) {
  ds_backend_config config;
  static const ds_logger quiet;
  cJSON *section = cJSON_CreateString("reference");
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  cJSON_Delete(section);
  CHECK_OK(ds_backend_open(&config, &quiet, &backend, &err), err);
  ds_backend_config_finish(&config);
  for (int i = 0; i < 4; i++) test_model(models[i], i == 0 || i == 3);
  test_wrong();
  ds_backend_close(backend);
  return TEST_RESULT();
}
