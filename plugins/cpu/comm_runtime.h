/* comm_runtime.h - what comm_mpi.c and comm_group.c share of MPI. */
#ifndef DS_CPU_COMM_RUNTIME_H
#define DS_CPU_COMM_RUNTIME_H

#include "comm_mpi.h"

#ifdef DS_CPU_HAVE_MPI

#include <mpi.h>
#include <pthread.h>

/* The lists: clang-format would indent them anew each time. */
/* clang-format off */
#define CALLS(X)                                                                                   \
  X(Cancel) X(Comm_create_group) X(Comm_dup) X(Comm_free) X(Comm_get_attr) X(Comm_group)           \
  X(Comm_rank) X(Comm_set_errhandler) X(Comm_size) X(Comm_split_type) X(Error_string) X(Finalize)  \
  X(Finalized) X(Group_free) X(Group_incl) X(Init_thread) X(Initialized) X(Iprobe) X(Irecv)        \
  X(Is_thread_main) X(Isend) X(Query_thread) X(Test) X(Testall)

/* Open MPI's constants are addresses of its variables. */
#define CONSTANTS(X)                                                                               \
  X(MPI_Comm, comm_world) X(MPI_Comm, comm_null) X(MPI_Datatype, byte)                             \
  X(MPI_Errhandler, errors_return) X(MPI_Info, info_null)
/* clang-format on */

/* Tags below FIRST are for agreeing on a group by its list of ranks, END is for meeting at the end of
 * the process; each group has STEP from FIRST on. */
enum { DS_CPU_TAG_END = 0x3fff, DS_CPU_TAG_FIRST = 0x4000, DS_CPU_TAG_STEP = 4 };

typedef struct ds_cpu_mpi_runtime {
  bool ready, ours; /* ours: we started it */
  int level;        /* MPI_THREAD_* */
  int tags;         /* the largest tag */
  MPI_Comm private; /* the world, for us alone; comm_null where the host started MPI */
  ds_comm_world world;
  int next_id; /* of a group; under lock */
#define X(name) __typeof__(&MPI_##name) name;
  CALLS(X)
#undef X
#define X(type, name) type c_##name;
  CONSTANTS(X)
#undef X
} ds_cpu_mpi_runtime;

/* The process has one MPI. Does not change once it is ready, but for next_id. */
extern ds_cpu_mpi_runtime ds_cpu_mpi;
extern pthread_mutex_t ds_cpu_mpi_lock;

struct ds_cpu_mpi_group {
  MPI_Comm comm;
  bool own_comm;
  int tag; /* of channel 0; the others follow */
  int rank, size;
  int of[]; /* member -> rank in comm */
};

/* One call of MPI, while no other runs where it may not. */
int ds_cpu_mpi_leave(int code);
void ds_cpu_mpi_enter(void);
#define MPI_CALL(name, ...) (ds_cpu_mpi_enter(), ds_cpu_mpi_leave(ds_cpu_mpi.name(__VA_ARGS__)))

/* comm_end.c. Before MPI is started, and once it is; messages that were given up are MPI's for good. */
ds_status ds_cpu_mpi_end_at_exit(ds_error *err);
void ds_cpu_mpi_started(void);
void ds_cpu_mpi_left_behind(void);

/* MPI's failure with its own message. */
ds_status ds_cpu_mpi_check(int code, const char *what, ds_error *err);

/* DS_ERR_STATE where MPI may not be called from this thread. */
ds_status ds_cpu_mpi_may_call(ds_error *err);

#endif
#endif
