/* llama.c - LLaMA (Touvron et al. 2023): rotary positions, RMS norm before each sublayer, SwiGLU,
 * grouped-query attention (Ainslie et al. 2023). Keys and names are transformers'
 * LlamaForCausalLM. */
#include "model/family.h"
#include "model/language.h"
#include "model/rope_scaling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct llama {
  int layers;
  int64_t width, heads, kv_heads, head_dim, inner, vocab, positions;
  double eps, init_std;
  bool tied, attention_bias, mlp_bias;
  int32_t bos, eos;
  float *inv_freq; /* [head_dim / 2] */
  char *config;
} llama;

/* Parameters, in the order of declaration. A layer's biases, where it has them, follow its
 * weights; the head comes last, where it is not tied. */
enum { EMBED, FIRST_LAYER };
enum { NORM_1, Q, K, V, O, NORM_2, GATE, UP, DOWN, LAYER_WEIGHTS };
enum { ATTENTION_BIASES = 4, MLP_BIASES = 3 };
enum { NORM_F, HEAD };

static int layer_params(const llama *m) {
  return LAYER_WEIGHTS + (m->attention_bias ? ATTENTION_BIASES : 0) +
         (m->mlp_bias ? MLP_BIASES : 0);
}

static void add(ds_params *p, int layer, const char *name, int64_t out, int64_t in, ds_init init,
                double scale) {
  char full[96];
  snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
  ds_params_add(p, full, in ? 2 : 1, (int64_t[]){out, in}, init, scale);
}

static void declare_layer(const llama *m, ds_params *p, int i) {
  int64_t c = m->width, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim, f = m->inner;
  double std = m->init_std;
  add(p, i, "input_layernorm.weight", c, 0, DS_INIT_ONES, 0);
  add(p, i, "self_attn.q_proj.weight", q, c, DS_INIT_NORMAL, std);
  add(p, i, "self_attn.k_proj.weight", kv, c, DS_INIT_NORMAL, std);
  add(p, i, "self_attn.v_proj.weight", kv, c, DS_INIT_NORMAL, std);
  add(p, i, "self_attn.o_proj.weight", c, q, DS_INIT_NORMAL, std);
  add(p, i, "post_attention_layernorm.weight", c, 0, DS_INIT_ONES, 0);
  add(p, i, "mlp.gate_proj.weight", f, c, DS_INIT_NORMAL, std);
  add(p, i, "mlp.up_proj.weight", f, c, DS_INIT_NORMAL, std);
  add(p, i, "mlp.down_proj.weight", c, f, DS_INIT_NORMAL, std);
  if (m->attention_bias) {
    add(p, i, "self_attn.q_proj.bias", q, 0, DS_INIT_ZEROS, 0);
    add(p, i, "self_attn.k_proj.bias", kv, 0, DS_INIT_ZEROS, 0);
    add(p, i, "self_attn.v_proj.bias", kv, 0, DS_INIT_ZEROS, 0);
    add(p, i, "self_attn.o_proj.bias", c, 0, DS_INIT_ZEROS, 0);
  }
  if (m->mlp_bias) {
    add(p, i, "mlp.gate_proj.bias", f, 0, DS_INIT_ZEROS, 0);
    add(p, i, "mlp.up_proj.bias", f, 0, DS_INIT_ZEROS, 0);
    add(p, i, "mlp.down_proj.bias", c, 0, DS_INIT_ZEROS, 0);
  }
}

static ds_status declare(void *self, ds_params *p, ds_error *err) {
  (void)err; /* failures stay in p */
  const llama *m = self;
  int64_t table[] = {m->vocab, m->width};
  ds_params_set_heads(p, m->heads, m->kv_heads, m->head_dim);
  ds_params_add(p, "model.embed_tokens.weight", 2, table, DS_INIT_NORMAL, m->init_std);
  for (int i = 0; i < m->layers; i++) declare_layer(m, p, i);
  ds_params_add(p, "model.norm.weight", 1, &m->width, DS_INIT_ONES, 0);
  if (!m->tied) ds_params_add(p, "lm_head.weight", 2, table, DS_INIT_NORMAL, m->init_std);
  return DS_OK;
}

