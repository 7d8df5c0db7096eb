/* test_sequence.c - sequence parallelism (Ulysses): ranks with a stretch of each sequence give the
 * loss and, averaged, the gradients of one process with whole sequences.
 *
 * usage: [mpirun -n N] test_sequence PLUGIN_FOLDER N [BACKEND]
 * The whole sequences run on the reference backend, which sees no launcher, in every rank.
 */
#include "unit/test.h"

#include "base/rng.h"
#include "model/model.h"
#include "model/params.h"
#include "ops/ctx.h"
#include "ops/sequence.h"
#include "parallel/world.h"
#include "tensor/tensor.h"

#include <stdlib.h>

enum { MAX_BATCH = 3, LENGTH = 8, MAX_PARAMS = 48 };

static ds_error err;
static const char *plugins;
static int ranks;
static ds_backend *alone, *backend;
static ds_world world;

#define GPT2                                                                                       \
  "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 20, \"n_head\": 4, \"vocab_size\": 23, " \
  "\"n_positions\": 9}"
#define LLAMA(heads, kv)                                                                           \
  "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 24, \"head_dim\": 6, "   \
  "\"num_attention_heads\": " #heads ", \"num_key_value_heads\": " #kv                             \
  ", \"intermediate_size\": 21, \"vocab_size\": 29, \"max_position_embeddings\": 9, "              \
  "\"attention_bias\": true}"

static const char *const models[] = {GPT2, LLAMA(4, 4), LLAMA(8, 4), LLAMA(4, 2), LLAMA(4, 1)};

/* ---- one way to run a model */

typedef struct run {
  ds_backend *backend;
  ds_ctx *ctx;
  ds_params *params;
  ds_param_slot slots[MAX_PARAMS];
} run;

static size_t numel(const run *r, int i) {
  return (size_t)ds_params_numel(r->params, i);
}

static void open_run(run *r, ds_backend *b, ds_model *model, int32_t dtype, ds_group *group) {
  *r = (run){.backend = b};
  CHECK_OK(ds_model_declare(model, &r->params, &err), err);
  CHECK_OK(ds_ctx_create(b, dtype, &r->ctx, &err), err);
  for (int i = 0; i < ds_params_count(r->params); i++) {
    ds_param_slot *s = &r->slots[i];
    int64_t shape[DS_MAX_RANK];
    int32_t rank = ds_params_shape(r->params, i, shape);
    size_t n = numel(r, i);
    float *values = malloc(n * sizeof *values);
    ds_rng rng;
    ds_rng_init(&rng, 11, (uint64_t)i);
    bool norm = rank == 1 && strstr(ds_params_name(r->params, i), "weight");
    for (size_t k = 0; k < n; k++) values[k] = norm + 0.25f * (float)ds_rng_normal(&rng);
    s->value = ds_tensor_make(NULL, dtype, rank, shape);
    CHECK_OK(ds_backend_alloc(b, 4 * n, &s->value.data, &err), err);
    CHECK_OK(ds_backend_alloc(b, 4 * n, &s->grad, &err), err);
    CHECK_OK(ds_input_write(r->ctx, s->value.data, dtype, values, n, &err), err);
    CHECK_OK(ds_backend_sync(b, &err), err);
    free(values);
  }
  ds_ctx_bind_params(r->ctx, r->slots, ds_params_count(r->params));
  ds_ctx_bind_sequence(r->ctx, group);
  ds_ctx_set_training(r->ctx, true);
}

static void close_run(run *r) {
  for (int i = 0; i < ds_params_count(r->params); i++) {
    ds_backend_free(r->backend, r->slots[i].value.data, 4 * numel(r, i));
    ds_backend_free(r->backend, r->slots[i].grad, 4 * numel(r, i));
  }
  ds_ctx_destroy(r->ctx);
  ds_params_destroy(r->params);
}

/* ---- inputs */

typedef struct setting {
  int batch;
  bool bf16;
  int ignored; /* 0: no label, 1: some, 2: all of the first stretch and more, 3: all */
} setting;

static int32_t ids[MAX_BATCH][LENGTH], labels[MAX_BATCH][LENGTH];

