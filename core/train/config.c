#include "train/config.h"

#include "parallel/topology.h"
#include "train/config_keys.h"
#include "train/observe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CONFIG_LIMIT = 16 << 20 };

/* ---- reading */

static bool looks_like_text(const char *config) {
  const char *p = config + strspn(config, " \t\r\n");
  return *p == '{' || *p == '[' || *p == '#' || strncmp(p, "/*", 2) == 0 ||
         strpbrk(p, "{\n") != NULL;
}

static ds_status read_tree(const char *config, char **name, cJSON **out, ds_error *err) {
  if (config[strspn(config, " \t\r\n")] == '\0')
    return ds_fail(err, DS_ERR_INVALID,
                   "config: empty; give a path or JSON text, at least "
                   "{\"train_micro_batch_size_per_gpu\": 1}");
  bool text = looks_like_text(config);
  *name = strdup(text ? "config" : config);
  if (!*name) return ds_fail_memory(err, "the config");
  if (text) return ds_json_parse(config, strlen(config), DS_JSON_RELAXED, *name, out, err);
  ds_status status = ds_json_load(config, CONFIG_LIMIT, DS_JSON_RELAXED, out, err);
  return status == DS_OK ? status : ds_fail_prefix(err, status, "config");
}

/* ---- old spellings */

/* Takes item, which may be NULL. */
static bool replace(cJSON *object, const char *key, cJSON *item) {
  if (item && (cJSON_GetObjectItemCaseSensitive(object, key)
                   ? cJSON_ReplaceItemInObjectCaseSensitive(object, key, item)
                   : cJSON_AddItemToObject(object, key, item)))
    return true;
  cJSON_Delete(item);
  return false;
}

static bool rename_bfloat16(cJSON *tree, ds_schema_errors *errors) {
  if (!cJSON_GetObjectItemCaseSensitive(tree, "bfloat16")) return true;
  if (cJSON_GetObjectItemCaseSensitive(tree, "bf16")) {
    ds_schema_error(errors, "bfloat16: is another name of bf16, which is there too; remove one");
    cJSON_DeleteItemFromObjectCaseSensitive(tree, "bfloat16");
    return true;
  }
  return replace(tree, "bf16", cJSON_DetachItemFromObjectCaseSensitive(tree, "bfloat16"));
}

/* "zero_optimization": true was stage 1 once. */
static bool expand_zero(cJSON *tree, const ds_logger *logger) {
  const cJSON *zero = cJSON_GetObjectItemCaseSensitive(tree, "zero_optimization");
  if (!cJSON_IsBool(zero)) return true;
  int stage = cJSON_IsTrue(zero);
  ds_log(logger, DS_LOG_WARN,
         "config: \"zero_optimization\": %s is the old form of {\"stage\": %d}; write that",
         stage ? "true" : "false", stage);
  cJSON *section = cJSON_CreateObject();
  if (section && !cJSON_AddNumberToObject(section, "stage", stage)) {
    cJSON_Delete(section);
    return false;
  }
  return replace(tree, "zero_optimization", section);
}

static void warn_old_names(const cJSON *tree, const ds_logger *logger) {
  static const char *const names[][2] = {
      {"cpu_offload", "offload_optimizer"},
      {"cpu_offload_param", "offload_param"},
      {"cpu_offload_use_pin_memory", "offload_optimizer.pin_memory"},
      {"stage3_gather_fp16_weights_on_model_save", "stage3_gather_16bit_weights_on_model_save"}};
  const cJSON *zero = cJSON_GetObjectItemCaseSensitive(tree, "zero_optimization");
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (cJSON_GetObjectItemCaseSensitive(zero, names[i][0]))
      ds_log(logger, DS_LOG_WARN, "config: zero_optimization.%s is deprecated; use %s", names[i][0],
             names[i][1]);
}

/* ---- sections whose params depend on their type */

typedef const char *section_fn(const char **type, ds_schema_errors *errors);

