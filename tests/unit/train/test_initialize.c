/* ds_initialize: every argument, and every way to misuse it. */
#include "tiny.h"

#define ADAM   ", \"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 0.01}}"
#define CONFIG "{" TINY_BACKEND ", \"train_batch_size\": 8" ADAM "}"

typedef struct said {
  int messages;
  char text[8192];
} said;

static void listen(void *ctx, ds_log_level level, const char *message) {
  said *s = ctx;
  (void)level;
  s->messages++;
  size_t n = strlen(s->text);
  snprintf(s->text + n, sizeof s->text - n, "%s\n", message);
}

static ds_status initialize(const ds_initialize_args *a, ds_engine **e, ds_error *err) {
  return ds_initialize(a, e, NULL, NULL, NULL, err);
}

static void test_arguments(ds_model *model, ds_dataset *data) {
  ds_error err;
  ds_engine *e = NULL;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  ds_args from_args = DS_ARGS_INIT;
  said s = {0};
  a.log = listen;
  a.log_ctx = &s;
  CHECK_FAILS(initialize(NULL, &e, &err), DS_ERR_INVALID, err, "DS_INITIALIZE_ARGS_INIT");
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "initialize requires a model");
  a.model = model;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "requires a config");
  a.config = CONFIG;
  a.args = &from_args;
  from_args.deepspeed_config = CONFIG;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "both given");
  a.config = NULL;
  from_args.deepscale_config = CONFIG;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "deprecated name");
  from_args.deepspeed_config = NULL;
  s.text[0] = '\0';
  CHECK_OK(initialize(&a, &e, &err), err); /* the deprecated name alone works, with a warning */
  CHECK(strstr(s.text, "deepscale_config is deprecated") != NULL);
  ds_engine_destroy(e);
  a.args = NULL;
  a.config_params = CONFIG; /* the old name of config */
  CHECK_OK(initialize(&a, &e, &err), err);
  ds_engine_destroy(e);
  a.config = "{" TINY_BACKEND ", \"train_batch_size\": 4}"; /* and config wins */
  CHECK_OK(initialize(&a, &e, &err), err);
  CHECK(ds_engine_train_batch_size(e) == 4);
  CHECK_FAILS(ds_engine_step(e, &err), DS_ERR_STATE, err, "no optimizer");
  CHECK(isnan(ds_engine_get_lr(e)));
  ds_engine_destroy(e);
  a.config_params = NULL;
  a.config = "{" TINY_BACKEND ", \"train_batch_siz\": 4, \"train_batch_size\": 0}";
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "did you mean");
  CHECK(strstr(err.message, "train_batch_size: 0") != NULL && e == NULL);
  a.config = "{\"backend\": \"nonesuch\", \"train_batch_size\": 4}";
  ds_status status = initialize(&a, &e, &err);
  CHECK(status != DS_OK && strstr(err.message, "nonesuch") != NULL);
  a.config = CONFIG;
  a.training_data = data;
  a.dist_init_required = 0;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_STATE, err, "dist_init_required");
  a.dist_init_required = 1;
  a.distributed_port = 99999;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "distributed_port");
  a.distributed_port = 0;
  CHECK_OK(initialize(&a, &e, &err), err);
  ds_engine_destroy(e);
}

/* ---- the environment and mpu */

static ds_status groups(void *ctx, int *rank, int *size, ds_error *err) {
  const int *world = ctx;
  (void)err;
  *rank = 0;
  *size = *world;
  return DS_OK;
}

static ds_status alone(void *ctx, int *rank, int *size, ds_error *err) {
  (void)ctx, (void)err;
  *rank = 0;
  *size = 1;
  return DS_OK;
}

static ds_status broken(void *ctx, int *rank, int *size, ds_error *err) {
  (void)ctx, (void)rank, (void)size;
  strcpy(err->message, "no groups today");
  return DS_ERR_INTERNAL;
}

