/* comm.c - the comm table: checks, and what becomes of a call. A communicator of one rank copies at
 * once. Calls of larger ones go to the stream's queue (queue.h) and are run there by comm_run.c;
 * where MPI may not be called from other threads (comm_mpi.h), the caller runs them at once.
 * kv is not used: the launcher's runtime connects the ranks.
 */
#include "comm_roll.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ds_cpu_call_name(int32_t call) {
  static const char *const names[] = {"allreduce", "reduce_scatter", "allgather", "broadcast",
                                      "send",      "recv",           "alltoall",  "barrier"};
  return call >= 0 && call <= DS_CPU_BARRIER ? names[call] : "create or split";
}

/* ---------------------------------------------------------------- failures and limits */

/* When a call that begins now must be done. */
static ds_cpu_limit limit_of(const ds_comm *c) {
  int64_t ns = c->timeout_ms > INT64_MAX / 2000000 ? 0 : c->timeout_ms * 1000000;
  return (ds_cpu_limit){.deadline_ns = ns > 0 ? ds_cpu_now_ns() + ns : 0, .aborted = &c->aborted};
}

/* The same of a call that all ranks make, one at a time: it is known who comes. */
static ds_cpu_limit limit_of_all(ds_comm *c) {
  ds_cpu_limit limit = limit_of(c);
  memset(c->seen, 0, (size_t)c->size);
  limit.seen = c->seen;
  limit.roll = true;
  return limit;
}

static ds_status gave_up(const ds_comm *c, const char *call, ds_error *err) {
  return ds_cpu_fail(err, DS_ERR_ABORTED,
                     "cpu comm: %s on rank %d of %d: the communicator was aborted, or given up "
                     "when a call on it failed; destroy it",
                     call, c->rank, c->size);
}

/* How a call went that ran out of time. */
typedef struct ds_cpu_wait {
  int64_t began_ns, waited_ms;
  char missing[400]; /* who did not come */
} ds_cpu_wait;

/* Gives c a message for a limit or an abort. what: the call with its count and type. */
static ds_status explain(ds_comm *c, ds_status st, const char *what, const ds_cpu_wait *wait,
                         ds_error *err) {
  if (st == DS_ERR_ABORTED) return gave_up(c, what, err);
  if (st != DS_ERR_TIMEOUT) return st;
  char time[128];
  long long waited = wait->waited_ms, limit = c->timeout_ms;
  if (waited >= limit)
    snprintf(time, sizeof time, "not done in %lld ms, the communicator's limit", limit);
  else
    snprintf(time, sizeof time, "given up after %lld ms of the communicator's limit of %lld ms",
             waited, limit);
  return ds_cpu_fail(err, st, "cpu comm: %s on rank %d of %d: %s; %s", what, c->rank, c->size, time,
                     wait->missing[0] ? wait->missing
                                      : "another rank is late, gone or makes another call");
}

static void wait_begin(ds_cpu_wait *wait) {
  *wait = (ds_cpu_wait){.began_ns = ds_cpu_now_ns()};
}

static void wait_end(ds_cpu_wait *wait) {
  wait->waited_ms = (ds_cpu_now_ns() - wait->began_ns) / 1000000;
}

/* A call that failed halfway leaves its peers at different places. */
static void give_up(ds_comm *c) {
  atomic_store(&c->aborted, true);
  ds_cpu_local_lose(c->local);
  pthread_mutex_lock(&c->lock);
  pthread_cond_broadcast(&c->changed);
  pthread_mutex_unlock(&c->lock);
}

/* ---------------------------------------------------------------- world and communicators */

static ds_status comm_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world full = {.size = sizeof full};
  if (out->size < sizeof out->size)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: world: set size before the call");
  ds_status st = ds_cpu_mpi_world(&full, err);
  if (st != DS_OK) return st;
  if (out->size < full.size) full.size = out->size;
  memcpy(out, &full, full.size);
  return DS_OK;
}

