/* The config's elasticity section: it takes over the three batch sizes. */
#include "train/config.h"

#include <math.h>
#include <stdlib.h>

static int64_t number(const cJSON *section, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(section, key);
  return cJSON_IsNumber(item) ? (int64_t)item->valuedouble : 0;
}

static bool is_true(const cJSON *section, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, key));
}

/* False after a mistake, which has its line then. */
static bool read_micro(const cJSON *section, ds_elasticity *e, ds_schema_errors *errors) {
  const cJSON *item, *list = cJSON_GetObjectItemCaseSensitive(section, "micro_batch_sizes");
  if (!list) {
    ds_schema_error(errors, "elasticity.micro_batch_sizes: is missing; elasticity needs it");
    return false;
  }
  cJSON_ArrayForEach(item, list) {
    const double v = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(v >= 1 && v <= 0x1p53) || v != floor(v)) {
      ds_schema_error(errors,
                      "elasticity.micro_batch_sizes: must have only positive whole numbers");
      return false;
    }
    if (e->n_micro < DS_ELASTICITY_MICRO_MAX) e->micro[e->n_micro] = (int64_t)v;
    e->n_micro++; /* too many are told by the check */
  }
  return true;
}

/* Ranks that make one data-parallel rank between them. */
static int64_t together(const ds_config *c) {
  return (int64_t)c->tensor * c->sequence * c->pipe;
}

void ds_config_read_elastic(ds_config *c, ds_schema_errors *errors) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(c->root, "elasticity");
  ds_elasticity *e = &c->elasticity;
  ds_error err;
  bool good = false;
  c->elastic = is_true(section, "enabled");
  if (!c->elastic) return;
  const double version = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(section, "version"));
  e->version = version == 0.1 ? 1 : version == 0.2 ? 2 : 0;
  e->max_batch = number(section, "max_train_batch_size");
  e->min_gpus = number(section, "min_gpus");
  e->max_gpus = number(section, "max_gpus");
  e->prefer_larger = is_true(section, "prefer_larger_batch");
  e->gpus_per_node = number(section, "num_gpus_per_node");
  e->model_parallel = number(section, "model_parallel_size");
  bool whole = read_micro(section, e, errors);
  if (e->max_batch < 1)
    ds_schema_error(errors, "elasticity.max_train_batch_size: is missing; elasticity needs it");
  else if (whole && ds_elasticity_check(e, &err) != DS_OK)
    ds_schema_error(errors, "%s", err.message);
  else
    good = whole;
  if (!good) e->n_micro = 0;
  if (e->version == 2 && e->model_parallel != together(c))
    ds_schema_error(
        errors,
        "elasticity.model_parallel_size: is %lld, but %lld of the ranks share a model or "
        "a sequence (tensor, sequence and pipeline parallelism)",
        (long long)e->model_parallel, (long long)together(c));
  const ds_batch_sizes *b = &c->batch;
  if (!is_true(section, "ignore_non_elastic_batch_info") &&
      (b->train != DS_BATCH_UNSET || b->micro != DS_BATCH_UNSET ||
       b->accumulation != DS_BATCH_UNSET))
    ds_schema_error(errors,
                    "elasticity: chooses the batch sizes; remove train_batch_size, "
                    "train_micro_batch_size_per_gpu and gradient_accumulation_steps, or have them "
                    "ignored with ignore_non_elastic_batch_info");
}

ds_status ds_config_resolve_elastic(ds_config *c, int world, ds_error *err) {
  ds_elastic_sizes sizes;
  DS_TRY(ds_elasticity_resolve(&c->elasticity, world, &sizes, err));
  c->batch = (ds_batch_sizes){sizes.batch, sizes.micro, sizes.accumulation};
  return DS_OK;
}

ds_status ds_config_elastic_ranks(const char *config, int most, int *ranks, ds_error *err) {
  const ds_logger silent = {NULL, NULL};
  ds_config c;
  ds_schema_errors errors = {0};
  int64_t batch, *valid = NULL;
  int n = 0;
  *ranks = 0;
  ds_status status = ds_config_read(config, &silent, &c, &errors, err);
  ds_error found;
  ds_status report = ds_schema_errors_report(&errors, c.name ? c.name : "config", &found);
  if (status == DS_OK && report != DS_OK) status = ds_fail(err, report, "%s", found.message);
  if (status == DS_OK && c.elastic)
    status = ds_elasticity_find(&c.elasticity, &batch, &valid, &n, err);
  for (int i = 0; i < n; i++)
    if (valid[i] * together(&c) <= most) *ranks = (int)(valid[i] * together(&c));
  if (status == DS_OK && c.elastic && *ranks == 0)
    status = ds_fail(err, DS_ERR_INVALID,
                     "%s: elasticity: no valid number of ranks is as small as %d", c.name, most);
  free(valid);
  ds_config_finish(&c);
  return status;
}
