/* test_tensor_train.c - engines under tensor parallelism: losses, gradient norms and weights of
 * training are those of one process, with ZeRO over the ranks that have the same part.
 *
 * usage: mpirun -n N test_tensor_train PLUGIN_FOLDER N
 * The one process is the reference backend, which sees no launcher, in every rank.
 */
#include "unit/test.h"

#include "base/status.h"

#include "ds.h"

#include <stdlib.h>

enum { T = 6, SAMPLES = 48, BATCH = 12, STEPS = 5, VOCAB = 23, MAX_WEIGHTS = 40000 };

static int ranks;
static const char *plugins;
static ds_error err;

static const char gpt2[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 20, \"n_head\": 5, \"n_inner\": 18, "
    "\"vocab_size\": 23, \"n_positions\": 8, \"initializer_range\": 0.2}";
static const char llama[] =
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 24, \"head_dim\": 4, "
    "\"num_attention_heads\": 6, \"num_key_value_heads\": 3, \"intermediate_size\": 21, "
    "\"vocab_size\": 23, \"max_position_embeddings\": 8, \"initializer_range\": 0.2, "
    "\"attention_bias\": true}";

/* A host app's: names that the rules don't know. */

enum { WIDTH = 12, INNER = 14 };
enum { TABLE, NORM, IN_W, IN_B, BACK_W, BACK_B, SCORE };

static ds_status declare(void *self, ds_params *p, ds_error *e) {
  (void)self;
  (void)e;
  const int64_t width = WIDTH, inner = INNER;
  ds_params_add(p, "table", 2, (int64_t[]){VOCAB, WIDTH}, DS_INIT_NORMAL, 0.3);
  ds_params_add(p, "norm", 1, &width, DS_INIT_ONES, 0);
  ds_params_add(p, "in.weight", 2, (int64_t[]){INNER, WIDTH}, DS_INIT_NORMAL, 0.2);
  ds_params_add(p, "in.bias", 1, &inner, DS_INIT_NORMAL, 0.1);
  ds_params_add(p, "back.weight", 2, (int64_t[]){WIDTH, INNER}, DS_INIT_NORMAL, 0.2);
  ds_params_add(p, "back.bias", 1, &width, DS_INIT_NORMAL, 0.1);
  ds_params_add(p, "score.weight", 2, (int64_t[]){VOCAB, WIDTH}, DS_INIT_NORMAL, 0.2);
  ds_params_set_split(p, TABLE, DS_SPLIT_NONE, DS_SPLIT_BY_ELEMENT);
  ds_params_set_split(p, BACK_W, DS_SPLIT_ROW, DS_SPLIT_BY_ELEMENT);
  ds_params_set_split(p, SCORE, DS_SPLIT_VOCAB, DS_SPLIT_BY_ELEMENT);
  return DS_OK;
}

static ds_value *forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n_inputs) {
  (void)n_inputs;
  const ds_tensor *ids = ds_value_tensor(inputs[0]);
  int64_t rows = ids->shape[0] * ids->shape[1];
  ds_value *x = ds_embedding(ctx, inputs[0], ds_param(ctx, TABLE));
  ds_value *y = ds_rms_norm(ctx, x, ds_param(ctx, NORM), 1e-5);
  y = ds_linear_activation(ctx, y, ds_param(ctx, IN_W), ds_param(ctx, IN_B),
                           DS_ACTIVATION_GELU_TANH);
  if (self) y = ds_mul(ctx, y, ds_rms_norm(ctx, y, ds_param(ctx, IN_B), 1e-5)); /* of a part */
  x = ds_add(ctx, x, ds_linear(ctx, y, ds_param(ctx, BACK_W), ds_param(ctx, BACK_B)));
  ds_value *logits = ds_scale(ctx, ds_linear(ctx, x, ds_param(ctx, SCORE), NULL), 0.7);
  if (!logits) return NULL;
  const ds_tensor *t = ds_value_tensor(logits);
  logits = ds_reshape(ctx, logits, 2, (int64_t[]){rows, t->shape[t->rank - 1]});
  return ds_cross_entropy(ctx, logits, ds_reshape(ctx, inputs[1], 1, &rows), -100);
}

