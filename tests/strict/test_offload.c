/* test_offload.c - a model four times larger than the device's memory trains, its numbers kept in
 * host memory or in a file, with the losses of a device that has room: on the strict plugin, whose
 * memory the host can't touch and whose work runs late.
 *
 * usage: test_offload FOLDER   (an existing one, for files)
 */
#include "strict_run.h"

#include "base/status.h"
#include "model/params.h"

enum { V = 50, C = 96, LAYERS = 32, T = 2, SAMPLES = 16, BATCH = 2, STEPS = 4 };
enum { WTE, FIRST, NORM = 0, UP, DOWN, LAYER_PARAMS };

static const char *folder;

/* ---- a deep, narrow model: what a step needs at once is little of all of it */

static ds_status declare(void *self, ds_params *p, ds_error *err) {
  (void)self;
  (void)err;
  int64_t c = C;
  ds_params_add(p, "wte.weight", 2, (int64_t[]){V, C}, DS_INIT_NORMAL, 0.3);
  for (int i = 0; i < LAYERS; i++) {
    char name[64];
    snprintf(name, sizeof name, "h.%d.norm.weight", i);
    ds_params_add(p, name, 1, &c, DS_INIT_ONES, 0);
    snprintf(name, sizeof name, "h.%d.up.weight", i);
    ds_params_add(p, name, 2, (int64_t[]){2 * C, C}, DS_INIT_NORMAL, 0.1);
    snprintf(name, sizeof name, "h.%d.down.weight", i);
    ds_params_add(p, name, 2, (int64_t[]){C, 2 * C}, DS_INIT_NORMAL, 0.05);
  }
  return DS_OK;
}

static ds_value *forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n_inputs) {
  (void)self;
  (void)n_inputs;
  ds_value *x = ds_embedding(ctx, inputs[0], ds_param(ctx, WTE));
  for (int i = 0; i < LAYERS; i++) {
    int at = FIRST + i * LAYER_PARAMS;
    ds_value *y = ds_rms_norm(ctx, x, ds_param(ctx, at + NORM), 1e-5);
    y = ds_activate(ctx, ds_linear(ctx, y, ds_param(ctx, at + UP), NULL), DS_ACTIVATION_RELU);
    x = ds_add(ctx, x, ds_linear(ctx, y, ds_param(ctx, at + DOWN), NULL));
  }
  int64_t rows = (int64_t)BATCH * T;
  x = ds_linear(ctx, ds_reshape(ctx, x, 2, (int64_t[]){rows, C}), ds_param(ctx, WTE), NULL);
  return ds_cross_entropy(ctx, x, ds_reshape(ctx, inputs[1], 1, &rows), -100);
}

static const ds_model_vtable vtable = {
    .size = sizeof vtable, .name = "deep", .declare = declare, .forward = forward};

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
  unsigned seed = 3;
  for (int i = 0; i < SAMPLES; i++)
    for (int t = 0; t < T; t++) {
      seed = seed * 1664525u + 1013904223u;
      ids[i][t] = (int32_t)(seed >> 8) % V;
      labels[i][t] = (ids[i][t] + 1) % V;
    }
}

/* ---- a run */

enum { WEIGHTS = V * C + LAYERS * (C + 4 * C * C) };

typedef struct result {
  float losses[STEPS];
  double norms[STEPS];
  uint64_t device_bytes;
} result;

