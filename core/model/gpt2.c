/* gpt2.c - GPT-2 (Radford et al. 2019): learned positions, layer norm before each sublayer, biases
 * everywhere, embedding and head tied. Keys and names are transformers' GPT2LMHeadModel. */
#include "model/family.h"
#include "model/language.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct gpt2 {
  int layers;
  int64_t width, heads, inner, vocab, positions;
  double eps, init_std;
  ds_activation activation;
  bool tied;
  int32_t bos, eos;
  char *config;
} gpt2;

/* Parameters, in the order of declaration; the head comes last, where it is not tied. */
enum { WTE, WPE, FIRST_LAYER };
enum {
  LN_1_W,
  LN_1_B,
  ATTN_W,
  ATTN_B,
  ATTN_PROJ_W,
  ATTN_PROJ_B,
  LN_2_W,
  LN_2_B,
  FC_W,
  FC_B,
  FC_PROJ_W,
  FC_PROJ_B,
  LAYER_PARAMS
};
enum { LN_F_W, LN_F_B, HEAD };

static void add_vector(ds_params *p, int layer, const char *name, int64_t n, ds_init init) {
  char full[96];
  snprintf(full, sizeof full, "transformer.h.%d.%s", layer, name);
  ds_params_add(p, full, 1, &n, init, 0);
}

/* A Conv1D: files keep it as [in,out]. */
static void add_matrix(ds_params *p, int layer, const char *name, int64_t out, int64_t in,
                       double std) {
  char full[96];
  snprintf(full, sizeof full, "transformer.h.%d.%s", layer, name);
  ds_params_set_transposed(p, ds_params_add(p, full, 2, (int64_t[]){out, in}, DS_INIT_NORMAL, std));
}

static ds_status declare(void *self, ds_params *p, ds_error *err) {
  (void)err; /* failures stay in p */
  const gpt2 *m = self;
  int64_t c = m->width, f = m->inner;
  double std = m->init_std, residual_std = std / sqrt(2.0 * m->layers);
  ds_params_set_heads(p, m->heads, m->heads, c / m->heads);
  ds_params_add(p, "transformer.wte.weight", 2, (int64_t[]){m->vocab, c}, DS_INIT_NORMAL, std);
  ds_params_add(p, "transformer.wpe.weight", 2, (int64_t[]){m->positions, c}, DS_INIT_NORMAL, std);
  for (int i = 0; i < m->layers; i++) {
    add_vector(p, i, "ln_1.weight", c, DS_INIT_ONES);
    add_vector(p, i, "ln_1.bias", c, DS_INIT_ZEROS);
    add_matrix(p, i, "attn.c_attn.weight", 3 * c, c, std);
    add_vector(p, i, "attn.c_attn.bias", 3 * c, DS_INIT_ZEROS);
    add_matrix(p, i, "attn.c_proj.weight", c, c, residual_std);
    add_vector(p, i, "attn.c_proj.bias", c, DS_INIT_ZEROS);
    add_vector(p, i, "ln_2.weight", c, DS_INIT_ONES);
    add_vector(p, i, "ln_2.bias", c, DS_INIT_ZEROS);
    add_matrix(p, i, "mlp.c_fc.weight", f, c, std);
    add_vector(p, i, "mlp.c_fc.bias", f, DS_INIT_ZEROS);
    add_matrix(p, i, "mlp.c_proj.weight", c, f, residual_std);
    add_vector(p, i, "mlp.c_proj.bias", c, DS_INIT_ZEROS);
  }
  ds_params_add(p, "transformer.ln_f.weight", 1, &c, DS_INIT_ONES, 0);
  ds_params_add(p, "transformer.ln_f.bias", 1, &c, DS_INIT_ZEROS, 0);
  if (!m->tied)
    ds_params_add(p, "lm_head.weight", 2, (int64_t[]){m->vocab, c}, DS_INIT_NORMAL, std);
  return DS_OK;
}

static ds_value *layer_param(ds_ctx *ctx, int layer, int which) {
  return ds_param(ctx, FIRST_LAYER + layer * LAYER_PARAMS + which);
}
static ds_value *last_param(const gpt2 *m, ds_ctx *ctx, int which) {
  return ds_param(ctx, FIRST_LAYER + m->layers * LAYER_PARAMS + which);
}

/* What the tokens of one call share over the layers. */
typedef struct call {
  int64_t batch, length;
  ds_kv_cache *cache; /* NULL: no earlier tokens */
  ds_value *kv_len;
} call;

static int64_t width_of(const ds_value *x) {
  const ds_tensor *t = ds_value_tensor(x);
  return t->shape[t->rank - 1];
}

/* One third of qkv as [B,T,H,D]: of all heads, or under tensor parallelism of those that are here. */
static ds_value *heads_of(const gpt2 *m, ds_ctx *ctx, const call *c, ds_value *qkv, int third) {
  if (!qkv) return NULL;
  int64_t width = width_of(qkv) / 3, dim = m->width / m->heads;
  int64_t shape[] = {c->batch, c->length, width / dim, dim};
  return ds_reshape(ctx, ds_slice_last(ctx, qkv, third * width, width), 4, shape);
}