static const ds_model_vtable own = {
    .size = sizeof(ds_model_vtable), .name = "own", .declare = declare, .forward = forward};

/* ---- the data */

static int32_t ids[SAMPLES][T], labels[SAMPLES][T];

static int64_t length(void *self) {
  (void)self;
  return SAMPLES;
}

static ds_status get(void *self, int64_t i, ds_batch *sample, ds_error *e) {
  (void)self;
  (void)e;
  sample->n = 2;
  sample->tensors[0] = (ds_host_tensor){DS_I32, 1, {T}, ids[i]};
  sample->tensors[1] = (ds_host_tensor){DS_I32, 1, {T}, labels[i]};
  return DS_OK;
}

static const ds_dataset_vtable data = {.size = sizeof data, .length = length, .get = get};

static void make_data(void) {
  unsigned seed = 7;
  for (int i = 0; i < SAMPLES; i++)
    for (int t = 0; t < T; t++) {
      seed = seed * 1664525u + 1013904223u;
      ids[i][t] = (int32_t)(seed >> 8) % VOCAB;
      labels[i][t] = (ids[i][t] * 5 + 3) % VOCAB;
    }
}

/* ---- a run */

#define ONE_THREAD "\"options\": {\"threads\": 1}" /* there are more ranks than cores */

typedef struct run {
  ds_model *model;
  ds_dataset *dataset;
  ds_engine *engine;
} run;

typedef struct result {
  float losses[STEPS];
  double norms[STEPS];
  float weights[MAX_WEIGHTS];
  size_t n;
} result;

/* model: a config, or NULL for the host app's; wrong: its forward norms a part. */
static ds_status open_run(run *r, const char *model, bool wrong, const char *config) {
  static int yes;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  *r = (run){0};
  if (model)
    DS_TRY(ds_model_from_config(model, &r->model, &err));
  else
    DS_TRY(ds_model_create(&own, wrong ? &yes : NULL, &r->model, &err));
  DS_TRY(ds_dataset_create(&data, NULL, &r->dataset, &err));
  a.model = r->model;
  a.training_data = r->dataset;
  a.config = config;
  return ds_initialize(&a, &r->engine, NULL, NULL, NULL, &err);
}

static void close_run(run *r) {
  ds_engine_destroy(r->engine);
  ds_dataset_destroy(r->dataset);
  ds_model_destroy(r->model);
}

static size_t elements(const ds_params *p, int i) {
  int64_t shape[DS_MAX_RANK];
  size_t n = 1;
  for (int32_t k = ds_params_shape(p, i, shape); k > 0; k--) n *= (size_t)shape[k - 1];
  return n;
}

static bool train(const char *model, const char *config, result *out) {
  run r;
  CHECK_OK(open_run(&r, model, false, config), err);
  bool opened = r.engine != NULL;
  out->n = 0;
  for (int s = 0; opened && s < STEPS; s++) {
    CHECK_OK(ds_engine_train_batch(r.engine, &out->losses[s], &err), err);
    out->norms[s] = ds_engine_get_global_grad_norm(r.engine);
  }
  const ds_params *p = opened ? ds_engine_params(r.engine) : NULL;
  for (int i = 0; opened && i < ds_params_count(p); i++) {
    size_t n = elements(p, i);
    if (out->n + n > MAX_WEIGHTS) return false;
    CHECK_OK(ds_engine_read_param(r.engine, i, out->weights + out->n, n, &err), err);
    out->n += n;
  }
  close_run(&r);
  return opened;
}

/* eps: of gradients that are 0 but for rounding (of keys' biases) Adam would make whole steps. */
#define REST                                                                                       \
  "\"train_batch_size\": 12, \"gradient_accumulation_steps\": 2, \"gradient_clipping\": 0.5, "     \
  "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.05, \"eps\": 1e-3}}"

