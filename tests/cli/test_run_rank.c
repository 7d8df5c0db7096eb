/* Which rank a launcher made of us, and which devices are its host's. */
#include "run_rank.h"

#include "test.h"

#include <stdlib.h>

static void clear(void) {
  static const char *const names[] = {"OMPI_COMM_WORLD_RANK",
                                      "OMPI_COMM_WORLD_SIZE",
                                      "OMPI_COMM_WORLD_LOCAL_RANK",
                                      "OMPI_COMM_WORLD_LOCAL_SIZE",
                                      "SLURM_PROCID",
                                      "SLURM_STEP_NUM_TASKS",
                                      "SLURM_LOCALID",
                                      "SLURM_NODEID",
                                      "SLURM_STEP_TASKS_PER_NODE"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void test_identify(void) {
  ds_error err;
  run_identity me;
  clear();
  CHECK_FAILS(run_rank_identify(&me, &err), DS_ERR_STATE, err, "mpirun and srun");
  setenv("SLURM_PROCID", "9", 1);
  setenv("SLURM_STEP_NUM_TASKS", "11", 1);
  setenv("SLURM_LOCALID", "1", 1);
  setenv("SLURM_NODEID", "2", 1);
  setenv("SLURM_STEP_TASKS_PER_NODE", "4(x2),3", 1);
  CHECK_OK(run_rank_identify(&me, &err), err);
  CHECK(me.rank == 9 && me.size == 11 && me.local_rank == 1 && me.local_size == 3);
  setenv("OMPI_COMM_WORLD_RANK", "5", 1); /* mpirun in a Slurm job */
  setenv("OMPI_COMM_WORLD_SIZE", "6", 1);
  setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1", 1);
  setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2", 1);
  CHECK_OK(run_rank_identify(&me, &err), err);
  CHECK(me.rank == 5 && me.size == 6 && me.local_rank == 1 && me.local_size == 2);
  clear();
}

static void test_tasks(void) {
  static const struct {
    const char *list;
    int node, want;
  } rows[] = {{"4", 0, 4},       {"4", 1, 0},       {"4(x2),3", 0, 4}, {"4(x2),3", 1, 4},
              {"4(x2),3", 2, 3}, {"4(x2),3", 3, 0}, {"2,1(x3)", 3, 1}, {"", 0, 0},
              {"x", 0, 0},       {"4(x2", 0, 0},    {"4;3", 1, 0},     {"0", 0, 0}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    CHECK(run_rank_tasks_on(rows[i].list, rows[i].node) == rows[i].want);
}

static void devices(int rank, int local_rank, int local_size, const char *want) {
  const run_identity me = {rank, 4, local_rank, local_size};
  char *got = run_rank_devices("0,11,0,2", &me);
  CHECK(want ? got && strcmp(got, want) == 0 : !got);
  free(got);
}

int main(void) {
  test_identify();
  test_tasks();
  devices(0, 0, 2, "0,11");
  devices(1, 1, 2, "0,11");
  devices(2, 0, 2, "0,2");
  devices(3, 1, 2, "0,2");
  devices(1, 0, 1, "11");
  devices(3, 0, 1, "2");
  devices(0, 0, 4, "0,11,0,2");
  devices(3, 0, 2, NULL); /* the list is shorter than the job */
  return TEST_RESULT();
}
