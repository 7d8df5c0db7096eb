/* config_zero.c - "zero_optimization" as ZeRO's rules. */
#include "train/config.h"

static int64_t whole(const cJSON *section, const char *key) {
  return (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(section, key));
}

static bool on(const cJSON *section, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, key));
}

void ds_config_read_zero(ds_config *c) {
  const cJSON *z = cJSON_GetObjectItemCaseSensitive(c->root, "zero_optimization");
  const cJSON *overlap = cJSON_GetObjectItemCaseSensitive(z, "overlap_comm");
  int stage = (int)whole(z, "stage");
  c->ignore_unused = on(z, "ignore_unused_parameters");
  c->tensor = c->sequence = c->pipe = 1;
  c->zero = (ds_zero_rules){.stage = stage,
                            .bf16 = c->bf16,
                            /* As there: by itself at stage 3 only. */
                            .overlap = overlap ? cJSON_IsTrue(overlap) : stage == 3,
                            .reduce_scatter = on(z, "reduce_scatter"),
                            .all_gather = on(z, "allgather_partitions"),
                            .sum = c->sum_gradients,
                            .reduce_bucket = whole(z, "reduce_bucket_size"),
                            .gather_bucket = whole(z, "allgather_bucket_size"),
                            .sub_group = whole(z, "sub_group_size"),
                            .prefetch_bucket = whole(z, "stage3_prefetch_bucket_size"),
                            .persistence = whole(z, "stage3_param_persistence_threshold"),
                            .max_live = whole(z, "stage3_max_live_parameters"),
                            .max_reuse = whole(z, "stage3_max_reuse_distance"),
                            .granularity = whole(z, "stage3_module_granularity_threshold")};
}
