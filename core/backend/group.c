#include "backend/group.h"

#include <stdlib.h>

#include "backend/backend_impl.h"
#include "backend/span.h"
#include "base/dtype.h"

struct ds_group {
  ds_backend *backend;
  ds_comm *comm; /* NULL: a group of one */
  const char *name;
  int32_t rank, size;
  ds_group_counter counters[DS_GROUP_OPS];
  ds_group *next; /* of the backend's */
};

static const ds_comm_table *table(const ds_group *g) {
  return g->backend->plugin->comm;
}

ds_status ds_group_create(ds_backend *b, const char *name, ds_comm *comm, ds_group **out,
                          ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_status status = DS_OK;
  *out = NULL;
  ds_group *g = calloc(1, sizeof *g);
  if (!g) {
    if (comm) b->plugin->comm->destroy(comm);
    return ds_fail_memory(err, "a group of ranks");
  }
  *g = (ds_group){.backend = b, .comm = comm, .name = name, .size = 1, .next = b->groups};
  b->groups = g;
  if (comm) status = table(g)->rank(comm, &g->rank, &g->size, &e);
  if (status != DS_OK) {
    ds_group_destroy(g);
    return ds_backend_wrap(b, "comm rank", &e, status, err);
  }
  *out = g;
  return DS_OK;
}

ds_status ds_group_split(ds_group *g, const char *name, int color, int key, ds_group **out,
                         ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_comm *comm = NULL;
  *out = NULL;
  if (g->comm) {
    ds_status status = table(g)->split(g->comm, color, key, &comm, &e);
    if (status != DS_OK) return ds_backend_wrap(g->backend, "comm split", &e, status, err);
  }
  if (color < 0) return DS_OK;
  return ds_group_create(g->backend, name, comm, out, err);
}

void ds_group_destroy(ds_group *g) {
  if (!g) return;
  for (ds_group **at = &g->backend->groups; *at; at = &(*at)->next)
    if (*at == g) {
      *at = g->next;
      break;
    }
  if (g->comm) table(g)->destroy(g->comm);
  free(g);
}

void ds_group_abort(ds_group *g) {
  if (g->comm) table(g)->abort(g->comm);
}

void ds_group_abort_all(ds_backend *b) {
  for (ds_group *g = b->groups; g; g = g->next) ds_group_abort(g);
}

int ds_group_rank(const ds_group *g) {
  return g ? g->rank : 0;
}
int ds_group_size(const ds_group *g) {
  return g ? g->size : 1;
}
const char *ds_group_name(const ds_group *g) {
  return g->name;
}
ds_backend *ds_group_backend(const ds_group *g) {
  return g->backend;
}
ds_group_counter ds_group_count(const ds_group *g, ds_group_op op) {
  return g->counters[op];
}

const char *ds_group_op_name(ds_group_op op) {
  static const char *const names[] = {"allreduce", "reduce_scatter", "allgather", "broadcast",
                                      "alltoall",  "send",           "recv"};
  return names[op];
}

/* ---- calls */

static size_t bytes_of(int64_t count, int32_t dtype) {
  return (size_t)count * ds_dtype_size(dtype);
}

/* times: of (n-1)/n of the payload; 0: all of it. Counts the call and begins its span. */
static ds_span *count_call(ds_group *g, ds_side *on, ds_group_op op, size_t payload, int times) {
  ds_group_counter *c = &g->counters[op];
  size_t n = (size_t)g->size;
  size_t bus =
      times ? (size_t)times * (payload / n * (n - 1) + payload % n * (n - 1) / n) : payload;
  c->calls++;
  c->payload += payload;
  c->bus += bus;
  return ds_span_begin_comm(g->backend, on, (int)op, ds_group_op_name(op), g->name, g->size,
                            payload, bus);
}

static ds_status wrap(ds_group *g, ds_group_op op, const ds_error *from, ds_status status,
                      ds_error *err) {
  return ds_backend_wrap(g->backend, ds_group_op_name(op), from, status, err);
}

static ds_status alone(ds_group *g, ds_side *on, const void *send, void *recv, size_t bytes,
                       ds_error *err) {
  return send == recv ? DS_OK : ds_side_copy(g->backend, on, recv, send, bytes, err);
}

