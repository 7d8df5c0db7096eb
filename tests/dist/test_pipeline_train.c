/* test_pipeline_train.c - engines whose ranks are stages of a pipeline, and replicas of it, give the
 * losses, gradient norms and weights of one process with the same global batch.
 *
 * usage: mpirun -n N test_pipeline_train PLUGIN_FOLDER N
 * The reference backend sees no launcher: it is the one process to compare with, in every rank.
 */
#include "pipe_model.h"
#include "train/engine.h"
#include "pipe_host.h"

enum { STEPS = 6, TOKENS = 601, LENGTH = 8, BATCH = 12 };

static int ranks, rank;
static const char *plugins;
static ds_dataset *data;

typedef struct run {
  ds_model *model;
  ds_engine *engine;
} run;

/* more: a config's further keys, each with a comma in front. */
static ds_status open_engine(run *r, const char *backend, const char *more, ds_error *err) {
  char config[1024];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\"}, \"train_batch_size\": %d, "
           "\"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
           "{\"lr\": 0.01}}%s}",
           backend, plugins, BATCH, more);
  a.model = r->model;
  a.config = config;
  a.training_data = data;
  /* Rank 0's counts: for weights, and for samples, which all stages read. */
  a.seed = 11 + (strcmp(backend, "cpu") == 0 ? (uint64_t)rank : 0);
  return ds_initialize(&a, &r->engine, NULL, NULL, NULL, err);
}

static ds_status open_run(run *r, const char *model, const char *backend, const char *more,
                          ds_error *err) {
  *r = (run){0};
  ds_status status = ds_model_from_config(model, &r->model, err);
  return status == DS_OK ? open_engine(r, backend, more, err) : status;
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

/* A host app's model, of numbers. Its shared matrix isn't of the first and the last stage, and what
 * comes before a block that looks at nothing has gradients of zero. */
static void test_host_model(const char *layout, bool forgetful) {
  ds_error err;
  run one = {0}, many = {0};
  host self = {forgetful};
  ds_dataset *samples = NULL, *tokens = data;
  tiny_make_data();
  CHECK_OK(ds_dataset_create(&tiny_dataset, NULL, &samples, &err), err);
  CHECK_OK(ds_model_create(&host_vtable, &self, &one.model, &err), err);
  CHECK_OK(ds_model_create(&host_vtable, &self, &many.model, &err), err);
  data = samples;
  CHECK_OK(open_engine(&one, "reference", ", \"gradient_accumulation_steps\": 1", &err), err);
  CHECK_OK(open_engine(&many, "cpu", layout, &err), err);
  data = tokens;
  if (one.engine && many.engine) {
    train(one.engine, many.engine, TINY_SAMPLES / BATCH);
    check_weights(one.engine, many.engine, 1e-5);
  }
  close_run(&one);
  close_run(&many);
  ds_dataset_destroy(samples);
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

/* What isn't a number anywhere, no stage makes a step of, and all say so. */
static void test_overflow(const char *layout) {
  ds_error err;
  run r;
  float loss;
  CHECK_OK(open_run(&r, pipe_models[1], "cpu", layout, &err), err);
  if (!r.engine) return;
  const ds_params *p = ds_engine_params(r.engine);
  int last = ds_params_count(p) - 2; /* the last norm's bias, of the last stage alone */
  size_t n = (size_t)elements(p, last);
  float *good = malloc(n * sizeof *good), *wrong = malloc(n * sizeof *wrong);
  CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK_OK(ds_engine_read_param(r.engine, last, good, n, &err), err);
  memcpy(wrong, good, n * sizeof *good);
  wrong[n - 1] = NAN;
  CHECK_OK(ds_engine_write_param(r.engine, last, wrong, n, &err), err);
  CHECK_FAILS(ds_engine_train_batch(r.engine, &loss, &err), DS_ERR_NUMERIC, err,
              "no parameter was changed");
  CHECK(isnan(loss) && ds_engine_skipped_steps(r.engine) == 1);
  CHECK_OK(ds_engine_write_param(r.engine, last, good, n, &err), err);
  CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK(isfinite(loss));
  free(good);
  free(wrong);
  close_run(&r);
}

/* A stage has memory for its own blocks. */
static void test_memory(const char *layout) {
  ds_error err;
  run r;
  CHECK_OK(open_run(&r, pipe_models[1], "cpu", layout, &err), err);
  if (!r.engine) return;
  int64_t here = 0, all = 0;
  for (int i = 0; i < r.engine->n_params; i++) {
    here += ds_params_numel(r.engine->local, i);
    all += ds_params_numel(r.engine->params, i);
  }
  ds_zero_bytes b = ds_zero_get_bytes(r.engine->zero);
  uint64_t most = 4 * ((uint64_t)here + 64 * (uint64_t)r.engine->n_params);
  CHECK(here > 0 && here < all);
  CHECK(b.weights <= most && b.gradients <= most && b.states <= 2 * most);
  close_run(&r);
}

/* In 16 bits the same numbers are rounded: the losses stay together. fp16: the scale of the loss is the last
 * stage's to put in, and every rank's to take out of the norm. */
static void test_16bits(const char *model, const char *layout, const char *section,
                        double tolerance) {
  ds_error err;
  run one, many;
  char more[512], alone[512];
  float a, b;
  snprintf(more, sizeof more, "%s, %s", layout, section);
  snprintf(alone, sizeof alone, ", \"gradient_accumulation_steps\": 6, %s", section);
  CHECK_OK(open_run(&one, model, "reference", alone, &err), err);
  CHECK_OK(open_run(&many, model, "cpu", more, &err), err);
  for (int i = 0; i < STEPS && one.engine && many.engine; i++) {
    CHECK_OK(ds_engine_train_batch(one.engine, &a, &err), err);
    CHECK_OK(ds_engine_train_batch(many.engine, &b, &err), err);
    CHECK_NEAR(a, b, tolerance * a);
    double norm = ds_engine_get_global_grad_norm(one.engine);
    CHECK_NEAR(norm, ds_engine_get_global_grad_norm(many.engine), 30 * tolerance * norm);
    CHECK(ds_engine_was_step_applied(many.engine));
  }
  close_run(&one);
  close_run(&many);
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
  const char *launched = getenv("OMPI_COMM_WORLD_RANK");
  rank = launched ? atoi(launched) : 0;
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
        "\"tensor_parallel\": {\"autotp_size\": 2}",
        ", \"gradient_accumulation_steps\": 2, \"pipeline\": {\"stages\": 2}, "
        "\"sequence_parallel_size\": 2"};
    for (int k = 0; k < 4; k++)
      for (int i = k % 2; i < PIPE_MODELS; i += 2) test_same(pipe_models[i], mixed[k]);
    for (int k = 0; k < 4; k++) test_write(mixed[k]);
  }
  test_host_model(uniform, false);
  test_host_model(all, true);
  test_write(all);
  test_overflow(all);
  test_memory(all);
  static const char bf16[] = "\"bf16\": {\"enabled\": true}";
  static const char fp16[] = "\"fp16\": {\"enabled\": true, \"initial_scale_power\": 10}";
  test_16bits(pipe_models[0], all, bf16, 4e-3); /* half a unit in the last place */
  test_16bits(pipe_models[2], all, bf16, 4e-3);
  test_16bits(pipe_models[0], all, fp16, 1e-3);
  test_refused(all);
  ds_dataset_destroy(data);
  return TEST_RESULT();
}
