/* test_disagree.c - ranks that were not started alike are told at the start what differs, all of them
 * with the same words; and what one rank alone fails at, the others hear of.
 *
 * usage: mpirun -n 3 test_disagree PLUGIN_FOLDER
 */
#include "unit/train/tiny.h"

#include "parallel/agree.h"

enum { RANKS = 3 };

static const char *plugins;
static int rank;

/* ---- models that are nearly the tiny one */

static ds_status declare_wide(void *self, ds_params *params, ds_error *err) {
  tiny *t = self;
  (void)err;
  t->w = ds_params_add(params, "w", 2, (int64_t[]){TINY_OUT, TINY_IN + 1}, DS_INIT_NORMAL, 0.5);
  t->b = ds_params_add(params, "b", 1, (int64_t[]){TINY_OUT}, DS_INIT_ZEROS, 0);
  return DS_OK;
}

static ds_status declare_turned(void *self, ds_params *params, ds_error *err) {
  tiny *t = self;
  (void)err;
  t->b = ds_params_add(params, "b", 1, (int64_t[]){TINY_OUT}, DS_INIT_ZEROS, 0);
  t->w = ds_params_add(params, "w", 2, (int64_t[]){TINY_OUT, TINY_IN}, DS_INIT_NORMAL, 0.5);
  return DS_OK;
}

static ds_status declare_nothing(void *self, ds_params *params, ds_error *err) {
  (void)self, (void)params, (void)err;
  return DS_OK;
}

static char *other_config(void *self) {
  (void)self;
  return strdup("{\"model_type\": \"tiny\", \"theta\": 500000, \"dtype\": \"float16\"}");
}

static int64_t shorter(void *self) {
  (void)self;
  return TINY_SAMPLES - 1;
}

static ds_status no_optimizer(void *ctx, const ds_params *params, ds_optimizer **out,
                              ds_error *err) {
  (void)ctx, (void)params, (void)out;
  snprintf(err->message, sizeof err->message, "the optimizer of this rank is broken");
  return err->status = DS_ERR_IO;
}

/* ---- one rank's start */

#define ADAM  "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.05}}"
#define PLAIN "\"train_micro_batch_size_per_gpu\": 4, " ADAM

typedef struct way {
  const char *config; /* but its backend */
  ds_status (*declare)(void *self, ds_params *params, ds_error *err);
  char *(*config_json)(void *self);
  int64_t (*length)(void *self);
  ds_optimizer_fn optimizer_fn;
  ds_param_group *groups;
  int n_groups;
  uint64_t seed;
  bool unused, no_data;
  const char *options; /* of the backend */
} way;

/* Whether ds_initialize succeeded; else err. */
static bool begin(const way *y, ds_error *err) {
  char config[1024];
  tiny_run r = {.self = {.with_unused = y->unused}};
  ds_model_vtable model = tiny_vtable;
  ds_dataset_vtable data = tiny_dataset;
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  if (y->declare) model.declare = y->declare;
  if (y->config_json) model.config_json = y->config_json;
  if (y->length) data.length = y->length;
  tiny_make_data();
  CHECK_OK(ds_model_create(&model, &r.self, &r.model, err), *err);
  if (!y->no_data) CHECK_OK(ds_dataset_create(&data, NULL, &r.data, err), *err);
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\", \"comm_timeout\": 60, "
           "\"options\": %s}, %s}",
           plugins, y->options ? y->options : "{}", y->config ? y->config : PLAIN);
  a.model = r.model;
  a.config = config;
  a.training_data = r.data;
  a.optimizer_fn = y->optimizer_fn;
  a.model_parameters = y->groups;
  a.n_model_parameters = y->n_groups;
  a.seed = 7 + y->seed;
  ds_status status = ds_initialize(&a, &r.engine, &r.optimizer, NULL, NULL, err);
  tiny_close(&r);
  return status == DS_OK;
}

