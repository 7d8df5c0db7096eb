#include "bench_model.h"

#include "model/model.h"
#include "model/params.h"

#include <string.h>

static const char gpt2_124m[] =
    "{\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_positions\":1024,\"n_embd\":768,"
    "\"n_layer\":12,\"n_head\":12,\"activation_function\":\"gelu_new\","
    "\"layer_norm_epsilon\":1e-5,\"tie_word_embeddings\":true}";

/* Of two matrices with a row per token of the vocabulary, the first is looked up and the second is
 * the head; a single one does both. A matrix with a row per position is looked up. */
static ds_status count(bench_model *m, const ds_params *params, ds_error *err) {
  double table = 0, looked_up = 0;
  for (int i = 0; i < ds_params_count(params); i++) {
    int64_t shape[DS_MAX_RANK];
    int32_t rank = ds_params_shape(params, i, shape);
    double n = 1;
    for (int32_t d = 0; d < rank; d++) n *= (double)shape[d];
    m->params += n;
    if (rank != 2) continue;
    m->matrix += n;
    if (shape[0] == m->info.vocab_size) {
      if (m->width == 0)
        m->width = shape[1], table = n;
      else
        looked_up += table;
      m->head = n;
    } else if (strstr(ds_params_name(params, i), "wpe")) {
      looked_up += n;
    }
  }
  if (m->width == 0)
    return ds_fail(err, DS_ERR_INVALID, "%s has no table of token vectors to measure with",
                   ds_model_name(m->model));
  m->matrix -= looked_up;
  m->weights = m->params - looked_up;
  return DS_OK;
}

ds_status bench_model_open(const char *path, bench_model *out, ds_error *err) {
  *out = (bench_model){.info = {.size = sizeof out->info}};
  ds_params *params = NULL;
  ds_status status = path ? ds_model_load(path, &out->model, err)
                          : ds_model_from_config(gpt2_124m, &out->model, err);
  if (status == DS_OK) status = ds_model_get_info(out->model, &out->info, err);
  if (status == DS_OK) status = ds_model_declare(out->model, &params, err);
  if (status == DS_OK) status = count(out, params, err);
  ds_params_destroy(params);
  if (status != DS_OK) bench_model_finish(out);
  return status;
}

void bench_model_finish(bench_model *m) {
  ds_model_destroy(m->model);
  m->model = NULL;
}

double bench_model_train_flops(const bench_model *m, int64_t batch, int64_t seq_len) {
  double t = (double)seq_len, tokens = (double)batch * t;
  double attention = 6.0 * (double)m->info.n_layers * (double)m->width * t;
  return tokens * (6.0 * m->matrix + attention);
}

double bench_model_prompt_flops(const bench_model *m, int64_t n) {
  double t = (double)n;
  double attention = 2.0 * (double)m->info.n_layers * (double)m->width * t;
  return t * (2.0 * (m->matrix - m->head) + attention) + 2.0 * m->head;
}
