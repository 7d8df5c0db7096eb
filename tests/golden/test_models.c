/* test_models.c - whole models against numbers from an independent framework (gen_models.py):
 * logits, loss, every gradient, and decoding with a cache token by token.
 *
 * Usage: test_models MODELS-FOLDER BACKEND PLUGIN-FOLDER f32|bf16 */
#include "backend/backend.h"
#include "infer/kv_cache.h"
#include "model/model.h"
#include "model/params.h"
#include "model/safetensors.h"
#include "ops/ctx.h"
#include "tensor/tensor.h"

#include "../unit/test.h"

#include <stdlib.h>

/* How far results may be from float64's: the largest logit error, the loss, and a gradient's error
 * as a part of its norm. bf16 keeps 8 bits, so weights alone are off by 0.2% each. */
typedef struct bounds {
  double logits, loss, gradient;
} bounds;
static const bounds f32_bounds = {2e-5, 1e-5, 2e-5}, bf16_bounds = {0.3, 0.03, 0.08};

typedef struct run {
  const char *name; /* of the model */
  const bounds *bounds;
  ds_backend *backend;
  ds_ctx *ctx;
  int32_t dtype;
  ds_model *model;
  ds_params *params;
  ds_param_slot *slots;
  void *values, *grads;
  ds_safetensors *golden;
  int64_t batch, length, vocab;
  float *logits; /* golden, [B,T,V] */
  int32_t *ids, *labels;
} run;

static void *read_golden(const run *r, const char *name, size_t *count) {
  const ds_safetensor *t = ds_safetensors_find(r->golden, name);
  CHECK(t != NULL);
  if (!t) return NULL;
  void *copy = malloc(t->bytes + 1);
  CHECK(copy != NULL);
  if (copy) memcpy(copy, t->data, t->bytes);
  *count = t->bytes / 4; /* f32 and i32 only */
  return copy;
}

static bool load_golden(run *r, const char *folder) {
  char path[1024];
  size_t n;
  ds_error err = {0};
  snprintf(path, sizeof path, "%s/golden.safetensors", folder);
  CHECK_OK(ds_safetensors_open(path, &r->golden, &err), err);
  const ds_safetensor *logits = r->golden ? ds_safetensors_find(r->golden, "logits") : NULL;
  CHECK(logits && logits->rank == 3);
  if (!logits) return false;
  r->batch = logits->shape[0];
  r->length = logits->shape[1];
  r->vocab = logits->shape[2];
  r->logits = read_golden(r, "logits", &n);
  r->ids = read_golden(r, "ids", &n);
  r->labels = read_golden(r, "labels", &n);
  return r->logits && r->ids && r->labels;
}

static bool load_param(run *r, int i, ds_error *err) {
  size_t element = ds_dtype_size(r->dtype), n = (size_t)ds_params_numel(r->params, i);
  int64_t shape[DS_MAX_RANK];
  int32_t rank = ds_params_shape(r->params, i, shape);
  float *values = malloc(n * sizeof *values);
  void *raw = malloc(n * element);
  bool ok = values && raw && ds_model_read_param(r->model, r->params, i, values, err) == DS_OK &&
            ds_convert_from_f32(raw, r->dtype, values, n);
  char *at = (char *)r->values + (size_t)ds_params_offset(r->params, i) * element;
  ok = ok && ds_backend_upload(r->backend, at, raw, n * element, err) == DS_OK &&
       ds_backend_sync(r->backend, err) == DS_OK;
  r->slots[i].value = ds_tensor_make(at, r->dtype, rank, shape);
  r->slots[i].grad = (float *)r->grads + ds_params_offset(r->params, i);
  free(values);
  free(raw);
  return ok;
}

static bool load_model(run *r, const char *folder) {
  ds_error err = {0};
  CHECK_OK(ds_model_load(folder, &r->model, &err), err);
  if (!r->model) return false;
  CHECK(ds_model_has_weights(r->model));
  CHECK_OK(ds_model_declare(r->model, &r->params, &err), err);
  if (!r->params) return false;
  size_t total = (size_t)ds_params_total(r->params);
  int count = ds_params_count(r->params);
  r->slots = calloc((size_t)count, sizeof *r->slots);
  CHECK_OK(ds_backend_alloc(r->backend, total * ds_dtype_size(r->dtype), &r->values, &err), err);
  CHECK_OK(ds_backend_alloc(r->backend, total * 4, &r->grads, &err), err);
  if (!r->slots || !r->values || !r->grads) return false;
  bool ok = true;
  for (int i = 0; i < count && ok; i++) ok = load_param(r, i, &err);
  if (!ok) fprintf(stderr, "%s: %s\n", folder, err.message);
  CHECK(ok);
  CHECK_OK(ds_ctx_create(r->backend, r->dtype, &r->ctx, &err), err);
  if (!ok || !r->ctx) return false;
  ds_ctx_bind_params(r->ctx, r->slots, count);
  return true;
}

