/* test_train.c - data-parallel training: N ranks give the losses and weights of one process with
 * the same global batch, and checkpoints that any number of ranks can go on from.
 *
 * usage: [mpirun -n N] test_train PLUGIN_FOLDER N FOLDER [BACKEND]
 * The reference backend sees no launcher: it is the one process to compare with, in every rank.
 */
#include "unit/train/tiny.h"

#include "base/file.h"

enum { WEIGHTS = TINY_OUT * TINY_IN + TINY_OUT, STEPS = 12 };

static int ranks;
static const char *plugins, *folder, *backend = "cpu";

#define OPTIMIZER                                                                                  \
  "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.05}}, \"gradient_clipping\": 0.5"

static char *config(bool one_process, int accumulation, const char *more) {
  static char text[2][1024];
  char *p = text[one_process];
  if (one_process)
    snprintf(p, sizeof text[0],
             "{\"backend\": \"reference\", \"train_batch_size\": 16, " OPTIMIZER "%s}", more);
  else
    snprintf(p, sizeof text[0],
             "{\"backend\": {\"name\": \"%s\", \"plugin_path\": \"%s\"}, "
             "\"train_batch_size\": 16, \"gradient_accumulation_steps\": %d, " OPTIMIZER "%s}",
             backend, plugins, accumulation, more);
  return p;
}

static ds_status open_one(tiny_run *r, bool one_process, int accumulation, ds_error *err) {
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  return tiny_open(r, config(one_process, accumulation, ""), &a, true, err);
}

static void test_same(int accumulation) {
  ds_error err;
  tiny_run one = {0}, many = {0};
  float a, b, wa[WEIGHTS], wb[WEIGHTS];
  CHECK_OK(open_one(&one, true, 1, &err), err);
  CHECK_OK(open_one(&many, false, accumulation, &err), err);
  if (!one.engine || !many.engine) return;
  CHECK(ds_engine_train_micro_batch_size_per_gpu(many.engine) == 16 / ranks / accumulation);
  for (int i = 0; i < STEPS; i++) {
    CHECK_OK(ds_engine_train_batch(one.engine, &a, &err), err);
    CHECK_OK(ds_engine_train_batch(many.engine, &b, &err), err);
    CHECK_NEAR(a, b, 1e-5);
    CHECK_NEAR(ds_engine_get_global_grad_norm(one.engine),
               ds_engine_get_global_grad_norm(many.engine), 1e-5);
  }
  CHECK_OK(tiny_weights(one.engine, &one.self, wa, &err), err);
  CHECK_OK(tiny_weights(many.engine, &many.self, wb, &err), err);
  for (int i = 0; i < WEIGHTS; i++) CHECK_NEAR(wa[i], wb[i], 1e-5);
  CHECK(ds_engine_global_samples(many.engine) == 16 * STEPS);
  tiny_close(&one);
  tiny_close(&many);
}

/* Different seeds by rank: rank 0's weights are everybody's. */
static void test_broadcast(void) {
  ds_error err;
  tiny_run r = {0}, zero = {0};
  float w[WEIGHTS], w0[WEIGHTS];
  const char *launched = getenv("OMPI_COMM_WORLD_RANK");
  const char *text = launched ? launched : getenv("RANK");
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.seed = 100;
  CHECK_OK(tiny_open(&zero, config(true, 1, ""), &a, false, &err), err);
  a.seed = 100 + (uint64_t)(text ? atoi(text) : 0);
  CHECK_OK(tiny_open(&r, config(false, 1, ""), &a, false, &err), err);
  CHECK_OK(tiny_weights(zero.engine, &zero.self, w0, &err), err);
  CHECK_OK(tiny_weights(r.engine, &r.self, w, &err), err);
  CHECK(memcmp(w, w0, sizeof w) == 0);
  tiny_close(&zero);
  tiny_close(&r);
}

static void test_checkpoint(void) {
  ds_error err;
  tiny_run many = {0}, again = {0}, one = {0};
  float straight[STEPS], resumed[STEPS], alone;
  char *client = NULL;
  CHECK_OK(open_one(&many, false, 1, &err), err);
  for (int i = 0; i < STEPS / 2; i++)
    CHECK_OK(ds_engine_train_batch(many.engine, &straight[i], &err), err);
  CHECK_OK(ds_engine_save_checkpoint(many.engine, folder, NULL, "{\"a\": 1}", &err), err);
  for (int i = STEPS / 2; i < STEPS; i++)
    CHECK_OK(ds_engine_train_batch(many.engine, &straight[i], &err), err);
  CHECK_OK(open_one(&again, false, 1, &err), err);
  CHECK_OK(open_one(&one, true, 1, &err), err);
  CHECK_OK(ds_engine_load_checkpoint(again.engine, folder, NULL, &client, &err), err);
  CHECK_OK(ds_engine_load_checkpoint(one.engine, folder, NULL, NULL, &err), err);
  CHECK(client && strcmp(client, "{\"a\": 1}") == 0);
  free(client);
  for (int i = STEPS / 2; i < STEPS; i++) {
    CHECK_OK(ds_engine_train_batch(again.engine, &resumed[i], &err), err);
    CHECK_OK(ds_engine_train_batch(one.engine, &alone, &err), err);
    CHECK(resumed[i] == straight[i]);
    CHECK_NEAR(resumed[i], alone, 1e-5); /* another world size goes on just as well */
  }
  /* What only rank 0 can fail at, all ranks hear of. */
  ds_status status = ds_engine_save_checkpoint(many.engine, "/proc/nowhere", "x", NULL, &err);
  CHECK(status != DS_OK);
  tiny_close(&many);
  tiny_close(&again);
  tiny_close(&one);
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  folder = argv[3];
  if (argc > 4) backend = argv[4];
  test_same(1);
  test_same(2);
  test_broadcast();
  test_checkpoint();
  return TEST_RESULT();
}