/* Where rows aren't scattered, sums are overlapped at every other stage. */
static const char *config(char *out, size_t size, int tensor, int stage, bool sequence, bool bf16) {
  bool overlap = !sequence && stage % 2 == (ranks > 2);
  snprintf(
      out, size,
      "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\", " ONE_THREAD "}, " REST
      ", \"bf16\": {\"enabled\": %s}, \"zero_optimization\": {\"stage\": %d, "
      "\"stage3_param_persistence_threshold\": 30}, \"tensor_parallel\": {\"autotp_size\": %d, "
      "\"sequence_parallel\": %s, \"tp_overlap_comm\": %s}}",
      plugins, bf16 ? "true" : "false", stage, tensor, sequence ? "true" : "false",
      overlap ? "true" : "false");
  return out;
}

static void compare(const result *a, const result *b, const char *what, double within) {
  int before = test_failures;
  for (int s = 0; s < STEPS; s++) {
    CHECK_NEAR(b->losses[s], a->losses[s], within * (double)a->losses[s]);
    CHECK_NEAR(b->norms[s], a->norms[s], 30 * within * a->norms[s]);
  }
  CHECK(a->n == b->n);
  double distance = 0, size = 0;
  for (size_t i = 0; i < a->n; i++) {
    distance += pow((double)(a->weights[i] - b->weights[i]), 2);
    size += pow((double)a->weights[i], 2);
  }
  CHECK_NEAR(sqrt(distance / size), 0, 10 * within);
  if (test_failures > before) fprintf(stderr, "... %s\n", what);
}

static void check_model(const char *name, const char *model) {
  static result one, one_bf16, many;
  char text[1024], what[128];
  if (!train(model, "{\"backend\": \"reference\", " REST "}", &one) ||
      !train(model, "{\"backend\": \"reference\", \"bf16\": {\"enabled\": true}, " REST "}",
             &one_bf16))
    return;
  for (int tensor = 2; tensor <= ranks; tensor++)
    for (int stage = 0; stage <= 3; stage++)
      for (int sequence = 0; sequence <= 1; sequence++) {
        if (ranks % tensor || (ranks == tensor && stage % 3 != 0)) continue;
        snprintf(what, sizeof what, "%s, tensor %d of %d, stage %d, sequence %d", name, tensor,
                 ranks, stage, sequence);
        if (train(model, config(text, sizeof text, tensor, stage, sequence, false), &many))
          compare(&one, &many, what, 2e-6);
        if (stage > 1 || sequence) continue;
        if (train(model, config(text, sizeof text, tensor, stage, sequence, true), &many))
          compare(&one_bf16, &many, "bf16", 1e-2);
      }
}

/* Parameters and gradients are read and written whole, whoever has what of them. */
static void check_access(void) {
  run one, many;
  char text[1024];
  CHECK_OK(open_run(&one, llama, false, "{\"backend\": \"reference\", " REST "}"), err);
  CHECK_OK(open_run(&many, llama, false, config(text, sizeof text, ranks, 0, false, false)), err);
  if (!one.engine || !many.engine) return;
  run *both[] = {&one, &many};
  ds_batch batch = {.n = 2};
  batch.tensors[0] = (ds_host_tensor){DS_I32, 2, {2, T}, ids};
  batch.tensors[1] = (ds_host_tensor){DS_I32, 2, {2, T}, labels};
  const ds_params *p = ds_engine_params(one.engine);
  for (int i = 0; i < ds_params_count(p); i++) {
    size_t n = elements(p, i);
    float *x = calloc(n, sizeof *x);
    for (size_t k = 0; k < n; k++) x[k] = 0.3f * sinf((float)(k + 7 * (size_t)i));
    for (int e = 0; e < 2; e++)
      CHECK_OK(ds_engine_write_param(both[e]->engine, i, x, n, &err), err);
    free(x);
  }
  for (int e = 0; e < 2; e++) {
    ds_value *loss;
    CHECK_OK(ds_engine_forward(both[e]->engine, &batch, &loss, &err), err);
    CHECK_OK(ds_engine_backward(both[e]->engine, loss, &err), err);
  }
  for (int i = 0; i < ds_params_count(p); i++) {
    size_t n = elements(p, i);
    float *a = calloc(n, sizeof *a), *b = calloc(n, sizeof *b);
    CHECK_OK(ds_engine_read_param(one.engine, i, a, n, &err), err);
    CHECK_OK(ds_engine_read_param(many.engine, i, b, n, &err), err);
    CHECK(memcmp(a, b, n * sizeof *a) == 0);
    CHECK_OK(ds_engine_read_grad(one.engine, i, a, n, &err), err);
    CHECK_OK(ds_engine_read_grad(many.engine, i, b, n, &err), err);
    double most = 0;
    for (size_t k = 0; k < n; k++) most = fmax(most, fabs((double)a[k]));
    for (size_t k = 0; k < n; k++) CHECK_NEAR(b[k], a[k], 1e-5 * most + 1e-7);
    free(a);
    free(b);
  }
  close_run(&one);
  close_run(&many);
}