static void unload(run *r) {
  size_t total = r->params ? (size_t)ds_params_total(r->params) : 0;
  ds_ctx_destroy(r->ctx);
  ds_backend_free(r->backend, r->values, total * ds_dtype_size(r->dtype));
  ds_backend_free(r->backend, r->grads, total * 4);
  free(r->slots);
  free(r->logits);
  free(r->ids);
  free(r->labels);
  ds_params_destroy(r->params);
  ds_model_destroy(r->model);
  ds_safetensors_close(r->golden);
}

/* Rows of V logits against golden ones. */
static void check_logits(const run *r, const char *what, const float *have, const float *want,
                         int64_t rows) {
  double worst = 0;
  for (int64_t i = 0; i < rows * r->vocab; i++) {
    double d = fabs((double)have[i] - (double)want[i]);
    if (!(d <= worst)) worst = d; /* NaN too */
  }
  if (!(worst <= r->bounds->logits))
    fprintf(stderr, "%s: %s: logits off by %g\n", r->name, what, worst);
  CHECK(worst <= r->bounds->logits);
}

static void test_logits(run *r) {
  ds_error err = {0};
  int64_t shape[] = {r->batch, r->length};
  size_t n = (size_t)(r->batch * r->length * r->vocab);
  float *have = malloc(n * sizeof *have);
  CHECK(have != NULL);
  if (!have) return;
  ds_ctx_set_training(r->ctx, false);
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  ds_value *ids = ds_input(r->ctx, DS_I32, 2, shape, r->ids);
  ds_value *logits = ds_model_forward(r->model, r->ctx, &ids, 1);
  CHECK_OK(ds_value_read(r->ctx, logits, have, n, &err), err);
  check_logits(r, "forward", have, r->logits, r->batch * r->length);
  free(have);
}

/* One forward and backward of scale times the loss; the gradients are added up. */
static void backward(run *r, double scale) {
  ds_error err = {0};
  int64_t shape[] = {r->batch, r->length};
  float loss = NAN;
  size_t n;
  float *want = read_golden(r, "loss", &n);
  if (!want) return;
  ds_ctx_set_training(r->ctx, true);
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  ds_value *inputs[] = {ds_input(r->ctx, DS_I32, 2, shape, r->ids),
                        ds_input(r->ctx, DS_I32, 2, shape, r->labels)};
  ds_value *value = ds_model_forward(r->model, r->ctx, inputs, 2);
  CHECK_OK(ds_value_read(r->ctx, value, &loss, 1, &err), err);
  CHECK_NEAR(loss, want[0], r->bounds->loss);
  CHECK_OK(ds_ctx_backward(r->ctx, value, scale, &err), err);
  free(want);
}

/* Where element i of the parameter stands in the file's layout. */
static size_t stored_index(const run *r, int param, size_t i) {
  int64_t shape[DS_MAX_RANK];
  ds_params_shape(r->params, param, shape);
  if (!ds_params_transposed(r->params, param)) return i;
  size_t rows = (size_t)shape[0], cols = (size_t)shape[1];
  return i % cols * rows + i / cols;
}

static void check_gradient(run *r, int i) {
  char name[256];
  ds_error err = {0};
  size_t count = (size_t)ds_params_numel(r->params, i), n = 0;
  snprintf(name, sizeof name, "grad.%s", ds_params_name(r->params, i));
  float *have = malloc(count * sizeof *have), *want = read_golden(r, name, &n);
  CHECK(have && want && n == count);
  CHECK(r->slots[i].has_grad);
  double error = 0, norm = 0;
  if (have && want && n == count) {
    CHECK_OK(ds_backend_download(r->backend, have, r->slots[i].grad, count * 4, &err), err);
    for (size_t k = 0; k < count; k++) {
      double w = want[stored_index(r, i, k)], d = have[k] - w;
      error += d * d;
      norm += w * w;
    }
  }
  error = sqrt(error);
  norm = sqrt(norm);
  /* A key's bias moves all scores of a query alike: its gradient is rounding only. */
  double allowed = norm > 1e-6 ? r->bounds->gradient * norm : r->bounds->gradient * 0.1;
  if (!(error <= allowed))
    fprintf(stderr, "%s: %s: error %g of norm %g\n", r->name, name, error, norm);
  CHECK(error <= allowed);
  free(have);
  free(want);
}

static void test_gradients(run *r) {
  backward(r, 0.25);
  backward(r, 0.75);
  for (int i = 0; i < ds_params_count(r->params); i++) check_gradient(r, i);
}

