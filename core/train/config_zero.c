/* config_zero.c - "zero_optimization" as ZeRO's rules. */
#include "train/config.h"

#include <limits.h>
#include <strings.h>

static int64_t whole(const cJSON *section, const char *key) {
  return (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(section, key));
}

static bool on(const cJSON *section, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, key));
}

static ds_offload offload(const cJSON *zero, const char *key, const char *old_key) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(zero, key);
  const char *device = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(section, "device"));
  if (device && strcasecmp(device, "cpu") == 0) return DS_OFFLOAD_CPU;
  if (device && strcasecmp(device, "nvme") == 0) return DS_OFFLOAD_NVME;
  return on(zero, old_key) ? DS_OFFLOAD_CPU : DS_OFFLOAD_NONE;
}

static void read_offload(ds_zero_rules *r, const cJSON *z, ds_schema_errors *errors) {
  const cJSON *o = cJSON_GetObjectItemCaseSensitive(z, "offload_optimizer");
  const cJSON *p = cJSON_GetObjectItemCaseSensitive(z, "offload_param");
  r->offload_optimizer = offload(z, "offload_optimizer", "cpu_offload");
  r->offload_param = offload(z, "offload_param", "cpu_offload_param");
  r->optimizer_path = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "nvme_path"));
  r->param_path = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(p, "nvme_path"));
  r->pin_memory = on(o, "pin_memory") && on(p, "pin_memory");
  r->buffers = (int)whole(r->offload_param == DS_OFFLOAD_NVME ? p : o, "buffer_count");
  r->pipeline_read = on(o, "pipeline_read");
  r->pipeline_write = on(o, "pipeline_write");
  if (r->offload_optimizer && r->stage == 0)
    ds_schema_error(errors, "zero_optimization.offload_optimizer: needs \"stage\" 1, 2 or 3");
  if (r->offload_param && r->stage != 3)
    ds_schema_error(errors, "zero_optimization.offload_param: needs \"stage\" 3");
  if (r->offload_param && !r->offload_optimizer)
    ds_schema_error(errors,
                    "zero_optimization.offload_param: needs offload_optimizer too: parameters that "
                    "the device has no room for are updated where they are");
  if (r->offload_optimizer == DS_OFFLOAD_NVME && !r->optimizer_path)
    ds_schema_error(errors, "zero_optimization.offload_optimizer.nvme_path: is missing");
  if (r->offload_param == DS_OFFLOAD_NVME && !r->param_path)
    ds_schema_error(errors, "zero_optimization.offload_param.nvme_path: is missing");
}

static void read_plusplus(ds_zero_rules *r, const cJSON *z, ds_schema_errors *errors) {
  int64_t near = whole(z, "zero_hpz_partition_size");
  r->near = near > INT32_MAX ? INT32_MAX : (int)near;
  r->quantized_weights = on(z, "zero_quantized_weights");
  r->quantized_gradients = on(z, "zero_quantized_gradients");
  if (near > 1 && r->stage != 3)
    ds_schema_error(errors, "zero_optimization.zero_hpz_partition_size: needs \"stage\" 3");
  if (r->quantized_weights && r->stage != 3)
    ds_schema_error(errors, "zero_optimization.zero_quantized_weights: needs \"stage\" 3");
  if (r->quantized_gradients && r->stage < 2)
    ds_schema_error(errors, "zero_optimization.zero_quantized_gradients: needs \"stage\" 2 or 3");
  if (r->quantized_weights && r->offload_param)
    ds_schema_error(errors,
                    "zero_optimization.zero_quantized_weights: not together with offload_param");
  if (r->dtype == DS_F16 && (r->quantized_weights || r->quantized_gradients))
    ds_schema_error(errors,
                    "zero_optimization.%s: not together with fp16 (int8 would hide an overflow); "
                    "use bf16",
                    r->quantized_weights ? "zero_quantized_weights" : "zero_quantized_gradients");
}

void ds_config_read_zero(ds_config *c, ds_schema_errors *errors) {
  const cJSON *z = cJSON_GetObjectItemCaseSensitive(c->root, "zero_optimization");
  const cJSON *overlap = cJSON_GetObjectItemCaseSensitive(z, "overlap_comm");
  int stage = (int)whole(z, "stage");
  c->ignore_unused = on(z, "ignore_unused_parameters");
  c->tensor = c->pipe = 1;
  int64_t sequence = whole(c->root, "sequence_parallel_size");
  c->sequence = sequence < INT_MAX ? (int)sequence : INT_MAX;
  c->zero = (ds_zero_rules){.stage = stage,
                            .dtype = c->fp16   ? DS_F16
                                     : c->bf16 ? DS_BF16
                                               : DS_F32,
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
  read_offload(&c->zero, z, errors);
  read_plusplus(&c->zero, z, errors);
}