static void test_world(ds_model *model) {
  ds_error err;
  ds_engine *e;
  int one = 1, two = 2;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  ds_args args = DS_ARGS_INIT;
  ds_mpu mpu = {sizeof mpu, &one, groups, alone};
  a.model = model;
  a.config = CONFIG;
  a.mpu = &mpu;
  a.dist_init_required = 0; /* the host app made the groups: that is initialized */
  CHECK_OK(initialize(&a, &e, &err), err);
  ds_engine_destroy(e);
  mpu.ctx = &two;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "data-parallel rank 0 of 2");
  mpu.model_parallel = groups;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err,
              "model-parallel rank 0 of 2, but this is rank 0 of 1");
  mpu.model_parallel = broken;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INTERNAL, err, "no groups today");
  a.mpu = NULL;
  a.dist_init_required = -1;

  a.args = &args;
  args.local_rank = 0;
  setenv("LOCAL_RANK", "1", 1);
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "must agree");
  setenv("LOCAL_RANK", "one", 1);
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "LOCAL_RANK=one");
  setenv("LOCAL_RANK", "0", 1);
  CHECK_OK(initialize(&a, &e, &err), err);
  ds_engine_destroy(e);
  unsetenv("LOCAL_RANK");
  setenv("WORLD_SIZE", "2", 1);
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "no RANK");
  setenv("RANK", "2", 1);
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "not below");
  setenv("RANK", "1", 1);
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_UNSUPPORTED, err, "WORLD_SIZE is 2");
  unsetenv("WORLD_SIZE");
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_INVALID, err, "no WORLD_SIZE");
  unsetenv("RANK");
}

/* ---- the four results, schedules, batches */

static double ladder(void *self, int64_t update, double base) {
  (void)self;
  return base * (double)(update + 1);
}
static const ds_lr_scheduler_vtable ladder_vtable = {sizeof ladder_vtable, "ladder", ladder, NULL};

static ds_status make_ladder(void *ctx, const ds_optimizer *o, ds_lr_scheduler **out,
                             ds_error *err) {
  CHECK(ds_optimizer_groups(o) == 1);
  return ds_lr_scheduler_create(&ladder_vtable, ctx, out, err);
}

static ds_status collate(void *ctx, const ds_batch *samples, int n, ds_batch *batch,
                         ds_error *err) {
  static float x[8][TINY_IN], t[8][TINY_OUT];
  (void)err;
  *(int *)ctx += n;
  for (int i = 0; i < n; i++) {
    memcpy(x[i], samples[i].tensors[0].data, sizeof x[i]);
    memcpy(t[i], samples[i].tensors[1].data, sizeof t[i]);
  }
  batch->n = 2;
  batch->tensors[0] = (ds_host_tensor){DS_F32, 2, {n, TINY_IN}, x};
  batch->tensors[1] = (ds_host_tensor){DS_F32, 2, {n, TINY_OUT}, t};
  return DS_OK;
}

static void test_results(ds_model *model, ds_dataset *data) {
  ds_error err;
  ds_engine *e;
  ds_optimizer *o;
  ds_dataloader *l;
  ds_lr_scheduler *s;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  int collated = 0;
  float own, stacked;
  a.model = model;
  a.config =
      "{" TINY_BACKEND ", \"train_batch_size\": 8, \"gradient_accumulation_steps\": 2" ADAM "}";
  CHECK_OK(ds_initialize(&a, &e, &o, &l, &s, &err), err);
  CHECK(e && o && !l && !s);
  ds_engine_destroy(e);
  a.training_data = data;
  CHECK_OK(ds_initialize(&a, &e, &o, &l, &s, &err), err);
  CHECK(l && ds_dataloader_length(l) == TINY_SAMPLES / 4); /* the derived micro batch */
  CHECK_OK(ds_engine_train_batch(e, &stacked, &err), err);
  CHECK(ds_engine_micro_steps(e) == 2 && ds_engine_global_samples(e) == 8);
  ds_engine_destroy(e);
  a.collate_fn = collate;
  a.collate_ctx = &collated;
  a.lr_scheduler_fn = make_ladder;
  CHECK_OK(ds_initialize(&a, &e, &o, &l, &s, &err), err);
  CHECK(s != NULL);
  CHECK_NEAR(ds_engine_get_lr(e), 0.01, 1e-15);
  CHECK_OK(ds_engine_train_batch(e, &own, &err), err);
  CHECK(own == stacked && collated == 8); /* the same seed, the same samples */
  CHECK_NEAR(ds_engine_get_lr(e), 0.02, 1e-15);
  CHECK_OK(ds_engine_train_batch(e, NULL, &err), err);
  CHECK_NEAR(ds_optimizer_lr(o, 0), 0.03, 1e-15);
  ds_optimizer_set_lr(o, 0, 0.5); /* holds for the next update, then the schedule goes on */
  CHECK_NEAR(ds_engine_get_lr(e), 0.5, 0);
  CHECK_OK(ds_engine_train_batch(e, NULL, &err), err);
  CHECK_NEAR(ds_engine_get_lr(e), 0.04, 1e-15);
  ds_engine_destroy(e);
  a.lr_scheduler_fn = NULL;
  a.config = "{" TINY_BACKEND ", \"train_batch_size\": 8, \"scheduler\": {\"type\": \"WarmupLR\"}}";
  CHECK_FAILS(ds_initialize(&a, &e, &o, &l, &s, &err), DS_ERR_INVALID, err, "without an optimizer");
}

