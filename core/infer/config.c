#include "infer/config.h"

#include "base/schema.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KEY(path, type, state, fallback)                                                           \
  { path, DS_SCHEMA_##type, DS_SCHEMA_##state, fallback, 0, 0, NULL, NULL }
#define INT(path, state, fallback, min)                                                            \
  { path, DS_SCHEMA_INT, DS_SCHEMA_##state, fallback, min, 0x1p53, NULL, NULL }

static const ds_schema_key keys[] = {
    KEY("dtype", STRING, HERE, NULL),
    KEY("checkpoint", STRING, HERE, NULL),
    INT("max_out_tokens", HERE, "1024", 1),
    INT("min_out_tokens", HERE, "1", 0),
    KEY("tensor_parallel", SECTION, HERE, NULL),
    KEY("tensor_parallel.enabled", BOOL, IDLE, "true"),
    INT("tensor_parallel.tp_size", LATER, "1", 1),
    INT("tensor_parallel.tp_grain_size", IDLE, "64", 1),
    /* Every kernel here is the fused one, so there is nothing to inject. */
    KEY("replace_with_kernel_inject", BOOL, IDLE, "false"),
    {"replace_method", DS_SCHEMA_STRING, DS_SCHEMA_IDLE, "\"auto\"", 0, 0, "auto", NULL},
    KEY("enable_cuda_graph", BOOL, HERE, NULL), /* any backend's graphs */
    KEY("triangular_masking", BOOL, LATER, "true"),
    KEY("return_tuple", BOOL, IDLE, "true"),
    KEY("quant", SECTION, HERE, NULL),
    KEY("quant.enabled", BOOL, LATER, "false"),
    KEY("quant.activation", OPEN, IDLE, NULL),
    KEY("quant.weight", OPEN, IDLE, NULL),
    KEY("quant.qkv", OPEN, IDLE, NULL),
    KEY("moe", SECTION, HERE, NULL),
    KEY("moe.enabled", BOOL, IDLE, "true"),
    INT("moe.ep_size", LATER, "1", 1),
    KEY("moe.moe_experts", LIST, IDLE, NULL),
    KEY("zero", OPEN, LATER, NULL),
    KEY("save_mp_checkpoint_path", STRING, LATER, NULL),
    KEY("checkpoint_config", OPEN, LATER, NULL),
    KEY("use_triton", BOOL, LATER, "false"),
    KEY("triton_autotune", BOOL, LATER, "false"),
    KEY("training_mp_size", INT, IDLE, NULL),
    KEY("injection_policy", ANY, LATER, "null"),
    KEY("backend", ANY, HERE, NULL),
};

static const ds_schema schema = {keys, sizeof keys / sizeof *keys};

/* "fp32", "torch.float32", ... to a dtype; -2 unknown, -3 known but not there. */
static int32_t dtype_of(const char *name) {
  static const struct {
    const char *name;
    int32_t dtype;
  } names[] = {{"fp32", DS_F32},  {"float32", DS_F32},   {"float", DS_F32}, {"f32", DS_F32},
               {"bf16", DS_BF16}, {"bfloat16", DS_BF16}, {"fp16", -3},      {"float16", -3},
               {"half", -3},      {"f16", -3},           {"int8", -3}};
  if (strncasecmp(name, "torch.", 6) == 0) name += 6;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcasecmp(name, names[i].name) == 0) return names[i].dtype;
  return -2;
}

static ds_status load(const char *config, const char *name, cJSON **out, ds_error *err) {
  *out = NULL;
  if (!config) {
    *out = cJSON_CreateObject();
    return *out ? DS_OK : ds_fail_memory(err, name);
  }
  DS_TRY(ds_json_config(config, out, err));
  if (cJSON_IsObject(*out)) return DS_OK;
  ds_status status =
      ds_fail(err, DS_ERR_INVALID, "%s must be an object, not %s", name, ds_json_type(*out));
  cJSON_Delete(*out);
  *out = NULL;
  return status;
}

/* Old and short names to the ones in the table. */
static ds_status normalize(cJSON *c, const char *name, ds_error *err) {
  cJSON *tp = cJSON_GetObjectItemCaseSensitive(c, "tp");
  cJSON *mp = cJSON_GetObjectItemCaseSensitive(c, "mp_size");
  cJSON *full = cJSON_GetObjectItemCaseSensitive(c, "tensor_parallel");
  if ((tp != NULL) + (mp != NULL) + (full != NULL) > 1)
    return ds_fail(err, DS_ERR_INVALID,
                   "%s: \"tensor_parallel\", \"tp\" and \"mp_size\" are the same thing; give one",
                   name);
  if (tp) {
    cJSON *copy = cJSON_Duplicate(tp, 1);
    if (!copy || !cJSON_AddItemToObject(c, "tensor_parallel", copy)) {
      cJSON_Delete(copy);
      return ds_fail_memory(err, name);
    }
    cJSON_DeleteItemFromObjectCaseSensitive(c, "tp");
  }
  if (mp) {
    cJSON *copy = cJSON_Duplicate(mp, 1), *section = cJSON_AddObjectToObject(c, "tensor_parallel");
    if (!copy || !section || !cJSON_AddItemToObject(section, "tp_size", copy)) {
      cJSON_Delete(copy);
      return ds_fail_memory(err, name);
    }
    cJSON_DeleteItemFromObjectCaseSensitive(c, "mp_size");
  }
  return DS_OK;
}

/* over's members into base: objects member by member, anything else replaced. Names what changed.
 */
static ds_status merge(cJSON *base, const cJSON *over, ds_str *changed, ds_error *err) {
  const cJSON *item;
  cJSON_ArrayForEach(item, over) {
    cJSON *old = cJSON_GetObjectItemCaseSensitive(base, item->string);
    if (cJSON_IsObject(old) && cJSON_IsObject(item)) {
      DS_TRY(merge(old, item, changed, err));
      continue;
    }
    if (old && !cJSON_Compare(old, item, 1))
      ds_str_printf(changed, "%s\"%s\"", changed->length ? ", " : "", item->string);
    cJSON_DeleteItemFromObjectCaseSensitive(base, item->string);
    cJSON *copy = cJSON_Duplicate(item, 1);
    if (!copy || !cJSON_AddItemToObject(base, item->string, copy)) {
      cJSON_Delete(copy);
      return ds_fail_memory(err, "config");
    }
  }
  return DS_OK;
}

static ds_status check_dtype(const cJSON *resolved, ds_inference_config *out,
                             ds_schema_errors *errors, ds_error *err) {
  const char *dtype;
  DS_TRY(ds_json_string(resolved, "dtype", NULL, &dtype, "config", err));
  out->dtype = dtype ? dtype_of(dtype) : -1;
  if (out->dtype == -3)
    ds_schema_error(errors, "dtype: \"%s\" is not there yet; use \"fp32\" or \"bf16\"", dtype);
  if (out->dtype == -2)
    ds_schema_error(errors, "dtype: \"%.40s\" is no dtype; use \"fp32\" or \"bf16\"", dtype);
  return DS_OK;
}

static ds_status read_values(const cJSON *c, ds_inference_config *out, ds_error *err) {
  cJSON *resolved = cJSON_CreateObject();
  ds_schema_errors errors = {0};
  ds_status status = DS_OK;
  if (!resolved || !ds_schema_check(&schema, "", "", c, resolved, &errors))
    status = ds_fail_memory(err, "config");
  if (status == DS_OK) status = check_dtype(resolved, out, &errors, err);
  if (status == DS_OK) {
    ds_error backend;
    if (ds_backend_config_parse(cJSON_GetObjectItemCaseSensitive(c, "backend"), &out->backend,
                                &backend) != DS_OK)
      ds_schema_error(&errors, "%s", backend.message);
  }
  const cJSON *graph = cJSON_GetObjectItemCaseSensitive(resolved, "enable_cuda_graph");
  if (cJSON_IsBool(graph)) {
    ds_graph_mode mode = cJSON_IsTrue(graph) ? DS_GRAPH_ON : DS_GRAPH_OFF;
    if (out->backend.graph != DS_GRAPH_AUTO && out->backend.graph != mode)
      ds_schema_error(&errors,
                      "enable_cuda_graph and the backend's \"graph\" contradict each other");
    out->backend.graph = mode;
  }
  ds_status reported = ds_schema_errors_report(&errors, "inference config", err);
  if (status == DS_OK) status = reported;
  const char *path = NULL;
  if (status == DS_OK)
    status = ds_json_int(resolved, "max_out_tokens", 1024, 1, INT32_MAX, &out->max_out_tokens,
                         "config", err);
  if (status == DS_OK)
    status = ds_json_int(resolved, "min_out_tokens", 1, 0, INT32_MAX, &out->min_out_tokens,
                         "config", err);
  if (status == DS_OK) status = ds_json_string(resolved, "checkpoint", NULL, &path, "config", err);
  if (status == DS_OK && path && !(out->checkpoint = strdup(path)))
    status = ds_fail_memory(err, "config");
  cJSON_Delete(resolved);
  return status;
}

ds_status ds_inference_config_parse(const char *config, const char *kwargs, const ds_logger *logger,
                                    ds_inference_config *out, ds_error *err) {
  memset(out, 0, sizeof *out);
  cJSON *base = NULL, *over = NULL;
  ds_str changed = {0};
  ds_status status = load(config, "config", &base, err);
  if (status == DS_OK) status = load(kwargs, "keyword arguments", &over, err);
  if (status == DS_OK) status = normalize(base, "config", err);
  if (status == DS_OK) status = normalize(over, "keyword arguments", err);
  if (status == DS_OK) status = merge(base, over, &changed, err);
  if (status == DS_OK && changed.length > 0)
    ds_log(logger, DS_LOG_WARN, "keyword arguments override the config's %s", changed.data);
  if (status == DS_OK) status = read_values(base, out, err);
  if (status != DS_OK) ds_inference_config_finish(out);
  ds_str_finish(&changed);
  cJSON_Delete(base);
  cJSON_Delete(over);
  return status;
}

void ds_inference_config_finish(ds_inference_config *config) {
  ds_backend_config_finish(&config->backend);
  free(config->checkpoint);
  memset(config, 0, sizeof *config);
}
