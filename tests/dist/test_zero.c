/* test_zero.c - ZeRO never changes the answer: losses, gradient norms and weights of every stage, on
 * any number of ranks, against stage 0 on the same ranks and against one process.
 *
 * usage: [mpirun -n N] test_zero PLUGIN_FOLDER N [BACKEND]
 * The model has what makes partitions hard: sizes that divide by nothing, a tied embedding, a
 * frozen parameter, an unused one. The reference backend sees no launcher: it is the one process.
 */
#include "unit/test.h"

#include "base/status.h"

#include "ds.h"

#include <stdlib.h>

enum { V = 37, C = 13, F = 29, LAYERS = 3, T = 6, SAMPLES = 96, BATCH = 12, STEPS = 6 };
enum { WTE, FROZEN, FIRST, LN_W = 0, LN_B, FC_W, FC_B, OUT_W, LAYER_PARAMS };
enum { UNUSED = FIRST + LAYERS * LAYER_PARAMS, N_PARAMS };

static int ranks;
static const char *plugins, *tested = "cpu";
static bool uses; /* the unused parameter, after all */

/* ---- the model: blocks of x + out(gelu(fc(norm(x)))) */

static ds_status declare(void *self, ds_params *p, ds_error *err) {
  (void)self;
  (void)err;
  int64_t c = C;
  ds_params_add(p, "wte.weight", 2, (int64_t[]){V, C}, DS_INIT_NORMAL, 0.3);
  ds_params_add(p, "scale.weight", 1, &c, DS_INIT_ONES, 0);
  for (int i = 0; i < LAYERS; i++) {
    char name[64];
    int64_t f = F;
    snprintf(name, sizeof name, "h.%d.ln.weight", i);
    ds_params_add(p, name, 1, &c, DS_INIT_ONES, 0);
    snprintf(name, sizeof name, "h.%d.ln.bias", i);
    ds_params_add(p, name, 1, &c, DS_INIT_ZEROS, 0);
    snprintf(name, sizeof name, "h.%d.fc.weight", i);
    ds_params_add(p, name, 2, (int64_t[]){F, C}, DS_INIT_NORMAL, 0.2);
    snprintf(name, sizeof name, "h.%d.fc.bias", i);
    ds_params_add(p, name, 1, &f, DS_INIT_NORMAL, 0.1);
    snprintf(name, sizeof name, "h.%d.out.weight", i);
    ds_params_add(p, name, 2, (int64_t[]){C, F}, DS_INIT_NORMAL, 0.2);
  }
  ds_params_add(p, "unused.weight", 2, (int64_t[]){7, 3}, DS_INIT_NORMAL, 0.1);
  return DS_OK;
}

static ds_value *param(ds_ctx *ctx, int layer, int which) {
  return ds_param(ctx, FIRST + layer * LAYER_PARAMS + which);
}

static float *seen; /* the model writes here what it sees of wte, unless NULL */

static ds_value *forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n_inputs) {
  (void)self;
  (void)n_inputs;
  int64_t all = V * C;
  ds_value *wte = ds_param(ctx, WTE); /* taken once, used at both ends */
  if (seen && ds_value_read(ctx, ds_reshape(ctx, wte, 1, &all), seen, V * C, NULL)) return NULL;
  ds_value *x = ds_embedding(ctx, inputs[0], wte);
  if (!x) return NULL;
  for (int i = 0; i < LAYERS; i++) {
    ds_value *y = ds_layer_norm(ctx, x, param(ctx, i, LN_W), param(ctx, i, LN_B), 1e-5);
    y = ds_linear(ctx, y, param(ctx, i, FC_W), param(ctx, i, FC_B));
    y = ds_activate(ctx, y, DS_ACTIVATION_GELU_TANH);
    x = ds_add(ctx, x, ds_linear(ctx, y, param(ctx, i, OUT_W), NULL));
  }
  x = ds_rms_norm(ctx, x, ds_param(ctx, FROZEN), 1e-5);
  const ds_tensor *ids = ds_value_tensor(inputs[0]);
  int64_t rows = ids->shape[0] * ids->shape[1];
  x = ds_reshape(ctx, x, 2, (int64_t[]){rows, C});
  x = ds_cross_entropy(ctx, ds_linear(ctx, x, wte, NULL), ds_reshape(ctx, inputs[1], 1, &rows),
                       -100);
  return uses ? ds_add(ctx, x, ds_mean(ctx, ds_param(ctx, UNUSED))) : x;
}