static ds_status check_ranks(const ds_comm_world *w, const int32_t *ranks, int32_t count, int *own,
                             ds_error *err) {
  *own = -1;
  if (count < 1 || ranks == NULL)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: a communicator needs a list of ranks");
  for (int32_t i = 0; i < count; i++) {
    if (ranks[i] < 0 || ranks[i] >= w->world_size)
      return ds_cpu_fail(err, DS_ERR_INVALID,
                         "cpu comm: there is no rank %d in a world of %d; start more processes "
                         "with mpirun -n",
                         ranks[i], w->world_size);
    for (int32_t j = 0; j < i; j++)
      if (ranks[j] == ranks[i])
        return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: rank %d stands twice in the list",
                           ranks[i]);
    if (ranks[i] == w->rank) *own = i;
  }
  if (*own < 0)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu comm: rank %d makes a communicator that it isn't in", w->rank);
  return DS_OK;
}

/* most: that size may become. */
static ds_comm *comm_alloc(int rank, int size, int most, int64_t timeout_ms, ds_error *err) {
  ds_comm *c = calloc(1, sizeof *c);
  if (c != NULL) c->seen = calloc((size_t)most, 1);
  if (c == NULL || c->seen == NULL) {
    free(c);
    ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a communicator");
    return NULL;
  }
  atomic_init(&c->owners, 1);
  pthread_mutex_init(&c->lock, NULL);
  pthread_cond_init(&c->changed, NULL);
  c->rank = rank;
  c->size = size;
  c->timeout_ms = timeout_ms;
  return c;
}

/* Collective over c: whether its ranks can do without messages. */
static ds_status meet_local(ds_comm *c, const ds_cpu_limit *limit, ds_error *err) {
  if (c->group == NULL) return DS_OK;
  return ds_cpu_local_create(c->group, c->rank, c->size, c->share, limit, &c->local, err);
}

static void let_go(ds_comm *c) {
  if (atomic_fetch_sub(&c->owners, 1) != 1) return;
  ds_cpu_local_destroy(c->local);
  ds_cpu_mpi_destroy(c->group, atomic_load(&c->aborted));
  free(c->seen);
  pthread_cond_destroy(&c->changed);
  pthread_mutex_destroy(&c->lock);
  free(c);
}

static ds_status comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                             const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                             ds_error *err) {
  (void)kv;
  ds_comm_world w = {.size = sizeof w};
  int own = -1;
  if (timeout_ms < 0)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: a time limit of %lld ms; 0 is none",
                       (long long)timeout_ms);
  ds_status st = ds_cpu_mpi_world(&w, err);
  if (st == DS_OK) st = check_ranks(&w, ranks, rank_count, &own, err);
  if (st != DS_OK) return st;
  ds_comm *c = comm_alloc(own, rank_count, rank_count, timeout_ms, err);
  if (c == NULL) return DS_ERR_MEMORY;
  ds_cpu_wait wait;
  ds_cpu_limit limit = limit_of_all(c);
  wait_begin(&wait);
  c->share = dev->shared_memory;
  if (rank_count > 1) st = ds_cpu_mpi_create(ranks, rank_count, own, &limit, &c->group, err);
  if (st == DS_OK) st = meet_local(c, &limit, err);
  if (st != DS_OK) {
    wait_end(&wait);
    if (st == DS_ERR_TIMEOUT) ds_cpu_roll(c, NULL, wait.missing, sizeof wait.missing);
    st = explain(c, st, "create", &wait, err);
    ds_cpu_mpi_failed();
    let_go(c);
    return st;
  }
  if (rank_count > 1) ds_cpu_mpi_patience(timeout_ms);
  *out = c;
  return DS_OK;
}

static void comm_destroy(ds_comm *c) {
  if (c == NULL) return;
  pthread_mutex_lock(&c->lock);
  while (atomic_load(&c->aborted) ? c->running > 0 : c->queued > 0)
    pthread_cond_wait(&c->changed, &c->lock);
  pthread_mutex_unlock(&c->lock);
  let_go(c);
}

/* For as long as a call waits for others: destroy waits for it, abort ends it. */
static void begin(ds_comm *c) {
  pthread_mutex_lock(&c->lock);
  c->running++;
  pthread_mutex_unlock(&c->lock);
}

