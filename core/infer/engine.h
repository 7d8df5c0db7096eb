/* engine.h - the inference engine's state, shared by its files. */
#ifndef DS_INFER_ENGINE_H
#define DS_INFER_ENGINE_H

#include "base/log.h"
#include "infer/config.h"
#include "infer/kv_cache.h"
#include "infer/sampler.h"
#include "model/model.h"
#include "model/params.h"

struct ds_inference {
  ds_inference_config config;
  ds_logger logger;
  ds_backend *backend;
  ds_ctx *ctx;
  ds_model *model;
  bool owns_model;
  bool can_generate;
  ds_model_info info; /* when can_generate */
  ds_tokenizer *tokenizer;
  int32_t dtype;
  ds_params *params;
  ds_param_slot *slots;
  void *weights; /* all parameters, flat */
  size_t weight_bytes;
  ds_kv_cache *cache; /* made by the first generate */
  int64_t max_tokens; /* prompt and answer together */
  ds_sampler sampler;
  float *logits; /* [V] */
  void *raw;     /* [V] in dtype */
  ds_generate_times times;
};

#endif