static ds_value *layer_param(const llama *m, ds_ctx *ctx, int layer, int which) {
  return ds_param(ctx, FIRST_LAYER + layer * layer_params(m) + which);
}
static ds_value *last_param(const llama *m, ds_ctx *ctx, int which) {
  return ds_param(ctx, FIRST_LAYER + m->layers * layer_params(m) + which);
}

/* The projection `which` of a layer, with its bias if the model has them. */
static ds_value *project(const llama *m, ds_ctx *ctx, int layer, int which, ds_value *x) {
  ds_value *bias = NULL;
  if (which >= Q && which <= O) {
    if (m->attention_bias) bias = layer_param(m, ctx, layer, LAYER_WEIGHTS + which - Q);
  } else if (m->mlp_bias) {
    int first = LAYER_WEIGHTS + (m->attention_bias ? ATTENTION_BIASES : 0);
    bias = layer_param(m, ctx, layer, first + which - GATE);
  }
  return ds_linear(ctx, x, layer_param(m, ctx, layer, which), bias);
}

/* What the tokens of one call share over the layers. */
typedef struct call {
  int64_t batch, length;
  ds_value *pos, *inv_freq;
  ds_kv_cache *cache; /* NULL: no earlier tokens */
  ds_value *kv_len;
} call;

/* As [B,T,H,D]: all heads, or under tensor parallelism those that are here. */
static ds_value *heads_of(const llama *m, ds_ctx *ctx, const call *c, ds_value *x) {
  if (!x) return NULL;
  const ds_tensor *t = ds_value_tensor(x);
  int64_t heads = t->shape[t->rank - 1] / m->head_dim;
  return ds_reshape(ctx, x, 4, (int64_t[]){c->batch, c->length, heads, m->head_dim});
}

static ds_value *attention(const llama *m, ds_ctx *ctx, const call *c, int layer, ds_value *x) {
  ds_value *q = heads_of(m, ctx, c, project(m, ctx, layer, Q, x));
  ds_value *k = heads_of(m, ctx, c, project(m, ctx, layer, K, x));
  ds_value *v = heads_of(m, ctx, c, project(m, ctx, layer, V, x));
  q = ds_rope(ctx, q, c->pos, c->inv_freq, false);
  k = ds_rope(ctx, k, c->pos, c->inv_freq, false);
  if (c->cache && ds_kv_cache_append(c->cache, ctx, layer, k, v, &k, &v) != DS_OK) return NULL;
  ds_value *y = ds_attention(ctx, q, k, v, c->kv_len, true, 0, 0);
  if (!y) return NULL;
  int64_t width = ds_value_tensor(y)->shape[2] * m->head_dim;
  y = ds_reshape(ctx, y, 3, (int64_t[]){c->batch, c->length, width});
  return project(m, ctx, layer, O, y);
}

static ds_value *mlp(const llama *m, ds_ctx *ctx, int layer, ds_value *x) {
  ds_value *gate = project(m, ctx, layer, GATE, x);
  ds_value *up = project(m, ctx, layer, UP, x);
  return project(m, ctx, layer, DOWN, ds_swiglu(ctx, gate, up));
}

static ds_value *block(const llama *m, ds_ctx *ctx, const call *c, int layer, ds_value *x) {
  ds_scope_begin(ctx);
  ds_value *normed = ds_rms_norm(ctx, x, layer_param(m, ctx, layer, NORM_1), m->eps);
  x = ds_add(ctx, x, attention(m, ctx, c, layer, normed));
  normed = ds_rms_norm(ctx, x, layer_param(m, ctx, layer, NORM_2), m->eps);
  x = ds_add(ctx, x, mlp(m, ctx, layer, normed));
  return ds_scope_end(ctx, x);
}

