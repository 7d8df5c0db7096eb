/* host_mpi.h - whether MPI runs in this process, whoever started it.
 *
 * Asked before a backend's comm table is, which may start it. Whoever started MPI ends it: a host's is
 * left running by every plugin.
 */
#ifndef DS_PARALLEL_HOST_MPI_H
#define DS_PARALLEL_HOST_MPI_H

#include <stdbool.h>

/* Initialized and not yet finalized. Loads nothing. */
bool ds_host_mpi_runs(void);

#endif
