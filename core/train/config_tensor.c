/* config_tensor.c - "tensor_parallel": how many ranks share a model's matrices. */
#include "train/config.h"

static double size_at(const cJSON *section, const char *key) {
  return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(section, key));
}

/* Three names of one number; 0 and 1 stand for no tensor parallelism. */
void ds_config_read_tensor(ds_config *c, ds_schema_errors *errors) {
  enum { MOST = 1 << 20, NAMES = 3 };
  static const char *const names[NAMES] = {"autotp_size", "tp_size", "tp.tp_size"};
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(c->root, "tensor_parallel");
  const cJSON *tp = cJSON_GetObjectItemCaseSensitive(section, "tp");
  const double sizes[NAMES] = {size_at(section, names[0]), size_at(section, names[1]),
                               size_at(tp, "tp_size")};
  int given = -1;
  c->tensor = 1;
  c->tensor_overlap = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, "tp_overlap_comm"));
  c->sequence_parallel =
      cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, "sequence_parallel"));
  for (int i = 0; i < NAMES; i++) {
    if (!(sizes[i] > 1)) continue;
    if (sizes[i] > MOST)
      ds_schema_error(errors, "tensor_parallel.%s: must be at most %d", names[i], MOST);
    else if (given >= 0 && sizes[i] != sizes[given])
      ds_schema_error(errors, "tensor_parallel.%s: is %.0f, but tensor_parallel.%s is %.0f",
                      names[i], sizes[i], names[given], sizes[given]);
    else
      given = i;
  }
  if (given >= 0) c->tensor = (int)sizes[given];
  const cJSON *enabled = cJSON_GetObjectItemCaseSensitive(section, "enabled");
  if (cJSON_IsFalse(enabled)) c->tensor = 1;
  if (c->fp16 && c->tensor > 1)
    ds_schema_error(errors,
                    "fp16.enabled: not together with tensor_parallel.autotp_size %d: the "
                    "loss over a divided vocabulary needs bf16's range; use bf16",
                    c->tensor);
  if (c->sequence_parallel && c->tensor_overlap)
    ds_schema_error(errors, "tensor_parallel.tp_overlap_comm: with sequence_parallel gradients are "
                            "scattered, which isn't overlapped; leave one of them out");
  if (c->sequence_parallel && c->tensor == 1)
    ds_schema_error(errors, "tensor_parallel.sequence_parallel: needs tensor parallelism "
                            "(tensor_parallel.autotp_size above 1)");
}