static ds_status end(ds_comm *c, ds_status st, const char *what, const ds_cpu_wait *wait,
                     ds_error *err) {
  st = explain(c, st, what, wait, err);
  pthread_mutex_lock(&c->lock);
  c->running--;
  if (st != DS_OK) {
    atomic_store(&c->aborted, true);
    ds_cpu_local_lose(c->local);
    ds_cpu_mpi_failed();
  }
  pthread_cond_broadcast(&c->changed);
  pthread_mutex_unlock(&c->lock);
  return st;
}

static ds_status comm_split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err) {
  *out = NULL;
  if (color < -1)
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu comm: split: color %d; it is at least 0, or -1 for none", color);
  if (atomic_load(&c->aborted)) return gave_up(c, "split", err);
  ds_comm *part = comm_alloc(0, 1, c->size, c->timeout_ms, err);
  if (part == NULL) return DS_ERR_MEMORY;
  ds_cpu_wait wait;
  ds_cpu_limit limit = limit_of_all(c);
  begin(c);
  wait_begin(&wait);
  ds_status st = c->group == NULL ? DS_OK
                                  : ds_cpu_mpi_split(c->group, color, key, &limit, &part->group,
                                                     &part->rank, &part->size, err);
  part->share = c->share;
  limit.seen = NULL; /* of part's members nothing is known */
  if (st == DS_OK && color >= 0) st = meet_local(part, &limit, err);
  wait_end(&wait);
  if (st == DS_ERR_TIMEOUT) ds_cpu_roll(c, NULL, wait.missing, sizeof wait.missing);
  st = end(c, st, "split", &wait, err);
  if (st == DS_OK && color >= 0)
    *out = part;
  else
    let_go(part);
  return st;
}

static ds_status comm_rank(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err) {
  (void)err;
  *rank = c->rank;
  *size = c->size;
  return DS_OK;
}

/* ---------------------------------------------------------------- checks: the stream's failure
 * first */

static ds_status check_move(ds_stream *s, const char *call, int64_t count, int32_t dtype,
                            ds_error *err) {
  ds_status st = ds_cpu_queue_check(s, err);
  if (st != DS_OK) return st;
  if (dtype == DS_I4 || ds_cpu_dtype_bytes(dtype, 1) == 0)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu comm: %s of %s", call,
                       ds_cpu_dtype_name(dtype));
  if (count < 0 || count > INT64_MAX / 64)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: %s of %lld elements", call,
                       (long long)count);
  return DS_OK;
}

static ds_status check_reduce(ds_stream *s, const char *call, int64_t count, int32_t dtype,
                              ds_reduce op, ds_error *err) {
  ds_status st = check_move(s, call, count, dtype, err);
  if (st != DS_OK) return st;
  if ((int)op < DS_REDUCE_SUM || (int)op > DS_REDUCE_MIN)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu comm: %s: unknown reduction %d", call,
                       (int)op);
  if (dtype == DS_U8 || dtype == DS_F8E4M3 || dtype == DS_F8E5M2)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu comm: %s of %s; f32, bf16, f16, f64, i8, i32 and i64 are", call,
                       ds_cpu_dtype_name(dtype));
  return DS_OK;
}

static ds_status check_peer(const ds_comm *c, const char *call, int32_t peer, ds_error *err) {
  if (peer >= 0 && peer < c->size) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_INVALID,
                     "cpu comm: %s: there is no rank %d in a communicator of %d", call, peer,
                     c->size);
}

static ds_status check_other(const ds_comm *c, const char *call, int32_t peer, ds_error *err) {
  ds_status st = check_peer(c, call, peer, err);
  if (st == DS_OK && peer == c->rank)
    st = ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: %s: rank %d is the caller itself", call, peer);
  return st;
}

/* ---------------------------------------------------------------- work */

static bool is_pair(const ds_cpu_work *w) {
  return w->call == DS_CPU_SEND || w->call == DS_CPU_RECV;
}