static bool check_typed(const cJSON *tree, cJSON *root, const char *name, section_fn *section_of,
                        ds_schema_errors *errors) {
  cJSON *section = cJSON_GetObjectItemCaseSensitive(root, name);
  if (!section) return true;
  const cJSON *type = cJSON_GetObjectItemCaseSensitive(section, "type");
  if (!type) {
    /* A type of the wrong kind has its line already. */
    const cJSON *given = cJSON_GetObjectItemCaseSensitive(tree, name);
    const cJSON *wrong = cJSON_GetObjectItemCaseSensitive(given, "type");
    if (!wrong || cJSON_IsNull(wrong)) ds_schema_error(errors, "%s.type: is missing", name);
    return true;
  }
  const char *canonical = type->valuestring;
  const char *keys = section_of(&canonical, errors);
  if (!keys) return true;
  char path[64];
  snprintf(path, sizeof path, "%s.params.", name);
  cJSON *params = cJSON_CreateObject(), *nothing = cJSON_CreateObject();
  const cJSON *given = cJSON_GetObjectItemCaseSensitive(section, "params");
  bool good =
      params && nothing &&
      ds_schema_check(ds_config_keys(), keys, path, given ? given : nothing, params, errors);
  cJSON_Delete(nothing);
  if (!good) {
    cJSON_Delete(params);
    return false;
  }
  return replace(section, "params", params) &&
         replace(section, "type", cJSON_CreateString(canonical));
}

static bool is_auto(const cJSON *tree, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(tree, key);
  return cJSON_IsString(item) && strcasecmp(item->valuestring, "auto") == 0;
}

/* Keys that have no default but are needed, and pairs that exclude each other. */
static void check_together(const cJSON *tree, const cJSON *root, ds_schema_errors *errors) {
  const cJSON *scheduler = cJSON_GetObjectItemCaseSensitive(root, "scheduler");
  const cJSON *type = cJSON_GetObjectItemCaseSensitive(scheduler, "type");
  const cJSON *params = cJSON_GetObjectItemCaseSensitive(scheduler, "params");
  const cJSON *given = cJSON_GetObjectItemCaseSensitive(
      cJSON_GetObjectItemCaseSensitive(tree, "scheduler"), "params");
  static const char *const needed[][2] = {{"WarmupDecayLR", "total_num_steps"},
                                          {"WarmupCosineLR", "total_num_steps"},
                                          {"OneCycle", "cycle_min_lr"},
                                          {"OneCycle", "cycle_max_lr"}};
  for (size_t i = 0; type && i < sizeof needed / sizeof needed[0]; i++)
    if (strcmp(type->valuestring, needed[i][0]) == 0 &&
        !cJSON_GetObjectItemCaseSensitive(params, needed[i][1]))
      ds_schema_error(errors, "scheduler.params.%s: %s; %s needs it", needed[i][1],
                      is_auto(given, needed[i][1]) ? "\"auto\" has no value here, write a number"
                                                   : "is missing",
                      needed[i][0]);
}

/* ---- from the tree to the struct */

static int64_t int_of(const cJSON *object, const char *key, int64_t fallback) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsNumber(item) ? (int64_t)item->valuedouble : fallback;
}

static bool bool_of(const cJSON *object, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

static const char *const batch_keys[3] = {"train_batch_size", "train_micro_batch_size_per_gpu",
                                          "gradient_accumulation_steps"};

static void extract(const cJSON *tree, ds_config *c) {
  const cJSON *root = c->root;
  const cJSON *bf16 = cJSON_GetObjectItemCaseSensitive(root, "bf16");
  const cJSON *clip = cJSON_GetObjectItemCaseSensitive(root, "gradient_clipping");
  const cJSON *reduce = cJSON_GetObjectItemCaseSensitive(root, "gradient_allreduce_op");
  c->batch = (ds_batch_sizes){int_of(root, batch_keys[0], DS_BATCH_UNSET),
                              int_of(root, batch_keys[1], DS_BATCH_UNSET),
                              int_of(root, batch_keys[2], DS_BATCH_UNSET)};
  for (int i = 0; i < 3; i++) c->batch_auto = c->batch_auto || is_auto(tree, batch_keys[i]);
  c->gradient_clipping = cJSON_IsNumber(clip) ? clip->valuedouble : 0;
  c->steps_per_print = int_of(root, "steps_per_print", 0);
  c->bf16 = bool_of(bf16, "enabled");
  c->check_grad_overflow = !c->bf16 || bool_of(bf16, "check_grad_overflow");
  c->drop_last = bool_of(root, "dataloader_drop_last");
  c->sum_gradients = cJSON_IsString(reduce) && strcasecmp(reduce->valuestring, "sum") == 0;
}

static bool read_backend(const cJSON *tree, ds_config *c, ds_schema_errors *errors) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(tree, "backend");
  ds_error err;
  ds_status status = ds_backend_config_parse(section, &c->backend, &err);
  if (status == DS_ERR_MEMORY) return false;
  if (status != DS_OK) {
    memset(&c->backend, 0, sizeof c->backend);
    const char *text = strncmp(err.message, "config: ", 8) == 0 ? err.message + 8 : err.message;
    ds_schema_error(errors, "%s", text);
  }
  if (cJSON_GetObjectItemCaseSensitive(c->root, "backend")) return true;
  return cJSON_AddStringToObject(c->root, "backend", "auto") != NULL;
}

