/* comm.c - the comm table: communicators of one rank copy; larger ones go through Open MPI
 * (comm_mpi.h), cut into pieces.
 *
 * Reductions go in pieces of 4 MiB: Open MPI takes a fresh temporary for each call, and past that
 * size the page faults cost many times the reduction. bf16 is reduced in f32 and rounded once.
 * Limits: create's timeout_ms and kv are not used; there is no time limit on any call. A rank that
 * dies is noticed by the launcher, which ends the job.
 */
#include "bf16.h"
#include "comm_mpi.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { REDUCE_BYTES = 4 << 20, MOVE_BYTES = 256 << 20 };

struct ds_comm {
  int rank, size;
  ds_cpu_mpi_group *group; /* NULL: the caller alone */
};

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

static ds_status comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                             const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                             ds_error *err) {
  (void)dev, (void)kv, (void)timeout_ms;
  ds_comm_world w = {.size = sizeof w};
  int own = -1;
  ds_status st = ds_cpu_mpi_world(&w, err);
  if (st == DS_OK) st = check_ranks(&w, ranks, rank_count, &own, err);
  if (st != DS_OK) return st;
  ds_comm *c = calloc(1, sizeof *c);
  if (c == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu comm: no memory for a communicator");
  c->rank = own;
  c->size = rank_count;
  if (rank_count > 1) st = ds_cpu_mpi_create(ranks, rank_count, &c->group, err);
  if (st != DS_OK) {
    free(c);
    return st;
  }
  *out = c;
  return DS_OK;
}

static void comm_destroy(ds_comm *c) {
  if (c == NULL) return;
  ds_cpu_mpi_destroy(c->group);
  free(c);
}

/* ---------------------------------------------------------------- checks */

static ds_status check_move(const char *call, int64_t count, int32_t dtype, size_t *bytes,
                            ds_error *err) {
  size_t one = dtype == DS_I4 ? 0 : ds_cpu_dtype_bytes(dtype, 1);
  if (one == 0)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED, "cpu comm: %s of %s", call,
                       ds_cpu_dtype_name(dtype));
  if (count < 0 || count > INT64_MAX / 64)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: %s of %lld elements", call,
                       (long long)count);
  *bytes = one * (size_t)count;
  return DS_OK;
}

static ds_status check_reduce(const char *call, int64_t count, int32_t dtype, ds_reduce op,
                              size_t *bytes, ds_error *err) {
  if ((int)op < DS_REDUCE_SUM || (int)op > DS_REDUCE_MIN)
    return ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: %s: unknown reduction %d", call, (int)op);
  if (dtype != DS_F32 && dtype != DS_BF16 && dtype != DS_F64 && dtype != DS_I32 && dtype != DS_I64)
    return ds_cpu_fail(err, DS_ERR_UNSUPPORTED,
                       "cpu comm: %s of %s; f32, bf16, f64, i32 and i64 are", call,
                       ds_cpu_dtype_name(dtype));
  return check_move(call, count, dtype, bytes, err);
}

static ds_status check_peer(const ds_comm *c, const char *call, int32_t peer, ds_error *err) {
  if (peer >= 0 && peer < c->size) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_INVALID,
                     "cpu comm: %s: there is no rank %d in a communicator "
                     "of %d",
                     call, peer, c->size);
}

static size_t min_size(size_t a, size_t b) {
  return a < b ? a : b;
}

/* ---------------------------------------------------------------- reductions */

static void widen(float *dst, const uint16_t *src, int64_t n) {
  for (int64_t i = 0; i < n; i++) dst[i] = ds_cpu_bf16_load(src[i]);
}

static void narrow(uint16_t *dst, const float *src, int64_t n) {
  for (int64_t i = 0; i < n; i++) dst[i] = ds_cpu_bf16_store(src[i]);
}

/* Turns a sum into a mean; whole numbers are cut towards zero. */
static void divide(void *data, int64_t n, int32_t dtype, int by) {
  switch (dtype) {
    case DS_F32:
      for (int64_t i = 0; i < n; i++) ((float *)data)[i] /= (float)by;
      break;
    case DS_F64:
      for (int64_t i = 0; i < n; i++) ((double *)data)[i] /= by;
      break;
    case DS_I32:
      for (int64_t i = 0; i < n; i++) ((int32_t *)data)[i] /= by;
      break;
    default:
      for (int64_t i = 0; i < n; i++) ((int64_t *)data)[i] /= by;
  }
}

