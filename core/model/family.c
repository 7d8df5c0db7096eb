#include "model/family.h"

#include "base/str.h"

#include <math.h>
#include <string.h>

static const ds_family *const families[] = {&ds_family_gpt2, &ds_family_llama};
enum { N_FAMILIES = sizeof families / sizeof *families };

ds_status ds_family_find(const cJSON *config, const char *name, const ds_family **out,
                         ds_error *err) {
  const char *type, *types[N_FAMILIES];
  *out = NULL;
  if (!cJSON_IsObject(config))
    return ds_fail(err, DS_ERR_FORMAT, "%s: a model's config must be an object, not %s", name,
                   ds_json_type(config));
  DS_TRY(ds_json_string(config, "model_type", NULL, &type, name, err));
  if (!type)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: \"model_type\" is missing; it says which kind of model this is (gpt2, "
                   "llama)",
                   name);
  for (int i = 0; i < N_FAMILIES; i++) {
    types[i] = families[i]->model_type;
    if (strcmp(type, types[i]) == 0) *out = families[i];
  }
  if (*out) return DS_OK;
  const char *near = ds_nearest(type, types, N_FAMILIES);
  return ds_fail(err, DS_ERR_UNSUPPORTED,
                 "%s: \"model_type\" is \"%s\"; gpt2 and llama are built in%s%s%s", name, type,
                 near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
}

ds_status ds_family_size(const cJSON *config, const char *key, int64_t limit, int64_t *out,
                         const char *name, ds_error *err) {
  DS_TRY(ds_json_int(config, key, 0, 1, limit, out, name, err));
  if (*out) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" is missing", name, key);
}

ds_status ds_family_token(const cJSON *config, const char *key, int32_t *out, const char *name,
                          ds_error *err) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, key);
  *out = -1;
  if (cJSON_IsArray(item)) item = item->child;
  if (!item || cJSON_IsNull(item)) return DS_OK;
  double v = cJSON_IsNumber(item) ? item->valuedouble : -1;
  if (!(v >= 0 && v <= INT32_MAX) || v != floor(v))
    return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" must be a token id, a list of them, or null",
                   name, key);
  *out = (int32_t)v;
  return DS_OK;
}

ds_status ds_family_positive(const cJSON *config, const char *key, double fallback, double *out,
                             const char *name, ds_error *err) {
  DS_TRY(ds_json_number(config, key, fallback, out, name, err));
  if (*out > 0 && isfinite(*out)) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" must be a positive number, not %g", name, key,
                 *out);
}

ds_status ds_family_only(const cJSON *config, const char *key, const char *literal,
                         const char *name, ds_error *err) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, key);
  if (!item || cJSON_IsNull(item)) return DS_OK;
  char *text = cJSON_PrintUnformatted(item);
  if (!text) return ds_fail_memory(err, name);
  ds_status status = DS_OK;
  if (strcmp(text, literal) != 0)
    status = ds_fail(err, DS_ERR_UNSUPPORTED, "%s: \"%s\": %.100s is not implemented; only %s is",
                     name, key, text, literal);
  cJSON_free(text);
  return status;
}

char *ds_family_config_text(const cJSON *config, const ds_family *family) {
  cJSON *copy = cJSON_Duplicate(config, 1);
  if (!copy) return NULL;
  char *text = NULL;
  const char *list[] = {family->architecture};
  bool ok = true;
  if (!cJSON_GetObjectItemCaseSensitive(copy, "architectures")) {
    cJSON *architectures = cJSON_CreateStringArray(list, 1);
    ok = architectures && cJSON_AddItemToObject(copy, "architectures", architectures);
    if (!ok) cJSON_Delete(architectures);
  }
  if (ok) text = cJSON_Print(copy);
  cJSON_Delete(copy);
  return text;
}
