/* Adam and AdamW through the reference backend against float64 (make_tables.py), clipping, and the
 * optimizer's groups. */
#include "adam_table.h"
#include "ops/ctx.h"
#include "optim/clip.h"
#include "optim/optimizer.h"
#include "tensor/tensor.h"
#include "test.h"

#include <stdlib.h>

enum { N = 6 };

static ds_backend *backend;
static ds_ctx *ctx;

static void open_backend(void) {
  ds_error err;
  ds_logger silent = {NULL, NULL};
  ds_backend_config config;
  cJSON *section = cJSON_CreateString("reference");
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &silent, &backend, &err), err);
  CHECK_OK(ds_ctx_create(backend, DS_F32, &ctx, &err), err);
  ds_backend_config_finish(&config);
  cJSON_Delete(section);
}

static void *device(size_t bytes) {
  void *p = NULL;
  ds_error err;
  CHECK_OK(ds_backend_alloc(backend, bytes, &p, &err), err);
  CHECK_OK(ds_backend_fill(backend, p, 0, bytes, &err), err);
  return p;
}

static void test_trajectory(bool decoupled, const double table[4][N]) {
  ds_error err;
  ds_optimizer *o;
  float p[N], g[N];
  uint16_t p16[N];
  CHECK_OK(ds_optimizer_adam(0.01, 0.85, 0.97, 1e-7, 0.2, decoupled, &o, &err), err);
  CHECK(strcmp(o->vtable->name, decoupled ? "AdamW" : "Adam") == 0 && o->vtable->n_states == 2);
  float *grad = device(sizeof g);
  ds_optimizer_slice s = {.param = device(sizeof p),
                          .grad = grad,
                          .param16 = device(sizeof p16),
                          .state = {device(sizeof p), device(sizeof p)},
                          .count = N};
  for (int k = 0; k < N; k++) p[k] = (float)(0.3 * sin(1.7 * k + 1));
  CHECK_OK(ds_backend_upload(backend, s.param, p, sizeof p, &err), err);
  for (int t = 1, row = 0; t <= 25; t++) {
    for (int k = 0; k < N; k++) g[k] = (float)cos(0.9 * k + 0.3 * t);
    CHECK_OK(ds_backend_upload(backend, grad, g, sizeof g, &err), err);
    CHECK_OK(o->vtable->update(o->self, ctx, &s, 0.01, 0.5, t, &err), err);
    if (t != 1 && t != 2 && t != 10 && t != 25) continue;
    CHECK_OK(ds_backend_download(backend, p, s.param, sizeof p, &err), err);
    CHECK_OK(ds_backend_download(backend, p16, s.param16, sizeof p16, &err), err);
    for (int k = 0; k < N; k++) {
      CHECK_NEAR(p[k], table[row][k], 2e-6);
      CHECK(p16[k] == ds_f32_to_bf16(p[k]));
    }
    row++;
  }
  ds_backend_free(backend, s.param, sizeof p);
  ds_backend_free(backend, grad, sizeof g);
  ds_backend_free(backend, s.param16, sizeof p16);
  ds_backend_free(backend, s.state[0], sizeof p);
  ds_backend_free(backend, s.state[1], sizeof p);
  ds_optimizer_destroy(o);
}

static void test_clip(void) {
  CHECK_NEAR(ds_clip_factor(13, 1), 1 / 13.000001, 1e-15);
  CHECK_NEAR(ds_clip_factor(13, 0), 1, 0);               /* off */
  CHECK_NEAR(ds_clip_factor(0.5, 1), 1, 0);              /* never scaled up */
  CHECK_NEAR(ds_clip_factor(1, 1), 1 / 1.000001, 1e-15); /* DeepSpeed's 1e-6 */
  CHECK_NEAR(ds_clip_factor(NAN, 1), 1, 0);
}

