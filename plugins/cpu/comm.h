/* comm.h - a communicator, and the collectives that need messages. */
#ifndef DS_CPU_COMM_H
#define DS_CPU_COMM_H

#include "comm_mpi.h"
#include "queue.h"

#include <pthread.h>

enum ds_cpu_call {
  DS_CPU_ALLREDUCE,
  DS_CPU_REDUCE_SCATTER,
  DS_CPU_ALLGATHER,
  DS_CPU_BROADCAST,
  DS_CPU_SEND,
  DS_CPU_RECV,
  DS_CPU_ALLTOALL,
  DS_CPU_BARRIER
};

struct ds_comm {
  atomic_int owners; /* the host, and every piece of work in a queue */
  int rank, size;
  int64_t timeout_ms;
  ds_cpu_mpi_group *group; /* NULL: the caller alone */
  unsigned char *seen;     /* by rank: DS_CPU_CAME and so on, in the present call; not of pairs */
  int64_t calls;           /* collectives begun */
  atomic_bool aborted;     /* by abort, or since a call failed */
  pthread_mutex_t lock;    /* of the rest */
  pthread_cond_t changed;
  int queued;  /* given to a stream and not over */
  int running; /* of those, and of calls that wait: under way */
};

/* Runs w on this thread until it is done, for a communicator of more than one. w->call says what;
 * count is per rank where ds_abi.h has it so, peer is the root of a broadcast. All that MPI writes
 * to is the stream's scratch. DS_ERR_TIMEOUT and DS_ERR_ABORTED come without a message. */
ds_status ds_cpu_comm_run(const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                          const ds_cpu_limit *limit, ds_error *err);

/* ---- the kernel, one per instruction set: kernels/comm_kernel.c. out[i] = part[0][i] op
 * part[1][i] op ..., in that order; bf16 and f16 in f32, rounded once; whole numbers wrap around. A
 * mean is the sum divided by the number of parts. out may be one of the parts. */
typedef struct ds_cpu_combine {
  void *out;
  const void *const *part;
  int parts;
  int64_t n;
  int32_t dtype;
  ds_reduce op;
} ds_cpu_combine;
typedef void ds_cpu_combine_kernel(const ds_cpu_combine *k);
ds_cpu_combine_kernel ds_cpu_combine_base, ds_cpu_combine_avx2, ds_cpu_combine_avx512,
    ds_cpu_combine_avx512_bf16;

#endif
