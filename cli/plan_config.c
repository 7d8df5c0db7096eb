#include "plan.h"

static void add_offload(cJSON *zero, const char *key, ds_offload to) {
  if (to == DS_OFFLOAD_NONE) return;
  cJSON *o = cJSON_AddObjectToObject(zero, key);
  cJSON_AddStringToObject(o, "device", to == DS_OFFLOAD_CPU ? "cpu" : "nvme");
  if (to == DS_OFFLOAD_NVME) cJSON_AddStringToObject(o, "nvme_path", "/a/folder/of/each/node");
}

cJSON *plan_config(const plan_choice *c) {
  const ds_estimate_layout *l = &c->layout;
  cJSON *root = cJSON_CreateObject();
  int64_t batch = (int64_t)l->data * l->micro_batch * l->accumulation;
  cJSON_AddNumberToObject(root, "train_batch_size", (double)batch);
  cJSON_AddNumberToObject(root, "train_micro_batch_size_per_gpu", (double)l->micro_batch);
  cJSON_AddNumberToObject(root, "gradient_accumulation_steps", (double)l->accumulation);
  if (l->bytes.master > 0)
    cJSON_AddBoolToObject(cJSON_AddObjectToObject(root, "bf16"), "enabled", true);
  cJSON *zero = cJSON_AddObjectToObject(root, "zero_optimization");
  cJSON_AddNumberToObject(zero, "stage", l->stage);
  cJSON_AddBoolToObject(zero, "overlap_comm", l->overlap);
  add_offload(zero, "offload_optimizer", l->offload_optimizer);
  add_offload(zero, "offload_param", l->offload_param);
  if (l->tensor > 1) {
    cJSON *tensor = cJSON_AddObjectToObject(root, "tensor_parallel");
    cJSON_AddNumberToObject(tensor, "autotp_size", l->tensor);
    if (l->split_norms) cJSON_AddBoolToObject(tensor, "sequence_parallel", true);
  }
  if (l->pipe > 1) {
    cJSON *pipeline = cJSON_AddObjectToObject(root, "pipeline");
    cJSON_AddNumberToObject(pipeline, "stages", l->pipe);
    cJSON_AddStringToObject(pipeline, "partition", "uniform"); /* as estimates have it */
  }
  if (l->sequence > 1) cJSON_AddNumberToObject(root, "sequence_parallel_size", l->sequence);
  return root;
}
