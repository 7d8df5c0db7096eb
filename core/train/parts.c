#include "train/parts.h"

#include "zero/local.h"

#include <stdlib.h>
#include <string.h>

/* ds_parts_join has to know what the others have; all stages divide parameters alike. */
static ds_status plan(ds_engine *e, ds_error *err) {
  int size = e->topology.tensor.size;
  size_t bytes = (size_t)e->n_params * sizeof *e->shards;
  e->shards_of = calloc((size_t)size, sizeof(ds_shard *));
  e->shards = malloc(bytes);
  if (!e->shards_of || !e->shards) return ds_fail_memory(err, "what the ranks have of the model");
  for (int r = 0; r < size; r++)
    DS_TRY(ds_local_plan(e->params, r, size, e->config.sequence_parallel, &e->shards_of[r], err));
  memcpy(e->shards, e->shards_of[e->topology.tensor.rank], bytes);
  if (!e->stages.bounds) return DS_OK;
  return ds_stages_shard(&e->stages, e->model, e->params, e->topology.pipe.rank, e->shards, err);
}

/* Found out here by all ranks alike: later one would wait for another that has failed. */
static ds_status check_heads(ds_engine *e, ds_error *err) {
  ds_shard_heads all;
  int sequence = e->topology.sequence.size, tensor = e->topology.tensor.size;
  if (sequence == 1 || !ds_params_heads(e->params, &all.query, &all.kv, &all.dim)) return DS_OK;
  for (int r = 0; r < tensor; r++) {
    int64_t query, kv;
    ds_shard_count_heads(&all, r, tensor, &query, &kv);
    if (query % sequence == 0 && (kv % sequence == 0 || sequence % kv == 0)) continue;
    return ds_fail(err, DS_ERR_INVALID,
                   "tensor parallel %d gives rank %d %lld of %lld heads and %lld of %lld for keys "
                   "and values, which can't be divided over sequence_parallel_size %d",
                   tensor, r, (long long)query, (long long)all.query, (long long)kv,
                   (long long)all.kv, sequence);
  }
  return DS_OK;
}

static ds_status connect_tensor(ds_engine *e, ds_error *err) {
  ds_group *tensor = e->topology.tensor.group;
  if (!tensor) return DS_OK;
  DS_TRY(ds_shard_connect(e->shards, e->n_params, tensor, &e->replicas, err));
  DS_TRY(ds_local_splits(e->params, e->shards, &e->splits, err));
  ds_ctx_bind_tensor(e->ctx, tensor, e->splits, e->config.sequence_parallel);
  if (!e->config.tensor_overlap) return DS_OK;
  DS_TRY(ds_side_create(e->backend, &e->tensor_side, err));
  ds_ctx_bind_tensor_side(e->ctx, e->tensor_side);
  return DS_OK;
}

static ds_status divide(ds_engine *e, ds_error *err) {
  const ds_axis *pipe = &e->topology.pipe;
  if (pipe->size > 1)
    DS_TRY(
        ds_stages_init(&e->stages, e->model, e->params, pipe->size, e->config.pipe_uniform, err));
  DS_TRY(plan(e, err));
  DS_TRY(check_heads(e, err));
  DS_TRY(connect_tensor(e, err));
  if (pipe->size == 1) return DS_OK;
  return ds_stages_connect(&e->stages, e->model, e->params, pipe, &e->tied, err);
}

ds_status ds_parts_init(ds_engine *e, ds_error *err) {
  e->local = e->params;
  if (e->topology.model.size == 1) return DS_OK;
  DS_TRY(divide(e, err));
  ds_params *local;
  DS_TRY(ds_params_localize(e->params, e->shards, &local, err));
  e->local = local;
  e->counted = calloc((size_t)e->n_params, sizeof *e->counted);
  if (!e->counted) return ds_fail_memory(err, "what this rank has of the model");
  for (int i = 0; i < e->n_params; i++) e->counted[i] = e->shards[i].counted;
  return DS_OK;
}

ds_status ds_parts_revive(ds_engine *e, ds_error *err) {
  return e->tensor_side ? ds_side_revive(e->tensor_side, err) : DS_OK;
}

void ds_parts_finish(ds_engine *e) {
  ds_side_destroy(e->tensor_side);
  ds_group_destroy(e->replicas);
  ds_group_destroy(e->tied);
  ds_stages_finish(&e->stages);
  for (int r = 0; e->shards_of && r < e->topology.tensor.size; r++) free(e->shards_of[r]);
  free(e->shards_of);
  free(e->shards);
  free(e->splits);
  free(e->counted);
  if (e->local != e->params) ds_params_destroy(e->local);
}

void ds_parts_take(const ds_engine *e, int index, const float *whole, float *here) {
  int64_t shape[DS_MAX_RANK];
  ds_params_shape(e->params, index, shape);
  if (!e->shards) {
    if (here != whole)
      memcpy(here, whole, (size_t)ds_params_numel(e->params, index) * sizeof *here);
    return;
  }
  ds_shard_take(&e->shards[index], shape, sizeof *here, whole, here);
}

/* Rank r's part to all; bounce: device memory for n floats. */
static ds_status share(ds_engine *e, int r, float *part, int64_t n, void *bounce, ds_error *err) {
  size_t bytes = (size_t)n * sizeof *part;
  bool mine = e->topology.model.rank == r;
  if (mine) DS_TRY(ds_backend_upload(e->backend, bounce, part, bytes, err));
  DS_TRY(ds_group_broadcast(e->topology.model.group, NULL, bounce, n, DS_F32, r, err));
  return mine ? DS_OK : ds_backend_download(e->backend, part, bounce, bytes, err);
}

/* From the ranks of the first stage that has it. */
static ds_status join(ds_engine *e, int index, const float *here, float *part, void *bounce,
                      float *whole, ds_error *err) {
  int64_t shape[DS_MAX_RANK];
  int stage = 0, size = e->topology.tensor.size;
  ds_params_shape(e->params, index, shape);
  if (e->stages.bounds) DS_TRY(ds_stages_first(&e->stages, e->model, index, &stage, err));
  for (int t = 0; t < size; t++) {
    const ds_shard *s = &e->shards_of[t][index];
    int64_t n = ds_shard_numel(s);
    int r = stage * size + t;
    if (!s->counted || n == 0) continue; /* another rank has the same */
    if (r == e->topology.model.rank) memcpy(part, here, (size_t)n * sizeof *part);
    DS_TRY(share(e, r, part, n, bounce, err));
    ds_shard_put(s, shape, sizeof *part, part, whole);
  }
  return DS_OK;
}

ds_status ds_parts_join(ds_engine *e, int index, const float *here, float *whole, ds_error *err) {
  if (!e->shards) {
    if (here != whole)
      memcpy(whole, here, (size_t)ds_params_numel(e->params, index) * sizeof *whole);
    return DS_OK;
  }
  size_t most = 0;
  for (int r = 0; r < e->topology.tensor.size; r++) {
    size_t n = (size_t)ds_shard_numel(&e->shards_of[r][index]);
    if (n > most) most = n;
  }
  void *bounce = NULL;
  float *part = malloc(most * sizeof *part);
  ds_status status = part ? ds_backend_alloc(e->backend, most * sizeof *part, &bounce, err)
                          : ds_fail_memory(err, "a parameter's parts");
  if (status == DS_OK) status = join(e, index, here, part, bounce, whole, err);
  ds_backend_free(e->backend, bounce, most * sizeof *part);
  free(part);
  return status;
}
