#include "base/file.h"
#include "model/family.h"
#include "model/model_impl.h"
#include "model/params.h"
#include "ops/parallel.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX = 16 << 20 };

/* The first of the functions for pipeline stages that isn't there, or NULL. */
static const char *lacks_stages(const ds_model_vtable *v) {
  return !v->n_blocks         ? "n_blocks"
         : !v->param_blocks   ? "param_blocks"
         : !v->hidden_shape   ? "hidden_shape"
         : !v->forward_blocks ? "forward_blocks"
                              : NULL;
}

static ds_status check_vtable(const ds_model_vtable *v, ds_error *err) {
  const char *missing = !v->declare ? "declare" : !v->forward ? "forward" : NULL;
  if (missing)
    return ds_fail(err, DS_ERR_INVALID, "model %s: the vtable has no %s function", v->name,
                   missing);
  if (v->decode && !v->info)
    return ds_fail(err, DS_ERR_INVALID, "model %s: a model with decode needs info", v->name);
  missing = lacks_stages(v);
  if (missing && (v->n_blocks || v->param_blocks || v->hidden_shape || v->forward_blocks))
    return ds_fail(err, DS_ERR_INVALID,
                   "model %s: of the functions for pipeline stages %s is missing; give all four or "
                   "none",
                   v->name, missing);
  return DS_OK;
}

ds_status ds_model_create(const ds_model_vtable *vtable, void *self, ds_model **out,
                          ds_error *err) {
  *out = NULL;
  size_t least = offsetof(ds_model_vtable, info);
  if (!vtable || vtable->size < least || !vtable->name)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_model_create: the vtable needs size = sizeof(ds_model_vtable) and a name");
  ds_model *m = calloc(1, sizeof *m);
  if (!m) return ds_fail_memory(err, vtable->name);
  size_t size = vtable->size < sizeof m->functions ? vtable->size : sizeof m->functions;
  memcpy(&m->functions, vtable, size);
  m->self = self;
  ds_status status = check_vtable(&m->functions, err);
  if (status != DS_OK) {
    free(m); /* self stays the caller's */
    return status;
  }
  *out = m;
  return DS_OK;
}

void ds_model_destroy(ds_model *m) {
  if (!m) return;
  if (m->functions.destroy) m->functions.destroy(m->self);
  ds_safetensors_close(m->weights);
  free(m->folder);
  free(m);
}

static ds_status from_tree(const cJSON *config, const char *name, ds_model **out, ds_error *err) {
  const ds_family *family;
  void *self;
  *out = NULL;
  DS_TRY(ds_family_find(config, name, &family, err));
  DS_TRY(family->create(config, name, &self, err));
  ds_status status = ds_model_create(family->vtable, self, out, err);
  if (status != DS_OK) family->vtable->destroy(self);
  if (status == DS_OK) (*out)->built_in = true;
  return status;
}

ds_status ds_model_from_config(const char *config_json, ds_model **out, ds_error *err) {
  *out = NULL;
  if (!config_json) return ds_fail(err, DS_ERR_INVALID, "ds_model_from_config: no text");
  cJSON *config;
  DS_TRY(ds_json_parse(config_json, strlen(config_json), 0, "model config", &config, err));
  ds_status status = from_tree(config, "model config", out, err);
  cJSON_Delete(config);
  return status;
}

/* The folder of a file: "." when the path has none. */
static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  if (!slash) return strdup(".");
  return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static ds_status load(const char *path, const char *config_path, bool with_weights, ds_model **out,
                      ds_error *err) {
  cJSON *config;
  DS_TRY(ds_json_load(config_path, CONFIG_MAX, 0, &config, err));
  ds_status status = from_tree(config, config_path, out, err);
  cJSON_Delete(config);
  DS_TRY(status);
  (*out)->folder = with_weights ? strdup(path) : folder_of(path);
  if (!(*out)->folder)
    status = ds_fail_memory(err, path);
  else if (with_weights)
    status = ds_model_open_weights(*out, err);
  if (status == DS_OK) return DS_OK;
  ds_model_destroy(*out);
  *out = NULL;
  return status;
}

ds_status ds_model_load(const char *path, ds_model **out, ds_error *err) {
  *out = NULL;
  if (!path) return ds_fail(err, DS_ERR_INVALID, "ds_model_load: no path");
  if (!ds_file_exists(path))
    return ds_fail(err, DS_ERR_NOT_FOUND, "%s: no such model folder or config.json", path);
  if (!ds_is_folder(path)) return load(path, path, false, out, err);
  char *config_path = ds_path_join(path, "config.json");
  if (!config_path) return ds_fail_memory(err, path);
  ds_status status;
  if (!ds_file_exists(config_path))
    status = ds_fail(err, DS_ERR_NOT_FOUND,
                     "%s has no config.json; a Hugging Face model folder is wanted", path);
  else
    status = load(path, config_path, true, out, err);
  free(config_path);
  return status;
}