static void make_inputs(const setting *s) {
  ds_rng rng;
  ds_rng_init(&rng, 5, 0);
  for (int b = 0; b < MAX_BATCH; b++)
    for (int t = 0; t < LENGTH; t++) {
      ids[b][t] = (int32_t)(ds_rng_uniform(&rng) * 23);
      labels[b][t] = (int32_t)(ds_rng_uniform(&rng) * 23);
      bool off = s->ignored == 3 || (s->ignored == 1 && (b + t) % 3 == 0) ||
                 (s->ignored == 2 && t < LENGTH / 2 + b);
      if (off) labels[b][t] = -100;
    }
}

/* This rank's stretch of whole sequences. */
static ds_value *input(run *r, const setting *s, int32_t whole[][LENGTH], bool cut) {
  int32_t part[MAX_BATCH * LENGTH];
  int length = cut ? LENGTH / ranks : LENGTH, from = cut ? world.rank * length : 0;
  for (int b = 0; b < s->batch; b++)
    memcpy(part + b * length, whole[b] + from, (size_t)length * sizeof *part);
  return ds_input(r->ctx, DS_I32, 2, (int64_t[]){s->batch, length}, part);
}

static float loss_of(run *r, ds_model *model, const setting *s, bool cut) {
  float loss = NAN;
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  ds_value *in[] = {input(r, s, ids, cut), input(r, s, labels, cut)};
  ds_value *v = ds_model_forward(model, r->ctx, in, 2);
  CHECK_OK(ds_ctx_status(r->ctx, &err), err);
  if (!v) return NAN;
  CHECK_OK(ds_value_read(r->ctx, v, &loss, 1, &err), err);
  CHECK_OK(ds_ctx_backward(r->ctx, v, 0.5, &err), err);
  return loss;
}

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

static float *read_grad(run *r, int i) {
  float *out = malloc(numel(r, i) * sizeof *out);
  CHECK_OK(ds_backend_download(r->backend, out, r->slots[i].grad, 4 * numel(r, i), &err), err);
  return out;
}

static void compare(const char *name, run *whole, run *part, const setting *s) {
  for (int i = 0; i < ds_params_count(part->params); i++) {
    size_t n = numel(part, i);
    CHECK(part->slots[i].has_grad && whole->slots[i].has_grad);
    CHECK_OK(ds_group_allreduce(world.group, NULL, part->slots[i].grad, part->slots[i].grad,
                                (int64_t)n, DS_F32, DS_REDUCE_MEAN, &err),
             err);
    float *a = read_grad(part, i), *b = read_grad(whole, i);
    double d = distance(a, b, n);
    /* Gradients of key biases are 0 but for rounding: softmax doesn't see them. */
    bool nothing = strstr(ds_params_name(part->params, i), "k_proj.bias") != NULL;
    /* bf16 has 8 bits; the ranks' gradients are summed in f32, those of one process in one product.
     * */
    if (!nothing && !(d <= (s->bf16 ? 3e-2 : 4e-6))) {
      fprintf(stderr, "%.40s, %d ranks, batch %d, ignored %d, bf16 %d: %s: %g\n", name, ranks,
              s->batch, s->ignored, s->bf16, ds_params_name(part->params, i), d);
      CHECK(!"the gradients agree");
    }
    free(a);
    free(b);
  }
}

static void check_model(const char *config, const setting *s) {
  ds_model *model;
  run whole, part;
  CHECK_OK(ds_model_from_config(config, &model, &err), err);
  make_inputs(s);
  open_run(&whole, alone, model, s->bf16 ? DS_BF16 : DS_F32, NULL);
  open_run(&part, backend, model, s->bf16 ? DS_BF16 : DS_F32, world.group);
  for (int step = 0; step < 2; step++) { /* the second adds to the first's gradients */
    float a = loss_of(&whole, model, s, false), b = loss_of(&part, model, s, true);
    CHECK_NEAR(b, a, fabs((double)a) * (s->bf16 ? 5e-3 : 1e-6));
    CHECK(s->ignored != 3 || a == 0);
  }
  compare(config, &whole, &part, s);
  close_run(&part);
  close_run(&whole);
  ds_model_destroy(model);
}

