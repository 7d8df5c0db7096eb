/* The engine on a device whose memory the host cannot touch (whoever does crashes): every loss and
 * every weight as on the reference, for the built-in optimizer and for one in host code. */
#include "../backend/plugin_folder.h"
#include "tiny.h"

enum { N = TINY_OUT * TINY_IN + TINY_OUT, STEPS = 6 };

typedef struct momentum {
  double lr, scale;
} momentum;

static void momentum_elements(void *arg, float *param, const float *grad, float *const *state,
                              int64_t count) {
  momentum *m = arg;
  for (int64_t i = 0; i < count; i++) {
    state[0][i] = 0.9f * state[0][i] + (float)m->scale * grad[i];
    param[i] -= (float)m->lr * state[0][i];
  }
}

static ds_status momentum_update(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice,
                                 double lr, double grad_scale, int64_t step, ds_error *err) {
  momentum *m = self;
  (void)step;
  m->lr = lr;
  m->scale = grad_scale;
  return ds_slice_update(ctx, slice, momentum_elements, m, err);
}

static const char *const momentum_states[] = {"momentum"};
static const ds_optimizer_vtable momentum_vtable = {sizeof momentum_vtable, "momentum",      1,
                                                    momentum_states,        momentum_update, NULL};

static ds_status make_momentum(void *ctx, const ds_params *params, ds_optimizer **out,
                               ds_error *err) {
  (void)params;
  return ds_optimizer_create(&momentum_vtable, ctx, 0.1, out, err);
}

/* STEPS losses and the weights; in the middle a save, a load by another engine, and on. */
static void run(const char *backend, const char *more, bool own, const char *dir, float *out) {
  ds_error err;
  tiny_run r = {0}, second = {0};
  momentum m = {0, 0};
  char config[512];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.optimizer_fn = own ? make_momentum : NULL;
  a.optimizer_ctx = &m;
  snprintf(config, sizeof config,
           "{\"backend\": %s, \"train_batch_size\": 8, \"optimizer\": {\"type\": "
           "\"AdamW\"}%s}",
           backend, more);
  CHECK_OK(tiny_open(&r, config, &a, true, &err), err);
  if (!r.engine) return;
  for (int i = 0; i < STEPS / 2; i++) CHECK_OK(ds_engine_train_batch(r.engine, &out[i], &err), err);
  CHECK_OK(ds_engine_save_checkpoint(r.engine, dir, "t", NULL, &err), err);
  CHECK_OK(tiny_open(&second, config, &a, true, &err), err);
  CHECK_OK(ds_engine_load_checkpoint(second.engine, dir, "t", NULL, &err), err);
  for (int i = STEPS / 2; i < STEPS; i++)
    CHECK_OK(ds_engine_train_batch(second.engine, &out[i], &err), err);
  CHECK_OK(tiny_weights(second.engine, &second.self, out + STEPS, &err), err);
  tiny_close(&r);
  tiny_close(&second);
}

int main(void) {
  plugin_folder plugins;
  plugin_folder_make(&plugins);
  plugin_folder_link(&plugins, "floor");
  char far[256], dir[80], command[128];
  snprintf(far, sizeof far,
           "{\"name\": \"floor\", \"plugin_path\": \"%s\", \"fallback\": \"allow\"}", plugins.path);
  snprintf(dir, sizeof dir, "%s/checkpoints", plugins.path);
  static const char *const more[] = {"", ", \"bf16\": {\"enabled\": true}",
                                     ", \"gradient_accumulation_steps\": 2"};
  for (int own = 0; own < 2; own++)
    for (int i = 0; i < 3; i++) {
      float here[STEPS + N] = {0}, there[STEPS + N] = {1};
      run("\"reference\"", more[i], own, dir, here);
      run(far, more[i], own, dir, there);
      CHECK(memcmp(here, there, sizeof here) == 0);
    }
  snprintf(command, sizeof command, "rm -rf '%s'", dir);
  CHECK(system(command) == 0);
  plugin_folder_remove(&plugins);
  return TEST_RESULT();
}
