/* comm.c - collectives in a world of one rank: each gives back what it was given. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/tables.h"
#include "base/status.h"

struct ds_comm {
  atomic_bool aborted;
};

static ds_status gave_up(const char *call, ds_error *err) {
  return ds_fail(err, DS_ERR_ABORTED, "reference: %s: the communicator was aborted", call);
}

static ds_status comm_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world full = {
      .size = sizeof full, .rank = 0, .world_size = 1, .local_rank = 0, .local_size = 1};
  if (out->size < sizeof out->size) {
    return ds_fail(err, DS_ERR_INVALID, "reference: ds_comm_world.size is not set");
  }
  if (out->size < full.size) full.size = out->size; /* an older caller */
  memcpy(out, &full, full.size);
  return DS_OK;
}

static ds_status comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                             const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                             ds_error *err) {
  (void)dev;
  (void)kv;
  (void)timeout_ms;
  if (rank_count < 1 || !ranks) {
    return ds_fail(err, DS_ERR_INVALID, "reference: a communicator needs a list of ranks");
  }
  if (rank_count > 1) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "reference: a communicator of %d ranks; this backend reaches no other process, "
                   "choose one with a comm table",
                   (int)rank_count);
  }
  if (ranks[0] != 0) {
    return ds_fail(err, DS_ERR_INVALID, "reference: there is no rank %d, the world is rank 0 of 1",
                   (int)ranks[0]);
  }
  ds_comm *c = calloc(1, sizeof *c);
  if (!c) return ds_fail_memory(err, "a reference communicator");
  *out = c;
  return DS_OK;
}

static void comm_destroy(ds_comm *c) {
  free(c);
}

/* Bytes of count elements, or a failure that names the call. */
static ds_status bytes_of(const char *call, int64_t count, int32_t dtype, size_t *bytes,
                          ds_error *err) {
  static const uint8_t bits[] = {
      [DS_F32] = 32, [DS_BF16] = 16, [DS_F16] = 16, [DS_F64] = 64,   [DS_I32] = 32,  [DS_I64] = 64,
      [DS_I8] = 8,   [DS_U8] = 8,    [DS_I4] = 4,   [DS_F8E4M3] = 8, [DS_F8E5M2] = 8};
  if (dtype < 0 || dtype >= (int32_t)sizeof bits) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "reference: %s: dtype %d is unknown", call, (int)dtype);
  }
  if (count < 0 || count > INT64_MAX / 64) {
    return ds_fail(err, DS_ERR_INVALID, "reference: %s: impossible count %lld", call,
                   (long long)count);
  }
  *bytes = ((size_t)count * bits[dtype] + 7) / 8;
  return DS_OK;
}

static ds_status move(const ds_comm *c, const char *call, const void *send, void *recv,
                      int64_t count, int32_t dtype, ds_error *err) {
  size_t bytes = 0;
  if (c->aborted) return gave_up(call, err);
  DS_TRY(bytes_of(call, count, dtype, &bytes, err));
  if (bytes == 0 || send == recv) return DS_OK;
  if (!send || !recv) {
    return ds_fail(err, DS_ERR_INVALID, "reference: %s: the %s buffer is NULL", call,
                   send ? "recv" : "send");
  }
  memmove(recv, send, bytes);
  return DS_OK;
}

/* Sum, mean, max and min of one value are that value. */
static ds_status reduce(const ds_comm *c, const char *call, const void *send, void *recv,
                        int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  if ((int)op < DS_REDUCE_SUM || (int)op > DS_REDUCE_MIN) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "reference: %s: reduction %d is unknown", call,
                   (int)op);
  }
  return move(c, call, send, recv, count, dtype, err);
}

static ds_status comm_allreduce(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  (void)s;
  return reduce(c, "allreduce", send, recv, count, dtype, op, err);
}

static ds_status comm_reduce_scatter(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t recv_count, int32_t dtype, ds_reduce op,
                                     ds_error *err) {
  (void)s;
  return reduce(c, "reduce_scatter", send, recv, recv_count, dtype, op, err);
}

static ds_status comm_allgather(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t send_count, int32_t dtype, ds_error *err) {
  (void)s;
  return move(c, "allgather", send, recv, send_count, dtype, err);
}

static ds_status comm_alltoall(ds_comm *c, ds_stream *s, const void *send, void *recv,
                               int64_t count_per_rank, int32_t dtype, ds_error *err) {
  (void)s;
  return move(c, "alltoall", send, recv, count_per_rank, dtype, err);
}

static ds_status comm_broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                int32_t dtype, int32_t root, ds_error *err) {
  (void)s;
  if (root != 0) {
    return ds_fail(err, DS_ERR_INVALID, "reference: broadcast: there is no rank %d, only rank 0",
                   (int)root);
  }
  return move(c, "broadcast", buffer, buffer, count, dtype, err);
}

static ds_status comm_barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  (void)s;
  return c->aborted ? gave_up("barrier", err) : DS_OK;
}

/* One rank has nobody to talk to: another peer is wrong, itself would never return elsewhere. */
static ds_status no_peer(const char *call, int32_t peer, ds_error *err) {
  if (peer == 0) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "reference: %s: rank 0 is this rank itself", call);
  }
  return ds_fail(err, DS_ERR_INVALID, "reference: %s: there is no rank %d, only rank 0", call,
                 (int)peer);
}

static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  (void)c;
  (void)s;
  (void)buffer;
  (void)count;
  (void)dtype;
  return no_peer("send", peer, err);
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  (void)c;
  (void)s;
  (void)buffer;
  (void)count;
  (void)dtype;
  return no_peer("recv", peer, err);
}

static ds_status comm_split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err) {
  (void)key;
  *out = NULL;
  if (color < -1) {
    return ds_fail(err, DS_ERR_INVALID,
                   "reference: split: color %d; it is at least 0, or -1 for none", (int)color);
  }
  if (c->aborted) return gave_up("split", err);
  if (color == -1) return DS_OK;
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : ds_fail_memory(err, "a reference communicator");
}

static ds_status comm_rank(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err) {
  (void)c;
  (void)err;
  *rank = 0;
  *size = 1;
  return DS_OK;
}

static void comm_abort(ds_comm *c) {
  c->aborted = true;
}

const ds_comm_table ds_reference_comm = {
    .base = DS_REFERENCE_TABLE(ds_comm_table),
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
    .abort = comm_abort,
};
