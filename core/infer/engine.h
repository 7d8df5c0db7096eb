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
  struct ds_token *token; /* token.h; NULL: tokens are not recorded */
};

typedef struct ds_token ds_token;

/* generate.c. Whether v is [1,V] logits. */
DS_MUST_USE ds_status ds_inference_check_logits(ds_inference *e, const ds_value *v, ds_error *err);
/* Such logits in device memory to e->logits, without allocating. Waits. */
DS_MUST_USE ds_status ds_inference_read_logits(ds_inference *e, const void *logits, ds_error *err);

#endif
