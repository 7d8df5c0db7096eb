/* comm.c - the reference's world of one rank, its collectives run late. */
#include "strict.h"

#include "backend/reference/reference.h"

#include <stdlib.h>
#include <string.h>

enum { ALLREDUCE, REDUCE_SCATTER, ALLGATHER, BROADCAST, ALLTOALL, COLLECTIVES };
static const char *const names[COLLECTIVES] = {"allreduce", "reduce_scatter", "allgather",
                                               "broadcast", "alltoall"};

static const ds_comm_table *reference(void) {
  return ds_reference_plugin()->comm;
}

static ds_status comm_world(ds_comm_world *out, ds_error *err) {
  return reference()->world(out, err);
}

static ds_status keep(ds_device *d, ds_comm *made, ds_comm **out, ds_error *err) {
  ds_comm *c = calloc(1, sizeof *c);
  if (!c) {
    reference()->destroy(made);
    return strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
  }
  c->device = d;
  c->reference = made;
  c->next = d->comms;
  d->comms = c;
  *out = c;
  return DS_OK;
}

static ds_status comm_create(ds_device *d, const int32_t *ranks, int32_t rank_count,
                             const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                             ds_error *err) {
  ds_status status = strict_enter_device(d, "comm create", err);
  if (status != DS_OK) return status;
  ds_comm *made = NULL;
  status = reference()->create(NULL, ranks, rank_count, kv, timeout_ms, &made, err);
  if (status == DS_OK) status = keep(d, made, out, err);
  strict_leave_device(d);
  return status;
}

static void comm_destroy(ds_comm *c) {
  if (!c || !strict_enter_quietly(c->device, "comm destroy")) return;
  ds_device *d = c->device;
  if (c->destroyed) strict_violation(d, NULL, NULL, "comm destroy, twice");
  /* "Waits for the work in flight", which does not tell the host of other work. */
  while (!c->destroyed && c->seq > d->streams[c->stream]->ran) {
    d->waiting++;
    pthread_cond_signal(&d->work);
    pthread_cond_wait(&d->progress, &d->lock);
    d->waiting--;
  }
  if (!c->destroyed) reference()->destroy(c->reference);
  c->destroyed = true;
  strict_leave_device(d);
}

/* The reference's call; c is its communicator. */
static ds_status call(int which, ds_comm *c, const void *send, void *recv, int64_t n, int32_t dtype,
                      ds_reduce op, ds_error *err) {
  switch (which) {
    case ALLREDUCE: return reference()->allreduce(c, NULL, send, recv, n, dtype, op, err);
    case REDUCE_SCATTER: return reference()->reduce_scatter(c, NULL, send, recv, n, dtype, op, err);
    case ALLGATHER: return reference()->allgather(c, NULL, send, recv, n, dtype, err);
    case ALLTOALL: return reference()->alltoall(c, NULL, send, recv, n, dtype, err);
    default: return reference()->broadcast(c, NULL, recv, n, dtype, 0, err);
  }
}

static ds_status run_collective(strict_task *t, ds_device *d, ds_error *err) {
  return call(t->u.comm.number, t->u.comm.comm, strict_host_address(d, t->u.comm.send),
              strict_host_address(d, t->u.comm.recv), t->u.comm.count, t->u.comm.dtype,
              t->u.comm.reduce, err);
}

/* One communicator's calls in one order: its last one comes before this one. The stream is
 * entered. */
static ds_status check_comm(ds_comm *c, ds_stream *s, const char *what, ds_error *err) {
  if (c->destroyed)
    return strict_violation(s->device, s, err, "%s on a destroyed communicator", what);
  if (c->device != s->device)
    return strict_violation(s->device, s, err, "%s: a communicator of another device", what);
  if (c->stream != s->index && c->seq > s->clock[c->stream] && c->seq > s->device->known[c->stream])
    return strict_violation(s->device, s, err,
                            "%s on stream %d: the communicator's last call was on stream %d, and "
                            "nothing orders them",
                            what, s->index, c->stream);
  return DS_OK;
}

