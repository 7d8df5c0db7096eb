#include "parallel/host_mpi.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

/* MPI_Initialized and MPI_Finalized are the same in every MPI: an int goes in by address, 0 is
 * success. */
typedef int query(int *flag);

static bool says(void *library, const char *name) {
  query *ask = NULL;
  void *symbol = dlsym(library, name);
  int flag = 0;
  memcpy(&ask, &symbol, sizeof symbol);
  return ask && ask(&flag) == 0 && flag;
}

static bool runs_in(void *library) {
  return says(library, "MPI_Initialized") && !says(library, "MPI_Finalized");
}

bool ds_host_mpi_runs(void) {
  /* Of Open MPI, and of MPICH and its kin: a program in another language loads them privately. */
  static const char *const names[] = {"libmpi.so.40", "libmpi.so.12"};
  if (runs_in(RTLD_DEFAULT)) return true;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    void *library = dlopen(names[i], RTLD_NOW | RTLD_NOLOAD);
    bool runs = library && runs_in(library);
    if (library) dlclose(library);
    if (runs) return true;
  }
  return false;
}