/* The host app's groups, where they are the config's. */

static ds_status model_group(void *ctx, int *rank, int *size, ds_error *e) {
  (void)e;
  *size = *(int *)ctx;
  *rank = atoi(getenv("OMPI_COMM_WORLD_RANK")) % *size;
  return DS_OK;
}

static ds_status data_group(void *ctx, int *rank, int *size, ds_error *e) {
  (void)e;
  *size = ranks / *(int *)ctx;
  *rank = atoi(getenv("OMPI_COMM_WORLD_RANK")) / *(int *)ctx;
  return DS_OK;
}

static void check_mpu(void) {
  int tensor = ranks % 2 ? ranks : 2;
  char text[1024];
  ds_model *m;
  ds_engine *e;
  ds_mpu mpu = {sizeof mpu, &tensor, data_group, model_group};
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  CHECK_OK(ds_model_from_config(gpt2, &m, &err), err);
  a.model = m;
  a.mpu = &mpu;
  a.config = config(text, sizeof text, tensor, 0, false, false);
  CHECK_OK(ds_initialize(&a, &e, NULL, NULL, NULL, &err), err);
  ds_engine_destroy(e);
  a.config = config(text, sizeof text, 1, 0, false, false);
  CHECK_FAILS(ds_initialize(&a, &e, NULL, NULL, NULL, &err), DS_ERR_INVALID, err,
              "by the world's size and the config's tensor_parallel.autotp_size");
  ds_model_destroy(m);
}

static void check_refused(void) {
  run r;
  char text[1024];
  float loss;
  snprintf(text, sizeof text,
           "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\", " ONE_THREAD "}, " REST
           ", \"tensor_parallel\": {\"tp_size\": %d}}",
           plugins, ranks + 1);
  CHECK_FAILS(open_run(&r, gpt2, false, text), DS_ERR_INVALID, err, "must divide the number");
  close_run(&r);
  if (ranks == 4) { /* one tensor rank has 3 heads, the other 2 */
    snprintf(text, sizeof text,
             "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\", " ONE_THREAD "}, " REST
             ", \"tensor_parallel\": {\"tp_size\": 2}, \"sequence_parallel_size\": 2}",
             plugins);
    CHECK_FAILS(open_run(&r, gpt2, false, text), DS_ERR_INVALID, err,
                "tensor parallel 2 gives rank 0 3 of 5 heads");
    close_run(&r);
  }
  config(text, sizeof text, ranks, 0, false, false);
  CHECK_OK(open_run(&r, NULL, true, text), err);
  CHECK_FAILS(ds_engine_train_batch(r.engine, &loss, &err), DS_ERR_UNSUPPORTED, err,
              "is divided by tensor parallelism");
  close_run(&r);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  make_data();
  check_model("gpt2", gpt2);
  check_model("llama", llama);
  check_model("own", NULL);
  check_access();
  check_mpu();
  check_refused();
  return TEST_RESULT();
}