static void test_groups(void) {
  ds_error err;
  ds_optimizer *o;
  CHECK_OK(ds_optimizer_adam(0.1, 0.9, 0.999, 1e-8, 0.01, true, &o, &err), err);
  ds_param_group g[2] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  g[1].lr = NAN; /* as unset as a negative number */
  g[1].beta1 = 0.5;
  g[0].weight_decay = 0;
  CHECK_OK(ds_optimizer_bind(o, g, 2, &err), err);
  CHECK(ds_optimizer_groups(o) == 2);
  CHECK(ds_optimizer_lr(o, 1) == 0.1 && isnan(ds_optimizer_lr(o, 2)) &&
        isnan(ds_optimizer_lr(o, -1)));
  CHECK(o->groups[0].weight_decay == 0 && o->groups[1].weight_decay == 0.01);
  CHECK(o->groups[0].beta1 == 0.9 && o->groups[1].beta1 == 0.5);
  ds_optimizer_set_lr(o, 1, 0.3);
  ds_optimizer_set_lr(o, 7, 0.3);
  CHECK(ds_optimizer_lr(o, 1) == 0.3 && ds_optimizer_lr(o, 0) == 0.1);
  CHECK_FAILS(ds_optimizer_bind(o, g, 2, &err), DS_ERR_STATE, err, "another engine");
  ds_optimizer_unbind(o);
  CHECK(ds_optimizer_groups(o) == 1 && ds_optimizer_lr(o, 0) == 0.1);
  g[0].beta2 = 1;
  CHECK_FAILS(ds_optimizer_bind(o, g, 2, &err), DS_ERR_INVALID, err, "below 1");
  ds_optimizer_destroy(o);
  CHECK_FAILS(ds_optimizer_adam(-1, 0.9, 0.999, 1e-8, 0, true, &o, &err), DS_ERR_INVALID, err,
              "lr");
  CHECK_FAILS(ds_optimizer_adam(1, 1, 0.999, 1e-8, 0, true, &o, &err), DS_ERR_INVALID, err,
              "beta1");
  CHECK_FAILS(ds_optimizer_adam(1, 0.9, NAN, 1e-8, 0, true, &o, &err), DS_ERR_INVALID, err,
              "beta2");
  CHECK(o == NULL);
}

static ds_status no_update(void *self, ds_ctx *c, const ds_optimizer_slice *slice, double lr,
                           double grad_scale, int64_t step, ds_error *err) {
  (void)self, (void)c, (void)slice, (void)lr, (void)grad_scale, (void)step, (void)err;
  return DS_OK;
}

static void test_create(void) {
  ds_error err;
  ds_optimizer *o;
  static const char *const names[] = {"a", ""};
  ds_optimizer_vtable v = {sizeof v, "own", 0, NULL, no_update, NULL};
  CHECK_OK(ds_optimizer_create(&v, NULL, 0.1, &o, &err), err);
  ds_param_group g = DS_PARAM_GROUP_INIT;
  g.eps = 1e-3;
  CHECK_FAILS(ds_optimizer_bind(o, &g, 1, &err), DS_ERR_UNSUPPORTED, err, "only lr can be set");
  ds_optimizer_destroy(o);
  v.n_states = 5;
  CHECK_FAILS(ds_optimizer_create(&v, NULL, 0.1, &o, &err), DS_ERR_INVALID, err, "from 0 to 4");
  v.n_states = 2;
  CHECK_FAILS(ds_optimizer_create(&v, NULL, 0.1, &o, &err), DS_ERR_INVALID, err, "state_names");
  v.state_names = names;
  CHECK_FAILS(ds_optimizer_create(&v, NULL, 0.1, &o, &err), DS_ERR_INVALID, err, "state 1");
  v.n_states = 1;
  CHECK_FAILS(ds_optimizer_create(&v, NULL, NAN, &o, &err), DS_ERR_INVALID, err, "lr");
  v.update = NULL;
  CHECK_FAILS(ds_optimizer_create(&v, NULL, 1, &o, &err), DS_ERR_INVALID, err, "update");
  ds_optimizer_destroy(NULL);
}

int main(void) {
  open_backend();
  test_trajectory(true, adamw_table);
  test_trajectory(false, adam_l2_table);
  test_clip();
  test_groups();
  test_create();
  ds_ctx_destroy(ctx);
  ds_backend_close(backend);
  return TEST_RESULT();
}