/* Rank `who` begins in another way: all hear `words`, which don't depend on the rank. */
static void differs(int line, int who, const way *other, const char *words) {
  ds_error err = {DS_OK, ""};
  const way plain = {0};
  bool wrong = begin(rank == who ? other : &plain, &err);
  wrong = wrong || err.status != DS_ERR_INVALID || !strstr(err.message, words);
  if (wrong) fprintf(stderr, "line %d, rank %d: %s\n", line, rank, err.message);
  CHECK(!wrong);
}
#define DIFFERS(who, words, ...) differs(__LINE__, who, &(const way){__VA_ARGS__}, words)

static void test_config(void) {
  DIFFERS(2, "\"train_batch_size\" is 12 on rank 0 but 24 on rank 2; ",
          .config = "\"train_micro_batch_size_per_gpu\": 8, " ADAM);
  DIFFERS(0, "\"train_batch_size\" is 24 on rank 0 but 12 on rank 1; ",
          .config = "\"train_micro_batch_size_per_gpu\": 8, " ADAM);
  DIFFERS(1, "\"train_micro_batch_size_per_gpu\" is 4 on rank 0 but 2 on rank 1; ",
          .config = "\"train_micro_batch_size_per_gpu\": 2, \"train_batch_size\": 12, " ADAM);
  DIFFERS(1, "\"gradient_clipping\" is 1 on rank 0 but 0.5 on rank 1; ",
          .config = PLAIN ", \"gradient_clipping\": 0.5");
  DIFFERS(2, "\"optimizer.params.lr\" is 0.05 on rank 0 but 0.1 on rank 2; ",
          .config = "\"train_micro_batch_size_per_gpu\": 4, \"optimizer\": {\"type\": \"AdamW\", "
                    "\"params\": {\"lr\": 0.1}}");
  DIFFERS(2, "\"bf16.enabled\" is false on rank 0 but true on rank 2; ",
          .config = PLAIN ", \"bf16\": {\"enabled\": true}");
  DIFFERS(2, "\"zero_optimization.overlap_comm\" is not there on rank 0 but true on rank 2; ",
          .config = PLAIN ", \"zero_optimization\": {\"overlap_comm\": true}");
  DIFFERS(1, "\"scheduler.type\" is not there on rank 0 but \"WarmupLR\" on rank 1; ",
          .config = PLAIN ", \"scheduler\": {\"type\": \"WarmupLR\", \"params\": "
                          "{\"warmup_max_lr\": 0.05}}");
}

static void test_model(void) {
  DIFFERS(
      2,
      "\"parameter w\" is [2,4], number 1 of the model, in group 0 on rank 0 but [2,5], number 1 "
      "of the model, in group 0 on rank 2; ",
      .declare = declare_wide);
  DIFFERS(
      1,
      "\"parameter w\" is [2,4], number 1 of the model, in group 0 on rank 0 but [2,4], number 2",
      .declare = declare_turned);
  DIFFERS(
      1,
      "\"parameter unused\" is not there on rank 0 but [3], number 2 of the model, in group 0 on "
      "rank 1; ",
      .unused = true);
  DIFFERS(0,
          "\"parameter unused\" is [3], number 2 of the model, in group 0 on rank 0 but not there "
          "on rank 1; ",
          .unused = true);
  DIFFERS(2, "\"model.theta\" is not there on rank 0 but 500000 on rank 2; ",
          .config_json = other_config);
}

static void test_rest(void) {
  int w_only[] = {0};
  ds_param_group group = DS_PARAM_GROUP_INIT;
  group.indices = w_only;
  group.n_indices = 1;
  DIFFERS(2, "\"length of training_data\" is 64 on rank 0 but 63 on rank 2; ", .length = shorter);
  DIFFERS(1, "\"training_data\" is given on rank 0 but none on rank 1; ", .no_data = true);
  DIFFERS(1, "\"seed\" is 7 on rank 0 but 8 on rank 1; ", .seed = 1);
  DIFFERS(
      1,
      "\"parameter b\" is [2], number 2 of the model, in group 0 on rank 0 but [2], number 2 of "
      "the model, frozen on rank 1; ",
      .groups = &group, .n_groups = 1);
}