ds_status ds_group_allreduce(ds_group *g, ds_side *on, const void *send, void *recv, int64_t count,
                             int32_t dtype, ds_reduce op, ds_error *err) {
  DS_BLANK_ERROR(e);
  size_t bytes = bytes_of(count, dtype);
  if (!g->comm) return alone(g, on, send, recv, bytes, err);
  ds_span *span = count_call(g, on, DS_GROUP_ALLREDUCE, bytes, 2);
  ds_status status = table(g)->allreduce(g->comm, ds_side_stream(g->backend, on), send, recv, count,
                                         dtype, op, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_ALLREDUCE, &e, status, err);
}

ds_status ds_group_reduce_scatter(ds_group *g, ds_side *on, const void *send, void *recv,
                                  int64_t recv_count, int32_t dtype, ds_reduce op, ds_error *err) {
  DS_BLANK_ERROR(e);
  size_t bytes = bytes_of(recv_count, dtype);
  if (!g->comm) return alone(g, on, send, recv, bytes, err);
  ds_span *span = count_call(g, on, DS_GROUP_REDUCE_SCATTER, bytes * (size_t)g->size, 1);
  ds_status status = table(g)->reduce_scatter(g->comm, ds_side_stream(g->backend, on), send, recv,
                                              recv_count, dtype, op, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_REDUCE_SCATTER, &e, status, err);
}

ds_status ds_group_allgather(ds_group *g, ds_side *on, const void *send, void *recv,
                             int64_t send_count, int32_t dtype, ds_error *err) {
  DS_BLANK_ERROR(e);
  size_t bytes = bytes_of(send_count, dtype);
  if (!g->comm) return alone(g, on, send, recv, bytes, err);
  ds_span *span = count_call(g, on, DS_GROUP_ALLGATHER, bytes * (size_t)g->size, 1);
  ds_status status = table(g)->allgather(g->comm, ds_side_stream(g->backend, on), send, recv,
                                         send_count, dtype, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_ALLGATHER, &e, status, err);
}

ds_status ds_group_broadcast(ds_group *g, ds_side *on, void *buffer, int64_t count, int32_t dtype,
                             int root, ds_error *err) {
  DS_BLANK_ERROR(e);
  if (!g->comm) return DS_OK;
  ds_span *span = count_call(g, on, DS_GROUP_BROADCAST, bytes_of(count, dtype), 0);
  ds_status status =
      table(g)->broadcast(g->comm, ds_side_stream(g->backend, on), buffer, count, dtype, root, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_BROADCAST, &e, status, err);
}

ds_status ds_group_alltoall(ds_group *g, ds_side *on, const void *send, void *recv,
                            int64_t count_per_rank, int32_t dtype, ds_error *err) {
  DS_BLANK_ERROR(e);
  size_t bytes = bytes_of(count_per_rank, dtype);
  if (!g->comm) return alone(g, on, send, recv, bytes, err);
  ds_span *span = count_call(g, on, DS_GROUP_ALLTOALL, bytes * (size_t)g->size, 1);
  ds_status status = table(g)->alltoall(g->comm, ds_side_stream(g->backend, on), send, recv,
                                        count_per_rank, dtype, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_ALLTOALL, &e, status, err);
}

static ds_status check_peer(const ds_group *g, int peer, ds_error *err) {
  if (peer >= 0 && peer < g->size && peer != g->rank) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "group \"%s\": rank %d of %d can't talk to rank %d", g->name,
                 g->rank, g->size, peer);
}

ds_status ds_group_send(ds_group *g, ds_side *on, const void *buffer, int64_t count, int32_t dtype,
                        int peer, ds_error *err) {
  DS_BLANK_ERROR(e);
  DS_TRY(check_peer(g, peer, err));
  ds_span *span = count_call(g, on, DS_GROUP_SEND, bytes_of(count, dtype), 0);
  ds_status status =
      table(g)->send(g->comm, ds_side_stream(g->backend, on), buffer, count, dtype, peer, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_SEND, &e, status, err);
}

ds_status ds_group_recv(ds_group *g, ds_side *on, void *buffer, int64_t count, int32_t dtype,
                        int peer, ds_error *err) {
  DS_BLANK_ERROR(e);
  DS_TRY(check_peer(g, peer, err));
  ds_span *span = count_call(g, on, DS_GROUP_RECV, bytes_of(count, dtype), 0);
  ds_status status =
      table(g)->recv(g->comm, ds_side_stream(g->backend, on), buffer, count, dtype, peer, &e);
  ds_span_end(span);
  return wrap(g, DS_GROUP_RECV, &e, status, err);
}
