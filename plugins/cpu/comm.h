/* comm.h - a communicator, and the collectives that need messages. */
#ifndef DS_CPU_COMM_H
#define DS_CPU_COMM_H

#include "comm_local.h"
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
  bool share;              /* the device's option shared_memory */
  ds_cpu_mpi_group *group; /* NULL: the caller alone */
  ds_cpu_local *local;     /* NULL: not all on one host, or not allowed to see each other */
  unsigned char *seen;     /* by rank: DS_CPU_CAME and so on, in the present call; not of pairs */
  int64_t calls;           /* collectives given to it */
  atomic_bool aborted;     /* by abort, or since a call failed */
  pthread_mutex_t lock;    /* of the rest */
  pthread_cond_t changed;
  int queued;  /* given to a stream and not over */
  int running; /* of those, and of calls that wait: under way */
};

/* "allreduce" */
const char *ds_cpu_call_name(int32_t call);

/* Runs w on this thread until it is done, for a communicator of more than one. w->call says what;
 * count is per rank where ds_abi.h has it so, peer is the root of a broadcast. All that MPI writes
 * to is the stream's scratch. DS_ERR_TIMEOUT and DS_ERR_ABORTED come without a message. */
ds_status ds_cpu_comm_run(const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                          const ds_cpu_limit *limit, ds_error *err);

/* The same for a communicator with `local`. */
ds_status ds_cpu_comm_run_local(const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                                const ds_cpu_limit *limit, ds_error *err);
/* Of these, send and recv. */
ds_status ds_cpu_comm_pair_local(const ds_comm *c, const ds_cpu_work *w, const ds_cpu_limit *limit,
                                 ds_error *err);
/* For a call on an idle stream, which costs no queue then: begins w where it is not large and nothing
 * has to be waited for. w->arrived says whether it has begun; then it must be run. */
enum ds_cpu_try {
  DS_CPU_TRY_LATER, /* others are late */
  DS_CPU_TRY_READY, /* all have begun it: to run it takes little time */
  DS_CPU_TRY_DONE   /* and it is done */
};
enum ds_cpu_try ds_cpu_comm_try_local(const ds_comm *c, ds_stream *s, ds_cpu_work *w);

/* ---- how many messages
 *
 * Ranks of one host that may look into each other's memory exchange none (comm_local.h). Else a rank of
 * n sends, with B the bytes of count elements, S = 4 count for f32, bf16 and f16 (sums travel as f32), B
 * for other types, pieces rounded up and log2 as said:
 *
 *                   up to 8 ranks                 more
 *   allreduce       n - 1 where n B <= 16 KiB     log2 n, up, where n B <= 16 KiB
 *                   else 2 (n - 1) per 4 MiB      else at most 2 log2 n + 2, down, per 2 MiB of S
 *   reduce_scatter  n - 1 per 4 MiB of n B        at most log2 n + 1, down, per 2 MiB of n S
 *   allgather       n - 1 per 4 MiB of n B        log2 n, up, per 4 MiB of n B
 *   alltoall        n - 1 per 4 MiB of n B        the same up to 4 MiB of n B; else n - 1 per 4 MiB of B
 *   broadcast       at most log2 n, up, per 2 MiB of B
 *   barrier         log2 n, up
 *
 * Bytes sent by a rank: 2 (n-1)/n S for allreduce, (n-1) S for reduce_scatter (per part), (n-1) B for
 * allgather and alltoall: the least there is, but for the pairs of comm_rounds.c (n not a power of two:
 * once more the vector), and bf16 as f32 above 8 ranks. At 10,000 ranks a small allreduce is 14
 * messages and a large one 28 per 2 MiB; creating a communicator is 4 rounds of 14. test_comm_run.c
 * counts them.
 */

/* ---- the order of sums
 *
 * A sum of n ranks' numbers is a tree over the ranks that depends on n alone: with p the largest
 * power of two up to n, the first 2 (n - p) ranks are added in pairs (0 + 1, 2 + 3, ...), which with
 * the remaining ranks are p numbers; of these neighbours are added (first + second, third + fourth,
 * ...), of the results again neighbours, until one is left. For four: (0 + 1) + (2 + 3); for three:
 * (0 + 1) + 2. bf16 and f16 are added in f32 and rounded once, at the end; the mean is the sum
 * divided by n; whole numbers wrap around.
 *
 * So an element's sum is the same bits in allreduce and in reduce_scatter, whatever the count, the
 * place in the buffer, the buffers (in place or two), the way (messages or not), and the rank: ZeRO's
 * stages, which reduce the same gradients in other portions, get the same gradients.
 */

/* ---- the kernel, one per instruction set: kernels/comm_kernel.c. out may be one of the parts. */
typedef struct ds_cpu_combine {
  void *out;
  const void *const *part;
  int parts;
  int64_t n;
  int32_t dtype, out_dtype; /* may differ where parts is 1: f32 and bf16, f32 and f16 */
  ds_reduce op;
  int divisor; /* of a mean */
} ds_cpu_combine;
typedef void ds_cpu_combine_kernel(const ds_cpu_combine *k);
ds_cpu_combine_kernel ds_cpu_combine_base, ds_cpu_combine_avx2, ds_cpu_combine_avx512,
    ds_cpu_combine_avx512_bf16;

/* The kernel for the device's instruction set. */
void ds_cpu_combine_run(const ds_stream *s, const ds_cpu_combine *k);
/* out = the parts together, in the order below; `bytes` of each, in w's type. */
void ds_cpu_comm_combine(const ds_stream *s, const ds_cpu_work *w, const void *const *part,
                         int parts, void *out, size_t bytes);

#endif