static const ds_model_vtable vtable = {
    .size = sizeof(ds_model_vtable), .name = "odd", .declare = declare, .forward = forward};

/* ---- the data */

static int32_t ids[SAMPLES][T], labels[SAMPLES][T];

static int64_t length(void *self) {
  (void)self;
  return SAMPLES;
}

static ds_status get(void *self, int64_t i, ds_batch *sample, ds_error *err) {
  (void)self;
  (void)err;
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
      ids[i][t] = (int32_t)(seed >> 8) % V;
      labels[i][t] = (ids[i][t] * 5 + 3) % V;
    }
}

/* ---- a run */

typedef struct run {
  ds_model *model;
  ds_dataset *dataset;
  ds_engine *engine;
} run;

static ds_status open_run(run *r, const char *config, ds_error *err) {
  static int trained[N_PARAMS - 1];
  ds_param_group groups[2] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  int n = 0;
  *r = (run){0};
  for (int i = 0; i < N_PARAMS; i++)
    if (i != FROZEN) trained[n++] = i;
  groups[0].indices = trained; /* two groups, whose border is amid a unit */
  groups[0].n_indices = 5;
  groups[1].indices = trained + 5;
  groups[1].n_indices = n - 5;
  groups[1].weight_decay = 0.1;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  DS_TRY(ds_model_create(&vtable, NULL, &r->model, err));
  DS_TRY(ds_dataset_create(&data, NULL, &r->dataset, err));
  a.model = r->model;
  a.training_data = r->dataset;
  a.model_parameters = groups;
  a.n_model_parameters = 2;
  a.config = config;
  return ds_initialize(&a, &r->engine, NULL, NULL, NULL, err);
}

static void close_run(run *r) {
  ds_engine_destroy(r->engine);
  ds_dataset_destroy(r->dataset);
  ds_model_destroy(r->model);
}

enum { ELEMENTS = V * C + C + LAYERS * (2 * C + 2 * F * C + F) + 21 };

typedef struct result {
  float losses[STEPS];
  double norms[STEPS];
  double scale; /* of the loss, at the end */
  int64_t skipped;
  float weights[ELEMENTS];
} result;

static size_t numel(const run *r, int param) {
  int64_t shape[DS_MAX_RANK], n = 1;
  int32_t rank = ds_params_shape(ds_engine_params(r->engine), param, shape);
  for (int32_t d = 0; d < rank; d++) n *= shape[d];
  return (size_t)n;
}

static void train(const char *config, result *out) {
  ds_error err;
  run r;
  CHECK_OK(open_run(&r, config, &err), err);
  for (int i = 0; r.engine && i < STEPS; i++) {
    CHECK_OK(ds_engine_train_batch(r.engine, &out->losses[i], &err), err);
    out->norms[i] = ds_engine_get_global_grad_norm(r.engine);
  }
  out->scale = r.engine ? ds_engine_loss_scale(r.engine) : 0;
  out->skipped = r.engine ? ds_engine_skipped_steps(r.engine) : -1;
  for (int i = 0, at = 0; r.engine && i < N_PARAMS; i++) {
    CHECK_OK(ds_engine_read_param(r.engine, i, out->weights + at, numel(&r, i), &err), err);
    at += (int)numel(&r, i);
  }
  close_run(&r);
}

