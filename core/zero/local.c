#include "zero/local.h"

#include <stdlib.h>
#include <string.h>

static void describe(const ds_params *p, int index, ds_shard_param *out) {
  *out = (ds_shard_param){.name = ds_params_name(p, index)};
  out->rank = ds_params_shape(p, index, out->shape);
  out->declared = ds_params_split(p, index, &out->split, &out->by);
}

ds_status ds_local_plan(const ds_params *whole, int rank, int size, bool sequence, ds_shard **out,
                        ds_error *err) {
  int n = ds_params_count(whole);
  ds_shard_heads heads;
  ds_params_heads(whole, &heads.query, &heads.kv, &heads.dim);
  ds_shard_param *params = calloc((size_t)n, sizeof *params);
  *out = calloc((size_t)n, sizeof **out);
  ds_status status =
      params && *out ? DS_OK : ds_fail_memory(err, "what this rank has of the model");
  for (int i = 0; i < n && status == DS_OK; i++) describe(whole, i, &params[i]);
  if (status == DS_OK) status = ds_shard_plan(params, n, &heads, rank, size, sequence, *out, err);
  free(params);
  if (status == DS_OK) return DS_OK;
  free(*out);
  *out = NULL;
  return status;
}

ds_status ds_params_localize(const ds_params *whole, const ds_shard *shards, ds_params **out,
                             ds_error *err) {
  DS_TRY(ds_params_create(out, err));
  for (int i = 0; i < ds_params_count(whole); i++)
    ds_params_add_like(*out, whole, i, shards[i].shape);
  ds_status status = ds_params_status(*out, err);
  if (status == DS_OK) return DS_OK;
  ds_params_destroy(*out);
  *out = NULL;
  return status;
}

ds_status ds_local_splits(const ds_params *whole, const ds_shard *shards, ds_param_split **out,
                          ds_error *err) {
  int n = ds_params_count(whole);
  *out = calloc((size_t)n, sizeof **out);
  if (!*out) return ds_fail_memory(err, "how parameters are divided");
  for (int i = 0; i < n; i++) {
    const ds_shard *s = &shards[i];
    int64_t shape[DS_MAX_RANK];
    (*out)[i] =
        (ds_param_split){.split = s->split, .name = ds_params_name(whole, i), .sum = s->sum};
    ds_params_shape(whole, i, shape);
    if (s->split != DS_SPLIT_VOCAB) continue;
    (*out)[i].begin = s->runs[0].begin;
    (*out)[i].whole = shape[0];
  }
  return DS_OK;
}
