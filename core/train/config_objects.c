/* What optimizer.type and scheduler.type can be, and making them from their params. */
#include "optim/schedule.h"
#include "train/config.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct type_row {
  const char *name;
  const char *section; /* NULL: known, but not offered */
  bool rare;           /* never will be */
} type_row;

static const type_row optimizers[] = {
    {"Adam", "@adam", false},   {"AdamW", "@adam", false},  {"Adagrad", NULL, false},
    {"Lamb", NULL, false},      {"Lion", NULL, false},      {"Muon", NULL, false},
    {"SGD", NULL, false},       {"OneBitAdam", NULL, true}, {"ZeroOneAdam", NULL, true},
    {"OneBitLamb", NULL, true}, {"MuAdam", NULL, true},     {"MuAdamW", NULL, true},
    {"MuSGD", NULL, true},
};
static const type_row schedulers[] = {
    {"WarmupLR", "@warmup", false},
    {"WarmupDecayLR", "@warmup_decay", false},
    {"WarmupCosineLR", "@warmup_cosine", false},
    {"LRRangeTest", "@range_test", false},
    {"OneCycle", "@one_cycle", false},
};

static const char *find_type(const type_row *rows, size_t count, const char *where,
                             const char **type, ds_schema_errors *errors) {
  const char *names[16];
  for (size_t i = 0; i < count; i++) {
    names[i] = rows[i].name;
    if (strcasecmp(rows[i].name, *type) != 0) continue;
    *type = rows[i].name;
    if (!rows[i].section)
      ds_schema_error(errors, "%s.type: \"%s\" is %s", where, rows[i].name,
                      rows[i].rare ? "refused: dscore does not offer it" : "not there yet");
    return rows[i].section;
  }
  const char *near = ds_nearest(*type, names, count);
  ds_schema_error(errors, "%s.type: unknown type \"%.64s\"%s%s%s", where, *type,
                  near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
  return NULL;
}

const char *ds_config_optimizer_section(const char **type, ds_schema_errors *errors) {
  return find_type(optimizers, sizeof optimizers / sizeof optimizers[0], "optimizer", type, errors);
}

const char *ds_config_scheduler_section(const char **type, ds_schema_errors *errors) {
  return find_type(schedulers, sizeof schedulers / sizeof schedulers[0], "scheduler", type, errors);
}

static double number(const cJSON *params, const char *key, double fallback) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(params, key);
  return cJSON_IsNumber(item) ? item->valuedouble : fallback;
}

static int64_t whole(const cJSON *params, const char *key, int64_t fallback) {
  return (int64_t)number(params, key, (double)fallback);
}

static bool flag(const cJSON *params, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(params, key));
}

static ds_warmup_type warmup_type(const cJSON *params) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(params, "warmup_type");
  bool linear = cJSON_IsString(item) && strcasecmp(item->valuestring, "linear") == 0;
  return linear ? DS_WARMUP_LINEAR : DS_WARMUP_LOG;
}

/* Finds the section; *params is an empty item where it has none. */
static const char *typed_section(const ds_config *config, const char *name, const cJSON **params) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(config->root, name);
  const cJSON *type = cJSON_GetObjectItemCaseSensitive(section, "type");
  *params = cJSON_GetObjectItemCaseSensitive(section, "params");
  return cJSON_IsString(type) ? type->valuestring : NULL;
}

ds_status ds_config_make_optimizer(const ds_config *config, ds_optimizer **out, ds_error *err) {
  *out = NULL;
  const cJSON *p;
  const char *type = typed_section(config, "optimizer", &p);
  if (!type) return DS_OK;
  const cJSON *betas = cJSON_GetObjectItemCaseSensitive(p, "betas");
  double beta1 = 0.9, beta2 = 0.999;
  if (betas) {
    beta1 = cJSON_GetArrayItem(betas, 0)->valuedouble;
    beta2 = cJSON_GetArrayItem(betas, 1)->valuedouble;
  }
  bool decoupled = strcmp(type, "AdamW") == 0 || flag(p, "adam_w_mode");
  return ds_optimizer_adam(number(p, "lr", 1e-3), beta1, beta2, number(p, "eps", 1e-8),
                           number(p, "weight_decay", 0), decoupled, out, err);
}

static ds_status make_one_cycle(const cJSON *p, ds_lr_scheduler **out, ds_error *err) {
  int64_t first = whole(p, "cycle_first_step_size", 2000);
  int64_t stairs = whole(p, "cycle_first_stair_count", 0);
  ds_one_cycle s = {
      .min_lr = number(p, "cycle_min_lr", 0),
      .max_lr = number(p, "cycle_max_lr", 0),
      .decay_lr_rate = number(p, "decay_lr_rate", 0),
      .first_size = first,
      .second_size = whole(p, "cycle_second_step_size", first),
      .first_stairs = stairs,
      .second_stairs = whole(p, "cycle_second_stair_count", stairs),
      .decay_step_size = whole(p, "decay_step_size", 0),
      .cycle_momentum = flag(p, "cycle_momentum"),
      .min_mom = number(p, "cycle_min_mom", 0.8),
      .max_mom = number(p, "cycle_max_mom", 0.9),
      .decay_mom_rate = number(p, "decay_mom_rate", 0),
  };
  return ds_schedule_one_cycle(&s, out, err);
}

ds_status ds_config_make_scheduler(const ds_config *config, const ds_optimizer *base,
                                   ds_lr_scheduler **out, ds_error *err) {
  *out = NULL;
  const cJSON *p;
  const char *type = typed_section(config, "scheduler", &p);
  if (!type) return DS_OK;
  if (strcmp(type, "OneCycle") == 0) return make_one_cycle(p, out, err);
  if (strcmp(type, "LRRangeTest") == 0) {
    ds_range_test s = {
        number(p, "lr_range_test_min_lr", 1e-3), number(p, "lr_range_test_step_rate", 1),
        whole(p, "lr_range_test_step_size", 2000), flag(p, "lr_range_test_staircase")};
    return ds_schedule_range_test(&s, out, err);
  }
  int64_t steps = whole(p, "warmup_num_steps", 1000), total = whole(p, "total_num_steps", 0);
  if (strcmp(type, "WarmupCosineLR") == 0) {
    ds_warmup_cosine s = {number(p, "warmup_min_ratio", 0), number(p, "cos_min_ratio", 1e-4), steps,
                          total, warmup_type(p)};
    return ds_schedule_warmup_cosine(&s, out, err);
  }
  /* Without warmup_max_lr, WarmupLR ends at the optimizer's own rate. */
  ds_warmup s = {number(p, "warmup_min_lr", 0),
                 number(p, "warmup_max_lr", ds_optimizer_lr(base, 0)), steps, total,
                 warmup_type(p)};
  return strcmp(type, "WarmupLR") == 0 ? ds_schedule_warmup(&s, out, err)
                                       : ds_schedule_warmup_decay(&s, out, err);
}