/* The next tokens of every row; their last logits. */
static void decode(run *r, ds_kv_cache *cache, int64_t from, int64_t tokens) {
  ds_error err = {0};
  int64_t shape[] = {r->batch, tokens}, rows = r->batch;
  size_t n = (size_t)(rows * r->vocab);
  int32_t *part = malloc((size_t)(rows * tokens) * sizeof *part);
  float *have = malloc(n * sizeof *have), *want = malloc(n * sizeof *want);
  CHECK(part && have && want);
  for (int64_t b = 0; b < rows; b++) {
    memcpy(part + b * tokens, r->ids + b * r->length + from, (size_t)tokens * sizeof *part);
    memcpy(want + b * r->vocab, r->logits + (b * r->length + from + tokens - 1) * r->vocab,
           (size_t)r->vocab * sizeof *want);
  }
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  CHECK_OK(ds_kv_cache_expect(cache, tokens, &err), err);
  ds_value *ids = ds_input(r->ctx, DS_I32, 2, shape, part);
  ds_value *logits = ds_model_decode(r->model, r->ctx, ids, cache);
  CHECK_OK(ds_value_read(r->ctx, logits, have, n, &err), err);
  ds_kv_cache_advance(cache);
  check_logits(r, "decode", have, want, rows);
  free(part);
  free(have);
  free(want);
}

static void test_decode(run *r) {
  ds_error err = {0};
  ds_model_info info;
  ds_kv_cache *cache = NULL;
  CHECK_OK(ds_model_get_info(r->model, &info, &err), err);
  CHECK(info.vocab_size == r->vocab && info.max_positions == r->length);
  CHECK_OK(ds_kv_cache_create(r->backend, &info, r->dtype, r->batch, r->length + 1, &cache, &err),
           err);
  if (!cache) return;
  ds_ctx_set_training(r->ctx, false);
  decode(r, cache, 0, 5);
  for (int64_t t = 5; t < r->length; t++) decode(r, cache, t, 1);

  /* There is no position for one more. */
  CHECK_OK(ds_ctx_begin(r->ctx, &err), err);
  CHECK_OK(ds_kv_cache_expect(cache, 1, &err), err);
  ds_value *ids = ds_input(r->ctx, DS_I32, 2, (int64_t[]){r->batch, 1}, r->ids);
  CHECK(ds_model_decode(r->model, r->ctx, ids, cache) == NULL);
  CHECK_FAILS(ds_ctx_status(r->ctx, &err), DS_ERR_INVALID, err, "positions");
  ds_kv_cache_destroy(cache);
}

static void test_model(ds_backend *backend, const char *models, const char *name, int32_t dtype) {
  run r = {.name = name,
           .bounds = dtype == DS_F32 ? &f32_bounds : &bf16_bounds,
           .backend = backend,
           .dtype = dtype};
  char folder[512];
  snprintf(folder, sizeof folder, "%s/%s", models, name);
  if (load_golden(&r, folder) && load_model(&r, folder)) {
    test_logits(&r);
    test_gradients(&r);
    test_decode(&r);
  }
  unload(&r);
}

static ds_backend *open_backend(const char *name, const char *plugin_folder) {
  ds_error err = {0};
  ds_backend_config config;
  ds_backend *backend = NULL;
  unsetenv("DS_BACKEND");
  unsetenv("DS_PLUGIN_PATH");
  cJSON *section = cJSON_CreateObject();
  cJSON_AddStringToObject(section, "name", name);
  cJSON_AddStringToObject(section, "fallback", "allow");
  if (plugin_folder[0]) cJSON_AddStringToObject(section, "plugin_path", plugin_folder);
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  ds_logger silent = {0};
  CHECK_OK(ds_backend_open(&config, &silent, &backend, &err), err);
  ds_backend_config_finish(&config);
  cJSON_Delete(section);
  return backend;
}

int main(int argc, char **argv) {
  static const char *const models[] = {"gpt2", "gpt2-base-f16", "llama", "llama-variant"};
  if (argc != 5) {
    fprintf(stderr, "usage: %s MODELS-FOLDER BACKEND PLUGIN-FOLDER f32|bf16\n", argv[0]);
    return 2;
  }
  ds_backend *backend = open_backend(argv[2], argv[3]);
  if (!backend) return 1;
  int32_t dtype = strcmp(argv[4], "bf16") == 0 ? DS_BF16 : DS_F32;
  for (size_t i = 0; i < sizeof models / sizeof *models; i++)
    test_model(backend, argv[1], models[i], dtype);
  ds_backend_close(backend);
  return TEST_RESULT();
}
