/* test_tensor.c - tensor parallelism: N ranks with parts of a model give the loss, the logits and the
 * gradients of one process with all of it.
 *
 * usage: [mpirun -n N] test_tensor PLUGIN_FOLDER N [BACKEND]
 * The whole model runs on the reference backend, which sees no launcher, in every rank.
 */
#include "unit/test.h"

#include "base/rng.h"
#include "backend/backend.h"
#include "model/model.h"
#include "ops/ctx.h"
#include "parallel/topology.h"
#include "tensor/tensor.h"
#include "zero/local.h"

#include <stdlib.h>

enum { BATCH = 2, LENGTH = 6, ROWS = BATCH * LENGTH, MAX_PARAMS = 48 };

static ds_error err;
static int ranks;
static ds_backend *alone, *backend;
static ds_world world;
static ds_topology topology;

/* ---- models: heads, widths and vocabularies that nothing divides evenly */

#define GPT2(more)                                                                                 \
  "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 20, \"n_head\": 5, \"n_inner\": 18, "    \
  "\"vocab_size\": 23, \"n_positions\": 8" more "}"
#define LLAMA(heads, kv, more)                                                                     \
  "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 24, \"head_dim\": 4, "   \
  "\"num_attention_heads\": " #heads ", \"num_key_value_heads\": " #kv                             \
  ", \"intermediate_size\": 21, \"vocab_size\": 29, \"max_position_embeddings\": 8" more "}"

typedef struct model_case {
  const char *name, *config;
} model_case;

static const model_case models[] = {
    {"gpt2", GPT2("")},
    {"gpt2, head of its own", GPT2(", \"tie_word_embeddings\": false")},
    {"llama 6/6", LLAMA(6, 6, "")},
    {"llama 6/3", LLAMA(6, 3, "")},
    {"llama 8/2, biases", LLAMA(8, 2, ", \"attention_bias\": true, \"mlp_bias\": true")},
    {"llama 4/1, tied", LLAMA(4, 1, ", \"tie_word_embeddings\": true")},
};

/* ---- one way to run it: a context with parameters of its own */

typedef struct run {
  ds_backend *backend;
  ds_ctx *ctx;
  ds_params *params; /* what is here */
  ds_param_slot slots[MAX_PARAMS];
  size_t bytes[MAX_PARAMS];
} run;

static size_t numel(const run *r, int i) {
  return (size_t)ds_params_numel(r->params, i);
}

static void open_run(run *r, ds_backend *b, ds_params *params, int32_t dtype) {
  *r = (run){.backend = b, .params = params};
  CHECK(ds_params_count(params) <= MAX_PARAMS);
  CHECK_OK(ds_ctx_create(b, dtype, &r->ctx, &err), err);
  for (int i = 0; i < ds_params_count(params); i++) {
    ds_param_slot *s = &r->slots[i];
    int64_t shape[DS_MAX_RANK];
    int32_t rank = ds_params_shape(params, i, shape);
    s->value = ds_tensor_make(NULL, dtype, rank, shape);
    r->bytes[i] = 4 * numel(r, i);
    CHECK_OK(ds_backend_alloc(b, r->bytes[i], &s->value.data, &err), err);
    CHECK_OK(ds_backend_alloc(b, r->bytes[i], &s->grad, &err), err);
  }
  ds_ctx_bind_params(r->ctx, r->slots, ds_params_count(params));
}

static void close_run(run *r) {
  for (int i = 0; i < ds_params_count(r->params); i++) {
    ds_backend_free(r->backend, r->slots[i].value.data, r->bytes[i]);
    ds_backend_free(r->backend, r->slots[i].grad, r->bytes[i]);
  }
  ds_ctx_destroy(r->ctx);
  ds_params_destroy(r->params);
}

static void set_param(run *r, int i, const float *values) {
  CHECK_OK(ds_input_write(r->ctx, r->slots[i].value.data, r->slots[i].value.dtype, values,
                          numel(r, i), &err),
           err);
  CHECK_OK(ds_backend_sync(r->backend, &err), err);
}

static float *read_grad(run *r, int i) {
  float *out = calloc(numel(r, i) + 1, sizeof *out);
  if (out && r->slots[i].has_grad)
    CHECK_OK(ds_backend_download(r->backend, out, r->slots[i].grad, r->bytes[i], &err), err);
  return out;
}