static const char *config(const char *backend, int accumulation, const char *more) {
  static char text[8192];
  snprintf(text, sizeof text,
           "{\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\"}, \"train_batch_size\": %d, "
           "\"gradient_accumulation_steps\": %d, \"gradient_clipping\": 0.7, "
           "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.01}}%s}",
           backend, plugins, BATCH, accumulation, more);
  return text;
}

/* ---- the tests */

static void compare(const char *what, const result *a, const result *b, double tolerance) {
  /* Elsewhere the host updates in place of the device. */
  if (strcmp(tested, "cpu") != 0 && strstr(what, "offload"))
    tolerance = fmax(tolerance, strstr(what, "16\"") ? 2e-3 : 2e-6);
  int before = test_failures;
  for (int i = 0; i < STEPS; i++) {
    CHECK_NEAR(a->losses[i], b->losses[i], tolerance * fabs((double)b->losses[i]));
    if (isfinite(b->norms[i])) /* else: a step that overflowed in fp16 */
      CHECK_NEAR(a->norms[i], b->norms[i], (tolerance + 1e-12) * fabs(b->norms[i]));
    else
      CHECK(!isfinite(a->norms[i]));
  }
  CHECK(a->scale == b->scale && a->skipped == b->skipped);
  for (int i = 0; i < ELEMENTS; i++)
    CHECK_NEAR(a->weights[i], b->weights[i], tolerance * 100 * (fabs((double)b->weights[i]) + 0.1));
  if (test_failures != before) fprintf(stderr, "  with %s\n", what);
}

static const char *const stages[] = {
    ", \"zero_optimization\": {\"stage\": 0, \"overlap_comm\": true, \"reduce_bucket_size\": 700}",
    ", \"zero_optimization\": {\"stage\": 1}",
    ", \"zero_optimization\": {\"stage\": 1, \"reduce_scatter\": false, \"overlap_comm\": true, "
    "\"reduce_bucket_size\": 500, \"sub_group_size\": 70}",
    ", \"zero_optimization\": {\"stage\": 2}",
    ", \"zero_optimization\": {\"stage\": 2, \"overlap_comm\": true, \"allgather_bucket_size\": "
    "400, "
    "\"allgather_partitions\": false}",
    ", \"zero_optimization\": {\"stage\": 3}",
    ", \"zero_optimization\": {\"stage\": 3, \"stage3_param_persistence_threshold\": 0, "
    "\"reduce_bucket_size\": 600, \"stage3_prefetch_bucket_size\": 900}",
    ", \"zero_optimization\": {\"stage\": 3, \"stage3_param_persistence_threshold\": 30, "
    "\"reduce_bucket_size\": 400, \"stage3_max_live_parameters\": 500, "
    "\"stage3_max_reuse_distance\": 0, \"overlap_comm\": false, \"reduce_scatter\": false}",
    /* Of the cpu plugin, whose memory is the host's, only the file is another place. */
    ", \"zero_optimization\": {\"stage\": 1, \"overlap_comm\": true, \"sub_group_size\": 90, "
    "\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"/tmp\"}}",
    ", \"zero_optimization\": {\"stage\": 2, \"reduce_bucket_size\": 600, \"sub_group_size\": 50, "
    "\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"/tmp\", \"pin_memory\": false, "
    "\"pipeline_read\": true, \"pipeline_write\": true, \"buffer_count\": 3}}",
    ", \"zero_optimization\": {\"stage\": 3, \"stage3_param_persistence_threshold\": 20, "
    "\"reduce_bucket_size\": 500, \"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": "
    "\"/tmp\", \"pipeline_write\": true}, \"offload_param\": {\"device\": \"nvme\", \"nvme_path\": "
    "\"/tmp\", \"buffer_count\": 2}}",
};
enum { N_STAGES = sizeof stages / sizeof *stages };

static void test_stages(int accumulation, const char *more, double tolerance, double one_process) {
  static result zero, one, r;
  char text[2048];
  train(config(tested, accumulation, more), &zero);
  train(config("reference", 1, more), &one);
  compare("one process", &zero, &one, one_process);
  for (int i = 0; i < N_STAGES; i++) {
    snprintf(text, sizeof text, "%s%s", stages[i], more);
    train(config(tested, accumulation, text), &r);
    /* Micro batches are added before or after ranks are: other orders, where there are both. */
    compare(text, &r, &zero, tolerance);
  }
}

