/* test_pipeline_train.c - engines whose ranks are stages of a pipeline, and replicas of it, give the
 * losses, gradient norms and weights of one process with the same global batch.
 *
 * usage: mpirun -n N test_pipeline_train PLUGIN_FOLDER N
 * The reference backend sees no launcher: it is the one process to compare with, in every rank.
 */
#include "pipe_model.h"
#include "unit/train/tiny.h"

enum { STEPS = 6, TOKENS = 601, LENGTH = 8, BATCH = 12 };

static int ranks;
static const char *plugins;
static ds_dataset *data;

typedef struct run {
  ds_model *model;
  ds_engine *engine;
} run;

/* more: a config's further keys, each with a comma in front. */
static ds_status open_run(run *r, const char *model, const char *backend, const char *more,
                          ds_error *err) {
  char config[1024];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\"}, \"train_batch_size\": %d, "
           "\"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
           "{\"lr\": 0.01}}%s}",
           backend, plugins, BATCH, more);
  *r = (run){0};
  ds_status status = ds_model_from_config(model, &r->model, err);
  a.model = r->model;
  a.config = config;
  a.training_data = data;
  a.seed = 11;
  return status == DS_OK ? ds_initialize(&a, &r->engine, NULL, NULL, NULL, err) : status;
}

static void close_run(run *r) {
  ds_engine_destroy(r->engine);
  ds_model_destroy(r->model);
}

static int64_t elements(const ds_params *p, int i) {
  int64_t shape[DS_MAX_RANK], n = 1;
  for (int k = ds_params_shape(p, i, shape); k > 0; k--) n *= shape[k - 1];
  return n;
}

static void check_weights(ds_engine *a, ds_engine *b, double tolerance) {
  ds_error err;
  const ds_params *p = ds_engine_params(a);
  CHECK(ds_params_count(p) == ds_params_count(ds_engine_params(b)));
  for (int i = 0; i < ds_params_count(p); i++) {
    size_t n = (size_t)elements(p, i);
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    double worst = 0;
    CHECK_OK(ds_engine_read_param(a, i, x, n, &err), err);
    CHECK_OK(ds_engine_read_param(b, i, y, n, &err), err);
    for (size_t k = 0; k < n; k++) worst = fmax(worst, fabs((double)x[k] - (double)y[k]));
    if (worst > tolerance) fprintf(stderr, "%s: %g\n", ds_params_name(p, i), worst);
    CHECK(worst <= tolerance);
    free(x);
    free(y);
  }
}

/* The biases of keys change nothing: their gradients are rounding alone, and Adam makes steps of them,
 * so that norms drift apart after a while. Losses don't. */
static void train(ds_engine *one, ds_engine *many, int steps) {
  ds_error err;
  for (int i = 0; i < steps; i++) {
    float a, b;
    CHECK_OK(ds_engine_train_batch(one, &a, &err), err);
    CHECK_OK(ds_engine_train_batch(many, &b, &err), err);
    CHECK_NEAR(a, b, 1e-6 * a);
    double norm = ds_engine_get_global_grad_norm(one);
    CHECK_NEAR(norm, ds_engine_get_global_grad_norm(many), (i < 3 ? 1e-6 : 1e-4) * norm);
  }
  CHECK(ds_engine_global_samples(one) == ds_engine_global_samples(many));
  CHECK(ds_engine_global_steps(many) == steps);
}

static void test_same(const char *model, const char *layout) {
  ds_error err;
  run one, many;
  CHECK_OK(open_run(&one, model, "reference", ", \"gradient_accumulation_steps\": 1", &err), err);
  CHECK_OK(open_run(&many, model, "cpu", layout, &err), err);
  if (one.engine && many.engine) {
    check_weights(one.engine, many.engine, 0);
    train(one.engine, many.engine, STEPS);
    check_weights(one.engine, many.engine, 1e-4);
  }
  close_run(&one);
  close_run(&many);
}

/* A weight that is written is everywhere, and reading brings it from where it is. */
static void test_write(const char *layout) {
  ds_error err;
  run r;
  CHECK_OK(open_run(&r, pipe_models[0], "cpu", layout, &err), err);
  if (!r.engine) return;
  const ds_params *p = ds_engine_params(r.engine);
  for (int i = 0; i < ds_params_count(p); i++) {
    size_t n = (size_t)elements(p, i);
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    for (size_t k = 0; k < n; k++) x[k] = (float)(i + 1) + (float)k / 1024;
    CHECK_OK(ds_engine_write_param(r.engine, i, x, n, &err), err);
    CHECK_OK(ds_engine_read_param(r.engine, i, y, n, &err), err);
    CHECK(memcmp(x, y, n * sizeof *x) == 0);
    free(x);
    free(y);
  }
  close_run(&r);
}

