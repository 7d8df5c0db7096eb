#include "data/tokenizer.h"

#include "base/json.h"

#include <string.h>

/* The kinds of token looked for; each has its key in the files of token names, its key in
 * config.json, and its well-known names. */
typedef struct wanted {
  const char *key, *id_key;
  const char *names[4];
  int32_t *id;
  bool settled;
} wanted;

/* "bos_token": "<s>" or {"content": "<s>", ...}, or null. Absent: not settled. */
static ds_status by_name(const ds_tokenizer *t, const cJSON *root, const char *file, wanted *w,
                         ds_error *err) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, w->key);
  if (cJSON_IsObject(item)) item = cJSON_GetObjectItemCaseSensitive(item, "content");
  if (!item) return DS_OK;
  w->settled = true;
  if (cJSON_IsNull(item)) return DS_OK;
  if (!cJSON_IsString(item))
    return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" must be a token, not %s", file, w->key,
                   ds_json_type(item));
  *w->id = t->vtable->find(t->self, item->valuestring);
  if (*w->id < 0)
    return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" is \"%.60s\", which isn't in the vocabulary",
                   file, w->key, item->valuestring);
  return DS_OK;
}

/* "eos_token_id": 2 or [2, 3], of which the first counts. */
static ds_status by_id(const ds_tokenizer *t, const cJSON *root, wanted *w) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, w->id_key);
  if (cJSON_IsArray(item)) item = item->child;
  if (!cJSON_IsNumber(item)) return DS_OK;
  double id = item->valuedouble;
  if (!(id >= 0 && id < INT32_MAX) || !t->vtable->has(t->self, (int64_t)id)) return DS_OK;
  *w->id = (int32_t)id;
  w->settled = true;
  return DS_OK;
}

static ds_status look_into(const ds_tokenizer *t, const char *text, const char *file, bool ids,
                           wanted *list, int n, ds_error *err) {
  if (!text) return DS_OK;
  cJSON *root;
  DS_TRY(ds_json_parse(text, strlen(text), 0, file, &root, err));
  ds_status status = DS_OK;
  if (!cJSON_IsObject(root))
    status =
        ds_fail(err, DS_ERR_FORMAT, "%s must hold an object, not %s", file, ds_json_type(root));
  for (int i = 0; i < n && status == DS_OK; i++) {
    if (list[i].settled) continue;
    status = ids ? by_id(t, root, &list[i]) : by_name(t, root, file, &list[i], err);
  }
  cJSON_Delete(root);
  return status;
}

ds_status ds_special_tokens_find(ds_tokenizer *t, const char *tokenizer_config,
                                 const char *special_tokens_map, const char *config,
                                 ds_error *err) {
  wanted list[] = {
      {"bos_token", "bos_token_id", {"<s>", "<|begin_of_text|>", "<|endoftext|>"}, &t->bos, false},
      {"eos_token", "eos_token_id", {"</s>", "<|end_of_text|>", "<|endoftext|>"}, &t->eos, false},
  };
  const int n = sizeof list / sizeof *list;
  DS_TRY(look_into(t, tokenizer_config, "tokenizer_config.json", false, list, n, err));
  DS_TRY(look_into(t, special_tokens_map, "special_tokens_map.json", false, list, n, err));
  DS_TRY(look_into(t, config, "config.json", true, list, n, err));
  for (int i = 0; i < n; i++)
    for (int k = 0; !list[i].settled && *list[i].id < 0 && list[i].names[k]; k++)
      *list[i].id = t->vtable->find(t->self, list[i].names[k]);
  return DS_OK;
}

ds_status ds_special_tokens_add_bos(const char *tokenizer_config, bool fallback, bool *out,
                                    ds_error *err) {
  *out = fallback;
  if (!tokenizer_config) return DS_OK;
  cJSON *root;
  const char *file = "tokenizer_config.json";
  DS_TRY(ds_json_parse(tokenizer_config, strlen(tokenizer_config), 0, file, &root, err));
  ds_status status = ds_json_bool(root, "add_bos_token", fallback, out, file, err);
  cJSON_Delete(root);
  return status;
}
