/* tiny.h - a model, data and an engine small enough to reason about: linear regression
 * y = x w^T + b on 64 samples of 4 features, loss mean((y - t)^2). */
#ifndef DS_TEST_TINY_H
#define DS_TEST_TINY_H

#include "ds.h"
#include "test.h"

#include <stdlib.h>
#include <unistd.h>

enum { TINY_IN = 4, TINY_OUT = 2, TINY_SAMPLES = 64 };

typedef struct tiny {
  int w, b, unused; /* parameter indices */
  int calls;        /* of forward */
  int poison_at;    /* the loss of this call is NaN; 0 = never */
  bool with_unused; /* declare a parameter that takes no part */
  bool with_config; /* has a config.json */
} tiny;

static inline ds_status tiny_declare(void *self, ds_params *params, ds_error *err) {
  tiny *t = self;
  (void)err;
  t->w = ds_params_add(params, "w", 2, (int64_t[]){TINY_OUT, TINY_IN}, DS_INIT_NORMAL, 0.5);
  if (t->with_unused)
    t->unused = ds_params_add(params, "unused", 1, (int64_t[]){3}, DS_INIT_ONES, 0);
  t->b = ds_params_add(params, "b", 1, (int64_t[]){TINY_OUT}, DS_INIT_ZEROS, 0);
  return DS_OK;
}

static inline ds_value *tiny_forward(void *self, ds_ctx *ctx, ds_value *const *inputs,
                                     int n_inputs) {
  tiny *t = self;
  if (n_inputs != 2) return ds_ctx_fail(ctx, DS_ERR_INVALID, "two inputs, not %d", n_inputs);
  ds_value *x = inputs[0], *target = inputs[1];
  ds_value *y = ds_linear(ctx, x, ds_param(ctx, t->w), ds_param(ctx, t->b));
  ds_value *d = ds_add(ctx, y, ds_scale(ctx, target, -1));
  ds_value *loss = ds_mean(ctx, ds_mul(ctx, d, d));
  return ++t->calls == t->poison_at ? ds_scale(ctx, loss, NAN) : loss;
}

static inline char *tiny_config_json(void *self) {
  (void)self;
  return strdup("{\"model_type\": \"tiny\"}");
}

static const ds_model_vtable tiny_vtable = {.size = sizeof(ds_model_vtable),
                                            .name = "tiny",
                                            .declare = tiny_declare,
                                            .forward = tiny_forward,
                                            .config_json = tiny_config_json};

static float tiny_x[TINY_SAMPLES][TINY_IN], tiny_t[TINY_SAMPLES][TINY_OUT];

static inline void tiny_make_data(void) {
  const float true_w[TINY_OUT][TINY_IN] = {{1, -2, 0.5f, 0}, {0, 1, 1, -1}};
  unsigned seed = 12345;
  for (int i = 0; i < TINY_SAMPLES; i++) {
    for (int k = 0; k < TINY_IN; k++) {
      seed = seed * 1664525u + 1013904223u;
      tiny_x[i][k] = (float)(seed >> 8) / (float)(1 << 23) - 1;
    }
    for (int o = 0; o < TINY_OUT; o++) {
      tiny_t[i][o] = 0.3f * (float)o;
      for (int k = 0; k < TINY_IN; k++) tiny_t[i][o] += true_w[o][k] * tiny_x[i][k];
    }
  }
}

static inline int64_t tiny_length(void *self) {
  (void)self;
  return TINY_SAMPLES;
}

static inline ds_status tiny_get(void *self, int64_t index, ds_batch *sample, ds_error *err) {
  (void)self;
  (void)err;
  sample->n = 2;
  sample->tensors[0] = (ds_host_tensor){DS_F32, 1, {TINY_IN}, tiny_x[index]};
  sample->tensors[1] = (ds_host_tensor){DS_F32, 1, {TINY_OUT}, tiny_t[index]};
  return DS_OK;
}

static const ds_dataset_vtable tiny_dataset = {
    sizeof(ds_dataset_vtable), tiny_length, tiny_get, NULL, NULL, NULL};

/* Samples from .. from+n-1 as one batch. */
static inline ds_batch tiny_batch(int from, int n) {
  ds_batch b = {.n = 2};
  b.tensors[0] = (ds_host_tensor){DS_F32, 2, {n, TINY_IN}, tiny_x[from]};
  b.tensors[1] = (ds_host_tensor){DS_F32, 2, {n, TINY_OUT}, tiny_t[from]};
  return b;
}

/* An engine and all that it stands on. Zeroed, but for model options; tiny_close() it. */
typedef struct tiny_run {
  tiny self;
  ds_model *model;
  ds_dataset *data;
  ds_engine *engine;
  ds_optimizer *optimizer;
} tiny_run;

/* args NULL = defaults; model, config and training_data are filled in. */
static inline ds_status tiny_open(tiny_run *r, const char *config, const ds_initialize_args *args,
                                  bool with_data, ds_error *err) {
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  if (args) a = *args;
  tiny_make_data();
  ds_status status = ds_model_create(&tiny_vtable, &r->self, &r->model, err);
  if (status == DS_OK && with_data) status = ds_dataset_create(&tiny_dataset, NULL, &r->data, err);
  a.model = r->model;
  a.config = config;
  a.training_data = r->data;
  if (status == DS_OK) status = ds_initialize(&a, &r->engine, &r->optimizer, NULL, NULL, err);
  return status;
}

static inline void tiny_close(tiny_run *r) {
  ds_engine_destroy(r->engine);
  ds_dataset_destroy(r->data);
  ds_model_destroy(r->model);
  memset(r, 0, sizeof *r);
}

/* forward, backward, step on n samples; the loss in *loss. */
static inline ds_status tiny_micro(ds_engine *e, int from, int n, float *loss, ds_error *err) {
  ds_batch b = tiny_batch(from, n);
  ds_value *v;
  ds_status status = ds_engine_forward(e, &b, &v, err);
  if (status == DS_OK) status = ds_engine_backward(e, v, err);
  if (status == DS_OK && loss) status = ds_engine_loss(e, v, loss, err);
  return status == DS_OK ? ds_engine_step(e, err) : status;
}

/* w and b, one after the other. */
static inline ds_status tiny_weights(ds_engine *e, const tiny *t,
                                     float out[TINY_OUT * TINY_IN + TINY_OUT], ds_error *err) {
  ds_status status = ds_engine_read_param(e, t->w, out, TINY_OUT * TINY_IN, err);
  if (status != DS_OK) return status;
  return ds_engine_read_param(e, t->b, out + TINY_OUT * TINY_IN, TINY_OUT, err);
}

#define TINY_BACKEND "\"backend\": \"reference\""

#endif