/* The gradients after the backward passes of one step, over `count` micro batches of this rank's
 * part of the first BATCH samples; before that there are none. */
static void gradients(const char *config, int count, float *out) {
  static float wte[V * C], read[V * C];
  ds_error err;
  run r;
  memset(out, 0, ELEMENTS * sizeof *out);
  CHECK_OK(open_run(&r, config, &err), err);
  if (!r.engine) return;
  CHECK_OK(ds_engine_read_grad(r.engine, WTE, out, numel(&r, WTE), &err), err);
  for (int i = 0; i < V * C; i++) CHECK(out[i] == 0);
  int64_t n = BATCH / ds_engine_world_size(r.engine) / count;
  for (int k = 0; k < count; k++) {
    int64_t from = (ds_engine_global_rank(r.engine) * count + k) * n;
    ds_batch batch = {2, {{DS_I32, 2, {n, T}, ids[from]}, {DS_I32, 2, {n, T}, labels[from]}}};
    ds_value *loss;
    seen = k == 0 ? wte : NULL;
    CHECK_OK(ds_engine_forward(r.engine, &batch, &loss, &err), err);
    seen = NULL;
    CHECK_OK(ds_engine_backward(r.engine, loss, &err), err);
    if (k + 1 < count) CHECK_OK(ds_engine_step(r.engine, &err), err);
  }
  for (int i = 0, at = 0; i < N_PARAMS; at += (int)numel(&r, i++))
    CHECK_OK(ds_engine_read_grad(r.engine, i, out + at, numel(&r, i), &err), err);
  CHECK_OK(ds_engine_read_param(r.engine, WTE, read, V * C, &err), err);
  CHECK(memcmp(wte, read, sizeof wte) == 0);
  CHECK_OK(ds_engine_step(r.engine, &err), err);
  close_run(&r);
}

/* ds_engine_read_grad gives the gradient of all ranks' samples, however it lies about. */
static void test_gradients(int accumulation) {
  static float one[ELEMENTS], many[ELEMENTS];
  gradients(config("reference", 1, ""), 1, one);
  for (int i = -1; i < N_STAGES; i++) {
    int before = test_failures;
    gradients(config("cpu", accumulation, i < 0 ? "" : stages[i]), accumulation, many);
    for (int k = 0; k < ELEMENTS; k++) CHECK_NEAR(many[k], one[k], 1e-6);
    if (test_failures != before) fprintf(stderr, "  with %s\n", i < 0 ? "stage 0" : stages[i]);
  }
}

/* fp16: near f32; and where steps overflow all ranks leave out the same ones, at every stage. */
static void test_fp16(void) {
  static const char fp16[] = ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 12}";
  static const char high[] =
      ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 20, \"hysteresis\": 1}";
  static const int some[] = {1, 3, 5, N_STAGES - 1};
  static result f32, base, r;
  char text[2048];
  test_stages(1, fp16, 0, 2e-3);
  train(config("reference", 1, ""), &f32);
  train(config(tested, 1, fp16), &r);
  f32.scale = r.scale;
  compare("f32 for fp16", &r, &f32, 5e-3);
  CHECK(r.skipped == 0);
  train(config(tested, 1, high), &base);
  CHECK(base.skipped > 0 && base.skipped < STEPS);
  CHECK(base.scale == ldexp(1, 20 - (int)base.skipped));
  for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
    snprintf(text, sizeof text, "%s%s", stages[some[i]], high);
    train(config(tested, 1, text), &r);
    compare(text, &r, &base, 0);
  }
}