/* Does w, and where it runs out of time, finds out who is missing. */
static ds_status perform(ds_comm *c, ds_stream *s, const ds_cpu_work *w, ds_cpu_wait *wait,
                         ds_error *err) {
  ds_cpu_limit limit = is_pair(w) ? limit_of(c) : limit_of_all(c);
  limit.host_waits = !ds_cpu_queue_is_thread(s);
  wait_begin(wait);
  ds_status st = ds_cpu_comm_run(c, s, w, &limit, err);
  wait_end(wait);
  if (st != DS_ERR_TIMEOUT) return st;
  if (is_pair(w))
    snprintf(wait->missing, sizeof wait->missing,
             "rank %d has not made the matching %s: late, stopped, gone, or at another call",
             w->peer, ds_cpu_call_name(w->call == DS_CPU_SEND ? DS_CPU_RECV : DS_CPU_SEND));
  else
    ds_cpu_roll(c, w, wait->missing, sizeof wait->missing);
  return st;
}

/* One piece of work less: it lets go of c. */
static void over(ds_comm *c) {
  pthread_mutex_lock(&c->lock);
  c->queued--;
  pthread_cond_broadcast(&c->changed);
  pthread_mutex_unlock(&c->lock);
  let_go(c);
}

/* An item of the queue; see ds_cpu_work_fn. */
static ds_status run(ds_stream *s, const ds_cpu_work *w, const ds_error *failure, ds_error *err) {
  ds_comm *c = w->object;
  ds_status st = DS_OK;
  if (failure == NULL) {
    char what[96];
    ds_cpu_wait wait = {0};
    begin(c);
    st = atomic_load(&c->aborted) ? DS_ERR_ABORTED : perform(c, s, w, &wait, err);
    if (st != DS_OK)
      snprintf(what, sizeof what, "%s of %lld %s", ds_cpu_call_name(w->call), (long long)w->count,
               ds_cpu_dtype_name(w->dtype));
    st = end(c, st, what, &wait, err);
  }
  over(c);
  return st;
}

/* The queue's; or now, on this thread. */
static ds_status enqueue(ds_comm *c, ds_stream *s, const ds_cpu_work *w, bool now, ds_error *err) {
  atomic_fetch_add(&c->owners, 1);
  pthread_mutex_lock(&c->lock);
  c->queued++;
  pthread_mutex_unlock(&c->lock);
  if (now) return ds_cpu_queue_run(s, w, err);
  ds_status st = ds_cpu_queue_push(s, w, err);
  if (st == DS_OK) return st;
  if (w->arrived) give_up(c); /* the others count on us */
  over(c);
  return st;
}

static ds_status give_local(ds_comm *c, ds_stream *s, ds_cpu_work *w, ds_error *err) {
  enum ds_cpu_try how = DS_CPU_TRY_LATER;
  if (!atomic_load_explicit(&s->busy, memory_order_acquire)) how = ds_cpu_comm_try_local(c, s, w);
  return how == DS_CPU_TRY_DONE ? DS_OK : enqueue(c, s, w, how == DS_CPU_TRY_READY, err);
}

/* A checked call. */
static ds_status give(ds_comm *c, ds_stream *s, ds_cpu_work w, ds_error *err) {
  size_t bytes = ds_cpu_dtype_bytes(w.dtype, w.count);
  if (atomic_load(&c->aborted)) return gave_up(c, ds_cpu_call_name(w.call), err);
  if (bytes == 0) return DS_OK;
  w.run = run;
  w.object = c;
  if (!is_pair(&w)) w.number = ++c->calls;
  if (c->local != NULL && !is_pair(&w)) return give_local(c, s, &w, err);
  bool now = c->local == NULL && !ds_cpu_mpi_asynchronous();
  if (c->group != NULL) return enqueue(c, s, &w, now, err);
  ds_status st = ds_cpu_ready(s, err);
  if (st == DS_OK && w.send != NULL && w.recv != NULL && w.send != w.recv)
    memcpy(w.recv, w.send, bytes);
  return st;
}

