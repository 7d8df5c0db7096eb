/* init_inference.c - from a folder or a model and a config to an engine that generates. */
#include "base/checkpoint_folder.h"
#include "base/file.h"
#include "infer/token.h"
#include "infer/weights.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

/* A training engine's checkpoint directory stands for the folder that its `latest` names. What has
 * a manifest is held against it: a flipped bit in a weight would otherwise pass for a weight. */
static ds_status resolve_folder(const char *path, char **out, ds_error *err) {
  char *latest = ds_path_join(path, "latest"), *manifest = ds_path_join(path, "manifest");
  bool directory = latest && ds_file_exists(latest);
  bool checkpoint = directory || (manifest && ds_file_exists(manifest));
  ds_status status = latest && manifest ? DS_OK : ds_fail_memory(err, path);
  free(latest);
  free(manifest);
  *out = NULL;
  if (status == DS_OK && directory) {
    status = ds_checkpoint_folder_find(path, NULL, out, NULL, err);
  } else if (status == DS_OK) {
    *out = strdup(path);
    if (!*out) status = ds_fail_memory(err, path);
  }
  if (status == DS_OK && checkpoint) status = ds_checkpoint_folder_verify(*out, err);
  if (status != DS_OK) {
    free(*out);
    *out = NULL;
  }
  return status;
}

/* The tokenizer beside the weights, or at the top of a checkpoint directory. A vocabulary of 256
 * without one is bytes.
 */
static ds_status find_tokenizer(ds_inference *e, const char *const *folders, int n, ds_error *err) {
  static const char *const files[] = {"tokenizer.json", "vocab.json"};
  for (int i = 0; i < 2 * n; i++) {
    const char *folder = folders[i / 2];
    if (!folder) continue;
    char *path = ds_path_join(folder, files[i % 2]);
    if (!path) return ds_fail_memory(err, folder);
    bool there = ds_file_exists(path);
    free(path);
    if (there) return ds_tokenizer_load(folder, &e->tokenizer, err);
  }
  if (e->can_generate && e->info.vocab_size == 256) return ds_tokenizer_bytes(&e->tokenizer, err);
  return DS_OK;
}

static ds_status find_model(ds_inference *e, const ds_init_inference_args *args, ds_error *err) {
  const char *checkpoint = args->checkpoint ? args->checkpoint : e->config.checkpoint;
  char *folder = NULL;
  if (!args->model && !checkpoint)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_init_inference needs a model or a checkpoint (a Hugging Face folder, or a "
                   "checkpoint directory)");
  if (checkpoint) DS_TRY(resolve_folder(checkpoint, &folder, err));
  ds_status status = DS_OK;
  e->model = args->model;
  if (!e->model) {
    status = ds_model_load(folder, &e->model, err);
    e->owns_model = status == DS_OK;
    if (status == DS_OK && !ds_model_has_weights(e->model))
      status = ds_fail(err, DS_ERR_NOT_FOUND,
                       "%s has no weights (model.safetensors); for random ones, load it with "
                       "ds_model_load() and give the model",
                       folder);
  } else if (folder) {
    status =
        ds_fail(err, DS_ERR_INVALID,
                "both a model and a checkpoint are given; load the model with ds_model_load(), "
                "or give the checkpoint alone");
  }
  ds_error ignored;
  e->info.size = sizeof e->info;
  e->can_generate = status == DS_OK && ds_model_get_info(e->model, &e->info, &ignored) == DS_OK;
  const char *places[] = {folder ? folder : ds_model_folder(e->model), checkpoint};
  if (status == DS_OK) status = find_tokenizer(e, places, 2, err);
  free(folder);
  return status;
}

static void choose_dtype(ds_inference *e) {
  e->dtype = e->config.dtype;
  if (e->dtype < 0) {
    int32_t own = ds_model_weights_dtype(e->model);
    e->dtype = own == DS_BF16 ? DS_BF16 : DS_F32;
    if (own == DS_F16) ds_log(&e->logger, DS_LOG_INFO, "the weights are f16; computing in f32");
  }
}

static ds_status set_up(ds_inference *e, const ds_init_inference_args *args, ds_error *err) {
  DS_TRY(ds_inference_config_parse(args->config, args->kwargs, &e->logger, &e->config, err));
  DS_TRY(find_model(e, args, err));
  choose_dtype(e);
  if (e->config.backend.trace)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "backend.trace: only training is traced; leave it out for inference");
  DS_TRY(ds_backend_open(&e->config.backend, &e->logger, &e->backend, err));
  DS_TRY(ds_weights_load(e, err));
  DS_TRY(ds_ctx_create(e->backend, e->dtype, &e->ctx, err));
  ds_ctx_bind_params(e->ctx, e->slots, ds_params_count(e->params));
  ds_ctx_set_constant_weights(e->ctx, true);
  if (!e->can_generate) return DS_OK;
  e->max_tokens = e->config.max_out_tokens;
  if (e->info.max_positions > 0 && e->info.max_positions < e->max_tokens)
    e->max_tokens = e->info.max_positions;
  size_t vocab = (size_t)e->info.vocab_size;
  e->logits = malloc(vocab * sizeof *e->logits);
  e->raw = malloc(vocab * ds_dtype_size(e->dtype));
  if (!e->logits || !e->raw) return ds_fail_memory(err, "logits");
  DS_TRY(ds_sampler_init(&e->sampler, e->info.vocab_size, err));
  return ds_token_init(e, err);
}

ds_status ds_init_inference(const ds_init_inference_args *args, ds_inference **out, ds_error *err) {
  *out = NULL;
  if (!args || args->size < sizeof *args)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_init_inference: set the arguments up with DS_INIT_INFERENCE_ARGS_INIT");
  ds_inference *e = calloc(1, sizeof *e);
  if (!e) return ds_fail_memory(err, "an inference engine");
  e->logger = (ds_logger){args->log, args->log_ctx};
  ds_status status = set_up(e, args, err);
  if (status != DS_OK) {
    ds_inference_destroy(e);
    return status;
  }
  *out = e;
  return DS_OK;
}

void ds_inference_destroy(ds_inference *e) {
  if (!e) return;
  ds_token_finish(e);
  ds_ctx_destroy(e->ctx);
  ds_kv_cache_destroy(e->cache);
  if (e->backend) ds_backend_free(e->backend, e->weights, e->weight_bytes);
  ds_backend_close(e->backend);
  ds_sampler_finish(&e->sampler);
  ds_tokenizer_destroy(e->tokenizer);
  ds_params_destroy(e->params);
  if (e->owns_model) ds_model_destroy(e->model);
  ds_inference_config_finish(&e->config);
  free(e->slots);
  free(e->logits);
  free(e->raw);
  free(e);
}

ds_model *ds_inference_module(ds_inference *e) {
  return e->model;
}
const ds_tokenizer *ds_inference_tokenizer(const ds_inference *e) {
  return e->tokenizer;
}

ds_status ds_inference_backend_stats(const ds_inference *e, ds_backend_stats *out, ds_error *err) {
  return ds_backend_stats_fill(e->backend, out, err);
}
