#include "train/pipeline_stages.h"

#include <stdlib.h>
#include <string.h>

#include "parallel/pipe_schedule.h"

static ds_status weigh(ds_model *m, const ds_params *whole, int64_t *weights, ds_error *err) {
  for (int i = 0; i < ds_params_count(whole); i++) {
    int at[DS_PARAM_BLOCKS], n;
    DS_TRY(ds_model_param_blocks(m, i, at, &n, err));
    for (int k = 0; k < n; k++)
      if (k == 0 || at[k] != at[0]) weights[at[k]] += ds_params_numel(whole, i);
  }
  return DS_OK;
}

ds_status ds_stages_init(ds_stages *out, ds_model *m, const ds_params *whole, int stages,
                         bool uniform, ds_error *err) {
  *out = (ds_stages){0};
  DS_TRY(ds_model_blocks(m, &out->blocks, err));
  int64_t *weights = calloc((size_t)out->blocks, sizeof *weights);
  out->bounds = calloc((size_t)stages + 1, sizeof *out->bounds);
  ds_status status = weights && out->bounds ? DS_OK : ds_fail_memory(err, "pipeline stages");
  if (status == DS_OK) status = weigh(m, whole, weights, err);
  if (status == DS_OK)
    status = ds_pipe_partition(uniform ? NULL : weights, out->blocks, stages, out->bounds, err);
  free(weights);
  if (status != DS_OK) ds_stages_finish(out);
  return status;
}

void ds_stages_finish(ds_stages *s) {
  free(s->bounds);
  *s = (ds_stages){0};
}

static int stage_of(const ds_stages *s, int block) {
  int stage = 0;
  while (s->bounds[stage + 1] <= block) stage++;
  return stage;
}

/* The first and the last stage that have the parameter. */
static ds_status find_owners(const ds_stages *s, ds_model *m, int index, int owners[2],
                             ds_error *err) {
  int at[DS_PARAM_BLOCKS], n;
  DS_TRY(ds_model_param_blocks(m, index, at, &n, err));
  int a = stage_of(s, at[0]), b = stage_of(s, at[n - 1]);
  owners[0] = a < b ? a : b;
  owners[1] = a < b ? b : a;
  return DS_OK;
}

/* The two stages that have tied parameters; pair[0] is -1 where there are none. */
static ds_status find_tied(const ds_stages *s, ds_model *m, const ds_params *whole, int pair[2],
                           ds_error *err) {
  pair[0] = pair[1] = -1;
  for (int i = 0; i < ds_params_count(whole); i++) {
    int owners[2];
    DS_TRY(find_owners(s, m, i, owners, err));
    if (owners[0] == owners[1]) continue;
    if (pair[0] >= 0 && memcmp(pair, owners, 2 * sizeof *pair) != 0)
      return ds_fail(err, DS_ERR_UNSUPPORTED,
                     "parameter \"%s\" is tied between pipeline stages %d and %d, others between "
                     "%d and %d; tied parameters of one pair of stages are supported",
                     ds_params_name(whole, i), owners[0], owners[1], pair[0], pair[1]);
    memcpy(pair, owners, 2 * sizeof *pair);
  }
  return DS_OK;
}

ds_status ds_stages_shard(const ds_stages *s, ds_model *m, const ds_params *whole, int stage,
                          ds_shard *shards, ds_error *err) {
  for (int i = 0; i < ds_params_count(whole); i++) {
    int owners[2];
    DS_TRY(find_owners(s, m, i, owners, err));
    ds_shard *shard = &shards[i];
    shard->present = stage == owners[0] || stage == owners[1];
    shard->counted = shard->counted && stage == owners[0];
    if (shard->present) continue;
    shard->shape[0] = 0;
    shard->n_runs = 0;
  }
  return DS_OK;
}

ds_status ds_stages_connect(const ds_stages *s, ds_model *m, const ds_params *whole,
                            const ds_axis *pipe, ds_group **out, ds_error *err) {
  int pair[2];
  *out = NULL;
  DS_TRY(find_tied(s, m, whole, pair, err));
  if (pair[0] < 0) return DS_OK;
  bool in_pair = pipe->rank == pair[0] || pipe->rank == pair[1];
  return ds_group_split(pipe->group, "tied", in_pair ? 0 : -1, pipe->rank, out, err);
}

ds_status ds_stages_tied(const ds_stages *s, ds_model *m, int param, bool *tied, ds_error *err) {
  int owners[2];
  DS_TRY(find_owners(s, m, param, owners, err));
  *tied = owners[0] != owners[1];
  return DS_OK;
}

ds_status ds_stages_first(const ds_stages *s, ds_model *m, int param, int *stage, ds_error *err) {
  int owners[2];
  DS_TRY(find_owners(s, m, param, owners, err));
  *stage = owners[0];
  return DS_OK;
}