/* ZeRO++: the secondary copy is exact; int8 is near, and the bytes that go are a quarter of f32's. */
static void test_less_traffic(void) {
  static result zero, r;
  char text[4096];
  const char *base = ", \"zero_optimization\": {\"stage\": %d, \"reduce_bucket_size\": 900, "
                     "\"stage3_param_persistence_threshold\": 30, %s}";
  train(config(tested, 1, ""), &zero);
  char near[64];
  snprintf(near, sizeof near, "\"zero_hpz_partition_size\": %d", ranks == 4 ? 2 : ranks);
  snprintf(text, sizeof text, base, 3, near);
  train(config(tested, 1, text), &r);
  compare(text, &r, &zero, 0);
  if (BATCH % (ranks * 2) == 0) {
    train(config(tested, 2, text), &r);
    compare(text, &r, &zero, 1e-6);
  }
  static const char *const int8[] = {"\"zero_quantized_weights\": true",
                                     "\"zero_quantized_gradients\": true",
                                     "\"zero_quantized_weights\": true, "
                                     "\"zero_quantized_gradients\": true, "
                                     "\"overlap_comm\": false"};
  for (size_t i = 0; i < sizeof int8 / sizeof *int8; i++) {
    snprintf(text, sizeof text, base, 3, int8[i]);
    train(config(tested, 1, text), &r);
    int before = test_failures;
    for (int k = 0; k < STEPS; k++) {
      CHECK_NEAR(r.losses[k], zero.losses[k], 0.03 * fabs((double)zero.losses[k]));
      CHECK_NEAR(r.norms[k], zero.norms[k], 0.1 * fabs(zero.norms[k]));
    }
    CHECK(ranks == 1 || memcmp(r.norms, zero.norms, sizeof r.norms) != 0);
    if (test_failures != before) fprintf(stderr, "  with %s\n", text);
  }
  run wrong;
  ds_error err;
  if (ranks == 4) {
    snprintf(text, sizeof text, base, 3, "\"zero_hpz_partition_size\": 3");
    CHECK_FAILS(open_run(&wrong, config(tested, 1, text), &err), DS_ERR_INVALID, err,
                "zero_hpz_partition_size is 3, but 4 ranks");
    close_run(&wrong);
  }
  snprintf(text, sizeof text, base, 1, "\"zero_quantized_gradients\": true");
  CHECK_FAILS(open_run(&wrong, config(tested, 1, text), &err), DS_ERR_INVALID, err,
              "needs \"stage\" 2 or 3");
  close_run(&wrong);
}

/* ---- forward, backward and step by hand, where ranks and micro batches use other parameters */

static ds_status pass(run *r, int at, ds_error *err) {
  int i = (at * ranks + ds_engine_global_rank(r->engine)) % SAMPLES;
  ds_batch batch = {.n = 2,
                    .tensors = {{DS_I32, 2, {1, T}, ids[i]}, {DS_I32, 2, {1, T}, labels[i]}}};
  ds_value *loss;
  DS_TRY(ds_engine_forward(r->engine, &batch, &loss, err));
  return ds_engine_backward(r->engine, loss, err);
}

/* Of every parameter, from ds_engine_read_param or ds_engine_read_grad. */
static void read_all(run *r, bool gradients, float *out) {
  ds_error err;
  for (int i = 0, at = 0; i < N_PARAMS; i++) {
    int64_t shape[DS_MAX_RANK], n = 1;
    int32_t rank = ds_params_shape(ds_engine_params(r->engine), i, shape);
    for (int32_t d = 0; d < rank; d++) n *= shape[d];
    CHECK_OK(gradients ? ds_engine_read_grad(r->engine, i, out + at, (size_t)n, &err)
                       : ds_engine_read_param(r->engine, i, out + at, (size_t)n, &err),
             err);
    at += (int)n;
  }
}

typedef struct by_hand {
  float gradients[ELEMENTS], amid[ELEMENTS], weights[ELEMENTS];
} by_hand;

/* Two micro batches a step. Of the first step the unused parameter takes part in the first one; of
 * the second step on rank 0 alone, unless ranks are to be alike. */
