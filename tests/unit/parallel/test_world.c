/* The world as the environment says it, and collectives in a world of one. (Larger worlds:
 * tests/dist.) */
#include "parallel/world.h"

#include "test.h"

#include <stdlib.h>

static void environment(const char *rank, const char *size) {
  if (rank)
    setenv("RANK", rank, 1);
  else
    unsetenv("RANK");
  if (size)
    setenv("WORLD_SIZE", size, 1);
  else
    unsetenv("WORLD_SIZE");
}

static void test_environment(void) {
  static const struct {
    const char *rank, *size, *message;
    int want_rank, want_size;
  } rows[] = {{NULL, NULL, NULL, 0, 1},
              {"0", "1", NULL, 0, 1},
              {"0", NULL, NULL, 0, 1},
              {NULL, "1", NULL, 0, 1},
              {"3", "4", NULL, 3, 4},
              {"", "", NULL, 0, 1},
              {"4", "4", "not below", 0, 0},
              {"1", NULL, "no WORLD_SIZE", 0, 0},
              {NULL, "2", "no RANK", 0, 0},
              {"x", "2", "RANK=x", 0, 0},
              {"0", "0", "WORLD_SIZE=0", 0, 0},
              {"0", "-2", "WORLD_SIZE=-2", 0, 0},
              {"0", "2 ", "WORLD_SIZE=2 ", 0, 0},
              {"-1", "2", "RANK=-1", 0, 0},
              {"0", "99999999999999999999", "WORLD_SIZE=9", 0, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ds_error err;
    int rank, size;
    const char *origin;
    environment(rows[i].rank, rows[i].size);
    if (rows[i].message) {
      CHECK_FAILS(ds_world_from_environment(&rank, &size, &origin, &err), DS_ERR_INVALID, err,
                  rows[i].message);
    } else {
      CHECK_OK(ds_world_from_environment(&rank, &size, &origin, &err), err);
      CHECK(rank == rows[i].want_rank && size == rows[i].want_size && origin[0]);
    }
  }
  environment(NULL, NULL);
}

static void count_warnings(void *ctx, ds_log_level level, const char *message) {
  if (level == DS_LOG_WARN && strstr(message, "started 2 processes (PMI_SIZE)")) ++*(int *)ctx;
}

static void test_alone(void) {
  ds_error err;
  ds_logger silent = {NULL, NULL};
  ds_backend_config config;
  ds_backend *b = NULL;
  ds_world w;
  ds_world_args args = {-1, -1, -1, NULL, 0};
  float x = 3;
  cJSON *section = cJSON_CreateString("reference");
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  CHECK_OK(ds_backend_open(&config, &silent, &b, &err), err);
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.rank == 0 && w.size == 1 && w.port == 29500 && !w.group);
  CHECK_OK(ds_world_allreduce(&w, &x, 1, DS_REDUCE_SUM, &err), err);
  CHECK_OK(ds_world_broadcast(&w, &x, 1, &err), err);
  CHECK(x == 3);
  CHECK_OK(ds_world_agree(&w, DS_OK, "a test", &err), err);
  strcpy(err.message, "mine");
  CHECK_FAILS(ds_world_agree(&w, (strcpy(err.message, "mine"), DS_ERR_IO), "a test", &err),
              DS_ERR_IO, err, "");
  ds_world_finish(&w);

  int warnings = 0;
  ds_logger counting = {count_warnings, &warnings};
  setenv("PMI_SIZE", "2", 1);
  CHECK_OK(ds_world_init(&w, b, &args, &counting, &err), err);
  CHECK(w.size == 1 && warnings == 1);
  ds_world_finish(&w);
  setenv("PMI_SIZE", "1", 1);
  CHECK_OK(ds_world_init(&w, b, &args, &counting, &err), err);
  CHECK(warnings == 1);
  ds_world_finish(&w);
  unsetenv("PMI_SIZE");

  setenv("MASTER_PORT", "1234", 1);
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.port == 1234);
  ds_world_finish(&w);
  args.distributed_port = 4321; /* an explicit argument wins */
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.port == 4321);
  ds_world_finish(&w);
  setenv("MASTER_PORT", "70000", 1);
  CHECK_FAILS(ds_world_init(&w, b, &args, &silent, &err), DS_ERR_INVALID, err, "MASTER_PORT");
  unsetenv("MASTER_PORT");

  /* How long ranks wait: half an hour, the environment's minutes, the config's seconds. */
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.timeout_ms == 1800000);
  ds_world_finish(&w);
  setenv("DEEPSPEED_TIMEOUT", "2", 1);
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.timeout_ms == 120000);
  ds_world_finish(&w);
  setenv("DEEPSPEED_TIMEOUT", "soon", 1);
  CHECK_FAILS(ds_world_init(&w, b, &args, &silent, &err), DS_ERR_INVALID, err,
              "DEEPSPEED_TIMEOUT=soon");
  args.comm_timeout = 2.5;
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  CHECK(w.timeout_ms == 2500);
  ds_world_finish(&w);
  unsetenv("DEEPSPEED_TIMEOUT");

  args.dist_init_required = 2;
  CHECK_FAILS(ds_world_init(&w, b, &args, &silent, &err), DS_ERR_INVALID, err, "-1, 0 or 1");
  args.dist_init_required = 0; /* (with MPI running: tests/dist/test_owner.c) */
  CHECK_FAILS(ds_world_init(&w, b, &args, &silent, &err), DS_ERR_STATE, err,
              "MPI isn't initialized");
  args.dist_init_required = 1;
  CHECK_OK(ds_world_init(&w, b, &args, &silent, &err), err);
  ds_world_finish(&w);
  ds_backend_close(b);
  ds_backend_config_finish(&config);
  cJSON_Delete(section);
}

int main(void) {
  unsetenv("LOCAL_RANK");
  unsetenv("OMPI_COMM_WORLD_SIZE"); /* in case a launcher runs the tests */
  unsetenv("PMI_SIZE");
  unsetenv("DEEPSPEED_TIMEOUT");
  unsetenv("SLURM_STEP_NUM_TASKS");
  test_environment();
  test_alone();
  return TEST_RESULT();
}
