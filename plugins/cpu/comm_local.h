/* comm_local.h - ranks of one host: a segment that they share, and reading each other's memory.
 *
 * Where all members of a communicator are processes of one host that may read each other's memory
 * (process_vm_readv: the same user, and no security policy against it), calls need no
 * messages of MPI's. What is small is copied through the segment; of what is large only the addresses are,
 * and each rank reads what it needs from where it lies. Nobody ever writes to another's memory, and
 * nothing goes on behind a call's back: a call that is given up leaves nothing under way.
 *
 * The segment is a file without a name (memfd), made by the first member and opened by the others
 * through /proc; it goes with the last process that has it. It holds one `ds_cpu_local_member` a
 * rank: written by that rank, read by all.
 *
 * Turns: collectives of a communicator are numbered 1, 2, ... alike on all ranks. A rank arrives at
 * a turn by publishing an entry: what it calls, its buffers' addresses, and small data itself. Its
 * RING newest entries stay readable; it may arrive at turn t only when all have arrived at
 * t - RING + 1, since then all are done with turn t - RING. In large collectives a rank also tells
 * how many pieces of results it has ready, and when it is done with everybody's memory.
 *
 * send and recv have numbers of their own, by sender and receiver; a send waits until it is received.
 *
 * Waiting: some 20 microseconds of looking, or 300 where the host waits itself, and then asleep on a
 * futex until the other rank wakes the sleepers: the stream's thread takes no time from the host's that
 * compute on the same processor, and is back at once. Where there are more ranks than processors, who
 * looks lets others run.
 *
 * Failure: a rank that gives up says `lost` before its call returns, and publishes no more. Who read
 * from it looks at that after reading: what was read before is good, since a rank's call can only
 * succeed after all have read from it. A lost rank's next entry never comes, nor does that of a rank
 * whose process has ended: who sleeps waiting for one gives up at the next look, as at its limit.
 */
#ifndef DS_CPU_COMM_LOCAL_H
#define DS_CPU_COMM_LOCAL_H

#include "comm_mpi.h"
#include "queue.h"

enum { DS_CPU_LOCAL_RING = 8, DS_CPU_LOCAL_SLOT = 16 << 10, DS_CPU_LOCAL_LINE = 128 };

/* A word that others wait for, on a line of its own. */
typedef struct ds_cpu_local_word {
  _Alignas(DS_CPU_LOCAL_LINE) _Atomic uint32_t value;
} ds_cpu_local_word;

typedef struct ds_cpu_local_entry {
  _Alignas(DS_CPU_LOCAL_LINE) _Atomic uint32_t turn;
  int32_t call, dtype, op, root;
  int64_t count;
  const void *send; /* in the memory of its rank */
  void *recv;
  _Alignas(64) char data[DS_CPU_LOCAL_SLOT];
} ds_cpu_local_entry;

typedef struct ds_cpu_local_member {
  ds_cpu_local_word pieces;   /* of results, ready since the beginning */
  ds_cpu_local_word done;     /* the last turn after which it needs nobody's memory */
  ds_cpu_local_word sleepers; /* threads that sleep until it publishes something */
  ds_cpu_local_word lost;
  ds_cpu_local_entry ring[DS_CPU_LOCAL_RING];
} ds_cpu_local_member;

/* One direction between two ranks. */
typedef struct ds_cpu_local_pair {
  ds_cpu_local_word posted; /* by the sender: the number of its newest message */
  const void *data;         /* of that one, in the sender's memory */
  int64_t count;
  int32_t dtype;
  ds_cpu_local_word taken; /* by the receiver: the last one that it has copied */
} ds_cpu_local_pair;