static void train_by_hand(const char *zero, bool ignore, bool alike, by_hand *out) {
  char text[4096];
  ds_error err;
  run r;
  snprintf(text, sizeof text,
           "{\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\"}, \"train_batch_size\": %d, "
           "\"gradient_accumulation_steps\": 2, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
           "{\"lr\": 0.01}}, %.*s, \"ignore_unused_parameters\": %s}}",
           tested, plugins, 2 * ranks, (int)strlen(zero) - 3, zero + 2, ignore ? "true" : "false");
  CHECK_OK(open_run(&r, text, &err), err);
  if (!r.engine) return;
  for (int micro = 0; micro < 2; micro++) {
    uses = micro == 0;
    CHECK_OK(pass(&r, micro, &err), err);
    CHECK_OK(ds_engine_step(r.engine, &err), err);
  }
  uses = alike || ds_engine_global_rank(r.engine) == 0;
  CHECK_OK(pass(&r, 2, &err), err);
  CHECK_OK(ds_engine_step(r.engine, &err), err);
  uses = false;
  CHECK_OK(pass(&r, 3, &err), err);
  float values[V * C], masters[V * C];
  ds_ctx *ctx = ds_engine_ctx(r.engine);
  CHECK_OK(ds_value_read(ctx, ds_param(ctx, WTE), values, V * C, &err), err);
  CHECK_OK(ds_engine_read_param(r.engine, WTE, masters, V * C, &err), err);
  CHECK(memcmp(values, masters, sizeof masters) == 0);
  if (!ignore && !alike && ranks > 1) {
    CHECK_FAILS(ds_engine_step(r.engine, &err), DS_ERR_STATE, err, "unused.weight");
  } else {
    read_all(&r, true, out->gradients);
    CHECK_OK(ds_engine_step(r.engine, &err), err);
    read_all(&r, false, out->amid);
    CHECK_OK(pass(&r, 4, &err), err);
    CHECK_OK(ds_engine_step(r.engine, &err), err);
    CHECK_OK(pass(&r, 5, &err), err);
    CHECK_OK(ds_engine_zero_grad(r.engine, &err), err); /* all of it: a step of zeros */
    if (ignore) CHECK_OK(ds_engine_step(r.engine, &err), err);
    read_all(&r, false, out->weights);
  }
  close_run(&r);
}

static void test_by_hand(void) {
  static by_hand zeros[2], r;
  for (int alike = 0; alike < 2; alike++) train_by_hand(stages[0], true, alike, &zeros[alike]);
  for (int i = 0; i < N_STAGES; i++) {
    int before = test_failures;
    /* Weights that are gathered for use are gathered by all ranks. */
    bool alike = strstr(stages[i], "\"stage\": 3") != NULL;
    const by_hand *zero = &zeros[alike];
    train_by_hand(stages[i], true, alike, &r);
    for (int k = 0; k < ELEMENTS; k++) {
      CHECK_NEAR(r.gradients[k], zero->gradients[k], 1e-6);
      CHECK_NEAR(r.amid[k], zero->amid[k], 1e-5);
      CHECK_NEAR(r.weights[k], zero->weights[k], 2e-5);
    }
    train_by_hand(stages[i], false, alike, &r);
    if (test_failures != before) fprintf(stderr, "  by hand with %s\n", stages[i]);
  }
}

int main(int argc, char **argv) {
  if (argc != 3 && argc != 4) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  if (argc == 4) tested = argv[3];
  make_data();
  test_by_hand();
  test_stages(1, "", 0, 2e-5);
  test_stages(1, ", \"bf16\": {\"enabled\": true}", 0, 2e-2);
  if (strcmp(tested, "cpu") == 0) { /* emulated cards are slow */
    if (BATCH % (ranks * 2) == 0) test_stages(2, "", 1e-6, 2e-5);
    test_gradients(1);
    if (BATCH % (ranks * 2) == 0) test_gradients(2);
    test_fp16();
  }
  test_less_traffic();
  return test_result();
}
