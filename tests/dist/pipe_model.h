/* pipe_model.h - what the tests of pipelines compute with: small models of both families, tied and
 * not, and token batches. */
#ifndef DS_TEST_PIPE_MODEL_H
#define DS_TEST_PIPE_MODEL_H

#include "ds.h"
#include "unit/test.h"

enum { PIPE_VOCAB = 23, PIPE_POSITIONS = 12, PIPE_MODELS = 4 };

/* Five blocks: no number of stages but one and five divides them. */
static const char *const pipe_models[PIPE_MODELS] = {
    "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": 5, \"n_head\": 2, \"vocab_size\": 23, "
    "\"n_positions\": 12}",
    "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": 5, \"n_head\": 2, \"vocab_size\": 23, "
    "\"n_positions\": 12, \"tie_word_embeddings\": false}",
    "{\"model_type\": \"llama\", \"hidden_size\": 16, \"intermediate_size\": 24, \"vocab_size\": "
    "23, \"num_hidden_layers\": 5, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 12, \"attention_bias\": true}",
    "{\"model_type\": \"llama\", \"hidden_size\": 16, \"intermediate_size\": 24, \"vocab_size\": "
    "23, \"num_hidden_layers\": 5, \"num_attention_heads\": 4, \"num_key_value_heads\": 1, "
    "\"max_position_embeddings\": 12, \"tie_word_embeddings\": true}"};

static inline bool pipe_tied(int model) {
  return model == 0 || model == 3;
}

#endif
