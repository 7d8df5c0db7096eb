/* model_weights.c - weights in Hugging Face form: names with or without the base model's prefix,
 * Conv1D matrices transposed, any float dtype. */
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "model/model_impl.h"
#include "model/params.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

/* A base model saved alone (GPT2Model, not GPT2LMHeadModel) leaves out the first component of the
 * names: "transformer.wte.weight" stands as "wte.weight". */
static const ds_safetensor *find_tensor(const ds_safetensors *weights, const char *name) {
  const ds_safetensor *t = ds_safetensors_find(weights, name);
  if (t) return t;
  const char *dot = strchr(name, '.');
  return dot ? ds_safetensors_find(weights, dot + 1) : NULL;
}

/* What older files carry besides parameters: masks, frequencies, the tied head's second copy. */
static bool is_known_extra(const char *name) {
  static const char *const ends[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq",
                                     "lm_head.weight"};
  size_t n = strlen(name);
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    size_t m = strlen(ends[i]);
    if (n >= m && strcmp(name + n - m, ends[i]) == 0) return true;
  }
  return false;
}

static bool is_float(int32_t dtype) {
  return dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16 || dtype == DS_F64;
}

static ds_status check_tensor(const ds_safetensor *t, const ds_params *p, int index,
                              const char *where, ds_error *err) {
  int64_t shape[DS_MAX_RANK];
  int32_t rank = ds_params_shape(p, index, shape);
  if (ds_params_transposed(p, index)) {
    int64_t n = shape[0];
    shape[0] = shape[1];
    shape[1] = n;
  }
  ds_tensor want = ds_tensor_make(NULL, DS_F32, rank, shape);
  ds_tensor have = ds_tensor_make(NULL, DS_F32, t->rank, t->shape);
  char a[96], b[96];
  if (!ds_tensor_same_shape(&want, &have))
    return ds_fail(err, DS_ERR_FORMAT, "%s: tensor \"%s\" is %s; config.json makes it %s", where,
                   t->name, ds_tensor_describe(&have, a, sizeof a),
                   ds_tensor_describe(&want, b, sizeof b));
  if (!is_float(t->dtype))
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: tensor \"%s\" is stored as %s; F32, BF16, F16 and F64 weights can be read",
                   where, t->name, t->type);
  return DS_OK;
}

/* Names in a list for a message: the first five. */
static void list_name(ds_str *list, size_t count, const char *name) {
  if (count < 5) ds_str_printf(list, "%s%s", count ? ", " : "", name);
  if (count == 5) ds_str_puts(list, ", ...");
}

static ds_status fail_list(ds_str *list, size_t count, const char *where, const char *what,
                           ds_error *err) {
  if (count == 0) return DS_OK;
  DS_TRY(ds_str_status(list, err));
  return ds_fail(err, DS_ERR_FORMAT, "%s: %zu tensors %s: %s", where, count, what, list->data);
}

/* Every parameter has its tensor; *used marks those. */
static ds_status check_params(const ds_safetensors *weights, const ds_params *p, const char *where,
                              bool *used, ds_error *err) {
  ds_str missing = {0};
  size_t n_missing = 0;
  ds_status status = DS_OK;
  for (int i = 0; i < ds_params_count(p) && status == DS_OK; i++) {
    const ds_safetensor *t = find_tensor(weights, ds_params_name(p, i));
    if (!t) {
      list_name(&missing, n_missing++, ds_params_name(p, i));
      continue;
    }
    used[t - ds_safetensors_at(weights, 0)] = true;
    status = check_tensor(t, p, i, where, err);
  }
  if (status == DS_OK)
    status = fail_list(&missing, n_missing, where, "of the model are missing", err);
  ds_str_finish(&missing);
  return status;
}

static ds_status check_extras(const ds_safetensors *weights, const bool *used, const char *where,
                              ds_error *err) {
  ds_str extra = {0};
  size_t n_extra = 0;
  for (size_t i = 0; i < ds_safetensors_count(weights); i++) {
    const char *name = ds_safetensors_at(weights, i)->name;
    if (!used[i] && !is_known_extra(name)) list_name(&extra, n_extra++, name);
  }
  ds_status status = fail_list(&extra, n_extra, where,
                               "belong to no parameter of the model (is it of another "
                               "kind than config.json says?)",
                               err);
  ds_str_finish(&extra);
  return status;
}

/* The dtype with the most bytes. */
static int32_t main_dtype(const ds_safetensors *weights, const bool *used) {
  static const int32_t kinds[] = {DS_F32, DS_BF16, DS_F16, DS_F64};
  int32_t best = DS_F32;
  size_t most = 0;
  for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
    size_t bytes = 0;
    for (size_t i = 0; i < ds_safetensors_count(weights); i++) {
      const ds_safetensor *t = ds_safetensors_at(weights, i);
      if (used[i] && t->dtype == kinds[k]) bytes += t->bytes;
    }
    if (bytes > most) best = kinds[k];
    if (bytes > most) most = bytes;
  }
  return best;
}

static ds_status check_weights(ds_model *m, const char *where, ds_error *err) {
  ds_params *p = NULL;
  size_t count = ds_safetensors_count(m->weights);
  bool *used = calloc(count + 1, sizeof *used);
  if (!used) return ds_fail_memory(err, where);
  ds_status status = ds_model_declare(m, &p, err);
  if (status == DS_OK) status = check_params(m->weights, p, where, used, err);
  if (status == DS_OK) status = check_extras(m->weights, used, where, err);
  if (status == DS_OK) m->weights_dtype = main_dtype(m->weights, used);
  ds_params_destroy(p);
  free(used);
  return status;
}