static ds_value *attention(const gpt2 *m, ds_ctx *ctx, const call *c, int layer, ds_value *x) {
  ds_value *qkv =
      ds_linear(ctx, x, layer_param(ctx, layer, ATTN_W), layer_param(ctx, layer, ATTN_B));
  ds_value *q = heads_of(m, ctx, c, qkv, 0);
  ds_value *k = heads_of(m, ctx, c, qkv, 1);
  ds_value *v = heads_of(m, ctx, c, qkv, 2);
  if (c->cache && ds_kv_cache_append(c->cache, ctx, layer, k, v, &k, &v) != DS_OK) return NULL;
  ds_value *y = ds_attention(ctx, q, k, v, c->kv_len, true, 0, 0);
  if (!y) return NULL;
  y = ds_reshape(ctx, y, 3, (int64_t[]){c->batch, c->length, width_of(qkv) / 3});
  return ds_linear(ctx, y, layer_param(ctx, layer, ATTN_PROJ_W),
                   layer_param(ctx, layer, ATTN_PROJ_B));
}

static ds_value *mlp(const gpt2 *m, ds_ctx *ctx, int layer, ds_value *x) {
  x = ds_linear_activation(ctx, x, layer_param(ctx, layer, FC_W), layer_param(ctx, layer, FC_B),
                           m->activation);
  return ds_linear(ctx, x, layer_param(ctx, layer, FC_PROJ_W), layer_param(ctx, layer, FC_PROJ_B));
}

static ds_value *block(const gpt2 *m, ds_ctx *ctx, const call *c, int layer, ds_value *x) {
  ds_scope_begin(ctx);
  ds_value *normed = ds_layer_norm(ctx, x, layer_param(ctx, layer, LN_1_W),
                                   layer_param(ctx, layer, LN_1_B), m->eps);
  x = ds_add(ctx, x, attention(m, ctx, c, layer, normed));
  normed = ds_layer_norm(ctx, x, layer_param(ctx, layer, LN_2_W), layer_param(ctx, layer, LN_2_B),
                         m->eps);
  x = ds_add(ctx, x, mlp(m, ctx, layer, normed));
  return ds_scope_end(ctx, x);
}

static ds_value *embed(ds_ctx *ctx, ds_value *ids, ds_value *pos) {
  return ds_add(ctx, ds_embedding(ctx, ids, ds_param(ctx, WTE)),
                ds_embedding(ctx, pos, ds_param(ctx, WPE)));
}

/* [B,T,C] -> [B,T,C] */
static ds_value *blocks(const gpt2 *m, ds_ctx *ctx, const call *c, int first, int last,
                        ds_value *x) {
  for (int i = first; i < last; i++) x = block(m, ctx, c, i, x);
  return x;
}

static ds_value *head(const gpt2 *m, ds_ctx *ctx, ds_value *x) {
  x = ds_layer_norm(ctx, x, last_param(m, ctx, LN_F_W), last_param(m, ctx, LN_F_B), m->eps);
  return ds_linear(ctx, x, m->tied ? ds_param(ctx, WTE) : last_param(m, ctx, HEAD), NULL);
}

static ds_value *forward_blocks(void *self, ds_ctx *ctx, int first, int last, ds_value *x,
                                ds_value *const *inputs, int n_inputs) {
  const gpt2 *m = self;
  call c = {0};
  if (!ds_language_check(ctx, inputs[0], 0, m->positions, &c.batch, &c.length)) return NULL;
  if (first == 0) x = embed(ctx, inputs[0], ds_positions(ctx, c.batch, c.length));
  x = blocks(m, ctx, &c, first, last, x);
  return last < m->layers ? x : ds_language_output(ctx, head(m, ctx, x), inputs, n_inputs);
}

static ds_value *forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n_inputs) {
  return forward_blocks(self, ctx, 0, ((const gpt2 *)self)->layers, NULL, inputs, n_inputs);
}

static int n_blocks(void *self) {
  return ((const gpt2 *)self)->layers;
}

static int param_blocks(void *self, int index, int at[DS_PARAM_BLOCKS]) {
  const gpt2 *m = self;
  int layer = index < FIRST_LAYER ? 0 : (index - FIRST_LAYER) / LAYER_PARAMS;
  at[0] = layer < m->layers ? layer : m->layers - 1;
  at[1] = m->layers - 1;
  return m->tied && index == WTE ? 2 : 1;
}

static ds_status hidden_shape(void *self, const ds_batch *batch, int32_t *rank, int64_t *shape,
                              ds_error *err) {
  const gpt2 *m = self;
  return ds_language_hidden(batch, m->positions, m->width, rank, shape, err);
}

static ds_value *decode(void *self, ds_ctx *ctx, ds_value *ids, ds_kv_cache *cache) {
  const gpt2 *m = self;
  call c = {.cache = cache};
  if (!ds_language_check(ctx, ids, ds_kv_cache_length(cache), m->positions, &c.batch, &c.length))
    return NULL;
  c.kv_len = ds_kv_cache_lengths(cache, ctx);
  ds_value *pos = ds_kv_cache_positions(cache, ctx);
  ds_value *x = blocks(m, ctx, &c, 0, m->layers, embed(ctx, ids, pos));
  return head(m, ctx, ds_language_last(ctx, x));
}

