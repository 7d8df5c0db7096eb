/* config_pipeline.c - "pipeline": how many stages, and how blocks fall into them. */
#include "train/config.h"

#include <string.h>
#include <strings.h>

void ds_config_read_pipeline(ds_config *c, ds_schema_errors *errors) {
  enum { MOST = 1 << 20 };
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(c->root, "pipeline");
  const cJSON *partition = cJSON_GetObjectItemCaseSensitive(section, "partition");
  double stages = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(section, "stages"));
  c->pipe = 1;
  c->pipe_uniform = cJSON_IsString(partition) && strcasecmp(partition->valuestring, "uniform") == 0;
  if (!(stages > 1)) return;
  if (stages > MOST) {
    ds_schema_error(errors, "pipeline.stages: must be at most %d", MOST);
    return;
  }
  c->pipe = (int)stages;
  if (c->zero.stage >= 2)
    ds_schema_error(errors,
                    "zero_optimization.stage: %d partitions gradients, which a pipeline "
                    "(pipeline.stages: %d) adds up over its micro batches; use stage 0 or 1",
                    c->zero.stage, c->pipe);
  if (c->sequence_parallel)
    ds_schema_error(errors,
                    "tensor_parallel.sequence_parallel: stages hand on whole hidden values, not "
                    "parts of the sequence; it can't be true in a pipeline (pipeline.stages: %d)",
                    c->pipe);
}
