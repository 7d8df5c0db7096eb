/* Training steps on a tiny model: against float64 arithmetic, accumulation, clipping, groups, host
 * optimizers, non-finite numbers, and the order of calls. */
#include "tiny_oracle.h"

#define CONFIG(more) "{" TINY_BACKEND ", \"train_micro_batch_size_per_gpu\": 4" more "}"
#define ADAM(params) ", \"optimizer\": {\"type\": \"AdamW\", \"params\": {" params "}}"

static void follows_float64(const char *config, double clip, bool decoupled) {
  ds_error err;
  tiny_run r = {0};
  oracle o = {0};
  float w[N];
  CHECK_OK(tiny_open(&r, config, NULL, false, &err), err);
  if (!r.engine) return;
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) o.p[i] = (double)w[i];
  float first = 0, loss = 0;
  for (int step = 0; step < 30; step++) {
    CHECK_OK(tiny_micro(r.engine, step * 4 % TINY_SAMPLES, 4, &loss, &err), err);
    oracle_step(&o, step * 4 % TINY_SAMPLES, 4, 0.05, 0.1, clip, decoupled);
    CHECK_NEAR(loss, o.loss, 1e-5 * (1 + o.loss));
    CHECK_NEAR(ds_engine_get_global_grad_norm(r.engine), o.norm, 1e-5 * (1 + o.norm));
    if (step == 0) first = loss;
  }
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) CHECK_NEAR(w[i], o.p[i], 2e-5);
  CHECK(loss < 0.2f * first);
  CHECK(ds_engine_global_steps(r.engine) == 30);
  CHECK(ds_engine_global_samples(r.engine) == 120);
  CHECK(ds_engine_micro_steps(r.engine) == 30);
  CHECK(ds_engine_was_step_applied(r.engine));
  tiny_close(&r);
}

static void test_adam(void) {
  follows_float64(CONFIG(ADAM("\"lr\": 0.05, \"weight_decay\": 0.1")), 1.0, true);
  follows_float64(CONFIG(ADAM("\"lr\": 0.05, \"weight_decay\": 0.1") ", \"gradient_clipping\": 0"),
                  0, true);
  follows_float64(
      CONFIG(
          ", \"optimizer\": {\"type\": \"adam\", \"params\": {\"lr\": 0.05, \"weight_decay\": 0.1,"
          " \"adam_w_mode\": false}}, \"gradient_clipping\": 0.3"),
      0.3, false);
}

/* ---- accumulation: G micro batches of M are one of G*M */

static void test_accumulation(void) {
  ds_error err;
  tiny_run one = {0}, four = {0};
  float a[N], b[N];
  CHECK_OK(tiny_open(&one, "{" TINY_BACKEND ", \"train_batch_size\": 4" ADAM("\"lr\": 0.05") "}",
                     NULL, false, &err),
           err);
  CHECK_OK(tiny_open(&four,
                     "{" TINY_BACKEND ", \"train_batch_size\": 4, "
                     "\"train_micro_batch_size_per_gpu\": 1" ADAM("\"lr\": 0.05") "}",
                     NULL, false, &err),
           err);
  CHECK(ds_engine_gradient_accumulation_steps(four.engine) == 4);
  for (int step = 0; step < 10; step++) {
    float loss, sum = 0, part;
    CHECK_OK(tiny_micro(one.engine, step * 4, 4, &loss, &err), err);
    for (int i = 0; i < 4; i++) {
      CHECK(ds_engine_is_gradient_accumulation_boundary(four.engine) == (i == 3));
      CHECK_OK(tiny_micro(four.engine, step * 4 + i, 1, &part, &err), err);
      CHECK(ds_engine_was_step_applied(four.engine) == (i == 3));
      sum += part / 4;
    }
    CHECK_NEAR(sum, loss, 1e-5);
  }
  CHECK(ds_engine_global_steps(four.engine) == 10 && ds_engine_micro_steps(four.engine) == 40);
  CHECK_OK(tiny_weights(one.engine, &one.self, a, &err), err);
  CHECK_OK(tiny_weights(four.engine, &four.self, b, &err), err);
  for (int i = 0; i < N; i++) CHECK_NEAR(a[i], b[i], 1e-5);

  CHECK_OK(ds_engine_set_train_batch_size(four.engine, 2, &err), err);
  CHECK(ds_engine_gradient_accumulation_steps(four.engine) == 2);
  CHECK_OK(tiny_micro(four.engine, 0, 1, NULL, &err), err);
  CHECK_FAILS(ds_engine_set_train_batch_size(four.engine, 4, &err), DS_ERR_STATE, err, "between");
  CHECK_OK(tiny_micro(four.engine, 1, 1, NULL, &err), err);
  CHECK(ds_engine_global_steps(four.engine) == 11 && ds_engine_global_samples(four.engine) == 42);
  CHECK_FAILS(ds_engine_set_train_batch_size(one.engine, 6, &err), DS_ERR_INVALID, err, "multiple");
  ds_batch batch = tiny_batch(0, 4);
  ds_value *loss;
  CHECK_OK(ds_engine_forward(one.engine, &batch, &loss, &err), err);
  CHECK_FAILS(ds_engine_set_train_batch_size(one.engine, 4, &err), DS_ERR_STATE, err, "between");
  tiny_close(&one);
  tiny_close(&four);
}