static ds_status collective(int which, ds_comm *c, ds_stream *s, const void *send, void *recv,
                            int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  static const size_t sizes[] = {4, 2, 2, 8, 4, 8, 1, 1, 1, 1, 1};
  ds_status status = strict_enter(s, names[which], err);
  if (status != DS_OK) return status;
  status = check_comm(c, s, names[which], err);
  if (status == DS_OK && s->recording)
    status = strict_fail(err, DS_ERR_UNSUPPORTED, "strict: %s: not recorded", names[which]);
  /* What the reference would refuse is refused now: no elements are enough to ask it. */
  if (status == DS_OK)
    status = call(which, c->reference, NULL, NULL, count < 0 ? count : 0, dtype, op, err);
  strict_task *t = status == DS_OK ? strict_task_new(names[which], run_collective) : NULL;
  if (t) {
    size_t bytes = dtype >= 0 && dtype <= DS_F8E5M2 && count > 0 ? (size_t)count * sizes[dtype] : 0;
    bool apart =
        (uintptr_t)send + bytes <= (uintptr_t)recv || (uintptr_t)recv + bytes <= (uintptr_t)send;
    if (send != recv && !apart) t->broken = "has buffers that overlap";
    t->u.comm.comm = c->reference;
    t->u.comm.send = send;
    t->u.comm.recv = recv;
    t->u.comm.count = count;
    t->u.comm.dtype = dtype;
    t->u.comm.number = which;
    t->u.comm.reduce = op;
    strict_name_range(t, send, bytes, false, false);
    strict_name_range(t, recv, bytes, true, apart);
    status = strict_submit(s, t, err);
    c->stream = s->index;
    c->seq = s->submitted;
  } else if (status == DS_OK) {
    status = strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
  }
  strict_leave(s);
  return status;
}

static ds_status allreduce(ds_comm *c, ds_stream *s, const void *send, void *recv, int64_t count,
                           int32_t dtype, ds_reduce op, ds_error *err) {
  return collective(ALLREDUCE, c, s, send, recv, count, dtype, op, err);
}

static ds_status reduce_scatter(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  return collective(REDUCE_SCATTER, c, s, send, recv, count, dtype, op, err);
}

static ds_status allgather(ds_comm *c, ds_stream *s, const void *send, void *recv, int64_t count,
                           int32_t dtype, ds_error *err) {
  return collective(ALLGATHER, c, s, send, recv, count, dtype, DS_REDUCE_SUM, err);
}

static ds_status alltoall(ds_comm *c, ds_stream *s, const void *send, void *recv, int64_t count,
                          int32_t dtype, ds_error *err) {
  return collective(ALLTOALL, c, s, send, recv, count, dtype, DS_REDUCE_SUM, err);
}

static ds_status broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t root, ds_error *err) {
  if (root != 0)
    return strict_fail(err, DS_ERR_INVALID, "strict: broadcast: there is no rank %d", root);
  return collective(BROADCAST, c, s, buffer, buffer, count, dtype, DS_REDUCE_SUM, err);
}

static ds_status barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "barrier", err);
  if (status != DS_OK) return status;
  status = check_comm(c, s, "barrier", err);
  if (status == DS_OK) status = strict_sync(s, err);
  if (status == DS_OK) status = reference()->barrier(c->reference, NULL, err);
  strict_leave(s);
  return status;
}

/* There is nobody else. */
static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  (void)s;
  return reference()->send(c->reference, NULL, buffer, count, dtype, peer, err);
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  (void)s;
  return reference()->recv(c->reference, NULL, buffer, count, dtype, peer, err);
}

static ds_status split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err) {
  ds_comm *made = NULL;
  *out = NULL;
  ds_status status = strict_enter_device(c->device, "split", err);
  if (status != DS_OK) return status;
  status = reference()->split(c->reference, color, key, &made, err);
  if (status == DS_OK && made) status = keep(c->device, made, out, err);
  strict_leave_device(c->device);
  return status;
}

static ds_status comm_rank(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err) {
  return reference()->rank(c->reference, rank, size, err);
}

static void comm_abort(ds_comm *c) {
  reference()->abort(c->reference);
}

const ds_comm_table strict_comm = {
    .base = {sizeof(ds_comm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .world = comm_world,
    .create = comm_create,
    .destroy = comm_destroy,
    .allreduce = allreduce,
    .reduce_scatter = reduce_scatter,
    .allgather = allgather,
    .broadcast = broadcast,
    .barrier = barrier,
    .send = comm_send,
    .recv = comm_recv,
    .alltoall = alltoall,
    .split = split,
    .rank = comm_rank,
    .abort = comm_abort,
};
