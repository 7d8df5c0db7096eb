/* config.c - the config's "backend" section and the environment that overrides it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/str.h"

#define WHERE "backend"

static const char *const keys[] = {"name", "device", "plugin_path", "options", "fallback"};
static const char *const policies[] = {"allow", "warn", "error"};
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* Mistakes are gathered, a line each; only lack of memory stops the reading. */
static void complain(ds_str *mistakes, const ds_error *e) {
  ds_str_printf(mistakes, "%s%s", mistakes->length ? "\n" : "", e->message);
}

static ds_status push(char ***list, int *count, const char *text, size_t length, ds_error *err) {
  char **grown = realloc(*list, ((size_t)*count + 1) * sizeof *grown);
  if (grown) *list = grown;
  char *copy = grown ? strndup(text, length) : NULL;
  if (!copy) return ds_fail_memory(err, "the backend's config");
  grown[(*count)++] = copy;
  return DS_OK;
}

static void clear(char ***list, int *count) {
  for (int i = 0; i < *count; i++) free((*list)[i]);
  free(*list);
  *list = NULL;
  *count = 0;
}

/* Splits at `separator`; surrounding blanks and empty parts don't count. */
static ds_status split(const char *text, char separator, char ***list, int *count, ds_error *err) {
  while (*text) {
    const char *end = strchrnul(text, separator);
    const char *from = text + strspn(text, " \t"), *to = end;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t')) to--;
    if (to > from) DS_TRY(push(list, count, from, (size_t)(to - from), err));
    text = *end ? end + 1 : end;
  }
  return DS_OK;
}

/* A text (cut at separator, when there is one) or an array of texts. */
static ds_status read_texts(const cJSON *item, const char *key, char separator, char ***list,
                            int *count, ds_str *mistakes, ds_error *err) {
  ds_error e;
  if (cJSON_IsString(item) && item->valuestring[0]) {
    if (separator) return split(item->valuestring, separator, list, count, err);
    return push(list, count, item->valuestring, strlen(item->valuestring), err);
  }
  bool good = cJSON_IsArray(item) && item->child;
  const cJSON *part;
  if (cJSON_IsArray(item)) {
    cJSON_ArrayForEach(part, item) {
      if (!cJSON_IsString(part) || !part->valuestring[0]) {
        good = false;
      } else {
        DS_TRY(push(list, count, part->valuestring, strlen(part->valuestring), err));
      }
    }
  }
  if (!good) {
    ds_fail(&e, DS_ERR_INVALID,
            "%s: %s must be a string or an array of strings, none empty, not %s", WHERE, key,
            cJSON_IsArray(item) ? "such an array" : ds_json_type(item));
    complain(mistakes, &e);
  }
  return DS_OK;
}

static void check_keys(const cJSON *section, ds_str *mistakes) {
  const cJSON *item;
  cJSON_ArrayForEach(item, section) {
    bool known = false;
    for (size_t i = 0; i < COUNT(keys); i++) known = known || strcmp(item->string, keys[i]) == 0;
    if (known) continue;
    const char *near = ds_nearest(item->string, keys, COUNT(keys));
    ds_error e;
    ds_fail(&e, DS_ERR_INVALID, "%s: unknown key \"%.60s\"%s%s%s", WHERE, item->string,
            near ? "; did you mean \""
                 : "; the keys are name, device, plugin_path, options, fallback",
            near ? near : "", near ? "\"?" : "");
    complain(mistakes, &e);
  }
}

static void read_policy(const cJSON *section, ds_backend_config *out, ds_str *mistakes) {
  const char *text;
  ds_error e;
  if (ds_json_string(section, "fallback", policies[out->fallback], &text, WHERE, &e) != DS_OK) {
    complain(mistakes, &e);
    return;
  }
  for (size_t i = 0; i < COUNT(policies); i++) {
    if (strcmp(text, policies[i]) == 0) {
      out->fallback = (ds_fallback_policy)i;
      return;
    }
  }
  const char *near = ds_nearest(text, policies, COUNT(policies));
  ds_fail(&e, DS_ERR_INVALID, "%s: \"fallback\" must be allow, warn or error, not \"%.60s\"%s%s%s",
          WHERE, text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
  complain(mistakes, &e);
}

static ds_status read_object(const cJSON *section, ds_backend_config *out, ds_str *mistakes,
                             ds_error *err) {
  ds_error e;
  int64_t device;
  check_keys(section, mistakes);
  const cJSON *name = cJSON_GetObjectItemCaseSensitive(section, "name");
  const cJSON *path = cJSON_GetObjectItemCaseSensitive(section, "plugin_path");
  const cJSON *options = cJSON_GetObjectItemCaseSensitive(section, "options");
  if (name && !cJSON_IsNull(name)) {
    DS_TRY(read_texts(name, "\"name\"", 0, &out->names, &out->n_names, mistakes, err));
  }
  if (path && !cJSON_IsNull(path)) {
    DS_TRY(read_texts(path, "\"plugin_path\"", ':', &out->plugin_path, &out->n_plugin_path,
                      mistakes, err));
  }
  if (ds_json_int(section, "device", 0, 0, INT_MAX, &device, WHERE, &e) == DS_OK)
    out->device = (int)device;
  else
    complain(mistakes, &e);
  if (options && !cJSON_IsNull(options)) {
    if (cJSON_IsObject(options)) {
      out->options = cJSON_PrintUnformatted(options);
      if (!out->options) return ds_fail_memory(err, "the backend's options");
    } else {
      ds_fail(&e, DS_ERR_INVALID, "%s: \"options\" must be an object, not %s", WHERE,
              ds_json_type(options));
      complain(mistakes, &e);
    }
  }
  read_policy(section, out, mistakes);
  return DS_OK;
}

/* Replaces a list by what the variable says; a variable that is empty says nothing. */
static ds_status override(const char *variable, char separator, char ***list, int *count,
                          ds_error *err) {
  const char *text = secure_getenv(variable);
  if (!text || !text[0]) return DS_OK;
  clear(list, count);
  return split(text, separator, list, count, err);
}

static ds_status parse(const cJSON *section, ds_backend_config *out, ds_str *mistakes,
                       ds_error *err) {
  if (cJSON_IsObject(section)) {
    DS_TRY(read_object(section, out, mistakes, err));
  } else if (section && !cJSON_IsNull(section)) {
    DS_TRY(read_texts(section, "the section", 0, &out->names, &out->n_names, mistakes, err));
  }
  DS_TRY(override("DS_BACKEND", ',', &out->names, &out->n_names, err));
  DS_TRY(override("DS_PLUGIN_PATH", ':', &out->plugin_path, &out->n_plugin_path, err));
  if (out->n_names == 0) DS_TRY(push(&out->names, &out->n_names, "auto", strlen("auto"), err));
  if (mistakes->length) return ds_fail(err, DS_ERR_INVALID, "%s", mistakes->data);
  return ds_str_status(mistakes, err);
}

ds_status ds_backend_config_parse(const cJSON *section, ds_backend_config *out, ds_error *err) {
  ds_str mistakes = {0};
  memset(out, 0, sizeof *out);
  out->fallback = DS_FALLBACK_WARN;
  ds_status status = parse(section, out, &mistakes, err);
  if (status != DS_OK) ds_backend_config_finish(out);
  ds_str_finish(&mistakes);
  return status;
}

void ds_backend_config_finish(ds_backend_config *config) {
  clear(&config->names, &config->n_names);
  clear(&config->plugin_path, &config->n_plugin_path);
  cJSON_free(config->options);
  memset(config, 0, sizeof *config);
}
