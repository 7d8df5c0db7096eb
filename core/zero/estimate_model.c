#include "zero/estimate_model.h"

#include "model/params.h"

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

/* The module's name, the one before ".weight" or ".bias". */
static bool is_module(const char *name, const char *module) {
  const char *end = strrchr(name, '.');
  size_t n = strlen(module);
  if (!end || (size_t)(end - name) < n) return false;
  return memcmp(end - n, module, n) == 0 && (end - name == (long)n || end[-(long)n - 1] == '.');
}

static bool leads_back(const char *name) {
  static const char *const modules[] = {"c_proj",    "o_proj", "out_proj",
                                        "down_proj", "w2",     "dense_4h_to_h"};
  for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
    if (is_module(name, modules[i])) return true;
  return false;
}

/* A vector belongs to the matrix of the same module, if there is one. */
static bool has_matrix(const ds_params *p, int index) {
  const char *name = ds_params_name(p, index), *dot = strrchr(name, '.');
  if (!dot) return false;
  for (int i = 0; i < ds_params_count(p); i++) {
    const char *other = ds_params_name(p, i), *end = strrchr(other, '.');
    int64_t shape[DS_MAX_RANK];
    if (i != index && end && end - other == dot - name &&
        memcmp(other, name, (size_t)(dot - name)) == 0)
      return ds_params_shape(p, i, shape) == 2;
  }
  return false;
}

static ds_estimate_param describe_block(const ds_params *p, int index) {
  int64_t shape[DS_MAX_RANK];
  const char *name = ds_params_name(p, index);
  ds_estimate_param out = {.numel = (double)ds_params_numel(p, index)};
  out.matrix = ds_params_shape(p, index, shape) == 2;
  if (out.matrix)
    out.split = leads_back(name) ? DS_SPLIT_ROW : DS_SPLIT_COLUMN;
  else if (has_matrix(p, index) && !leads_back(name))
    out.split = DS_SPLIT_COLUMN;
  return out;
}

/* Outside of blocks, what is declared before them is before them. */
static ds_estimate_param describe_outer(const ds_params *p, int index, int64_t vocab, bool behind) {
  int64_t shape[DS_MAX_RANK];
  ds_estimate_param out = {.numel = (double)ds_params_numel(p, index),
                           .end = behind ? DS_ESTIMATE_LAST : DS_ESTIMATE_FIRST};
  if (ds_params_shape(p, index, shape) == 2 && shape[0] == vocab) out.split = DS_SPLIT_VOCAB;
  return out;
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
static ds_status add_to_block(const ds_params *p, int index, int64_t block, int at,
                              ds_estimate_model *out, ds_error *err) {
  if (block > 0) {
    if (at < out->n_block && (double)ds_params_numel(p, index) == out->block[at].numel)
      return DS_OK;
    return unlike(ds_params_name(p, index), err);
  }
  if (out->n_block == DS_ESTIMATE_PARAMS) return too_many("in a block", err);
  out->block[out->n_block++] = describe_block(p, index);
  return DS_OK;
}

/* Sorts the parameters into block 0's and those outside, and holds the other blocks to block 0. */
static ds_status sort(const ds_params *p, ds_estimate_model *out, ds_error *err) {
  int at = 0;
  for (int i = 0; i < ds_params_count(p); i++) {
    const char *rest, *name = ds_params_name(p, i);
    int64_t block = block_of(name, &rest);
    if (block < 0) {
      if (out->n_outer == DS_ESTIMATE_PARAMS) return too_many("outside of blocks", err);
      out->outer[out->n_outer++] = describe_outer(p, i, out->vocab, out->layers > 0);
      continue;
    }
    bool next = block == out->layers;
    if ((!next && block != out->layers - 1) || (next && block > 0 && at != out->n_block))
      return unlike(name, err);
    if (next) at = 0;
    out->layers = block + 1;
    DS_TRY(add_to_block(p, i, block, at++, out, err));
  }
  if (out->layers > 0 && at == out->n_block) return DS_OK;
  return ds_fail(err, DS_ERR_UNSUPPORTED,
                 "an estimate needs a model of numbered blocks that are alike (\"layers.0....\")");
}

/* Sizes that only shapes tell. */
static void read_shapes(const ds_params *p, ds_estimate_model *out) {
  int64_t shape[DS_MAX_RANK];
  const char *rest;
  for (int i = 0; i < ds_params_count(p); i++) {
    const char *name = ds_params_name(p, i);
    if (ds_params_shape(p, i, shape) != 2) continue;
    if (block_of(name, &rest) < 0) {
      if (shape[0] == out->vocab) out->hidden = shape[1];
      continue;
    }
    if (block_of(name, &rest) > 0) break;
    if (is_module(name, "gate_proj")) out->gated = out->rotary = true;
    if (is_module(name, "q_proj")) out->heads = shape[0] / out->head_dim;
    if (is_module(name, "down_proj") || (is_module(name, "c_proj") && strstr(name, "mlp.")))
      out->inner = shape[1];
  }
  if (out->heads == 0) out->heads = out->hidden / out->head_dim;
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
  DS_TRY(ds_model_declare(model, &p, err));
  ds_status status = sort(p, out, err);
  if (status == DS_OK) {
    read_shapes(p, out);
    tie(out);
  }
  ds_params_destroy(p);
  return status;
}