static ds_status comm_allreduce(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  size_t bytes = 0;
  ds_status st = check_reduce("allreduce", count, dtype, op, &bytes, err);
  if (st != DS_OK || bytes == 0) return st;
  if (c->group == NULL) {
    if (recv != send) memcpy(recv, send, bytes);
    return DS_OK;
  }
  bool wide = dtype == DS_BF16;
  int32_t type = wide ? DS_F32 : dtype;
  int64_t piece = REDUCE_BYTES / (int64_t)ds_cpu_dtype_bytes(type, 1);
  float *scratch = NULL;
  if (wide && (scratch = ds_cpu_scratch(s, DS_CPU_SCRATCH_COMM, REDUCE_BYTES, err)) == NULL)
    return DS_ERR_MEMORY;
  for (int64_t at = 0; at < count && st == DS_OK; at += piece) {
    int64_t n = ds_cpu_min_i64(piece, count - at);
    size_t offset = ds_cpu_dtype_bytes(dtype, at);
    const void *from = (const char *)send + offset;
    void *to = (char *)recv + offset, *data = wide ? (void *)scratch : to;
    if (wide)
      widen(scratch, from, n);
    else if (from != to)
      memcpy(to, from, ds_cpu_dtype_bytes(dtype, n));
    st = ds_cpu_mpi_allreduce(c->group, data, (int)n, type, op, err);
    if (st == DS_OK && op == DS_REDUCE_MEAN) divide(data, n, type, c->size);
    if (st == DS_OK && wide) narrow(to, scratch, n);
  }
  return st;
}

/* Every rank's part of one piece, side by side, as MPI wants them. */
static void gather_parts(const ds_comm *c, char *parts, const void *send, int64_t total, int64_t at,
                         int64_t n, int32_t dtype) {
  for (int r = 0; r < c->size; r++) {
    const char *from = (const char *)send + ds_cpu_dtype_bytes(dtype, r * total + at);
    if (dtype == DS_BF16)
      widen((float *)parts + r * n, (const uint16_t *)from, n);
    else
      memcpy(parts + ds_cpu_dtype_bytes(dtype, r * n), from, ds_cpu_dtype_bytes(dtype, n));
  }
}

static ds_status comm_reduce_scatter(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t recv_count, int32_t dtype, ds_reduce op,
                                     ds_error *err) {
  size_t bytes = 0;
  ds_status st = check_reduce("reduce_scatter", recv_count, dtype, op, &bytes, err);
  if (st != DS_OK || bytes == 0) return st;
  if (c->group == NULL) {
    if (recv != send) memcpy(recv, send, bytes);
    return DS_OK;
  }
  bool wide = dtype == DS_BF16;
  int32_t type = wide ? DS_F32 : dtype;
  size_t one = ds_cpu_dtype_bytes(type, 1);
  int64_t piece = REDUCE_BYTES / (int64_t)one / c->size;
  if (piece < 1) piece = 1;
  size_t parts_bytes = one * (size_t)piece * (size_t)c->size;
  char *parts = ds_cpu_scratch(s, DS_CPU_SCRATCH_COMM, parts_bytes + one * (size_t)piece, err);
  if (parts == NULL) return DS_ERR_MEMORY;
  for (int64_t at = 0; at < recv_count && st == DS_OK; at += piece) {
    int64_t n = ds_cpu_min_i64(piece, recv_count - at);
    void *to = (char *)recv + ds_cpu_dtype_bytes(dtype, at);
    void *data = wide ? parts + parts_bytes : to;
    gather_parts(c, parts, send, recv_count, at, n, dtype);
    st = ds_cpu_mpi_reduce_scatter(c->group, parts, data, (int)n, type, op, err);
    if (st == DS_OK && op == DS_REDUCE_MEAN) divide(data, n, type, c->size);
    if (st == DS_OK && wide) narrow(to, data, n);
  }
  return st;
}

/* ---------------------------------------------------------------- movement */

