/* Whether MPI runs here, told by the two functions that every MPI has; this program's own. */
#include "parallel/host_mpi.h"

#include "test.h"

static int initialized, finalized, failing;

/* Found among the global symbols, as those of a host that is linked with MPI are. */
__attribute__((visibility("default"))) int MPI_Initialized(int *flag);
__attribute__((visibility("default"))) int MPI_Finalized(int *flag);

int MPI_Initialized(int *flag) {
  *flag = initialized;
  return failing;
}
int MPI_Finalized(int *flag) {
  *flag = finalized;
  return 0;
}

int main(void) {
  CHECK(!ds_host_mpi_runs());
  initialized = 1;
  CHECK(ds_host_mpi_runs());
  finalized = 1;
  CHECK(!ds_host_mpi_runs());
  finalized = 0;
  failing = 1;
  CHECK(!ds_host_mpi_runs());
  return TEST_RESULT();
}
