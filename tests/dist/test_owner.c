/* test_owner.c - who started MPI: the host, whose it stays, or the engine. dist_init_required in its
 * three meanings.
 *
 * usage: mpirun -n 2 test_owner PLUGIN_FOLDER host|engine
 */
#include "unit/train/tiny.h"

#include <mpi.h>

static char config[512];

/* Trains two steps; the losses of two ranks are their mean, so that each has the other's part. */
static ds_status train(int required, float *loss, ds_error *err) {
  tiny_run r = {0};
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.dist_init_required = required;
  ds_status status = tiny_open(&r, config, &a, true, err);
  for (int i = 0; i < 2 && status == DS_OK; i++)
    status = ds_engine_train_batch(r.engine, loss, err);
  tiny_close(&r);
  return status;
}

static bool mpi_runs(void) {
  int started = 0, over = 0;
  CHECK(MPI_Initialized(&started) == MPI_SUCCESS && MPI_Finalized(&over) == MPI_SUCCESS);
  return started && !over;
}

int main(int argc, char **argv) {
  ds_error err;
  float first = 0, loss = 1;
  if (argc != 3) return 2;
  bool host = strcmp(argv[2], "host") == 0;
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\"}, \"train_batch_size\": 16,"
           "\"optimizer\": {\"type\": \"Adam\", \"params\": {\"lr\": 0.05}}}",
           argv[1]);
  if (host) {
    int level;
    CHECK(MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level) == MPI_SUCCESS);
  } else {
    /* false: it must be there, and the question doesn't start it. */
    CHECK_FAILS(train(0, &loss, &err), DS_ERR_STATE, err, "MPI isn't initialized");
    CHECK(!mpi_runs());
    CHECK_OK(train(1, &loss, &err), err); /* true: it is started */
    CHECK(mpi_runs());
  }
  static const int meanings[] = {0, 1, -1}; /* it is there: all of them do */
  for (int i = 0; i < 3; i++) {
    CHECK_OK(train(meanings[i], i == 0 ? &first : &loss, &err), err);
    CHECK(i == 0 || loss == first);
    CHECK(mpi_runs());
  }
  if (host) {
    int rank = 0, sum = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    rank += 1;
    CHECK(MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD) == MPI_SUCCESS);
    CHECK(sum == 3);
    CHECK(MPI_Finalize() == MPI_SUCCESS);
    CHECK_FAILS(train(0, &loss, &err), DS_ERR_STATE, err, "MPI isn't initialized"); /* any more */
  }
  return test_result();
}