/* ---- inputs */

static int32_t ids[ROWS], labels[ROWS];

static void make_inputs(int64_t vocab, int ignored) {
  ds_rng rng;
  ds_rng_init(&rng, 5, 0);
  for (int i = 0; i < ROWS; i++) {
    ids[i] = (int32_t)(ds_rng_uniform(&rng) * (double)vocab);
    labels[i] = (int32_t)(ds_rng_uniform(&rng) * (double)vocab);
    if (i < ignored || i == ROWS - 1) labels[i] = -100;
  }
  ids[0] = 0;
  ids[1] = (int32_t)vocab - 1;
  if (ignored < ROWS - 2) labels[ROWS - 2] = (int32_t)vocab - 1;
}

static float loss_of(run *r, ds_model *model, bool training, bool backward) {
  const int64_t shape[] = {BATCH, LENGTH};
  float loss = NAN;
  ds_ctx_set_training(r->ctx, training);
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  ds_value *in[] = {ds_input(r->ctx, DS_I32, 2, shape, ids),
                    ds_input(r->ctx, DS_I32, 2, shape, labels)};
  ds_value *v = ds_model_forward(model, r->ctx, in, 2);
  CHECK_OK(ds_value_read(r->ctx, v, &loss, 1, &err), err);
  if (backward) CHECK_OK(ds_ctx_backward(r->ctx, v, 0.5, &err), err);
  return loss;
}

static void read_logits(run *r, ds_model *model, float *out, size_t n) {
  const int64_t shape[] = {BATCH, LENGTH};
  ds_ctx_set_training(r->ctx, false);
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  ds_value *in = ds_input(r->ctx, DS_I32, 2, shape, ids);
  ds_value *v = ds_model_forward(model, r->ctx, &in, 1);
  if (v) CHECK(ds_value_tensor(v)->rank == 3);
  CHECK_OK(ds_value_read(r->ctx, v, out, n, &err), err);
}

/* ---- comparing */

/* |a - b| relative to the larger of the norms. */
static double distance(const float *a, const float *b, size_t n) {
  double d = 0, x = 0, y = 0;
  for (size_t i = 0; i < n; i++) {
    d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    x += (double)a[i] * (double)a[i];
    y += (double)b[i] * (double)b[i];
  }
  return d == 0 ? 0 : sqrt(d / fmax(x, y));
}

typedef struct setting {
  bool bf16, sequence;
  int ignored;
} setting;

/* bf16 has 8 bits: each of a layer's two sums over ranks rounds once more than one process does. */
static double bound(const setting *s, double f32, double bf16) {
  return s->bf16 ? bf16 : f32;
}

static void set_params(run *whole, run *here, const ds_shard *shards) {
  for (int i = 0; i < ds_params_count(whole->params); i++) {
    int64_t shape[DS_MAX_RANK];
    int32_t rank = ds_params_shape(whole->params, i, shape);
    size_t n = numel(whole, i);
    float *all = calloc(n, sizeof *all), *mine = calloc(numel(here, i), sizeof *mine);
    ds_rng rng;
    ds_rng_init(&rng, 11, (uint64_t)i);
    bool norm = rank == 1 && strstr(ds_params_name(whole->params, i), "weight");
    for (size_t k = 0; k < n; k++) all[k] = norm + 0.25f * (float)ds_rng_normal(&rng);
    ds_shard_take(&shards[i], shape, sizeof *all, all, mine);
    set_param(whole, i, all);
    set_param(here, i, mine);
    free(all);
    free(mine);
  }
}

