/* comm.h - a communicator over NCCL, and who watches it.
 *
 * NCCL is never waited for in one of its calls: communicators are non-blocking, and what NCCL hasn't finished is asked
 * again (gpu_comm_settle). All its calls on one communicator are made with c->lock held, and none after `over`.
 *
 * Each communicator of several ranks has a thread, the watcher (watch.c), that looks at the calls in flight: at their
 * limits, and at NCCL's own errors. Whoever ends a communicator (gpu_comm_end) tells the streams first, by their fates,
 * and leaves it to the watcher to abort NCCL, which makes the device go on. */
#ifndef DS_GPU_COMM_H
#define DS_GPU_COMM_H

#include "fate.h"
#include "nccl.h"

#include <time.h>

/* A call in flight. */
typedef struct gpu_call {
  struct gpu_call *next;
  gpuEvent_t before, after; /* on its stream */
  gpu_fate *fate;           /* of that stream, held */
  uint64_t position;        /* among the stream's work */
  int64_t limit_ns;         /* from when it could begin; 0: none */
  int64_t began_ns;         /* when it was first seen that it could; 0: not yet */
  char what[64];            /* "allreduce of 100 bf16" */
} gpu_call;

struct ds_comm {
  ds_device *dev;
  const gpu_nccl *lib; /* NULL: the caller alone */
  gpu_nccl_comm nccl;
  int rank, size;
  int64_t timeout_ms;
  gpuStream_t side; /* for barriers and what create sends */
  gpu_fate *fate;   /* of side; position counts its work */
  uint64_t position;
  char *token; /* device memory for side: 2 bytes a rank, 4 at least */
  pthread_t watcher;
  bool watched; /* the watcher was started */
  pthread_mutex_t lock;
  pthread_cond_t changed; /* by the monotonic clock */
  gpu_call *calls, *spare;
  bool over;    /* aborted, or a call failed */
  bool aborted; /* NCCL was, after that */
  bool closing;
};

static inline int64_t gpu_comm_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Nanoseconds; 0 for no limit, and for one too far to count. */
static inline int64_t gpu_comm_ns(int64_t ms) {
  return ms > INT64_MAX / 4000000 ? 0 : ms * 1000000;
}

/* ---- comm_create.c: the functions of the table */
ds_status gpu_comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                          const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out, ds_error *err);
ds_status gpu_comm_split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err);
void gpu_comm_destroy(ds_comm *c);

/* ---- comm_card.c: the meeting by way of the store: one rank a card, and the id by which NCCL's ranks find each
 * other. until: of gpu_comm_now, 0: no limit. DS_ERR_TIMEOUT comes without this rank's name. */
ds_status gpu_comm_meet(ds_device *dev, const int32_t *ranks, int size, int own,
                        const ds_kv_store *kv, int64_t until, const gpu_nccl **lib, gpu_nccl_id *id,
                        ds_error *err);

/* ---- comm_run.c: giving NCCL work */
enum gpu_comm_kind {
  GPU_ALLREDUCE,
  GPU_REDUCE_SCATTER,
  GPU_ALLGATHER,
  GPU_BROADCAST,
  GPU_SEND,
  GPU_RECV,
  GPU_ALLTOALL,
  GPU_BARRIER
};
/* count: elements, per rank where ds_abi.h has it so. */
typedef struct gpu_comm_work {
  enum gpu_comm_kind kind;
  const void *send;
  void *recv;
  int64_t count;
  int32_t dtype;
  ds_reduce op;
  int32_t peer; /* or root */
} gpu_comm_work;

const char *gpu_comm_name(enum gpu_comm_kind kind);
/* Whole bytes; 0 for what isn't moved. */
size_t gpu_comm_bytes(int32_t dtype);
const char *gpu_comm_type(int32_t dtype);
/* Asks until NCCL has an answer for `code`, of a call on `of`, c's or one that is being made of it. [locked], but not
 * all the time. until: of gpu_comm_now, 0: no limit. A failure ends c. */
ds_status gpu_comm_settle(ds_comm *c, gpu_nccl_comm of, gpu_nccl_result code, int64_t until,
                          const char *what, ds_error *err);
/* A checked call of a communicator of several, given to s. [per-stream] */
ds_status gpu_comm_give(ds_comm *c, ds_stream *s, const gpu_comm_work *w, ds_error *err);
/* Everybody hears of everybody on the side stream; waits. A send and a recv for each pair (connect), or a sum. */
ds_status gpu_comm_gather(ds_comm *c, const char *what, bool connect, int64_t limit_ns,
                          ds_error *err);
/* As a failure of a call on c that is over. */
ds_status gpu_comm_gave_up(const ds_comm *c, const char *what, ds_error *err);

/* ---- watch.c */
ds_status gpu_watch_start(ds_comm *c, ds_error *err);
/* Returns when the watcher has ended, and NCCL was aborted if c is over. */
void gpu_watch_stop(ds_comm *c);
/* Ends c: all calls in flight fail so. "comm: WHAT on rank R of N: " goes before. Fills err, returns status; of a c that
 * is over already, DS_ERR_ABORTED. [locked] */
ds_status gpu_comm_end(ds_comm *c, ds_status status, const char *what, ds_error *err,
                       const char *format, ...) __attribute__((format(printf, 5, 6)));
/* The same for what ran out of time. */
ds_status gpu_comm_late(ds_comm *c, const char *what, ds_error *err);

#endif
