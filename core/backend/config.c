/* config.c - the config's "backend" section and the environment that overrides it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "backend/backend.h"
#include "base/schema.h"

#define WHERE "backend"

#define KEY(path, type, fallback, choices)                                                         \
  { path, DS_SCHEMA_##type, DS_SCHEMA_HERE, fallback, 0, INT_MAX, choices, NULL }

static const ds_schema_key keys[] = {
    KEY("name", ANY, NULL, NULL),
    KEY("device", INT, NULL, NULL),
    KEY("plugin_path", ANY, NULL, NULL),
    KEY("options", OPEN, NULL, NULL),
    KEY("fallback", STRING, "\"warn\"", "allow|warn|error"),
    KEY("graph", ANY, NULL, NULL),
    KEY("probe_timeout", NUMBER, NULL, NULL),
    {"comm_timeout", DS_SCHEMA_NUMBER, DS_SCHEMA_HERE, NULL, 0.001, 1e9, NULL, NULL},
    KEY("trace", STRING, NULL, NULL),
    {"memory_limit", DS_SCHEMA_INT, DS_SCHEMA_HERE, NULL, 1, 0x1p53, NULL, NULL},
};
static const ds_schema schema = {keys, sizeof keys / sizeof *keys};

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

/* A string (split at separator, when there is one) or an array of strings. Absent: nothing. */
static ds_status read_texts(const cJSON *item, const char *key, char separator, char ***list,
                            int *count, ds_schema_errors *errors, ds_error *err) {
  const cJSON *part, *bad = NULL;
  if (!item || cJSON_IsNull(item)) return DS_OK;
  if (cJSON_IsString(item)) {
    if (separator) return split(item->valuestring, separator, list, count, err);
    return push(list, count, item->valuestring, strlen(item->valuestring), err);
  }
  if (!cJSON_IsArray(item)) {
    ds_schema_error(errors, "%smust be a string or an array of strings, not %s", key,
                    ds_json_type(item));
    return DS_OK;
  }
  cJSON_ArrayForEach(part, item) {
    if (!cJSON_IsString(part))
      bad = part;
    else
      DS_TRY(push(list, count, part->valuestring, strlen(part->valuestring), err));
  }
  if (bad) ds_schema_error(errors, "%smust have only strings, not %s", key, ds_json_type(bad));
  return DS_OK;
}

static ds_fallback_policy policy_of(const char *text) {
  if (strcasecmp(text, "allow") == 0) return DS_FALLBACK_ALLOW;
  return strcasecmp(text, "error") == 0 ? DS_FALLBACK_ERROR : DS_FALLBACK_WARN;
}

static ds_graph_mode graph_of(const cJSON *item, ds_schema_errors *errors) {
  if (cJSON_IsBool(item)) return cJSON_IsTrue(item) ? DS_GRAPH_ON : DS_GRAPH_OFF;
  bool is_auto = cJSON_IsString(item) && strcasecmp(item->valuestring, "auto") == 0;
  if (item && !cJSON_IsNull(item) && !is_auto)
    ds_schema_error(errors, "graph: must be \"auto\", true or false");
  return DS_GRAPH_AUTO;
}

/* checked: what is valid of the section, with defaults; a key that isn't has been complained of. */
static ds_status read_object(const cJSON *checked, ds_backend_config *out, ds_schema_errors *errors,
                             ds_error *err) {
  const cJSON *device = cJSON_GetObjectItemCaseSensitive(checked, "device");
  const cJSON *options = cJSON_GetObjectItemCaseSensitive(checked, "options");
  const cJSON *fallback = cJSON_GetObjectItemCaseSensitive(checked, "fallback");
  DS_TRY(read_texts(cJSON_GetObjectItemCaseSensitive(checked, "name"), "name: ", 0, &out->names,
                    &out->n_names, errors, err));
  DS_TRY(read_texts(cJSON_GetObjectItemCaseSensitive(checked, "plugin_path"), "plugin_path: ", ':',
                    &out->plugin_path, &out->n_plugin_path, errors, err));
  const cJSON *probe = cJSON_GetObjectItemCaseSensitive(checked, "probe_timeout");
  const cJSON *trace = cJSON_GetObjectItemCaseSensitive(checked, "trace");
  if (probe) out->probe_timeout = probe->valuedouble > 0 ? probe->valuedouble : -1;
  const cJSON *patience = cJSON_GetObjectItemCaseSensitive(checked, "comm_timeout");
  if (patience) out->comm_timeout = patience->valuedouble;
  const cJSON *limit = cJSON_GetObjectItemCaseSensitive(checked, "memory_limit");
  if (limit) out->memory_limit = (size_t)limit->valuedouble;
  if (device) out->device = (int)device->valuedouble;
  out->graph = graph_of(cJSON_GetObjectItemCaseSensitive(checked, "graph"), errors);
  if (fallback) out->fallback = policy_of(fallback->valuestring);
  if (trace) {
    out->trace = strdup(trace->valuestring);
    if (!out->trace) return ds_fail_memory(err, "the backend's config");
    if (!out->trace[0]) ds_schema_error(errors, "trace: must name a file");
  }
  if (!options) return DS_OK;
  out->options = cJSON_PrintUnformatted(options);
  return out->options ? DS_OK : ds_fail_memory(err, "the backend's options");
}

static ds_status read_section(const cJSON *section, ds_backend_config *out,
                              ds_schema_errors *errors, ds_error *err) {
  if (!cJSON_IsObject(section))
    return read_texts(section, "", 0, &out->names, &out->n_names, errors, err);
  cJSON *checked = cJSON_CreateObject();
  bool room = checked && ds_schema_check(&schema, "", "", section, checked, errors);
  ds_status status =
      room ? read_object(checked, out, errors, err) : ds_fail_memory(err, "the backend's config");
  cJSON_Delete(checked);
  return status;
}

/* Replaces a list by what the variable says; a variable that is empty says nothing. */
static ds_status override(const char *variable, char separator, char ***list, int *count,
                          ds_error *err) {
  const char *text = secure_getenv(variable);
  if (!text || !text[0]) return DS_OK;
  clear(list, count);
  return split(text, separator, list, count, err);
}

ds_status ds_backend_config_parse(const cJSON *section, ds_backend_config *out, ds_error *err) {
  ds_schema_errors errors = {0};
  memset(out, 0, sizeof *out);
  out->device = -1;
  out->fallback = DS_FALLBACK_WARN;
  ds_status status = read_section(section, out, &errors, err);
  for (int i = 0; i < out->n_names; i++)
    if (!out->names[i][0]) ds_schema_error(&errors, "name: a name is empty");
  if (status == DS_OK)
    status = ds_schema_errors_report(&errors, WHERE, err);
  else
    ds_str_finish(&errors.text);
  if (status == DS_OK) status = override("DS_BACKEND", ',', &out->names, &out->n_names, err);
  if (status == DS_OK)
    status = override("DS_PLUGIN_PATH", ':', &out->plugin_path, &out->n_plugin_path, err);
  if (status == DS_OK && out->n_names == 0)
    status = push(&out->names, &out->n_names, "auto", strlen("auto"), err);
  if (status != DS_OK) ds_backend_config_finish(out);
  return status;
}

void ds_backend_config_finish(ds_backend_config *config) {
  clear(&config->names, &config->n_names);
  clear(&config->plugin_path, &config->n_plugin_path);
  cJSON_free(config->options);
  free(config->trace);
  memset(config, 0, sizeof *config);
}
