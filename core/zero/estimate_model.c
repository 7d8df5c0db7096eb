#include "zero/estimate_model.h"

#include "model/params.h"
#include "zero/local.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* The number between dots of a name, and what follows it; -1 when there is none. */
static int64_t block_of(const char *name, const char **rest) {
  for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
    char *end;
    if (!isdigit((unsigned char)dot[1])) continue;
    long long n = strtoll(dot + 1, &end, 10);
    if (*end != '.') continue;
    *rest = end + 1;
    return n;
  }
  return -1;
}

/* Whether the module's last part is so called: the one before ".weight" or ".bias". */
static bool is_module(const char *name, const char *module) {
  const char *end = strrchr(name, '.');
  size_t n = strlen(module);
  if (!end || (size_t)(end - name) < n || memcmp(end - n, module, n) != 0) return false;
  return (size_t)(end - name) == n || end[-(long)n - 1] == '.';
}

static bool same_module(const char *a, const char *b) {
  const char *end = strrchr(a, '.'), *other = strrchr(b, '.');
  return end && other && end - a == other - b && memcmp(a, b, (size_t)(end - a)) == 0;
}

/* How tensor parallelism divides the parameters. What two ranks can't divide has no more than one
 * head, and stays whole. */
static ds_status find_splits(const ds_params *p, const ds_estimate_model *m, ds_shard **out,
                             ds_error *err) {
  if (m->heads >= 2) return ds_local_plan(p, 0, 2, true, out, err);
  *out = calloc((size_t)ds_params_count(p), sizeof **out);
  return *out ? DS_OK : ds_fail_memory(err, "an estimate");
}

static ds_estimate_param describe(const ds_params *p, const ds_shard *shards, int index) {
  int64_t shape[DS_MAX_RANK];
  return (ds_estimate_param){.numel = (double)ds_params_numel(p, index),
                             .split = shards[index].split,
                             .matrix = ds_params_shape(p, index, shape) == 2};
}

static ds_status too_many(const char *what, ds_error *err) {
  return ds_fail(err, DS_ERR_UNSUPPORTED, "an estimate takes at most %d parameters %s",
                 DS_ESTIMATE_PARAMS, what);
}

static ds_status unlike(const char *name, ds_error *err) {
  return ds_fail(err, DS_ERR_UNSUPPORTED,
                 "an estimate needs blocks that are alike; \"%s\" is not as in block 0", name);
}

/* A parameter of block `block`, the at-th of it. */
static ds_status add_to_block(const ds_params *p, const ds_shard *shards, int index, int64_t block,
                              int at, ds_estimate_model *out, ds_error *err) {
  if (block > 0) {
    if (at < out->n_block && (double)ds_params_numel(p, index) == out->block[at].numel)
      return DS_OK;
    return unlike(ds_params_name(p, index), err);
  }
  if (out->n_block == DS_ESTIMATE_PARAMS) return too_many("in a block", err);
  out->block[out->n_block++] = describe(p, shards, index);
  return DS_OK;
}

/* What is declared before the blocks is before them. */
static ds_status add_outer(const ds_params *p, const ds_shard *shards, int index,
                           ds_estimate_model *out, ds_error *err) {
  if (out->n_outer == DS_ESTIMATE_PARAMS) return too_many("outside of blocks", err);
  ds_estimate_param *o = &out->outer[out->n_outer++];
  *o = describe(p, shards, index);
  o->end = out->layers > 0 ? DS_ESTIMATE_LAST : DS_ESTIMATE_FIRST;
  o->matrix = false; /* a table; the head's product is counted by its sizes */
  o->same = index > 0 && same_module(ds_params_name(p, index), ds_params_name(p, index - 1));
  return DS_OK;
}

/* Sorts the parameters into block 0's and those outside, and holds the other blocks to block 0. */
static ds_status sort(const ds_params *p, const ds_shard *shards, ds_estimate_model *out,
                      ds_error *err) {
  int at = 0;
  for (int i = 0; i < ds_params_count(p); i++) {
    const char *rest, *name = ds_params_name(p, i);
    int64_t block = block_of(name, &rest);
    if (block < 0) {
      DS_TRY(add_outer(p, shards, i, out, err));
      continue;
    }
    bool next = block == out->layers;
    if ((!next && block != out->layers - 1) || (next && block > 0 && at != out->n_block))
      return unlike(name, err);
    if (next) at = 0;
    out->layers = block + 1;
    DS_TRY(add_to_block(p, shards, i, block, at++, out, err));
  }
  if (out->layers > 0 && at == out->n_block) return DS_OK;
  return ds_fail(err, DS_ERR_UNSUPPORTED,
                 "an estimate needs a model of numbered blocks that are alike (\"layers.0....\")");
}

/* Sizes that only shapes tell: the embedding's width, and what the MLP's way back takes. */
static void read_shapes(const ds_params *p, ds_estimate_model *out) {
  int64_t shape[DS_MAX_RANK];
  const char *rest;
  for (int i = 0; i < ds_params_count(p); i++) {
    const char *name = ds_params_name(p, i);
    if (ds_params_shape(p, i, shape) != 2) continue;
    if (block_of(name, &rest) < 0 && shape[0] == out->vocab) out->hidden = shape[1];
    if (block_of(name, &rest) != 0) continue;
    if (is_module(name, "gate_proj")) out->gated = out->rotary = true;
    if (is_module(name, "down_proj") || is_module(name, "c_proj")) out->inner = shape[1];
  }
  if (out->heads == 0 && out->head_dim > 0) out->heads = out->hidden / out->head_dim;
}

/* A head of its own stands behind the blocks; without one, the embedding is the head, too. */
static void tie(ds_estimate_model *out) {
  ds_estimate_param *embedding = NULL;
  for (int i = 0; i < out->n_outer; i++) {
    if (out->outer[i].split != DS_SPLIT_VOCAB) continue;
    if (out->outer[i].end == DS_ESTIMATE_LAST) return;
    embedding = &out->outer[i];
  }
  if (embedding) embedding->end = DS_ESTIMATE_BOTH;
}

ds_status ds_estimate_model_of(ds_model *model, ds_estimate_model *out, ds_error *err) {
  *out = (ds_estimate_model){0};
  ds_model_info info;
  DS_TRY(ds_model_get_info(model, &info, err));
  out->kv_heads = info.n_kv_heads;
  out->head_dim = info.head_dim;
  out->vocab = info.vocab_size;
  ds_params *p;
  ds_shard *shards = NULL;
  int64_t kv, dim;
  DS_TRY(ds_model_declare(model, &p, err));
  ds_params_heads(p, &out->heads, &kv, &dim);
  read_shapes(p, out);
  ds_status status = find_splits(p, out, &shards, err);
  if (status == DS_OK) status = sort(p, shards, out, err);
  if (status == DS_OK) tie(out);
  free(shards);
  ds_params_destroy(p);
  return status;
}