static ds_status train(const char *more, size_t limit, result *out, ds_error *err) {
  char config[2048], section[1024];
  strict_log log = {0};
  ds_model *model = NULL;
  ds_dataset *dataset = NULL;
  ds_engine *engine = NULL;
  strict_section(section, sizeof section, "false", "");
  size_t n = strlen(section);
  if (limit) snprintf(section + n - 1, sizeof section - n, ", \"memory_limit\": %zu}", limit);
  snprintf(config, sizeof config,
           "{%s, \"train_batch_size\": %d, \"gradient_clipping\": 0.5, "
           "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.001}}%s}",
           section, BATCH, more);
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.log = strict_log_write;
  a.log_ctx = &log;
  a.config = config;
  ds_status status = ds_model_create(&vtable, NULL, &model, err);
  if (status == DS_OK) status = ds_dataset_create(&data, NULL, &dataset, err);
  a.model = model;
  a.training_data = dataset;
  if (status == DS_OK) status = ds_initialize(&a, &engine, NULL, NULL, NULL, err);
  for (int i = 0; i < STEPS && status == DS_OK; i++) {
    status = ds_engine_train_batch(engine, &out->losses[i], err);
    if (status == DS_OK) out->norms[i] = ds_engine_get_global_grad_norm(engine);
  }
  ds_backend_stats stats = {.size = sizeof stats};
  if (status == DS_OK) status = ds_engine_backend_stats(engine, &stats, err);
  out->device_bytes = stats.device_bytes;
  ds_engine_destroy(engine);
  ds_dataset_destroy(dataset);
  ds_model_destroy(model);
  strict_check_log(&log);
  return status;
}

static void same(const result *a, const result *b, double tolerance) {
  for (int i = 0; i < STEPS; i++) {
    CHECK_NEAR(a->losses[i], b->losses[i], tolerance * fabs((double)b->losses[i]));
    CHECK_NEAR(a->norms[i], b->norms[i], tolerance * fabs(b->norms[i]));
  }
}

static void test_offload(const char *dtype, size_t element, double tolerance) {
  static const char *const places[] = {
      "\"offload_optimizer\": {\"device\": \"cpu\"}, \"offload_param\": {\"device\": \"cpu\"}",
      "\"offload_optimizer\": {\"device\": \"cpu\", \"pin_memory\": false}, "
      "\"offload_param\": {\"device\": \"cpu\"}, \"overlap_comm\": false",
      "\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"%s\"}, "
      "\"offload_param\": {\"device\": \"cpu\"}",
      "\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"%s\", \"pipeline_read\": "
      "true, "
      "\"pipeline_write\": true}, \"offload_param\": {\"device\": \"nvme\", \"nvme_path\": "
      "\"%s\"}"};
  /* The weights alone are four times the limit. */
  size_t limit = WEIGHTS * element / 4;
  result room, r;
  char place[1024], more[2048];
  ds_error err;
  CHECK_OK(train(dtype, 0, &room, &err), err);
  CHECK(room.device_bytes > 4 * limit);
  CHECK_FAILS(train(dtype, limit, &r, &err), DS_ERR_MEMORY, err, "\"memory_limit\"");
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(place, sizeof place, places[i], folder, folder);
    snprintf(more, sizeof more,
             "%s, \"zero_optimization\": {\"stage\": 3, \"reduce_bucket_size\": 20000, "
             "\"stage3_prefetch_bucket_size\": 20000, \"stage3_max_live_parameters\": 50000, "
             "\"stage3_param_persistence_threshold\": 100, %s}",
             dtype, place);
    CHECK_OK(train(more, limit, &r, &err), err);
    CHECK(r.device_bytes <= limit);
    same(&r, &room, tolerance);
  }
  /* Stages 1 and 2 keep the weights on the device. */
  for (int stage = 1; stage <= 2; stage++) {
    snprintf(more, sizeof more,
             "%s, \"zero_optimization\": {\"stage\": %d, \"overlap_comm\": %s, "
             "\"reduce_bucket_size\": 20000, \"offload_optimizer\": {\"device\": \"cpu\"}}",
             dtype, stage, stage == 1 ? "true" : "false");
    CHECK_OK(train(more, 0, &r, &err), err);
    CHECK(r.device_bytes < room.device_bytes - 2 * WEIGHTS * sizeof(float));
    same(&r, &room, tolerance);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  folder = argv[1];
  make_data();
  test_offload("", sizeof(float), 1e-6);
  test_offload(", \"bf16\": {\"enabled\": true}", 2, 1e-6);
  test_offload(", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 12}", 2, 1e-6);
  return test_result();
}