/* The file to open, new; NULL in *out when the folder has no weights. */
static ds_status weights_path(const char *folder, char **out, ds_error *err) {
  static const char *const names[] = {"model.safetensors", "model.safetensors.index.json",
                                      "pytorch_model.bin", "pytorch_model.bin.index.json"};
  *out = NULL;
  for (int i = 0; i < 4; i++) {
    char *path = ds_path_join(folder, names[i]);
    if (!path) return ds_fail_memory(err, folder);
    if (ds_file_exists(path)) {
      if (i < 2) {
        *out = path;
        return DS_OK;
      }
      free(path);
      return ds_fail(err, DS_ERR_UNSUPPORTED,
                     "%s has %s but no model.safetensors; save the model with transformers as "
                     "safetensors",
                     folder, names[i]);
    }
    free(path);
  }
  return DS_OK;
}

ds_status ds_model_open_weights(ds_model *m, ds_error *err) {
  char *path;
  DS_TRY(weights_path(m->folder, &path, err));
  if (!path) return DS_OK;
  ds_status status = ds_safetensors_open(path, &m->weights, err);
  if (status == DS_OK) status = check_weights(m, path, err);
  free(path);
  return status;
}

/* dst[cols,rows] = src[rows,cols]^T, in tiles that stay in the cache. */
static void transpose(float *dst, const float *src, int64_t rows, int64_t cols) {
  enum { TILE = 32 };
  for (int64_t i0 = 0; i0 < rows; i0 += TILE)
    for (int64_t j0 = 0; j0 < cols; j0 += TILE)
      for (int64_t i = i0; i < rows && i < i0 + TILE; i++)
        for (int64_t j = j0; j < cols && j < j0 + TILE; j++) dst[j * rows + i] = src[i * cols + j];
}

static float *new_floats(int64_t n) {
  return malloc((size_t)n * sizeof(float));
}

ds_status ds_model_read_param(ds_model *m, const ds_params *p, int index, float *out,
                              ds_error *err) {
  if (!m->weights)
    return ds_fail(err, DS_ERR_STATE, "model %s has no weights to read", ds_model_name(m));
  const char *name = ds_params_name(p, index);
  if (!name) return ds_fail(err, DS_ERR_INVALID, "no parameter %d", index);
  const ds_safetensor *t = find_tensor(m->weights, name);
  if (!t)
    return ds_fail(err, DS_ERR_NOT_FOUND, "%s: the weights have no tensor \"%s\"", m->folder, name);
  DS_TRY(check_tensor(t, p, index, m->folder, err));
  if (!ds_params_transposed(p, index)) return ds_safetensor_read_f32(t, out, err);
  float *stored = new_floats(ds_params_numel(p, index));
  if (!stored) return ds_fail_memory(err, name);
  ds_status status = ds_safetensor_read_f32(t, stored, err);
  if (status == DS_OK) transpose(out, stored, t->shape[0], t->shape[1]);
  free(stored);
  return status;
}

ds_status ds_model_declare_weights(const ds_params *p, int32_t dtype, ds_safetensors_writer *w,
                                   ds_error *err) {
  DS_TRY(ds_safetensors_writer_metadata(w, "format", "pt", err));
  for (int i = 0; i < ds_params_count(p); i++) {
    int64_t shape[DS_MAX_RANK] = {0};
    int32_t rank = ds_params_shape(p, i, shape);
    int64_t stored[] = {shape[1], shape[0]};
    DS_TRY(ds_safetensors_writer_add(w, ds_params_name(p, i), dtype, rank,
                                     ds_params_transposed(p, i) ? stored : shape, err));
  }
  return DS_OK;
}

/* Replaces (or adds) the dtype in the config by that of the file. */
static ds_status stamp_dtype(cJSON *config, bool bits16, ds_error *err) {
  const char *key = cJSON_GetObjectItemCaseSensitive(config, "dtype") ? "dtype" : "torch_dtype";
  cJSON_DeleteItemFromObjectCaseSensitive(config, key);
  if (cJSON_AddStringToObject(config, key, bits16 ? "bfloat16" : "float32")) return DS_OK;
  return ds_fail_memory(err, "config.json");
}

char *ds_model_config_json(const ds_model *m) {
  return m->functions.config_json ? m->functions.config_json(m->self) : NULL;
}

ds_status ds_model_stamp_config(const char *text, const char *path, bool bits16, ds_error *err) {
  cJSON *config = NULL;
  char *stamped = NULL;
  ds_status status = ds_json_parse(text, strlen(text), 0, "the model's config_json", &config, err);
  if (status == DS_OK) status = stamp_dtype(config, bits16, err);
  if (status == DS_OK) {
    stamped = cJSON_Print(config);
    status =
        stamped ? ds_file_write(path, stamped, strlen(stamped), err) : ds_fail_memory(err, path);
  }
  cJSON_free(stamped);
  cJSON_Delete(config);
  return status;
}

ds_status ds_model_save_config(ds_model *m, const char *folder, bool bits16, ds_error *err) {
  if (!m->functions.config_json) return DS_OK;
  char *text = m->functions.config_json(m->self), *path = ds_path_join(folder, "config.json");
  ds_status status = text && path ? ds_model_stamp_config(text, path, bits16, err)
                                  : ds_fail_memory(err, "config.json");
  free(path);
  free(text);
  return status;
}