/* What the engine says, and when. */
static void test_print(ds_model *model, ds_dataset *data) {
  ds_error err;
  ds_engine *e;
  said s = {0};
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.model = model;
  a.training_data = data;
  a.log = listen;
  a.log_ctx = &s;
  a.config = "{" TINY_BACKEND ", \"train_batch_size\": 8, \"steps_per_print\": 2" ADAM "}";
  CHECK_OK(initialize(&a, &e, &err), err);
  CHECK(strstr(s.text, "batch 8 = 8 x 1 x 1") != NULL);
  s = (said){0};
  for (int i = 0; i < 5; i++) CHECK_OK(ds_engine_train_batch(e, NULL, &err), err);
  CHECK(s.messages == 2 && strstr(s.text, "step=2, ") && strstr(s.text, "step=4, "));
  ds_engine_destroy(e);
}

/* OneCycle moves Adam's beta1, and is refused where there is none to move. */
static ds_status no_update(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice, double lr,
                           double grad_scale, int64_t step, ds_error *err) {
  (void)self, (void)ctx, (void)slice, (void)lr, (void)grad_scale, (void)step, (void)err;
  return DS_OK;
}
static const ds_optimizer_vtable own_vtable = {sizeof own_vtable, "own", 0, NULL, no_update, NULL};

static ds_status make_own(void *ctx, const ds_params *params, ds_optimizer **out, ds_error *err) {
  (void)params;
  return ds_optimizer_create(&own_vtable, ctx, 0.1, out, err);
}

static void test_one_cycle(ds_model *model) {
  ds_error err;
  ds_engine *e;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.model = model;
  a.config = "{" TINY_BACKEND ", \"train_batch_size\": 4" ADAM ", \"scheduler\": {\"type\": "
             "\"OneCycle\", \"params\": {\"cycle_min_lr\": 0.1, \"cycle_max_lr\": 0.5, "
             "\"cycle_first_step_size\": 4}}}";
  CHECK_OK(initialize(&a, &e, &err), err);
  CHECK_NEAR(ds_engine_get_lr(e), 0.1, 1e-15);
  CHECK_OK(tiny_micro(e, 0, 4, NULL, &err), err);
  CHECK_NEAR(ds_engine_get_lr(e), 0.2, 1e-15);
  ds_engine_destroy(e);
  a.optimizer_fn = make_own;
  CHECK_FAILS(initialize(&a, &e, &err), DS_ERR_UNSUPPORTED, err, "cycle_momentum");
}

int main(void) {
  ds_error err;
  tiny self = {0};
  ds_model *model = NULL;
  ds_dataset *data = NULL;
  tiny_make_data();
  CHECK_OK(ds_model_create(&tiny_vtable, &self, &model, &err), err);
  CHECK_OK(ds_dataset_create(&tiny_dataset, NULL, &data, &err), err);
  test_arguments(model, data);
  test_world(model);
  test_results(model, data);
  test_print(model, data);
  test_one_cycle(model);
  ds_dataset_destroy(data);
  ds_model_destroy(model);
  return TEST_RESULT();
}