static ds_status info(void *self, ds_model_info *out, ds_error *err) {
  (void)err;
  const gpt2 *m = self;
  out->n_layers = m->layers;
  out->n_kv_heads = (int32_t)m->heads;
  out->head_dim = (int32_t)(m->width / m->heads);
  out->vocab_size = m->vocab;
  out->max_positions = m->positions;
  out->bos_token = m->bos;
  out->eos_token = m->eos;
  return DS_OK;
}

static char *config_json(void *self) {
  return strdup(((const gpt2 *)self)->config);
}

static void destroy(void *self) {
  gpt2 *m = self;
  if (m) free(m->config);
  free(m);
}

static ds_status read_activation(const cJSON *config, ds_activation *out, const char *name,
                                 ds_error *err) {
  static const struct {
    const char *name;
    ds_activation kind;
  } known[] = {
      {"gelu_new", DS_ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", DS_ACTIVATION_GELU_TANH},
      {"gelu", DS_ACTIVATION_GELU_ERF},      {"relu", DS_ACTIVATION_RELU},
      {"silu", DS_ACTIVATION_SILU},          {"swish", DS_ACTIVATION_SILU},
      {"tanh", DS_ACTIVATION_TANH}};
  const char *wanted;
  DS_TRY(ds_json_string(config, "activation_function", "gelu_new", &wanted, name, err));
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strcmp(wanted, known[i].name) == 0) {
      *out = known[i].kind;
      return DS_OK;
    }
  return ds_fail(err, DS_ERR_UNSUPPORTED,
                 "%s: \"activation_function\": \"%s\" is not implemented; gelu_new, gelu, relu, "
                 "silu and tanh are",
                 name, wanted);
}

static ds_status read_sizes(const cJSON *config, gpt2 *m, const char *name, ds_error *err) {
  int64_t layers;
  const char *positions =
      cJSON_GetObjectItemCaseSensitive(config, "n_positions") ? "n_positions" : "n_ctx";
  DS_TRY(ds_family_size(config, "n_layer", 4096, &layers, name, err));
  DS_TRY(ds_family_size(config, "n_embd", 1 << 20, &m->width, name, err));
  DS_TRY(ds_family_size(config, "n_head", 1 << 20, &m->heads, name, err));
  DS_TRY(ds_family_size(config, "vocab_size", 1 << 30, &m->vocab, name, err));
  DS_TRY(ds_family_size(config, positions, 1 << 30, &m->positions, name, err));
  DS_TRY(ds_json_int(config, "n_inner", 4 * m->width, 1, 1 << 24, &m->inner, name, err));
  m->layers = (int)layers;
  if (m->width % m->heads == 0) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"n_embd\" %lld is no multiple of \"n_head\" %lld", name,
                 (long long)m->width, (long long)m->heads);
}

static ds_status read_config(const cJSON *config, gpt2 *m, const char *name, ds_error *err) {
  DS_TRY(read_sizes(config, m, name, err));
  DS_TRY(read_activation(config, &m->activation, name, err));
  DS_TRY(ds_family_positive(config, "layer_norm_epsilon", 1e-5, &m->eps, name, err));
  DS_TRY(ds_family_positive(config, "initializer_range", 0.02, &m->init_std, name, err));
  DS_TRY(ds_json_bool(config, "tie_word_embeddings", true, &m->tied, name, err));
  DS_TRY(ds_family_token(config, "bos_token_id", &m->bos, name, err));
  DS_TRY(ds_family_token(config, "eos_token_id", &m->eos, name, err));
  DS_TRY(ds_family_only(config, "scale_attn_weights", "true", name, err));
  DS_TRY(ds_family_only(config, "scale_attn_by_inverse_layer_idx", "false", name, err));
  DS_TRY(ds_family_only(config, "add_cross_attention", "false", name, err));
  return ds_family_only(config, "quantization_config", "null", name, err);
}

static ds_status create(const cJSON *config, const char *name, void **self, ds_error *err) {
  *self = NULL;
  gpt2 *m = calloc(1, sizeof *m);
  if (!m) return ds_fail_memory(err, name);
  ds_status status = read_config(config, m, name, err);
  if (status == DS_OK) {
    m->config = ds_family_config_text(config, &ds_family_gpt2);
    if (!m->config) status = ds_fail_memory(err, name);
  }
  if (status != DS_OK) {
    destroy(m);
    return status;
  }
  *self = m;
  return DS_OK;
}

static const ds_model_vtable vtable = {.size = sizeof vtable,
                                       .name = "gpt2",
                                       .declare = declare,
                                       .forward = forward,
                                       .info = info,
                                       .decode = decode,
                                       .config_json = config_json,
                                       .destroy = destroy,
                                       .n_blocks = n_blocks,
                                       .param_blocks = param_blocks,
                                       .hidden_shape = hidden_shape,
                                       .forward_blocks = forward_blocks};

const ds_family ds_family_gpt2 = {"gpt2", "GPT2LMHeadModel", create, &vtable};
