/* run_rank.h - the parent of one rank that `ds run` started: "ds run --as-rank [--devices=LIST]
 * [--bind_cores_to_rank] -- COMMAND", started by mpirun or srun on the rank's host.
 *
 * It tells the command which rank it is, as torchrun does (RANK, WORLD_SIZE, LOCAL_RANK,
 * LOCAL_WORLD_SIZE), shares the host's cores out (OMP_NUM_THREADS, unless set), shows it its host's
 * devices (LIST has one number for each rank of the job), and stays to end with it (run_guard.h).
 */
#ifndef DS_CLI_RUN_RANK_H
#define DS_CLI_RUN_RANK_H

#include "base/status.h"

typedef struct run_identity {
  int rank, size, local_rank, local_size;
} run_identity;

/* From Open MPI's variables, else Slurm's. */
DS_MUST_USE ds_status run_rank_identify(run_identity *out, ds_error *err);
/* Slurm's "4(x2),3": how many tasks the node has. 0: no such list. */
int run_rank_tasks_on(const char *list, int node);
/* Of LIST those of the local ranks, "2,3"; NULL when out of memory, or LIST is too short. */
char *run_rank_devices(const char *list, const run_identity *me);
/* argv after --as-rank. The exit code; after a signal that killed the command it doesn't return. */
int run_rank(int argc, char **argv);

#endif