const char *ds_model_name(const ds_model *m) {
  return m->functions.name;
}
const char *ds_model_folder(const ds_model *m) {
  return m->folder;
}
bool ds_model_built_in(const ds_model *m) {
  return m->built_in;
}

bool ds_model_has_weights(const ds_model *m) {
  return m->weights != NULL;
}
int32_t ds_model_weights_dtype(const ds_model *m) {
  return m->weights ? m->weights_dtype : DS_F32;
}

ds_status ds_model_get_info(ds_model *m, ds_model_info *out, ds_error *err) {
  memset(out, 0, sizeof *out);
  out->size = sizeof *out;
  out->bos_token = out->eos_token = -1;
  if (!m->functions.decode)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "model %s does not generate text", m->functions.name);
  DS_TRY(m->functions.info(m->self, out, err));
  if (out->n_layers > 0 && out->n_kv_heads > 0 && out->head_dim > 0 && out->vocab_size > 0 &&
      out->max_positions > 0)
    return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "model %s: its info has a size that is not positive",
                 m->functions.name);
}

ds_status ds_model_declare(ds_model *m, ds_params **out, ds_error *err) {
  DS_TRY(ds_params_create(out, err));
  ds_status status = m->functions.declare(m->self, *out, err);
  if (status == DS_OK) status = ds_params_status(*out, err);
  if (status == DS_OK && ds_params_count(*out) == 0)
    status = ds_fail(err, DS_ERR_INVALID, "model %s declares no parameters", m->functions.name);
  if (status == DS_OK) return DS_OK;
  ds_params_destroy(*out);
  *out = NULL;
  return status;
}

static ds_value *checked(const ds_model *m, ds_ctx *ctx, ds_value *v, const char *function) {
  if (ds_ctx_status(ctx, NULL) != DS_OK) return NULL;
  if (v) return v;
  return ds_ctx_fail(ctx, DS_ERR_INTERNAL, "model %s: %s returned nothing", m->functions.name,
                     function);
}

ds_value *ds_model_forward(ds_model *m, ds_ctx *ctx, ds_value *const *inputs, int n_inputs) {
  if (n_inputs < 1) return ds_ctx_fail(ctx, DS_ERR_INVALID, "a model's forward needs an input");
  ds_value *v = checked(m, ctx, m->functions.forward(m->self, ctx, inputs, n_inputs), "forward");
  return ds_parallel_whole(ctx, v);
}

ds_value *ds_model_decode(ds_model *m, ds_ctx *ctx, ds_value *ids, ds_kv_cache *cache) {
  if (!m->functions.decode)
    return ds_ctx_fail(ctx, DS_ERR_UNSUPPORTED, "model %s does not generate text",
                       m->functions.name);
  return checked(m, ctx, m->functions.decode(m->self, ctx, ids, cache), "decode");
}

/* ---- stages */

ds_status ds_model_blocks(ds_model *m, int *blocks, ds_error *err) {
  const char *missing = lacks_stages(&m->functions);
  *blocks = 0;
  if (missing)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "model %s can't be split into pipeline stages: its vtable has no %s function",
                   m->functions.name, missing);
  *blocks = m->functions.n_blocks(m->self);
  if (*blocks >= 1) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "model %s: n_blocks gives %d", m->functions.name, *blocks);
}

ds_status ds_model_param_blocks(ds_model *m, int index, int at[DS_PARAM_BLOCKS], int *n,
                                ds_error *err) {
  int blocks;
  DS_TRY(ds_model_blocks(m, &blocks, err));
  *n = m->functions.param_blocks(m->self, index, at);
  bool good = *n >= 1 && *n <= DS_PARAM_BLOCKS;
  for (int i = 0; good && i < *n; i++) good = at[i] >= 0 && at[i] < blocks;
  if (good) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "model %s: param_blocks gives no block for parameter %d",
                 m->functions.name, index);
}

ds_status ds_model_hidden_shape(ds_model *m, const ds_batch *batch, int32_t *rank, int64_t *shape,
                                ds_error *err) {
  DS_TRY(m->functions.hidden_shape(m->self, batch, rank, shape, err));
  bool good = *rank >= 1 && *rank <= DS_MAX_RANK;
  for (int32_t i = 0; good && i < *rank; i++) good = shape[i] > 0;
  if (good) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "model %s: hidden_shape gives no shape", m->functions.name);
}

ds_value *ds_model_forward_blocks(ds_model *m, ds_ctx *ctx, int first, int last, ds_value *hidden,
                                  ds_value *const *inputs, int n_inputs) {
  if (n_inputs < 1) return ds_ctx_fail(ctx, DS_ERR_INVALID, "a model's forward needs an input");
  ds_value *out = m->functions.forward_blocks(m->self, ctx, first, last, hidden, inputs, n_inputs);
  return checked(m, ctx, out, "forward_blocks");
}
