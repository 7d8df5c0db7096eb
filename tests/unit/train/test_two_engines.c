/* Two engines in one process share nothing: interleaved, and in two threads at once, each gives
 * what it gives alone. */
#include "test.h"

#include "ds.h"

#include <pthread.h>

enum { STEPS = 5 };

static const char model_config[] =
    "{\"model_type\": \"gpt2\", \"vocab_size\": 64, \"n_positions\": 16, \"n_embd\": 16,"
    " \"n_layer\": 2, \"n_head\": 2}";

static const char *const configs[2] = {
    "{\"train_batch_size\": 4, \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.01}}}",
    "{\"train_batch_size\": 2, \"gradient_accumulation_steps\": 2, \"bf16\": {\"enabled\": true},"
    " \"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 0.003}},"
    " \"backend\": {\"name\": \"reference\"}}"};

typedef struct run {
  ds_model *model;
  ds_dataset *data;
  ds_engine *engine;
  float losses[STEPS];
  ds_error err;
  ds_status status;
} run;

static void open_run(run *r, int which) {
  int32_t ids[16 * 20 + 1];
  for (int i = 0; i <= 16 * 20; i++) ids[i] = (i * i + 3 * i + which) % 64;
  ds_initialize_args args = DS_INITIALIZE_ARGS_INIT;
  memset(r, 0, sizeof *r);
  CHECK_OK(ds_model_from_config(model_config, &r->model, &r->err), r->err);
  CHECK_OK(ds_dataset_tokens(ids, 16 * 20 + 1, 16, 64, &r->data, &r->err), r->err);
  args.model = r->model;
  args.training_data = r->data;
  args.config = configs[which];
  args.seed = (uint64_t)which;
  CHECK_OK(ds_initialize(&args, &r->engine, NULL, NULL, NULL, &r->err), r->err);
}

static void step(run *r, int i) {
  if (r->status == DS_OK) r->status = ds_engine_train_batch(r->engine, &r->losses[i], &r->err);
}

static void *all_steps(void *arg) {
  for (int i = 0; i < STEPS; i++) step(arg, i);
  return NULL;
}

static void close_run(run *r) {
  ds_engine_destroy(r->engine);
  ds_dataset_destroy(r->data);
  ds_model_destroy(r->model);
}

/* Both, by `mode`: one after the other, in turns, or in two threads. */
static void run_both(int mode, float losses[2][STEPS]) {
  static run r[2];
  pthread_t threads[2];
  for (int k = 0; k < 2; k++) open_run(&r[k], k);
  if (mode == 0) {
    for (int k = 0; k < 2; k++) all_steps(&r[k]);
  } else if (mode == 1) {
    for (int i = 0; i < STEPS; i++)
      for (int k = 0; k < 2; k++) step(&r[k], i);
  } else {
    for (int k = 0; k < 2; k++) CHECK(pthread_create(&threads[k], NULL, all_steps, &r[k]) == 0);
    for (int k = 0; k < 2; k++) CHECK(pthread_join(threads[k], NULL) == 0);
  }
  for (int k = 0; k < 2; k++) {
    CHECK_OK(r[k].status, r[k].err);
    memcpy(losses[k], r[k].losses, sizeof r[k].losses);
    close_run(&r[k]);
  }
}

int main(void) {
  float alone[2][STEPS], turns[2][STEPS], threads[2][STEPS];
  run_both(0, alone);
  run_both(1, turns);
  run_both(2, threads);
  CHECK(memcmp(alone, turns, sizeof alone) == 0);
  CHECK(memcmp(alone, threads, sizeof alone) == 0);
  CHECK(alone[0][0] != alone[1][0] && alone[0][STEPS - 1] < alone[0][0]);
  return TEST_RESULT();
}
