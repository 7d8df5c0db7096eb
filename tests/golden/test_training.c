/* Ten steps of the whole training engine - forward, backward, clipping, AdamW - against float64
 * JAX. Usage: test_training MODELS-FOLDER BACKEND */
#include "../unit/test.h"

#include "ds.h"
#include "model/safetensors.h"
#include "training.h"

#include <stdlib.h>

enum { STEPS = sizeof gpt2_steps / sizeof *gpt2_steps };

static const char settings[] =
    "\"train_batch_size\": 2, \"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\","
    " \"params\": {\"lr\": 0.01, \"betas\": [0.9, 0.95], \"eps\": 1e-8, \"weight_decay\": 0.1}}";

static void train(const char *folder, const char *backend, const ds_batch *batch, const char *more,
                  const double (*want)[2], double tolerance) {
  ds_error err;
  ds_model *model = NULL;
  ds_engine *engine = NULL;
  char config[640];
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  snprintf(config, sizeof config, "{%s, \"backend\": \"%s\"%s}", settings, backend, more);
  CHECK_OK(ds_model_load(folder, &model, &err), err);
  args.model = model;
  args.config = config;
  CHECK_OK(ds_initialize(&args, &engine, NULL, NULL, NULL, &err), err);
  for (int i = 0; i < STEPS && engine; i++) {
    ds_value *loss = NULL;
    float value = NAN;
    ds_status status = ds_engine_forward(engine, batch, &loss, &err);
    if (status == DS_OK) status = ds_engine_loss(engine, loss, &value, &err);
    if (status == DS_OK) status = ds_engine_backward(engine, loss, &err);
    if (status == DS_OK) status = ds_engine_step(engine, &err);
    CHECK_OK(status, err);
    CHECK_NEAR(value, want[i][0], tolerance * want[i][0] + 0.1 * tolerance);
    if (*more == '\0') /* in bf16 the norm of so small a model is noise after a few large steps */
      CHECK_NEAR(ds_engine_get_global_grad_norm(engine), want[i][1], 5 * tolerance * want[i][1]);
  }
  ds_engine_destroy(engine);
  ds_model_destroy(model);
}

static void test_family(const char *models, const char *name, const char *backend,
                        const double (*want)[2]) {
  char folder[512], path[600];
  ds_error err;
  ds_safetensors *file = NULL;
  snprintf(folder, sizeof folder, "%s/%s", models, name);
  snprintf(path, sizeof path, "%s/golden.safetensors", folder);
  CHECK_OK(ds_safetensors_open(path, &file, &err), err);
  static const char *const names[] = {"ids", "labels"};
  static int32_t data[2][256];
  ds_batch batch = {.n = 2};
  for (int i = 0; i < 2 && file; i++) {
    const ds_safetensor *entry = ds_safetensors_find(file, names[i]);
    CHECK(entry != NULL && entry->rank == 2 && entry->bytes <= sizeof data[i]);
    if (!entry || entry->bytes > sizeof data[i]) break;
    memcpy(data[i], entry->data, entry->bytes);
    batch.tensors[i] = (ds_host_tensor){.dtype = DS_I32, .rank = 2, .data = data[i]};
    memcpy(batch.tensors[i].shape, entry->shape, 2 * sizeof *entry->shape);
  }
  train(folder, backend, &batch, "", want, 2e-5);
  train(folder, backend, &batch, ", \"bf16\": {\"enabled\": true}", want, 0.1);
  ds_safetensors_close(file);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  test_family(argv[1], "gpt2", argv[2], gpt2_steps);
  test_family(argv[1], "llama", argv[2], llama_steps);
  return TEST_RESULT();
}