typedef struct ds_cpu_local {
  int rank, size;
  bool crowded;                /* more ranks than processors: who looks, keeps others from coming */
  uint32_t turn;               /* the last one that this rank has arrived at */
  uint32_t seen;               /* the last one that all are known to have arrived at */
  uint32_t pieces;             /* as in the member's, when this turn began */
  ds_cpu_local_member *member; /* by rank */
  ds_cpu_local_pair *pair;     /* by sender and receiver */
  uint32_t *sent, *received;   /* by rank: messages of pairs */
  int32_t pid[];               /* by rank */
} ds_cpu_local;

/* Collective over g. *out is NULL, on all ranks, where not every member can reach every other, and
 * where one does not want to. */
ds_status ds_cpu_local_create(const ds_cpu_mpi_group *g, int rank, int size, bool wanted,
                              const ds_cpu_limit *limit, ds_cpu_local **out, ds_error *err);
/* Not collective. NULL is allowed. */
void ds_cpu_local_destroy(ds_cpu_local *l);
/* This rank takes part in nothing more. NULL is allowed. [any-thread] */
void ds_cpu_local_lose(ds_cpu_local *l);

/* Whether the next turn's entry may be published now. */
bool ds_cpu_local_may_arrive(ds_cpu_local *l);
/* Waits until it may be. */
ds_status ds_cpu_local_await_room(ds_cpu_local *l, const ds_cpu_limit *limit);
/* Publishes w as the next turn, with `bytes` of data (at most DS_CPU_LOCAL_SLOT), without
 * the `own` bytes that lie at own times this rank, which are for nobody else. */
void ds_cpu_local_arrive(ds_cpu_local *l, const ds_cpu_work *w, const void *data, size_t bytes,
                         size_t own);
/* Whether rank, or with -1 every rank, arrives at this rank's turn within a microsecond or so. */
bool ds_cpu_local_soon(ds_cpu_local *l, int rank);

/* Waits for another rank: until it has arrived at this rank's turn, has `pieces` ready, is done with
 * the turn. DS_ERR_TIMEOUT and DS_ERR_ABORTED without a message. */
ds_status ds_cpu_local_await_turn(ds_cpu_local *l, int rank, const ds_cpu_limit *limit);
ds_status ds_cpu_local_await_pieces(ds_cpu_local *l, int rank, uint32_t pieces,
                                    const ds_cpu_limit *limit);
ds_status ds_cpu_local_await_done(ds_cpu_local *l, int rank, const ds_cpu_limit *limit);
/* After reading from rank, or with -1 from all: waits in vain where one is lost, since what was read may
 * be torn. */
ds_status ds_cpu_local_check(ds_cpu_local *l, int rank, const ds_cpu_limit *limit);
void ds_cpu_local_tell_pieces(ds_cpu_local *l, uint32_t pieces);
void ds_cpu_local_tell_done(ds_cpu_local *l);

/* A word of another rank's; one of this rank's. */
ds_status ds_cpu_local_await(ds_cpu_local *l, int rank, ds_cpu_local_word *word, uint32_t value,
                             const ds_cpu_limit *limit);
void ds_cpu_local_tell(ds_cpu_local *l, ds_cpu_local_word *word, uint32_t value);

static inline ds_cpu_local_pair *ds_cpu_local_pair_of(const ds_cpu_local *l, int from, int to) {
  return &l->pair[(size_t)from * (size_t)l->size + (size_t)to];
}

/* A rank's entry for this rank's turn, once it has arrived. */
static inline const ds_cpu_local_entry *ds_cpu_local_entry_of(const ds_cpu_local *l, int rank) {
  return &l->member[rank].ring[l->turn % DS_CPU_LOCAL_RING];
}

/* Marks in seen, by rank, who has arrived at this rank's turn, has given up, is stopped or has ended:
 * DS_CPU_CAME and so on. */
void ds_cpu_local_look(ds_cpu_local *l, unsigned char *seen);

/* Copies from the memory of another rank, which has arrived. */
ds_status ds_cpu_local_read(const ds_cpu_local *l, int rank, void *to, const void *from,
                            size_t bytes, ds_error *err);

#endif