/* What can't be divided is told by name. */
static void check_refused(const char *config, const char *text) {
  ds_model *model;
  run part;
  const setting s = {.batch = 1};
  CHECK_OK(ds_model_from_config(config, &model, &err), err);
  open_run(&part, backend, model, DS_F32, world.group);
  CHECK_OK(ds_ctx_begin(part.ctx, &err), err);
  ds_value *in[] = {input(&part, &s, ids, true), input(&part, &s, labels, true)};
  CHECK(ds_model_forward(model, part.ctx, in, 2) == NULL);
  CHECK_FAILS(ds_ctx_status(part.ctx, &err), DS_ERR_INVALID, err, text);
  close_run(&part);
  ds_model_destroy(model);
}

/* ---- engines */

enum { SAMPLES = 24, STEPS = 4, BATCH = 4 };

typedef struct sample {
  int32_t ids[LENGTH], labels[LENGTH];
} sample;

static int64_t sample_count(void *self) {
  (void)self;
  return SAMPLES;
}

/* self: whether some labels don't count, of different stretches more or fewer. */
static ds_status get_sample(void *self, int64_t index, ds_batch *out, ds_error *e) {
  static sample x;
  (void)e;
  for (int t = 0; t < LENGTH; t++) {
    x.ids[t] = (int32_t)((index * 5 + t * 3) % 23);
    bool off = *(bool *)self && t < index % LENGTH;
    x.labels[t] = off ? -100 : (int32_t)((index * 5 + t * 3 + 3) % 23);
  }
  out->n = 2;
  out->tensors[0] = (ds_host_tensor){DS_I32, 1, {LENGTH}, x.ids};
  out->tensors[1] = (ds_host_tensor){DS_I32, 1, {LENGTH}, x.labels};
  return DS_OK;
}

static const ds_dataset_vtable samples = {
    .size = sizeof samples, .length = sample_count, .get = get_sample};

typedef struct trainer {
  ds_model *model;
  ds_dataset *data;
  ds_engine *engine;
} trainer;

static ds_status open_trainer(trainer *t, const char *model, const char *config, bool *ignoring) {
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  CHECK_OK(ds_model_from_config(model, &t->model, &err), err);
  CHECK_OK(ds_dataset_create(&samples, ignoring, &t->data, &err), err);
  t->engine = NULL;
  a.model = t->model;
  a.training_data = t->data;
  a.config = config;
  return ds_initialize(&a, &t->engine, NULL, NULL, NULL, &err);
}

static void close_trainer(trainer *t) {
  ds_engine_destroy(t->engine);
  ds_dataset_destroy(t->data);
  ds_model_destroy(t->model);
}

static const char *config_of(char *out, size_t size, const char *where, int sequence, int stage,
                             const char *more) {
  snprintf(out, size,
           "{\"backend\": %s, \"sequence_parallel_size\": %d, \"train_batch_size\": %d, "
           "\"zero_optimization\": {\"stage\": %d}, "
           "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.01}}%s}",
           where, sequence, BATCH, stage, more);
  return out;
}

#define SUM ", \"gradient_allreduce_op\": \"sum\""

/* Steps of ranks, of which `sequence` share each sequence and as many times `parts` a batch, and of
 * one process. */
static void check_engine(const char *section, int sequence, int parts, int stage, bool ignoring,
                         const char *more) {
  char text[1024];
  trainer one, many;
  float a, b;
  CHECK_OK(open_trainer(&one, LLAMA(4, 2), config_of(text, sizeof text, "\"reference\"", 1, 0, ""),
                        &ignoring),
           err);
  CHECK_OK(open_trainer(&many, LLAMA(4, 2),
                        config_of(text, sizeof text, section, sequence, stage, more), &ignoring),
           err);
  if (!one.engine || !many.engine) exit(1);
  bool summed = strstr(more, "sum") != NULL; /* over data-parallel ranks, not averaged */
  int share = sequence * parts;
  double times = summed ? ranks / share : 1;
  CHECK(ds_engine_train_batch_size(many.engine) == BATCH);
  CHECK(ds_engine_train_micro_batch_size_per_gpu(many.engine) *
            ds_engine_gradient_accumulation_steps(many.engine) ==
        BATCH * share / ranks);
  for (int i = 0; i < (summed ? 1 : STEPS); i++) {
    CHECK_OK(ds_engine_train_batch(one.engine, &a, &err), err);
    CHECK_OK(ds_engine_train_batch(many.engine, &b, &err), err);
    CHECK_NEAR(b, a, 2e-6 * fabs((double)a));
    double want = ds_engine_get_global_grad_norm(one.engine) * times;
    CHECK_NEAR(ds_engine_get_global_grad_norm(many.engine), want, 2e-5 * want);
  }
  close_trainer(&many);
  close_trainer(&one);
}