static void compare_gradients(const char *name, run *whole, run *here, const ds_shard *shards,
                              const setting *s) {
  double squares = 0, all_squares = 0;
  for (int i = 0; i < ds_params_count(here->params); i++) {
    int64_t shape[DS_MAX_RANK];
    ds_params_shape(whole->params, i, shape);
    size_t n = numel(here, i);
    float *all = read_grad(whole, i), *mine = read_grad(here, i), *want = calloc(n, sizeof *want);
    ds_shard_take(&shards[i], shape, sizeof *all, all, want);
    CHECK(here->slots[i].has_grad && whole->slots[i].has_grad);
    double d = distance(mine, want, n);
    /* Gradients of key biases are 0 but for rounding: softmax doesn't see them. */
    bool nothing = distance(want, (float[64]){0}, n < 64 ? n : 0) == 0 ||
                   strstr(ds_params_name(here->params, i), "k_proj.bias");
    if (!nothing && d > bound(s, 1e-5, 1e-1)) {
      fprintf(stderr, "%s, tensor %d of %d, sequence %d, bf16 %d: %s: %g\n", name,
              topology.tensor.rank, topology.tensor.size, s->sequence, s->bf16,
              ds_params_name(here->params, i), d);
      CHECK(!"the gradients agree");
    }
    for (size_t k = 0; k < n && shards[i].counted; k++)
      squares += (double)mine[k] * (double)mine[k];
    for (size_t k = 0; k < numel(whole, i); k++) all_squares += (double)all[k] * (double)all[k];
    free(all);
    free(mine);
    free(want);
  }
  float sum = (float)squares;
  CHECK_OK(ds_backend_upload(backend, world.flag, &sum, sizeof sum, &err), err);
  CHECK_OK(ds_world_allreduce(&world, world.flag, 1, DS_REDUCE_SUM, &err), err);
  CHECK_OK(ds_backend_download(backend, &sum, world.flag, sizeof sum, &err), err);
  /* each element counted once */
  CHECK_NEAR(sum, all_squares, bound(s, 1e-5, 4e-2) * all_squares);
}

/* What the ranks exchange in a step: for each of 2 layers two sums of [R,C] forward and two backward,
 * one more for the embedding and one for the head's input, however many linears read one value; and
 * for the loss a number a row and one for all. Rows scattered and gathered move as much. */
static void check_traffic(const model_case *c, run *r, ds_model *model, const ds_shard *shards,
                          bool sequence) {
  int64_t width;
  ds_group *g = topology.tensor.group;
  ds_group_counter before[DS_GROUP_OPS], now[DS_GROUP_OPS];
  int norm = ds_params_find(r->params, "model.norm.weight");
  if (norm < 0) norm = ds_params_find(r->params, "transformer.ln_f.weight");
  ds_params_shape(r->params, norm, &width);
  uint64_t sums = 5, value = (uint64_t)(ROWS * width) * 4, lse = (uint64_t)(ROWS * ranks) * 4;
  uint64_t extra = 0, extra_bytes = 0; /* gradients that the whole group sums */
  for (int i = 0; i < ds_params_count(r->params); i++) {
    if (shards[i].sum != g) continue;
    extra++;
    extra_bytes += 4 * numel(r, i);
  }
  for (int i = 0; i < DS_GROUP_OPS; i++) before[i] = ds_group_count(g, (ds_group_op)i);
  loss_of(r, model, true, true);
  for (int i = 0; i < DS_GROUP_OPS; i++) now[i] = ds_group_count(g, (ds_group_op)i);
#define CALLS(op)   (now[op].calls - before[op].calls)
#define PAYLOAD(op) (now[op].payload - before[op].payload)
  if (!sequence) {
    CHECK(CALLS(DS_GROUP_ALLREDUCE) == 2 * sums + 1 + extra);
    CHECK(PAYLOAD(DS_GROUP_ALLREDUCE) == 2 * sums * value + 4 + extra_bytes);
    CHECK(CALLS(DS_GROUP_ALLGATHER) == 1 && PAYLOAD(DS_GROUP_ALLGATHER) == lse);
    CHECK(CALLS(DS_GROUP_REDUCE_SCATTER) == 0);
  } else {
    CHECK(CALLS(DS_GROUP_ALLREDUCE) == 1 + extra);
    CHECK(PAYLOAD(DS_GROUP_ALLREDUCE) == 4 + extra_bytes);
    CHECK(CALLS(DS_GROUP_REDUCE_SCATTER) == 2 * sums);
    CHECK(PAYLOAD(DS_GROUP_REDUCE_SCATTER) == 2 * sums * value);
    CHECK(CALLS(DS_GROUP_ALLGATHER) == 2 * sums + 1);
    CHECK(PAYLOAD(DS_GROUP_ALLGATHER) == 2 * sums * value + lse);
  }
  if (test_failures) fprintf(stderr, "... %s, sequence %d\n", c->name, sequence);
}

