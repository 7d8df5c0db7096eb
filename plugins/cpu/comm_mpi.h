/* comm_mpi.h - Open MPI, found at run time: groups of processes, and messages between them.
 *
 * The plugin links nothing of MPI: libmpi is opened at first need, so that the plugin loads on
 * machines without it. MPI is one per process, and so is its state here (under a lock). Of MPI's
 * own collectives none is used: they can't be given up (a time limit, abort), take a temporary from
 * the allocator in each call, and add in an order of their own. comm_run.c builds them of messages.
 *
 * Start: only if a launcher (mpirun, or srun with PMIx) started this process, or if the host
 * initialized MPI before. If the host did, MPI stays the host's to finalize.
 *
 * End: what we started is finalized when the process exits with code 0 and all ranks come to their
 * end: for that it waits as long as ds_cpu_mpi_patience says, or a second where a call has failed.
 * It is not finalized after that, nor with another code, nor when a message was given up or is under
 * way; the launcher then ends the other ranks, who would wait for ever.
 *
 * Threads: MPI_THREAD_MULTIPLE where the library gives it and the host asked for it. With less,
 * calls must be made on the caller's thread (ds_cpu_mpi_asynchronous says so) and are made one at a
 * time; below MPI_THREAD_SERIALIZED only on the thread that initialized MPI, which is checked. The
 * host must not call MPI at the same time then.
 *
 * Groups: where we started MPI, groups share one private communicator and differ by tags, whose
 * base the members agree on by messages: so create and split keep their time limit, and a group
 * that was given up can't disturb another. Where the host did, a group has a communicator of its
 * own (MPI_Comm_create_group, over the members only).
 *
 * Without a limit are: the start of MPI, which waits for every process of the launcher; and
 * MPI_Comm_create_group, so create where the host started MPI, and split once all have told their
 * colors. Open MPI 4.1 sends that call's messages on the host's communicator: a receive of the
 * host's for any source and any tag on MPI_COMM_WORLD must not be open during create.
 * After a create that ran out of time, the same list of ranks can't be tried again: what was
 * already sent would be taken for the new try's.
 *
 * Giving up: a receive that nothing has arrived for is cancelled. What can't be taken back stays
 * with MPI, which may go on to use its memory: *left says so. MPI therefore never writes to memory
 * of the host: comm_run.c receives into the stream's scratch, which it gives up together with the
 * message. It may still read what was to be sent; so from then on the process gives no device
 * memory back (ds_cpu_memory_keep).
 */
#ifndef DS_CPU_COMM_MPI_H
#define DS_CPU_COMM_MPI_H

#include "cpu.h"

typedef struct ds_cpu_mpi_group ds_cpu_mpi_group; /* 2 processes and more; does not change */

/* What is known of a member in a call: bits. */
enum {
  DS_CPU_CAME = 1,    /* it has come to the call */
  DS_CPU_AWAITED = 2, /* the call ended while it waited for this member */
  DS_CPU_HEARD = 4,   /* it has answered the roll call (comm_roll.c), or given up itself */
  DS_CPU_STOPPED = 8, /* its process is stopped */
  DS_CPU_ENDED = 16   /* its process is there no more */
};

/* What ends a wait, and what it leaves behind. */
typedef struct ds_cpu_limit {
  int64_t deadline_ns;        /* in the monotonic clock; 0: none */
  const atomic_bool *aborted; /* or NULL */
  unsigned char *seen;        /* by member of the group, or NULL: DS_CPU_CAME and so on are set */
  bool host_waits;            /* the caller has nothing else to do: it may look for longer */
  bool leaving;               /* the process ends, and this is how: else that ends the wait */
  bool roll;                  /* another member's roll call ends the wait too, as DS_ERR_TIMEOUT */
} ds_cpu_limit;

/* Messages of one channel between two ranks arrive in the order sent; channels are apart. */
enum ds_cpu_channel {
  DS_CPU_CHANNEL_COLLECTIVE = 0,
  DS_CPU_CHANNEL_PAIR = 1,    /* send and recv */
  DS_CPU_CHANNEL_CONTROL = 2, /* barrier and split */
  DS_CPU_CHANNEL_ROLL = 3     /* comm_roll.c; the last: comm_group.c gives a group four tags */
};

typedef struct ds_cpu_message {
  void *data; /* not written where send is set */
  size_t bytes;
  int peer; /* in the group */
  bool send;
} ds_cpu_message;

/* [any-thread] 0 of 1 where nobody launched us. DS_ERR_UNSUPPORTED: launched as several ranks, but
 * this build or this machine has no MPI. out->size is left alone. */
ds_status ds_cpu_mpi_world(ds_comm_world *out, ds_error *err);

/* The process's end waits for the other ranks as long as the most patient
 * communicator waits for them; 0: for ever. [any-thread] */
void ds_cpu_mpi_patience(int64_t timeout_ms);

/* The number in the world of a member, where it is known; else member again. */
int ds_cpu_mpi_world_rank(const ds_cpu_mpi_group *g, int member);

/* A call that others take part in has failed: the process's end won't wait long. [any-thread] */
void ds_cpu_mpi_failed(void);

/* Whether groups may be used from threads of the plugin's own. [any-thread] */
bool ds_cpu_mpi_asynchronous(void);

/* Collective over the members. ranks: of the world, each once; the caller is ranks[own]. Where it ran
 * out of time *out is set too, for a roll call, and to be destroyed.
 * DS_ERR_TIMEOUT and DS_ERR_ABORTED come without a message, here and below. */
ds_status ds_cpu_mpi_create(const int32_t *ranks, int count, int own, const ds_cpu_limit *limit,
                            ds_cpu_mpi_group **out, ds_error *err);
/* Collective over g: the members of one color, in the order of key and rank, as ds_abi.h says. *out
 * is NULL for color -1 and for a group of one; rank and size are set where color >= 0. */
ds_status ds_cpu_mpi_split(const ds_cpu_mpi_group *g, int color, int key, const ds_cpu_limit *limit,
                           ds_cpu_mpi_group **out, int *rank, int *size, ds_error *err);
/* Not collective. given_up: calls may have failed on it. NULL is allowed. */
void ds_cpu_mpi_destroy(ds_cpu_mpi_group *g, bool given_up);

/* Gives all messages to MPI and waits until all are done. Receives stand before sends; a message
 * has at most INT_MAX bytes. requests: room for count pointers. On failure *left (else not set)
 * says whether MPI may still use the messages' memory. */
ds_status ds_cpu_mpi_exchange(const ds_cpu_mpi_group *g, enum ds_cpu_channel channel,
                              const ds_cpu_message *messages, int count, void **requests,
                              const ds_cpu_limit *limit, bool *left, ds_error *err);

/* Collective over g: all[r] of `bytes` each, of which each rank has filled its own. n - 1
 * messages a rank up to 64 ranks; above, log2 n, rounded up. */
ds_status ds_cpu_mpi_tell_all(const ds_cpu_mpi_group *g, void *all, size_t bytes,
                              const ds_cpu_limit *limit, ds_error *err);

/* Around a wait for other ranks that is not MPI's: such a process can't finalize MPI, since the
 * others may wait for it as well. False: the process ends, and nobody may begin. [any-thread] */
bool ds_cpu_mpi_begin_wait(void);
void ds_cpu_mpi_end_wait(void);
bool ds_cpu_mpi_closing(void);

#endif
