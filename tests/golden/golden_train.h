/* golden_train.h - ten steps of the whole training engine - forward, backward, clipping, AdamW -
 * against float64 JAX. */
#ifndef DS_TEST_GOLDEN_TRAIN_H
#define DS_TEST_GOLDEN_TRAIN_H

#include "../unit/test.h"

#include "ds.h"
#include "model/safetensors.h"
#include "training.h"

#include <stdlib.h>

enum { GOLDEN_STEPS = sizeof gpt2_steps / sizeof *gpt2_steps };

static const char golden_settings[] =
    "\"train_batch_size\": 2, \"gradient_clipping\": 0.5, \"optimizer\": {\"type\": \"AdamW\","
    " \"params\": {\"lr\": 0.01, \"betas\": [0.9, 0.95], \"eps\": 1e-8, \"weight_decay\": 0.1}}";

/* A model's golden ids and labels, [B,T] each. */
typedef struct golden_data {
  ds_batch batch;
  int32_t values[2][256];
} golden_data;

static inline void golden_read(const char *folder, golden_data *out) {
  static const char *const names[] = {"ids", "labels"};
  char path[600];
  ds_error err;
  ds_safetensors *file = NULL;
  snprintf(path, sizeof path, "%s/golden.safetensors", folder);
  CHECK_OK(ds_safetensors_open(path, &file, &err), err);
  *out = (golden_data){.batch = {.n = 2}};
  for (int i = 0; i < 2 && file; i++) {
    const ds_safetensor *entry = ds_safetensors_find(file, names[i]);
    CHECK(entry != NULL && entry->rank == 2 && entry->bytes <= sizeof out->values[i]);
    if (!entry || entry->bytes > sizeof out->values[i]) break;
    memcpy(out->values[i], entry->data, entry->bytes);
    out->batch.tensors[i] = (ds_host_tensor){.dtype = DS_I32, .rank = 2, .data = out->values[i]};
    memcpy(out->batch.tensors[i].shape, entry->shape, 2 * sizeof *entry->shape);
  }
  ds_safetensors_close(file);
}

/* dtype: DS_F32, DS_BF16 or DS_F16. backend: the config's section. want: {loss, gradient norm} of each step. Done is called before
 * the engine ends; it may be NULL. */
static inline void golden_train(const char *folder, const char *backend, int32_t dtype,
                                const double (*want)[2], void (*done)(void *ctx, ds_engine *e),
                                void *ctx) {
  static const char *const sections[] = {
      "", ", \"bf16\": {\"enabled\": true}",
      ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 10}"};
  double tolerance = dtype == DS_BF16 ? 0.1 : dtype == DS_F16 ? 0.1 / 8 : 2e-5;
  ds_error err;
  ds_model *model = NULL;
  ds_engine *engine = NULL;
  golden_data data;
  char config[1024];
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  snprintf(config, sizeof config, "{%s, \"backend\": %s%s}", golden_settings, backend,
           sections[dtype]);
  golden_read(folder, &data);
  CHECK_OK(ds_model_load(folder, &model, &err), err);
  args.model = model;
  args.config = config;
  CHECK_OK(ds_initialize(&args, &engine, NULL, NULL, NULL, &err), err);
  for (int i = 0; i < GOLDEN_STEPS && engine; i++) {
    ds_value *loss = NULL;
    float value = NAN;
    ds_status status = ds_engine_forward(engine, &data.batch, &loss, &err);
    if (status == DS_OK) status = ds_engine_loss(engine, loss, &value, &err);
    if (status == DS_OK) status = ds_engine_backward(engine, loss, &err);
    if (status == DS_OK) status = ds_engine_step(engine, &err);
    CHECK_OK(status, err);
    CHECK_NEAR(value, want[i][0], tolerance * want[i][0] + 0.1 * tolerance);
    if (dtype ==
        DS_F32) /* in 16 bits the norm of so small a model is noise after a few large steps */
      CHECK_NEAR(ds_engine_get_global_grad_norm(engine), want[i][1],
                 (2 + 2 * i) * tolerance * want[i][1]); /* rounding grows with the steps */
  }
  if (engine && done) done(ctx, engine);
  ds_engine_destroy(engine);
  ds_model_destroy(model);
}

#endif