static ds_status comm_allreduce(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  ds_status st = check_reduce(s, "allreduce", count, dtype, op, err);
  if (st != DS_OK) return st;
  return give(c, s,
              (ds_cpu_work){.call = DS_CPU_ALLREDUCE,
                            .send = send,
                            .recv = recv,
                            .count = count,
                            .dtype = dtype,
                            .op = (int32_t)op},
              err);
}

static ds_status comm_reduce_scatter(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t recv_count, int32_t dtype, ds_reduce op,
                                     ds_error *err) {
  ds_status st = check_reduce(s, "reduce_scatter", recv_count, dtype, op, err);
  if (st != DS_OK) return st;
  return give(c, s,
              (ds_cpu_work){.call = DS_CPU_REDUCE_SCATTER,
                            .send = send,
                            .recv = recv,
                            .count = recv_count,
                            .dtype = dtype,
                            .op = (int32_t)op},
              err);
}

static ds_status comm_allgather(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t send_count, int32_t dtype, ds_error *err) {
  ds_status st = check_move(s, "allgather", send_count, dtype, err);
  if (st != DS_OK) return st;
  return give(c, s,
              (ds_cpu_work){.call = DS_CPU_ALLGATHER,
                            .send = send,
                            .recv = recv,
                            .count = send_count,
                            .dtype = dtype},
              err);
}

static ds_status comm_alltoall(ds_comm *c, ds_stream *s, const void *send, void *recv,
                               int64_t count_per_rank, int32_t dtype, ds_error *err) {
  ds_status st = check_move(s, "alltoall", count_per_rank, dtype, err);
  if (st != DS_OK) return st;
  return give(c, s,
              (ds_cpu_work){.call = DS_CPU_ALLTOALL,
                            .send = send,
                            .recv = recv,
                            .count = count_per_rank,
                            .dtype = dtype},
              err);
}

static ds_status comm_broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                int32_t dtype, int32_t root, ds_error *err) {
  ds_status st = check_move(s, "broadcast", count, dtype, err);
  if (st == DS_OK) st = check_peer(c, "broadcast", root, err);
  if (st != DS_OK) return st;
  return give(
      c, s,
      (ds_cpu_work){
          .call = DS_CPU_BROADCAST, .recv = buffer, .count = count, .dtype = dtype, .peer = root},
      err);
}

static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  ds_status st = check_move(s, "send", count, dtype, err);
  if (st == DS_OK) st = check_other(c, "send", peer, err);
  if (st != DS_OK) return st;
  return give(
      c, s,
      (ds_cpu_work){
          .call = DS_CPU_SEND, .send = buffer, .count = count, .dtype = dtype, .peer = peer},
      err);
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  ds_status st = check_move(s, "recv", count, dtype, err);
  if (st == DS_OK) st = check_other(c, "recv", peer, err);
  if (st != DS_OK) return st;
  return give(
      c, s,
      (ds_cpu_work){
          .call = DS_CPU_RECV, .recv = buffer, .count = count, .dtype = dtype, .peer = peer},
      err);
}

/* Waits, so its failure is its own and not the stream's. */
static ds_status comm_barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  ds_cpu_work barrier = {.call = DS_CPU_BARRIER, .dtype = DS_I8};
  ds_status st = ds_cpu_ready(s, err);
  if (st != DS_OK) return st;
  if (atomic_load(&c->aborted)) return gave_up(c, "barrier", err);
  if (c->group == NULL) return DS_OK;
  ds_cpu_wait wait;
  barrier.number = ++c->calls;
  begin(c);
  st = perform(c, s, &barrier, &wait, err);
  return end(c, st, "barrier", &wait, err);
}

const ds_comm_table ds_cpu_comm_table = {
    .base = {sizeof(ds_comm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .world = comm_world,
    .create = comm_create,
    .destroy = comm_destroy,
    .allreduce = comm_allreduce,
    .reduce_scatter = comm_reduce_scatter,
    .allgather = comm_allgather,
    .broadcast = comm_broadcast,
    .barrier = comm_barrier,
    .send = comm_send,
    .recv = comm_recv,
    .alltoall = comm_alltoall,
    .split = comm_split,
    .rank = comm_rank,
    .abort = give_up,
};