ds_status ds_config_read(const char *config, const ds_logger *logger, ds_config *out,
                         ds_schema_errors *errors, ds_error *err) {
  memset(out, 0, sizeof *out);
  cJSON *tree = NULL;
  DS_TRY(read_tree(config, &out->name, &tree, err));
  ds_status status = DS_OK;
  out->root = cJSON_CreateObject();
  if (!cJSON_IsObject(tree)) {
    status = ds_fail(err, DS_ERR_INVALID, "%s: must be an object, not %s", out->name,
                     ds_json_type(tree));
  } else if (!out->root || !rename_bfloat16(tree, errors) || !expand_zero(tree, logger) ||
             !ds_schema_check(ds_config_keys(), "", "", tree, out->root, errors) ||
             !check_typed(tree, out->root, "optimizer", ds_config_optimizer_section, errors) ||
             !check_typed(tree, out->root, "scheduler", ds_config_scheduler_section, errors) ||
             !read_backend(tree, out, errors)) {
    status = ds_fail_memory(err, "the config");
  } else {
    warn_old_names(tree, logger);
    check_together(tree, out->root, errors);
    ds_comms_logger_check(out->root, errors);
    extract(tree, out);
    ds_config_read_fp16(out, errors);
    ds_config_read_zero(out, errors);
    ds_config_read_tensor(out, errors);
    ds_config_read_pipeline(out, errors);
    ds_config_read_elastic(out, errors);
  }
  cJSON_Delete(tree);
  return status;
}

bool ds_config_set_world(ds_config *c, int world, const char *origin, ds_schema_errors *errors) {
  ds_error err;
  if (c->elastic && c->elasticity.n_micro == 0) return true; /* wrong, and told so */
  if ((c->elastic && ds_config_resolve_elastic(c, world, &err) != DS_OK) ||
      ds_batch_resolve(&c->batch, world, origin, c->batch_auto, &err) != DS_OK) {
    ds_schema_error(errors, "%s", err.message);
    return true;
  }
  const int64_t values[3] = {c->batch.train, c->batch.micro, c->batch.accumulation};
  for (int i = 2; i >= 0; i--) {
    cJSON *item = cJSON_CreateNumber((double)values[i]);
    cJSON_DeleteItemFromObjectCaseSensitive(c->root, batch_keys[i]);
    if (item) item->string = strdup(batch_keys[i]);
    if (!item || !item->string || !cJSON_InsertItemInArray(c->root, 0, item)) {
      cJSON_Delete(item);
      return false;
    }
  }
  return true;
}

bool ds_config_set_ranks(ds_config *c, int ranks, const char *origin, ds_schema_errors *errors) {
  ds_topology t;
  ds_error err;
  if (ds_topology_place(&t, 0, ranks, c->tensor, c->sequence, c->pipe, &err) == DS_OK)
    return ds_config_set_world(c, t.data.size, origin, errors);
  ds_schema_error(errors, "%s", err.message);
  return true;
}

void ds_config_finish(ds_config *c) {
  ds_backend_config_finish(&c->backend);
  cJSON_Delete(c->root);
  free(c->name);
  memset(c, 0, sizeof *c);
}

ds_status ds_config_resolve(const char *config, int world_size, char **json, ds_error *err) {
  if (!json) return ds_fail(err, DS_ERR_INVALID, "ds_config_resolve: json must not be NULL");
  *json = NULL;
  if (!config) return ds_fail(err, DS_ERR_INVALID, "ds_config_resolve: no config");
  if (world_size < 1)
    return ds_fail(err, DS_ERR_INVALID, "the world size must be at least 1, not %d", world_size);
  ds_config c;
  ds_schema_errors errors = {0};
  const ds_logger silent = {NULL, NULL};
  ds_status status = ds_config_read(config, &silent, &c, &errors, err);
  if (status == DS_OK && !ds_config_set_ranks(&c, world_size, "as asked", &errors))
    status = ds_fail_memory(err, "the config");
  ds_error found;
  ds_status report = ds_schema_errors_report(&errors, c.name ? c.name : "config", &found);
  if (status == DS_OK && report != DS_OK) status = ds_fail(err, report, "%s", found.message);
  if (status == DS_OK) {
    *json = cJSON_Print(c.root);
    if (!*json) status = ds_fail_memory(err, "the resolved config");
  }
  ds_config_finish(&c);
  return status;
}