static void check_engines(const char *section, int first_stage) {
  char text[1024];
  bool none = false;
  trainer t;
  for (int stage = first_stage; stage <= 3; stage++) {
    check_engine(section, ranks, 1, stage, true, "");
    check_engine(section, 2, 1, stage, false, "");
  }
  check_engine(section, 2, 1, 1, false, SUM);
  if (ranks == 4) {
    check_engine(section, 2, 2, 1, true, ", \"pipeline\": {\"stages\": 2}" SUM);
    check_engine(section, 2, 2, 0, false,
                 ", \"pipeline\": {\"stages\": 2}, \"gradient_accumulation_steps\": 2");
    check_engine(section, 2, 2, 2, true, ", \"tensor_parallel\": {\"autotp_size\": 2}");
    check_engine(section, 2, 2, 1, true,
                 ", \"tensor_parallel\": {\"autotp_size\": 2, \"sequence_parallel\": true}");
  }
  CHECK_FAILS(open_trainer(&t, GPT2, config_of(text, sizeof text, section, 3, 0, ""), &none),
              DS_ERR_INVALID, err, "sequence parallel 3");
  close_trainer(&t);
  /* Longer than the model's positions, which no stretch is; and a length that isn't divided. */
  CHECK_OK(open_trainer(&t, GPT2, config_of(text, sizeof text, section, 2, 0, ""), &none), err);
  static int32_t numbers[16];
  ds_batch batch = {.n = 1, .tensors = {{DS_I32, 2, {1, 10}, numbers}}};
  ds_value *loss;
  CHECK_FAILS(ds_engine_forward(t.engine, &batch, &loss, &err), DS_ERR_INVALID, err,
              "10 tokens are more than the model's 9 positions");
  batch.tensors[0].shape[1] = 7;
  CHECK_FAILS(ds_engine_forward(t.engine, &batch, &loss, &err), DS_ERR_INVALID, err,
              "sequence_parallel_size 2 doesn't divide the 7 tokens");
  close_trainer(&t);
}

static ds_backend *open_backend(const char *section) {
  const ds_logger silent = {NULL, NULL};
  ds_backend_config config;
  ds_backend *b = NULL;
  cJSON *tree;
  CHECK_OK(ds_json_parse(section, strlen(section), 0, "test", &tree, &err), err);
  CHECK_OK(ds_backend_config_parse(tree, &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &silent, &b, &err), err);
  ds_backend_config_finish(&config);
  cJSON_Delete(tree);
  if (!b) exit(1);
  return b;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  char section[512];
  const ds_logger silent = {NULL, NULL};
  const ds_world_args args = {-1, -1, -1, NULL, 0};
  plugins = argv[1];
  ranks = atoi(argv[2]);
  snprintf(section, sizeof section,
           "{\"name\": \"%s\", \"plugin_path\": \"%s\", \"fallback\": \"allow\"}",
           argc > 3 ? argv[3] : "cpu", plugins);
  backend = open_backend(section);
  alone = open_backend("\"reference\"");
  CHECK_OK(ds_world_init(&world, backend, &args, &silent, &err), err);
  CHECK(world.size == ranks);
  if (world.size != ranks) return 1;
  for (size_t m = 0; m<sizeof models / sizeof *models; m += argc> 3 ? 4 : 1) /* some are slow */
    for (int batch = 1; batch <= MAX_BATCH; batch++) {
      check_model(models[m], &(setting){batch, false, batch});
      check_model(models[m], &(setting){batch, true, batch - 1});
    }
  check_refused(LLAMA(3, 3), "attention: 3 heads with 3 of keys and values can't be divided over "
                             "sequence_parallel_size");
  ds_world_finish(&world);
  check_engines(section, argc > 3 ? 3 : 0);
  ds_backend_close(alone);
  ds_backend_close(backend);
  return TEST_RESULT();
}
