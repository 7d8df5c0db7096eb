/* comm.c - the comm table: what is checked before a call, and communicators of one rank, which copy. */
#include "comm.h"
#include "device.h"
#include "world.h"

#include <string.h>

static ds_status comm_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world full = {.size = sizeof full};
  if (out->size < sizeof out->size)
    return gpu_fail(err, DS_ERR_INVALID, "comm: world: set size before the call");
  const ds_status st = gpu_world(&full, err);
  if (st != DS_OK) return st;
  if (out->size < full.size) full.size = out->size;
  memcpy(out, &full, full.size);
  return DS_OK;
}

static ds_status comm_rank(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err) {
  (void)err;
  *rank = c->rank;
  *size = c->size;
  return DS_OK;
}

static void comm_abort(ds_comm *c) {
  pthread_mutex_lock(&c->lock);
  (void)gpu_comm_end(c, DS_ERR_ABORTED, c->calls != NULL ? c->calls->what : "a call", NULL,
                     "the communicator was aborted; destroy it");
  pthread_mutex_unlock(&c->lock);
}

/* ---------------------------------------------------------------- checks: the stream's failure first */

static ds_status check_count(const gpu_comm_work *w, ds_error *err) {
  if (gpu_comm_bytes(w->dtype) == 0)
    return gpu_fail(err, DS_ERR_UNSUPPORTED, "comm: %s of %s", gpu_comm_name(w->kind),
                    gpu_comm_type(w->dtype));
  if (w->count < 0 || w->count > INT64_MAX / 64)
    return gpu_fail(err, DS_ERR_INVALID, "comm: %s of %lld elements", gpu_comm_name(w->kind),
                    (long long)w->count);
  return DS_OK;
}

static ds_status check_reduction(const gpu_comm_work *w, ds_error *err) {
  if ((int)w->op < DS_REDUCE_SUM || (int)w->op > DS_REDUCE_MIN)
    return gpu_fail(err, DS_ERR_UNSUPPORTED, "comm: %s: unknown reduction %d",
                    gpu_comm_name(w->kind), (int)w->op);
  if (w->dtype == DS_U8 || w->dtype == DS_F8E4M3 || w->dtype == DS_F8E5M2)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "comm: %s of %s; f32, bf16, f16, f64, i8, i32 and i64 are",
                    gpu_comm_name(w->kind), gpu_comm_type(w->dtype));
  return DS_OK;
}

static ds_status check_peer(const ds_comm *c, const gpu_comm_work *w, ds_error *err) {
  if (w->peer < 0 || w->peer >= c->size)
    return gpu_fail(err, DS_ERR_INVALID, "comm: %s: there is no rank %d in a communicator of %d",
                    gpu_comm_name(w->kind), w->peer, c->size);
  if (w->kind != GPU_BROADCAST && w->peer == c->rank)
    return gpu_fail(err, DS_ERR_INVALID, "comm: %s: rank %d is the caller itself",
                    gpu_comm_name(w->kind), w->peer);
  return DS_OK;
}

static ds_status check(const ds_comm *c, ds_stream *s, const gpu_comm_work *w, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK && s->recording)
    st = gpu_fail(err, DS_ERR_UNSUPPORTED, "comm: %s can't be recorded in a graph",
                  gpu_comm_name(w->kind));
  if (st == DS_OK) st = check_count(w, err);
  if (st == DS_OK && (w->kind == GPU_ALLREDUCE || w->kind == GPU_REDUCE_SCATTER))
    st = check_reduction(w, err);
  if (st == DS_OK && (w->kind == GPU_BROADCAST || w->kind == GPU_SEND || w->kind == GPU_RECV))
    st = check_peer(c, w, err);
  return st;
}

/* ---------------------------------------------------------------- calls */

static bool is_over(ds_comm *c) {
  pthread_mutex_lock(&c->lock);
  const bool over = c->over;
  pthread_mutex_unlock(&c->lock);
  return over;
}

static ds_status give(ds_comm *c, ds_stream *s, gpu_comm_work w, ds_error *err) {
  ds_status st = check(c, s, &w, err);
  if (st == DS_OK && is_over(c)) st = gpu_comm_gave_up(c, gpu_comm_name(w.kind), err);
  if (st == DS_OK && w.count > 0) {
    if (c->size > 1)
      st = gpu_comm_give(c, s, &w, err);
    else if (w.send != NULL && w.send != w.recv)
      st = gpu_given(s,
                     gpuMemcpyAsync(w.recv, w.send, (size_t)w.count * gpu_comm_bytes(w.dtype),
                                    gpuMemcpyDeviceToDevice, s->handle),
                     gpu_comm_name(w.kind), err);
  }
  return gpu_done(s, st, err);
}

static ds_status comm_allreduce(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_ALLREDUCE, send, recv, count, dtype, op, 0}, err);
}

static ds_status comm_reduce_scatter(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t recv_count, int32_t dtype, ds_reduce op,
                                     ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_REDUCE_SCATTER, send, recv, recv_count, dtype, op, 0}, err);
}

static ds_status comm_allgather(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t send_count, int32_t dtype, ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_ALLGATHER, send, recv, send_count, dtype, 0, 0}, err);
}

static ds_status comm_broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                int32_t dtype, int32_t root, ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_BROADCAST, NULL, buffer, count, dtype, 0, root}, err);
}

static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_SEND, buffer, NULL, count, dtype, 0, peer}, err);
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_RECV, NULL, buffer, count, dtype, 0, peer}, err);
}

static ds_status comm_alltoall(ds_comm *c, ds_stream *s, const void *send, void *recv,
                               int64_t count_per_rank, int32_t dtype, ds_error *err) {
  return give(c, s, (gpu_comm_work){GPU_ALLTOALL, send, recv, count_per_rank, dtype, 0, 0}, err);
}

/* Waits, so its failure is its own and not the stream's. */
static ds_status comm_barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  ds_status st = gpu_stream_sync(s, err);
  if (st == DS_OK && is_over(c)) st = gpu_comm_gave_up(c, "barrier", err);
  if (st != DS_OK || c->size == 1) return st;
  return gpu_comm_gather(c, "barrier", false, gpu_comm_ns(c->timeout_ms), err);
}

const ds_comm_table gpu_comm_table = {
    .base = {sizeof(ds_comm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .world = comm_world,
    .create = gpu_comm_create,
    .destroy = gpu_comm_destroy,
    .allreduce = comm_allreduce,
    .reduce_scatter = comm_reduce_scatter,
    .allgather = comm_allgather,
    .broadcast = comm_broadcast,
    .barrier = comm_barrier,
    .send = comm_send,
    .recv = comm_recv,
    .alltoall = comm_alltoall,
    .split = gpu_comm_split,
    .rank = comm_rank,
    .abort = comm_abort,
};
