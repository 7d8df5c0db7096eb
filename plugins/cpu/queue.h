/* queue.h - what a stream leaves for later: collectives, and its part in events.
 *
 * Compute runs on the caller's thread, so a stream needs a queue only for work that waits for
 * others: collectives, waits for events, and the events recorded behind those. Items run one after
 * another, in the order given. Whoever comes first runs the next one: the stream's own thread,
 * started with the first, or the caller who waits for the stream (so that a collective waited
 * for at once costs no change of threads). While nothing is pending, ds_cpu_ready is one load.
 *
 * The first failure is the stream's: what is still queued is skipped, and every later call gives
 * that failure.
 */
#ifndef DS_CPU_QUEUE_H
#define DS_CPU_QUEUE_H

#include "cpu.h"

typedef struct ds_cpu_work ds_cpu_work;

/* Run once, by one thread at a time of one stream. failure: NULL, and the work is to be done; or
 * what the stream failed with before, and the work is only to let go of what it holds. */
typedef ds_status ds_cpu_work_fn(ds_stream *s, const ds_cpu_work *w, const ds_error *failure,
                                 ds_error *err);

/* Copied into the queue. Below run everything is run's own business. */
struct ds_cpu_work {
  ds_cpu_work_fn *run;
  void *object; /* a ds_comm or a point of event.c */
  const void *send;
  void *recv;
  int64_t count;
  int32_t dtype, op, peer, call;
  bool arrived;   /* see ds_cpu_comm_try_local */
  int64_t number; /* of collectives on the communicator; see comm_roll.h */
};

/* Adds w and returns at once. On failure (no memory, no thread, the stream has failed) w was not
 * added and run is not called. [per-stream] */
ds_status ds_cpu_queue_push(ds_stream *s, const ds_cpu_work *w, ds_error *err);

/* Does w on this thread, after what is pending; its failure is the stream's all the same. run is
 * called in any case, if only to let go. [per-stream] */
ds_status ds_cpu_queue_run(ds_stream *s, const ds_cpu_work *w, ds_error *err);

/* The stream's failure, without waiting. [per-stream] */
ds_status ds_cpu_queue_check(ds_stream *s, ds_error *err);

/* Whether the caller is the stream's own thread, beside which the host's go on. [any-thread] */
bool ds_cpu_queue_is_thread(const ds_stream *s);

/* Waits for what is pending, then ends the thread. [per-stream] */
void ds_cpu_queue_destroy(ds_stream *s);

/* The monotonic clock, and a short sleep. */
int64_t ds_cpu_now_ns(void);
void ds_cpu_sleep_us(int microseconds);

#endif