/* ---- what may differ */

static void test_alike(void) {
  ds_error err = {DS_OK, ""};
  way y = {
      .no_data = true, .seed = (uint64_t)rank, .options = rank == 1 ? "{\"threads\": 1}" : "{}"};
  if (rank == 0) y.config = PLAIN ", \"steps_per_print\": 10, \"aio\": {\"queue_depth\": 16}";
  if (!begin(&y, &err)) fprintf(stderr, "%s\n", err.message);
  CHECK(err.status == DS_OK);
}

/* ---- what one rank fails at alone */

static void fails(int who, const way *other, ds_status status, const char *words) {
  ds_error err = {DS_OK, ""};
  const way plain = {0};
  char told[64];
  snprintf(told, sizeof told, "ds_initialize failed on rank %d: ", who);
  bool right = !begin(rank == who ? other : &plain, &err) && err.status == status &&
               strstr(err.message, words) && !strstr(err.message, told) == (rank == who);
  if (!right) fprintf(stderr, "rank %d: status %d: %s\n", rank, (int)err.status, err.message);
  CHECK(right);
}
#define FAILS(who, status, words, ...) fails(who, &(const way){__VA_ARGS__}, status, words)

static void test_alone(void) {
  FAILS(2, DS_ERR_INVALID, "did you mean \"gradient_clipping\"",
        .config = PLAIN ", \"gradient_cliping\": 1");
  FAILS(0, DS_ERR_INVALID, "gradient_accumulation_steps = 7 / 4 / 3 = 0",
        .config = "\"train_micro_batch_size_per_gpu\": 4, \"train_batch_size\": 7, " ADAM);
  FAILS(1, DS_ERR_INVALID, "declares no parameters", .declare = declare_nothing);
  FAILS(1, DS_ERR_IO, "the optimizer of this rank is broken", .optimizer_fn = no_optimizer);
}

/* ---- other code */

static void test_code(void) {
  ds_error err = {DS_OK, ""};
  ds_backend_config config;
  ds_backend *b = NULL;
  ds_world w = {0};
  ds_agree facts = {0};
  const ds_world_args args = {.local_rank = -1, .distributed_port = -1, .dist_init_required = -1};
  const ds_logger silent = {NULL, NULL};
  char text[512];
  cJSON *section = NULL;
  snprintf(text, sizeof text, "{\"name\": \"cpu\", \"plugin_path\": \"%s\"}", plugins);
  CHECK_OK(ds_json_parse(text, strlen(text), 0, "config", &section, &err), err);
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &silent, &b, &err), err);
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.size == RANKS);
  ds_agree_add(&facts, "dscore version", "%s", rank == 1 ? "9.9" : "0.1");
  CHECK_FAILS(ds_agree_check(&facts, &w, &err), DS_ERR_INVALID, err,
              "\"dscore version\" is 0.1 on rank 0 but 9.9 on rank 1; ");
  ds_agree_finish(&facts);
  /* It was no failure of the world, which goes on. */
  ds_agree_add(&facts, "dscore version", "0.1");
  CHECK_OK(ds_agree_check(&facts, &w, &err), err);
  ds_agree_finish(&facts);
  ds_world_finish(&w);
  ds_backend_close(b);
  ds_backend_config_finish(&config);
  cJSON_Delete(section);
}

int main(int argc, char **argv) {
  const char *text = getenv("OMPI_COMM_WORLD_RANK");
  if (argc < 2 || !text) return 2;
  plugins = argv[1];
  rank = atoi(text);
  test_config();
  test_model();
  test_rest();
  test_alike();
  test_alone();
  test_code();
  return TEST_RESULT();
}