static void check_model(const model_case *c, const setting *s) {
  ds_model *model;
  ds_params *params, *local;
  ds_shard *shards;
  ds_group *replicas = NULL;
  ds_param_split *splits;
  ds_model_info info;
  run whole, here;
  int32_t dtype = s->bf16 ? DS_BF16 : DS_F32;
  CHECK_OK(ds_model_from_config(c->config, &model, &err), err);
  CHECK_OK(ds_model_declare(model, &params, &err), err);
  CHECK_OK(ds_model_get_info(model, &info, &err), err);
  CHECK_OK(
      ds_local_plan(params, topology.tensor.rank, topology.tensor.size, s->sequence, &shards, &err),
      err);
  if (!shards) return;
  CHECK_OK(
      ds_shard_connect(shards, ds_params_count(params), topology.tensor.group, &replicas, &err),
      err);
  CHECK_OK(ds_params_localize(params, shards, &local, &err), err);
  CHECK_OK(ds_local_splits(params, shards, &splits, &err), err);
  open_run(&whole, alone, params, dtype);
  open_run(&here, backend, local, dtype);
  ds_ctx_bind_tensor(here.ctx, topology.tensor.group, splits, s->sequence);
  set_params(&whole, &here, shards);
  make_inputs(info.vocab_size, s->ignored);

  float a = loss_of(&whole, model, true, true), b = loss_of(&here, model, true, true);
  double within = bound(s, 1e-6, 5e-3);
  if (fabs((double)a - (double)b) > within * fabs((double)a))
    fprintf(stderr, "%s: %.9g, not %.9g\n", c->name, (double)b, (double)a);
  CHECK_NEAR(b, a, within * fabs((double)a));
  if (s->ignored < ROWS) { /* the second adds to the first */
    loss_of(&whole, model, true, true);
    loss_of(&here, model, true, true);
  }
  compare_gradients(c->name, &whole, &here, shards, s);
  if (!s->bf16) check_traffic(c, &here, model, shards, s->sequence);
  CHECK_NEAR(loss_of(&here, model, false, false), a, within * fabs((double)a));

  size_t n = (size_t)(ROWS * info.vocab_size);
  float *x = calloc(n, sizeof *x), *y = calloc(n, sizeof *y);
  read_logits(&whole, model, x, n);
  read_logits(&here, model, y, n);
  CHECK(distance(x, y, n) <= bound(s, 1e-6, 3e-2));
  free(x);
  free(y);
  free(splits);
  free(shards);
  close_run(&here);
  close_run(&whole);
  ds_group_destroy(replicas);
  ds_model_destroy(model);
}

static void open_backend(const char *config_json, ds_backend **out) {
  ds_backend_config config;
  cJSON *section = cJSON_Parse(config_json);
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  cJSON_Delete(section);
  CHECK_OK(ds_backend_open(&config, NULL, out, &err), err);
  ds_backend_config_finish(&config);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  ranks = atoi(argv[2]);
  char text[1024];
  const ds_world_args args = {-1, -1, -1, NULL, 0};
  /* one thread: there are more ranks than cores */
  snprintf(text, sizeof text, "{\"name\": \"%s\", \"plugin_path\": \"%s\"%s}",
           argc > 3 ? argv[3] : "cpu", argv[1], argc > 3 ? "" : ", \"options\": {\"threads\": 1}");
  open_backend("\"reference\"", &alone);
  open_backend(text, &backend);
  if (!alone || !backend) return TEST_RESULT();
  CHECK_OK(ds_world_init(&world, backend, &args, NULL, &err), err);
  CHECK(world.size == ranks);
  CHECK_OK(ds_topology_place(&topology, world.rank, world.size, ranks, 1, 1, &err), err);
  CHECK_OK(ds_topology_connect(&topology, &world, &err), err);
  static const setting settings[] = {
      {false, false, 3}, {false, true, 3}, {false, false, ROWS}, {true, false, 3}, {true, true, 3}};
  for (size_t i = 0; i < sizeof models / sizeof *models; i++)
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++)
      check_model(&models[i], &settings[k]);
  ds_topology_finish(&topology);
  ds_world_finish(&world);
  ds_backend_close(backend);
  ds_backend_close(alone);
  return TEST_RESULT();
}