static ds_status broadcast_bytes(ds_comm *c, char *buffer, size_t bytes, int root, ds_error *err) {
  ds_status st = DS_OK;
  for (size_t at = 0; at < bytes && st == DS_OK; at += MOVE_BYTES)
    st = ds_cpu_mpi_broadcast(c->group, buffer + at, (int)min_size(MOVE_BYTES, bytes - at), root,
                              err);
  return st;
}

static ds_status comm_allgather(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t send_count, int32_t dtype, ds_error *err) {
  (void)s;
  size_t bytes = 0;
  ds_status st = check_move("allgather", send_count, dtype, &bytes, err);
  if (st != DS_OK || bytes == 0) return st;
  char *own = (char *)recv + (size_t)c->rank * bytes;
  bool in_place = send == own;
  if (c->group != NULL && bytes <= MOVE_BYTES)
    return ds_cpu_mpi_allgather(c->group, send, recv, (int)bytes, in_place, err);
  if (!in_place) memcpy(own, send, bytes);
  if (c->group == NULL) return DS_OK;
  for (int r = 0; r < c->size && st == DS_OK; r++)
    st = broadcast_bytes(c, (char *)recv + (size_t)r * bytes, bytes, r, err);
  return st;
}

static ds_status comm_broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                int32_t dtype, int32_t root, ds_error *err) {
  (void)s;
  size_t bytes = 0;
  ds_status st = check_move("broadcast", count, dtype, &bytes, err);
  if (st == DS_OK) st = check_peer(c, "broadcast", root, err);
  if (st != DS_OK || c->group == NULL) return st;
  return broadcast_bytes(c, buffer, bytes, root, err);
}

static ds_status comm_barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  (void)s;
  return c->group == NULL ? DS_OK : ds_cpu_mpi_barrier(c->group, err);
}

static ds_status check_other(const ds_comm *c, const char *call, int32_t peer, ds_error *err) {
  ds_status st = check_peer(c, call, peer, err);
  if (st == DS_OK && peer == c->rank)
    st = ds_cpu_fail(err, DS_ERR_INVALID, "cpu comm: %s: rank %d is the caller itself", call, peer);
  return st;
}

static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  (void)s;
  size_t bytes = 0;
  ds_status st = check_move("send", count, dtype, &bytes, err);
  if (st == DS_OK) st = check_other(c, "send", peer, err);
  for (size_t at = 0; st == DS_OK && at < bytes; at += MOVE_BYTES)
    st = ds_cpu_mpi_send(c->group, (const char *)buffer + at, (int)min_size(MOVE_BYTES, bytes - at),
                         peer, err);
  return st;
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  (void)s;
  size_t bytes = 0;
  ds_status st = check_move("recv", count, dtype, &bytes, err);
  if (st == DS_OK) st = check_other(c, "recv", peer, err);
  for (size_t at = 0; st == DS_OK && at < bytes; at += MOVE_BYTES)
    st = ds_cpu_mpi_recv(c->group, (char *)buffer + at, (int)min_size(MOVE_BYTES, bytes - at), peer,
                         err);
  return st;
}

static ds_status comm_alltoall(ds_comm *c, ds_stream *s, const void *send, void *recv,
                               int64_t count_per_rank, int32_t dtype, ds_error *err) {
  (void)s;
  size_t bytes = 0;
  ds_status st = check_move("alltoall", count_per_rank, dtype, &bytes, err);
  if (st != DS_OK || bytes == 0) return st;
  if (c->group != NULL && bytes <= MOVE_BYTES)
    return ds_cpu_mpi_alltoall(c->group, send, recv, (int)bytes, err);
  size_t own = (size_t)c->rank * bytes;
  memcpy((char *)recv + own, (const char *)send + own, bytes);
  for (int step = 1; step < c->size; step++) { /* each rank to the one `step` after it */
    int to = (c->rank + step) % c->size, from = (c->rank - step + c->size) % c->size;
    const char *out = (const char *)send + (size_t)to * bytes;
    char *in = (char *)recv + (size_t)from * bytes;
    for (size_t at = 0; at < bytes && st == DS_OK; at += MOVE_BYTES)
      st = ds_cpu_mpi_sendrecv(c->group, out + at, to, in + at, from,
                               (int)min_size(MOVE_BYTES, bytes - at), err);
  }
  return st;
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
};