/* ---- groups */

static void test_groups(void) {
  ds_error err;
  tiny_run r = {0};
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  const int only_b[] = {1}, only_w[] = {0};
  ds_param_group groups[3] = {DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT, DS_PARAM_GROUP_INIT};
  groups[0].indices = only_b;
  groups[0].n_indices = 1;
  groups[0].lr = 0.5;
  groups[2].indices = only_w;
  groups[2].n_indices = 1;
  groups[2].weight_decay = 0.5;
  a.model_parameters = groups;
  a.n_model_parameters = 3;
  CHECK_OK(tiny_open(&r, CONFIG(ADAM("\"lr\": 0.1")), &a, false, &err), err);
  CHECK(ds_optimizer_groups(r.optimizer) == 2); /* the empty one is dropped */
  CHECK_NEAR(ds_optimizer_lr(r.optimizer, 0), 0.5, 0);
  CHECK_NEAR(ds_optimizer_lr(r.optimizer, 1), 0.1, 0);
  float before[N], after[N];
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  CHECK_OK(tiny_micro(r.engine, 0, 4, NULL, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  /* The first Adam step moves every element by its group's lr, decay aside. */
  for (int i = TINY_OUT * TINY_IN; i < N; i++) CHECK_NEAR(fabs(after[i] - before[i]), 0.5, 1e-4);
  for (int i = 0; i < TINY_OUT * TINY_IN; i++)
    CHECK_NEAR(fabs(after[i] - before[i] * (1 - 0.1f * 0.5f)), 0.1, 1e-4);
  tiny_close(&r);

  a.n_model_parameters = 1; /* w is frozen */
  CHECK_OK(tiny_open(&r, CONFIG(ADAM("\"lr\": 0.1")), &a, false, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  for (int i = 0; i < 3; i++) CHECK_OK(tiny_micro(r.engine, 0, 4, NULL, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  CHECK(memcmp(before, after, TINY_OUT * TINY_IN * sizeof(float)) == 0);
  CHECK(before[N - 1] != after[N - 1]);
  tiny_close(&r);

  const int twice[] = {0, 1, 0}, beyond[] = {2};
  groups[0].indices = twice;
  groups[0].n_indices = 3;
  CHECK_FAILS(tiny_open(&r, CONFIG(ADAM("\"lr\": 0.1")), &a, false, &err), DS_ERR_INVALID, err,
              "\"w\" is in group 0 and again in group 0");
  tiny_close(&r);
  groups[0].indices = beyond;
  groups[0].n_indices = 1;
  CHECK_FAILS(tiny_open(&r, CONFIG(ADAM("\"lr\": 0.1")), &a, false, &err), DS_ERR_INVALID, err,
              "parameter 2; the model has 2");
  tiny_close(&r);
  groups[0].n_indices = 0;
  CHECK_FAILS(tiny_open(&r, CONFIG(ADAM("\"lr\": 0.1")), &a, false, &err), DS_ERR_INVALID, err,
              "all groups are empty");
  tiny_close(&r);
}

/* ---- a host app's optimizer: plain gradient descent with one state that counts updates */

typedef struct sgd {
  int destroyed, updates;
  double lr, scale;
} sgd;

static void sgd_elements(void *arg, float *param, const float *grad, float *const *state,
                         int64_t count) {
  sgd *s = arg;
  for (int64_t i = 0; i < count; i++) {
    param[i] -= (float)(s->lr * s->scale) * grad[i];
    state[0][i] += 1;
  }
}

static ds_status sgd_update(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice, double lr,
                            double grad_scale, int64_t step, ds_error *err) {
  sgd *s = self;
  s->lr = lr;
  s->scale = grad_scale;
  s->updates++;
  CHECK(step >= 1 && slice->count > 0 && slice->state[0] && !slice->state[1]);
  return ds_slice_update(ctx, slice, sgd_elements, s, err);
}

static void sgd_destroy(void *self) {
  ((sgd *)self)->destroyed++;
}

static const char *const sgd_states[] = {"count"};
static const ds_optimizer_vtable sgd_vtable = {
    sizeof(ds_optimizer_vtable), "descent", 1, sgd_states, sgd_update, sgd_destroy};

static ds_status make_sgd(void *ctx, const ds_params *params, ds_optimizer **out, ds_error *err) {
  CHECK(ds_params_count(params) == 2);
  return ds_optimizer_create(&sgd_vtable, ctx, 0.1, out, err);
}

static ds_status refuse(void *ctx, const ds_params *params, ds_optimizer **out, ds_error *err) {
  (void)ctx;
  (void)params;
  (void)out;
  strcpy(err->message, "not today");
  return DS_ERR_UNSUPPORTED;
}

static void test_host_optimizer(const char *config, double tolerance) {
  ds_error err;
  tiny_run r = {0};
  sgd s = {0};
  oracle o = {0};
  double g[N];
  float w[N];
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.optimizer_fn = make_sgd;
  a.optimizer_ctx = &s;
  CHECK_OK(tiny_open(&r, config, &a, false, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) o.p[i] = (double)w[i];
  for (int step = 0; step < 5; step++) {
    CHECK_OK(tiny_micro(r.engine, step * 4, 4, NULL, &err), err);
    oracle_grad(&o, step * 4, 4, g);
    for (int i = 0; i < N; i++) o.p[i] -= 0.1 * g[i];
  }
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  for (int i = 0; i < N; i++) CHECK_NEAR(w[i], o.p[i], tolerance);
  CHECK(s.updates == 5); /* neighbours of one group are one slice */
  tiny_close(&r);
  CHECK(s.destroyed == 1); /* what the callable made is the engine's */
}

static void test_host_optimizers(void) {
  ds_error err;
  tiny_run r = {0}, other = {0};
  test_host_optimizer(CONFIG(", \"gradient_clipping\": 0"), 1e-5);
  test_host_optimizer(CONFIG(", \"gradient_clipping\": 0, \"bf16\": {\"enabled\": true}"), 5e-2);

  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.optimizer_fn = refuse;
  CHECK_FAILS(tiny_open(&r, CONFIG(""), &a, false, &err), DS_ERR_UNSUPPORTED, err, "not today");
  tiny_close(&r);

  sgd s = {0};
  ds_optimizer *o;
  CHECK_OK(ds_optimizer_create(&sgd_vtable, &s, 0.1, &o, &err), err);
  a.optimizer_fn = NULL;
  a.optimizer = o;
  CHECK_OK(tiny_open(&r, CONFIG(""), &a, false, &err), err);
  CHECK_FAILS(tiny_open(&other, CONFIG(""), &a, false, &err), DS_ERR_STATE, err, "another engine");
  tiny_close(&other);
  CHECK_OK(tiny_micro(r.engine, 0, 4, NULL, &err), err);
  tiny_close(&r);
  CHECK(s.destroyed == 0); /* the caller's instance stays the caller's */
  CHECK_OK(tiny_open(&r, CONFIG(""), &a, false, &err), err); /* and can be used again */
  tiny_close(&r);
  ds_optimizer_destroy(o);
  CHECK(s.destroyed == 1);
}

/* ---- numbers that are none */

static void test_nonfinite(const char *config) {
  ds_error err;
  tiny_run r = {0};
  float before[N], after[N];
  r.self.poison_at = 3;
  CHECK_OK(tiny_open(&r, config, NULL, false, &err), err);
  double lr0 = ds_engine_get_lr(r.engine);
  CHECK_OK(tiny_micro(r.engine, 0, 4, NULL, &err), err);
  CHECK_OK(tiny_micro(r.engine, 4, 4, NULL, &err), err);
  double lr2 = ds_engine_get_lr(r.engine);
  CHECK(lr2 > lr0);
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  CHECK_FAILS(tiny_micro(r.engine, 8, 4, NULL, &err), DS_ERR_NUMERIC, err, "\"w\"");
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  CHECK(memcmp(before, after, sizeof before) == 0);
  CHECK(ds_engine_skipped_steps(r.engine) == 1 && ds_engine_global_steps(r.engine) == 3);
  CHECK(!ds_engine_was_step_applied(r.engine));
  CHECK(ds_engine_get_lr(r.engine) == lr2);               /* the schedule waited */
  CHECK_OK(tiny_micro(r.engine, 12, 4, NULL, &err), err); /* and on it goes */
  CHECK(ds_engine_was_step_applied(r.engine) && isfinite(ds_engine_get_global_grad_norm(r.engine)));
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  for (int i = 0; i < N; i++) CHECK(isfinite(after[i]));
  tiny_close(&r);
}

/* The same through train_batch, where the loss itself is looked at; the loader goes on. */
static void test_nonfinite_batch(void) {
  ds_error err;
  tiny_run r = {0};
  float before[N], after[N], loss;
  r.self.poison_at = 5; /* the first micro batch of the third step */
  CHECK_OK(tiny_open(&r,
                     "{" TINY_BACKEND ", \"train_batch_size\": 8, "
                     "\"gradient_accumulation_steps\": 2" ADAM("\"lr\": 0.05") "}",
                     NULL, true, &err),
           err);
  for (int i = 0; i < 2; i++) CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, before, &err), err);
  CHECK_FAILS(ds_engine_train_batch(r.engine, &loss, &err), DS_ERR_NUMERIC, err,
              "step 3: the loss is nan; the first parameter with a non-finite gradient is \"w\"");
  CHECK(isnan(loss));
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  CHECK(memcmp(before, after, sizeof before) == 0);
  CHECK(ds_engine_skipped_steps(r.engine) == 1 && ds_engine_global_steps(r.engine) == 3);
  CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK(isfinite(loss) && ds_engine_was_step_applied(r.engine));
  tiny_close(&r);

  /* Without the check the numbers are taken as they are. */
  r.self.poison_at = 1;
  CHECK_OK(tiny_open(&r,
                     "{" TINY_BACKEND ", \"train_batch_size\": 8, \"bf16\": {\"enabled\": true, "
                     "\"check_grad_overflow\": false}" ADAM("\"lr\": 0.05") "}",
                     NULL, true, &err),
           err);
  CHECK_OK(ds_engine_train_batch(r.engine, &loss, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, after, &err), err);
  CHECK(isnan(loss) && isnan(after[0]));
  tiny_close(&r);
}

/* ---- the order of calls, and parameters that take no part */

static void test_calls(void) {
  ds_error err;
  tiny_run r = {0};
  ds_batch batch = tiny_batch(0, 4);
  ds_value *loss, *second;
  float x[N], g[N];
  r.self.with_unused = true;
  CHECK_OK(tiny_open(&r, CONFIG(ADAM("\"lr\": 0.05")), NULL, false, &err), err);
  ds_engine *e = r.engine;
  CHECK(isnan(ds_engine_get_global_grad_norm(e)) && ds_engine_loss_scale(e) == 1);
  CHECK_FAILS(ds_engine_step(e, &err), DS_ERR_STATE, err, "no backward");
  CHECK_FAILS(ds_engine_train_batch(e, NULL, &err), DS_ERR_STATE, err, "training_data");
  CHECK_OK(ds_engine_forward(e, &batch, &loss, &err), err);
  CHECK_OK(ds_engine_backward(e, loss, &err), err);
  CHECK_FAILS(ds_engine_backward(e, loss, &err), DS_ERR_STATE, err, "no forward");
  CHECK_OK(ds_engine_read_grad(e, r.self.unused, x, 3, &err), err);
  CHECK(x[0] == 0 && x[1] == 0 && x[2] == 0);
  CHECK_OK(ds_engine_read_grad(e, r.self.w, g, TINY_OUT * TINY_IN, &err), err);
  CHECK(g[0] != 0);
  CHECK_OK(ds_engine_step(e, &err), err);
  CHECK_OK(ds_engine_read_param(e, r.self.unused, x, 3, &err), err);
  CHECK(x[0] == 1 && x[1] == 1 && x[2] == 1);

  /* Two forwards on one tape, a loss made of both. */
  ds_batch later = tiny_batch(4, 4), both = tiny_batch(0, 8);
  float sum[TINY_OUT * TINY_IN];
  CHECK_OK(ds_engine_forward(e, &both, &loss, &err), err);
  CHECK_OK(ds_engine_backward(e, loss, &err), err);
  CHECK_OK(ds_engine_read_grad(e, r.self.w, g, TINY_OUT * TINY_IN, &err), err);
  CHECK_OK(ds_engine_zero_grad(e, &err), err);
  CHECK_OK(ds_engine_forward(e, &batch, &loss, &err), err);
  CHECK_OK(ds_engine_forward(e, &later, &second, &err), err);
  ds_ctx *ctx = ds_engine_ctx(e);
  CHECK_OK(ds_engine_backward(e, ds_scale(ctx, ds_add(ctx, loss, second), 0.5), &err), err);
  CHECK_OK(ds_engine_read_grad(e, r.self.w, sum, TINY_OUT * TINY_IN, &err), err);
  for (int i = 0; i < TINY_OUT * TINY_IN; i++) CHECK_NEAR(sum[i], g[i], 1e-5);
  CHECK_OK(ds_engine_step(e, &err), err);

  ds_engine_train(e, false);
  float a, b;
  CHECK_OK(ds_engine_forward(e, &batch, &loss, &err), err);
  CHECK_OK(ds_engine_loss(e, loss, &a, &err), err);
  CHECK_FAILS(ds_engine_backward(e, loss, &err), DS_ERR_STATE, err, "evaluates");
  CHECK_OK(ds_engine_forward(e, &batch, &loss, &err), err);
  CHECK_OK(ds_engine_loss(e, loss, &b, &err), err);
  CHECK(a == b);
  ds_engine_train(e, true);
  CHECK_OK(tiny_micro(e, 0, 4, NULL, &err), err);

  /* Writing parameters. */
  const float w[TINY_OUT * TINY_IN] = {1, 2, 3, 4, 5, 6, 7, 8};
  CHECK_OK(ds_engine_write_param(e, r.self.w, w, TINY_OUT * TINY_IN, &err), err);
  CHECK_OK(ds_engine_read_param(e, r.self.w, g, TINY_OUT * TINY_IN, &err), err);
  CHECK(memcmp(w, g, sizeof w) == 0);
  CHECK_FAILS(ds_engine_read_param(e, r.self.w, g, 3, &err), DS_ERR_INVALID, err, "8 elements");
  CHECK_FAILS(ds_engine_read_param(e, 9, g, 3, &err), DS_ERR_INVALID, err, "parameter 9");

  ds_batch none = {.n = 0};
  CHECK_FAILS(ds_engine_forward(e, &none, &loss, &err), DS_ERR_INVALID, err, "needs an input");
  CHECK(loss == NULL);
  CHECK_OK(tiny_micro(e, 0, 4, NULL, &err), err);
  ds_backend_stats stats = {.size = sizeof stats};
  CHECK_OK(ds_engine_backend_stats(e, &stats, &err), err);
  CHECK(stats.ops > 0 && strcmp(stats.backend, "reference") == 0);
  uint64_t calls = 0;
  for (size_t i = 0; i < stats.n_per_op; i++)
    if (strcmp(stats.per_op[i].name, "gemm") == 0) calls = stats.per_op[i].calls;
  CHECK(calls > 0 && calls < stats.ops);
  tiny_close(&r);
}

int main(void) {
  test_adam();
  test_accumulation();
  test_groups();
  test_host_optimizers();
  test_nonfinite(
      CONFIG(ADAM("\"lr\": 0.05") ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": "
                                  "{\"warmup_num_steps\": 10, \"warmup_type\": \"linear\"}}"));
  test_nonfinite(
      CONFIG(ADAM("\"lr\": 0.05") ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": "
                                  "{\"warmup_num_steps\": 10, \"warmup_type\": \"linear\"}}, "
                                  "\"bf16\": {\"enabled\": true}"));
  test_nonfinite_batch();
  test_calls();
  return TEST_RESULT();
}