/* [B,T,C] -> [B,T,C] */
static ds_value *blocks(const llama *m, ds_ctx *ctx, call *c, int first, int last, ds_value *x) {
  int64_t pairs = m->head_dim / 2;
  c->inv_freq = ds_input(ctx, DS_F32, 1, &pairs, m->inv_freq);
  for (int i = first; i < last; i++) x = block(m, ctx, c, i, x);
  return x;
}

static ds_value *embed(ds_ctx *ctx, ds_value *ids) {
  return ds_embedding(ctx, ids, ds_param(ctx, EMBED));
}

static ds_value *head(const llama *m, ds_ctx *ctx, ds_value *x) {
  x = ds_rms_norm(ctx, x, last_param(m, ctx, NORM_F), m->eps);
  return ds_linear(ctx, x, m->tied ? ds_param(ctx, EMBED) : last_param(m, ctx, HEAD), NULL);
}

static ds_value *forward_blocks(void *self, ds_ctx *ctx, int first, int last, ds_value *x,
                                ds_value *const *inputs, int n_inputs) {
  const llama *m = self;
  call c = {0};
  if (!ds_language_check(ctx, inputs[0], 0, m->positions, &c.batch, &c.length)) return NULL;
  c.pos = ds_positions(ctx, c.batch, c.length);
  x = blocks(m, ctx, &c, first, last, first == 0 ? embed(ctx, inputs[0]) : x);
  return last < m->layers ? x : ds_language_output(ctx, head(m, ctx, x), inputs, n_inputs);
}

static ds_value *forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n_inputs) {
  return forward_blocks(self, ctx, 0, ((const llama *)self)->layers, NULL, inputs, n_inputs);
}

static int n_blocks(void *self) {
  return ((const llama *)self)->layers;
}

static int param_blocks(void *self, int index, int at[DS_PARAM_BLOCKS]) {
  const llama *m = self;
  int layer = index < FIRST_LAYER ? 0 : (index - FIRST_LAYER) / layer_params(m);
  at[0] = layer < m->layers ? layer : m->layers - 1;
  at[1] = m->layers - 1;
  return m->tied && index == EMBED ? 2 : 1;
}

static ds_status hidden_shape(void *self, const ds_batch *batch, int32_t *rank, int64_t *shape,
                              ds_error *err) {
  const llama *m = self;
  return ds_language_hidden(batch, m->positions, m->width, rank, shape, err);
}

static ds_value *decode(void *self, ds_ctx *ctx, ds_value *ids, ds_kv_cache *cache) {
  const llama *m = self;
  call c = {.cache = cache};
  if (!ds_language_check(ctx, ids, ds_kv_cache_length(cache), m->positions, &c.batch, &c.length))
    return NULL;
  c.pos = ds_kv_cache_positions(cache, ctx);
  c.kv_len = ds_kv_cache_lengths(cache, ctx);
  ds_value *x = blocks(m, ctx, &c, 0, m->layers, embed(ctx, ids));
  return head(m, ctx, ds_language_last(ctx, x));
}

static ds_status info(void *self, ds_model_info *out, ds_error *err) {
  (void)err;
  const llama *m = self;
  out->n_layers = m->layers;
  out->n_kv_heads = (int32_t)m->kv_heads;
  out->head_dim = (int32_t)m->head_dim;
  out->vocab_size = m->vocab;
  out->max_positions = m->positions;
  out->bos_token = m->bos;
  out->eos_token = m->eos;
  return DS_OK;
}

static char *config_json(void *self) {
  return strdup(((const llama *)self)->config);
}

static void destroy(void *self) {
  llama *m = self;
  if (!m) return;
  free(m->inv_freq);
  free(m->config);
  free(m);
}