static void test_refused(const char *layout) {
  ds_error err;
  run r;
  ds_value *v;
  char text[256];
  CHECK_OK(open_run(&r, pipe_models[0], "cpu", layout, &err), err);
  int32_t ids[2] = {1, 2};
  ds_batch batch = {.n = 1, .tensors = {{DS_I32, 2, {1, 2}, ids}}};
  if (r.engine) {
    CHECK_FAILS(ds_engine_forward(r.engine, &batch, &v, &err), DS_ERR_UNSUPPORTED, err,
                "use ds_engine_train_batch");
    CHECK_FAILS(ds_engine_step(r.engine, &err), DS_ERR_UNSUPPORTED, err, "ds_engine_train_batch");
  }
  close_run(&r);
  snprintf(text, sizeof text,
           ", \"pipeline\": {\"stages\": %d}, \"zero_optimization\": {\"stage\": 2}", ranks);
  CHECK_FAILS(open_run(&r, pipe_models[0], "cpu", text, &err), DS_ERR_INVALID, err,
              "use stage 0 or 1");
  close_run(&r);
  snprintf(text, sizeof text, ", \"pipeline\": {\"stages\": %d}", ranks + 1);
  CHECK_FAILS(open_run(&r, pipe_models[0], "cpu", text, &err), DS_ERR_INVALID, err, "must divide");
  close_run(&r);
  snprintf(text, sizeof text, ", \"pipeline\": {\"stages\": %d}", ranks);
  CHECK_FAILS(open_run(&r,
                       "{\"model_type\": \"gpt2\", \"n_embd\": 16, \"n_layer\": 1, \"n_head\": 2, "
                       "\"vocab_size\": 23, \"n_positions\": 12}",
                       "cpu", text, &err),
              DS_ERR_INVALID, err, "the model has 1 blocks");
  close_run(&r);
  tiny_run t = {0}; /* a host app's model that says nothing of blocks */
  snprintf(text, sizeof text,
           "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\"}, \"train_batch_size\": 4, "
           "\"pipeline\": {\"stages\": %d}}",
           plugins, ranks);
  CHECK_FAILS(tiny_open(&t, text, NULL, false, &err), DS_ERR_UNSUPPORTED, err,
              "its vtable has no n_blocks function");
  tiny_close(&t);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  ds_error err;
  int32_t ids[TOKENS];
  char all[128], uniform[160];
  for (int i = 0; i < TOKENS; i++) ids[i] = (i * i + i / 3) % PIPE_VOCAB;
  CHECK_OK(ds_dataset_tokens(ids, TOKENS, LENGTH, PIPE_VOCAB, &data, &err), err);
  snprintf(all, sizeof all, ", \"gradient_accumulation_steps\": 6, \"pipeline\": {\"stages\": %d}",
           ranks);
  snprintf(uniform, sizeof uniform,
           ", \"train_micro_batch_size_per_gpu\": 3, \"pipeline\": {\"stages\": %d, \"partition\": "
           "\"uniform\"}",
           ranks);
  for (int i = 0; i < PIPE_MODELS; i++) test_same(pipe_models[i], i % 2 ? uniform : all);
  if (ranks == 4) {
    static const char *const mixed[] = {
        ", \"gradient_accumulation_steps\": 3, \"pipeline\": {\"stages\": 2}",
        ", \"gradient_accumulation_steps\": 3, \"pipeline\": {\"stages\": 2}, "
        "\"zero_optimization\": {\"stage\": 1}",
        ", \"gradient_accumulation_steps\": 2, \"pipeline\": {\"stages\": 2}, "
        "\"tensor_parallel\": {\"autotp_size\": 2}"};
    for (int k = 0; k < 3; k++)
      for (int i = 0; i < PIPE_MODELS; i++) test_same(pipe_models[i], mixed[k]);
    for (int k = 0; k < 3; k++) test_write(mixed[k]);
  }
  test_write(all);
  test_refused(all);
  ds_dataset_destroy(data);
  return TEST_RESULT();
}