static ds_status read_heads(const cJSON *config, llama *m, const char *name, ds_error *err) {
  DS_TRY(ds_family_size(config, "num_attention_heads", 1 << 20, &m->heads, name, err));
  DS_TRY(
      ds_json_int(config, "num_key_value_heads", m->heads, 1, m->heads, &m->kv_heads, name, err));
  DS_TRY(ds_json_int(config, "head_dim", m->width / m->heads, 2, 1 << 16, &m->head_dim, name, err));
  if (m->heads % m->kv_heads)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: \"num_attention_heads\" %lld is no multiple of \"num_key_value_heads\" "
                   "%lld",
                   name, (long long)m->heads, (long long)m->kv_heads);
  const cJSON *head_dim = cJSON_GetObjectItemCaseSensitive(config, "head_dim");
  if ((!head_dim || cJSON_IsNull(head_dim)) && m->width % m->heads)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: \"hidden_size\" %lld is no multiple of \"num_attention_heads\" %lld", name,
                   (long long)m->width, (long long)m->heads);
  if (m->head_dim < 2 || m->head_dim % 2)
    return ds_fail(err, DS_ERR_FORMAT, "%s: the head dimension %lld must be even", name,
                   (long long)m->head_dim);
  return DS_OK;
}

static ds_status read_sizes(const cJSON *config, llama *m, const char *name, ds_error *err) {
  int64_t layers;
  DS_TRY(ds_family_size(config, "num_hidden_layers", 4096, &layers, name, err));
  DS_TRY(ds_family_size(config, "hidden_size", 1 << 20, &m->width, name, err));
  DS_TRY(ds_family_size(config, "intermediate_size", 1 << 24, &m->inner, name, err));
  DS_TRY(ds_family_size(config, "vocab_size", 1 << 30, &m->vocab, name, err));
  DS_TRY(ds_family_size(config, "max_position_embeddings", 1 << 30, &m->positions, name, err));
  m->layers = (int)layers;
  return read_heads(config, m, name, err);
}

static ds_status read_config(const cJSON *config, llama *m, const char *name, ds_error *err) {
  DS_TRY(read_sizes(config, m, name, err));
  DS_TRY(ds_family_positive(config, "rms_norm_eps", 1e-6, &m->eps, name, err));
  DS_TRY(ds_family_positive(config, "initializer_range", 0.02, &m->init_std, name, err));
  DS_TRY(ds_json_bool(config, "tie_word_embeddings", false, &m->tied, name, err));
  DS_TRY(ds_json_bool(config, "attention_bias", false, &m->attention_bias, name, err));
  DS_TRY(ds_json_bool(config, "mlp_bias", false, &m->mlp_bias, name, err));
  DS_TRY(ds_family_token(config, "bos_token_id", &m->bos, name, err));
  DS_TRY(ds_family_token(config, "eos_token_id", &m->eos, name, err));
  DS_TRY(ds_family_only(config, "hidden_act", "\"silu\"", name, err));
  DS_TRY(ds_family_only(config, "sliding_window", "null", name, err));
  DS_TRY(ds_family_only(config, "partial_rotary_factor", "1", name, err));
  return ds_family_only(config, "quantization_config", "null", name, err);
}

static ds_status create(const cJSON *config, const char *name, void **self, ds_error *err) {
  *self = NULL;
  llama *m = calloc(1, sizeof *m);
  if (!m) return ds_fail_memory(err, name);
  ds_status status = read_config(config, m, name, err);
  if (status == DS_OK) {
    m->inv_freq = malloc((size_t)m->head_dim / 2 * sizeof *m->inv_freq);
    m->config = ds_family_config_text(config, &ds_family_llama);
    if (!m->inv_freq || !m->config) status = ds_fail_memory(err, name);
  }
  if (status == DS_OK)
    status = ds_rope_scaling_read(config, m->head_dim / 2, m->inv_freq, name, err);
  if (status != DS_OK) {
    destroy(m);
    return status;
  }
  *self = m;
  return DS_OK;
}

static const ds_model_vtable vtable = {.size = sizeof vtable,
                                       .name = "llama",
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

const ds_family ds_family_llama = {"llama", "LlamaForCausalLM", create, &vtable};
