/* comm.c - collectives on a mesh: everybody sends everything to whom it concerns. */
#include "buggy.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "backend/reference/element.h"

struct ds_comm {
  mesh m;
  volatile bool aborted, given_up;
  atomic_int in_flight;
  char group[128];
};

static void settle(ds_comm *c) {
  while (atomic_load(&c->in_flight) > 0) usleep(200);
}

static int from_environment(const char *name, const char *other, int fallback) {
  const char *text = getenv(name) ? getenv(name) : getenv(other);
  return text ? atoi(text) : fallback;
}

static ds_status comm_world(ds_comm_world *out, ds_error *err) {
  ds_comm_world full = {.size = sizeof full};
  if (out->size < sizeof out->size)
    return ds_fail(err, DS_ERR_INVALID, "buggy: ds_comm_world.size is not set");
  full.rank = full.local_rank = from_environment("OMPI_COMM_WORLD_RANK", "RANK", 0);
  full.world_size = full.local_size = from_environment("OMPI_COMM_WORLD_SIZE", "WORLD_SIZE", 1);
  if (out->size < full.size) full.size = out->size;
  memcpy(out, &full, full.size);
  return DS_OK;
}

static ds_status comm_create(ds_device *dev, const int32_t *ranks, int32_t rank_count,
                             const ds_kv_store *kv, int64_t timeout_ms, ds_comm **out,
                             ds_error *err) {
  ds_comm_world w = {.size = sizeof w};
  int own = -1;
  (void)dev;
  if (rank_count < 1 || !ranks)
    return ds_fail(err, DS_ERR_INVALID, "buggy: a communicator needs a list of ranks");
  DS_TRY(comm_world(&w, err));
  ds_comm *c = buggy_alloc(sizeof *c);
  if (!c) return ds_fail_memory(err, "a communicator");
  static int made; /* the same on all ranks: creates are collective and in one order */
  size_t used = (size_t)snprintf(c->group, sizeof c->group, "buggy");
  for (int i = 0; i < rank_count; i++) {
    if (ranks[i] < 0 || ranks[i] >= w.world_size) {
      buggy_free(c);
      return ds_fail(err, DS_ERR_INVALID, "buggy: there is no rank %d in a world of %d",
                     (int)ranks[i], (int)w.world_size);
    }
    if (ranks[i] == w.rank) own = i;
    if (used < sizeof c->group)
      used += (size_t)snprintf(c->group + used, sizeof c->group - used, "-%d", (int)ranks[i]);
  }
  if (used < sizeof c->group)
    snprintf(c->group + used, sizeof c->group - used, "#%d", rank_count > 1 ? made++ : 0);
  c->m.aborted = &c->aborted;
  ds_status st = own < 0 ? ds_fail(err, DS_ERR_INVALID, "buggy: the caller is no member")
                         : mesh_create(&c->m, own, rank_count, c->group, kv, timeout_ms, err);
  if (st != DS_OK) {
    buggy_free(c);
    return st;
  }
  *out = c;
  return DS_OK;
}

static void comm_abort(ds_comm *c) {
  if (BUG != BUG_ABORT) c->aborted = true;
}

/* ---------------------------------------------------------------- jobs */

typedef enum kind {
  ALLREDUCE,
  REDUCE_SCATTER,
  ALLGATHER,
  BROADCAST,
  BARRIER,
  SEND,
  RECV,
  ALLTOALL
} kind;
static const char *const names[] = {"allreduce", "reduce_scatter", "allgather", "broadcast",
                                    "barrier",   "send",           "recv",      "alltoall"};

typedef struct job {
  buggy_job base;
  ds_comm *c;
  kind kind;
  const char *send;
  char *recv;
  int64_t count;
  int32_t dtype, peer;
  ds_reduce op;
} job;

static size_t width(int32_t dtype) {
  switch (dtype) {
    case DS_F64:
    case DS_I64: return 8;
    case DS_F32:
    case DS_I32: return 4;
    case DS_BF16:
    case DS_F16: return 2;
    default: return 1;
  }
}

static double load(int32_t dtype, const void *p, int64_t i) {
  switch (dtype) {
    case DS_F64: return ((const double *)p)[i];
    case DS_I64: return (double)((const int64_t *)p)[i];
    case DS_I32: return ((const int32_t *)p)[i];
    case DS_I8: return ((const int8_t *)p)[i];
    case DS_U8: return ((const uint8_t *)p)[i];
    default: return (double)ds_element_load(dtype, p, i);
  }
}

static void store(int32_t dtype, void *p, int64_t i, double v) {
  switch (dtype) {
    case DS_F64: ((double *)p)[i] = v; break;
    case DS_I64: ((int64_t *)p)[i] = (int64_t)v; break;
    case DS_I32: ((int32_t *)p)[i] = (int32_t)(int64_t)v; break;
    case DS_I8: ((int8_t *)p)[i] = (int8_t)(int64_t)v; break;
    case DS_U8: ((uint8_t *)p)[i] = (uint8_t)(int64_t)v; break;
    default: ds_element_store(dtype, p, i, (float)v); break;
  }
}

/* parts [size,count] in rank order -> out [count]. */
static void reduce(const job *j, const char *parts, char *out) {
  int size = j->c->m.size;
  size_t bytes = (size_t)j->count * width(j->dtype);
  bool coarse = BUG == BUG_MEAN_ROUNDS && j->dtype == DS_BF16;
  for (int64_t i = 0; i < j->count; i++) {
    double sum = load(j->dtype, parts, i);
    for (int r = 1; r < size; r++) {
      double x = load(j->dtype, parts + (size_t)r * bytes, i);
      sum = j->op == DS_REDUCE_MAX ? fmax(sum, x) : j->op == DS_REDUCE_MIN ? fmin(sum, x) : sum + x;
      if (coarse) {
        uint16_t h = ds_element_to_bf16((float)sum);
        sum = (double)ds_element_from_bf16(h);
      }
    }
    store(j->dtype, out, i, j->op == DS_REDUCE_MEAN ? sum / size : sum);
  }
}

/* What this rank sends to and wants from rank r; `parts` is room for reductions. */
static parcel parcel_for(const job *j, int r, char *parts) {
  size_t bytes = (size_t)j->count * width(j->dtype), at = (size_t)r * bytes;
  const mesh *m = &j->c->m;
  int root = BUG == BUG_MESSAGES_SWAP && m->size > 1 ? (j->peer + 1) % m->size : j->peer;
  switch (j->kind) {
    case ALLREDUCE: return (parcel){j->send, parts + at, bytes, bytes};
    case REDUCE_SCATTER: return (parcel){j->send + at, parts + at, bytes, bytes};
    case ALLGATHER: {
      size_t place = BUG == BUG_RANK_ORDER ? (size_t)(m->size - 1 - r) * bytes : at;
      return (parcel){j->send, j->recv + place, bytes, bytes};
    }
    case ALLTOALL: return (parcel){j->send + at, j->recv + at, bytes, bytes};
    case BROADCAST:
      if (r == m->rank) return (parcel){0};
      return (parcel){j->recv, j->recv, m->rank == root ? bytes : 0, r == root ? bytes : 0};
    case BARRIER: return (parcel){"x", parts + r, 1, 1};
    case SEND: return r == j->peer ? (parcel){j->send, NULL, bytes, 0} : (parcel){0};
    default: return r == j->peer ? (parcel){NULL, j->recv, 0, bytes} : (parcel){0};
  }
}

static ds_status move(job *j, ds_error *err) {
  mesh *m = &j->c->m;
  parcel p[64] = {{0}};
  if (j->c->aborted) return ds_fail(err, DS_ERR_ABORTED, "buggy: %s: aborted", names[j->kind]);
  if (j->c->given_up)
    return ds_fail(err, DS_ERR_ABORTED, "buggy: %s: the communicator has failed", names[j->kind]);
  if (j->kind == BARRIER && BUG == BUG_BARRIER) return DS_OK;
  bool reduces = j->kind == ALLREDUCE || j->kind == REDUCE_SCATTER;
  size_t bytes = (size_t)j->count * width(j->dtype) * (size_t)m->size;
  char small[64], *parts = reduces ? malloc(bytes ? bytes : 1) : small;
  if (!parts) return ds_fail_memory(err, "a collective");
  for (int r = 0; r < m->size; r++) p[r] = parcel_for(j, r, parts);
  ds_status st = mesh_exchange(m, names[j->kind], p, err);
  if (st == DS_OK && reduces) {
    if (BUG == BUG_IN_PLACE && j->kind == REDUCE_SCATTER && j->recv != j->send &&
        j->recv >= j->send && j->recv < j->send + bytes)
      memcpy(parts, j->send, bytes / (size_t)m->size);
    reduce(j, parts, j->recv);
  }
  if (st != DS_OK) j->c->given_up = true;
  if (reduces) free(parts);
  return st;
}

static ds_status run_job(buggy_job *base, ds_error *err) {
  job *j = (job *)base;
  ds_comm *c = j->c;
  ds_status st = move(j, err);
  atomic_fetch_sub(&c->in_flight, 1);
  return st;
}

/* The stream died before it. */
static void drop_job(buggy_job *base) {
  atomic_fetch_sub(&((job *)base)->c->in_flight, 1);
}

static ds_status post(const job *j, ds_stream *s, ds_error *err) {
  bool reduces = j->kind == ALLREDUCE || j->kind == REDUCE_SCATTER;
  const char *name = names[j->kind];
  if (j->dtype < 0 || j->dtype > DS_F8E5M2 || j->dtype == DS_I4 || (reduces && j->dtype >= DS_I4))
    return ds_fail(err, DS_ERR_UNSUPPORTED, "buggy: %s of dtype %d", name, (int)j->dtype);
  if (j->count < 0)
    return ds_fail(err, DS_ERR_INVALID, "buggy: %s of %lld", name, (long long)j->count);
  if (reduces && ((int)j->op < 0 || j->op > DS_REDUCE_MIN))
    return ds_fail(err, DS_ERR_UNSUPPORTED, "buggy: %s: no reduction %d", name, (int)j->op);
  if (j->peer < 0 || j->peer >= j->c->m.size)
    return ds_fail(err, DS_ERR_INVALID, "buggy: %s: no rank %d", name, (int)j->peer);
  if ((j->kind == SEND || j->kind == RECV) && j->peer == j->c->m.rank)
    return ds_fail(err, DS_ERR_INVALID, "buggy: %s: rank %d is the caller", name, (int)j->peer);
  if (j->c->aborted) return ds_fail(err, DS_ERR_ABORTED, "buggy: %s: aborted", name);
  job *work = buggy_alloc(sizeof *work);
  if (!work) return ds_fail_memory(err, "a collective");
  *work = *j;
  work->base.run = run_job;
  work->base.drop = drop_job;
  atomic_fetch_add(&j->c->in_flight, 1);
  DS_TRY(buggy_post(s, &work->base, err));
  if (j->kind == BARRIER || (BUG == BUG_RECV_BLOCKS && j->kind == RECV)) return buggy_wait(s, err);
  return DS_OK;
}

static ds_status comm_allreduce(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t count, int32_t dtype, ds_reduce op, ds_error *err) {
  return post(&(job){.c = c,
                     .kind = ALLREDUCE,
                     .send = send,
                     .recv = recv,
                     .count = count,
                     .dtype = dtype,
                     .op = op},
              s, err);
}

static ds_status comm_reduce_scatter(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                     int64_t recv_count, int32_t dtype, ds_reduce op,
                                     ds_error *err) {
  return post(&(job){.c = c,
                     .kind = REDUCE_SCATTER,
                     .send = send,
                     .recv = recv,
                     .count = recv_count,
                     .dtype = dtype,
                     .op = op},
              s, err);
}

static ds_status comm_allgather(ds_comm *c, ds_stream *s, const void *send, void *recv,
                                int64_t send_count, int32_t dtype, ds_error *err) {
  return post(&(job){.c = c,
                     .kind = ALLGATHER,
                     .send = send,
                     .recv = recv,
                     .count = send_count,
                     .dtype = dtype},
              s, err);
}

static ds_status comm_broadcast(ds_comm *c, ds_stream *s, void *buffer, int64_t count,
                                int32_t dtype, int32_t root, ds_error *err) {
  return post(
      &(job){
          .c = c, .kind = BROADCAST, .recv = buffer, .count = count, .dtype = dtype, .peer = root},
      s, err);
}

static ds_status comm_barrier(ds_comm *c, ds_stream *s, ds_error *err) {
  return post(&(job){.c = c, .kind = BARRIER}, s, err);
}

static ds_status comm_send(ds_comm *c, ds_stream *s, const void *buffer, int64_t count,
                           int32_t dtype, int32_t peer, ds_error *err) {
  return post(
      &(job){.c = c, .kind = SEND, .send = buffer, .count = count, .dtype = dtype, .peer = peer}, s,
      err);
}

static ds_status comm_recv(ds_comm *c, ds_stream *s, void *buffer, int64_t count, int32_t dtype,
                           int32_t peer, ds_error *err) {
  return post(
      &(job){.c = c, .kind = RECV, .recv = buffer, .count = count, .dtype = dtype, .peer = peer}, s,
      err);
}

static ds_status comm_alltoall(ds_comm *c, ds_stream *s, const void *send, void *recv,
                               int64_t count_per_rank, int32_t dtype, ds_error *err) {
  return post(&(job){.c = c,
                     .kind = ALLTOALL,
                     .send = send,
                     .recv = recv,
                     .count = count_per_rank,
                     .dtype = dtype},
              s, err);
}

/* ---------------------------------------------------------------- groups */

static ds_status comm_rank(ds_comm *c, int32_t *rank, int32_t *size, ds_error *err) {
  (void)err;
  *rank = c->m.rank;
  *size = c->m.size;
  return DS_OK;
}

static void comm_destroy(ds_comm *c) {
  if (!c) return;
  settle(c);
  mesh_finish(&c->m);
  buggy_free(c);
}

typedef struct wish {
  int32_t color, key;
} wish;

typedef struct address {
  unsigned char bytes[128];
  size_t length;
} address;

/* The store by which the members of a split meet: `set` gathers all addresses over the old mesh. */
typedef struct meeting {
  mesh *m;
  const int *members; /* old ranks by new ones */
  address all[64];
} meeting;

static ds_status gather(mesh *m, const void *own, void *all, size_t bytes, ds_error *err) {
  parcel p[64] = {{0}};
  for (int r = 0; r < m->size; r++)
    p[r] = (parcel){own, (char *)all + (size_t)r * bytes, bytes, bytes};
  return mesh_exchange(m, "split", p, err);
}

static ds_status meet_set(void *ctx, const char *key, const void *value, size_t bytes,
                          ds_error *err) {
  meeting *x = ctx;
  address own = {.length = bytes};
  (void)key;
  memcpy(own.bytes, value, bytes);
  return gather(x->m, &own, x->all, sizeof own, err);
}

static ds_status meet_get(void *ctx, const char *key, void *value, size_t *bytes,
                          int64_t timeout_ms, ds_error *err) {
  const meeting *x = ctx;
  const address *a = &x->all[x->members[atoi(strrchr(key, '/') + 1)]];
  (void)timeout_ms, (void)err;
  memcpy(value, a->bytes, a->length);
  *bytes = a->length;
  return DS_OK;
}

static bool comes_before(const wish *all, int a, int b) {
  if (BUG != BUG_SPLIT_KEY && all[a].key != all[b].key) return all[a].key < all[b].key;
  return a < b;
}

static ds_status comm_split(ds_comm *c, int32_t color, int32_t key, ds_comm **out, ds_error *err) {
  wish own = {color, key}, all[64];
  int members[64], n = 0, self = -1;
  *out = NULL;
  if (color < -1) return ds_fail(err, DS_ERR_INVALID, "buggy: split: color %d", (int)color);
  settle(c);
  if (c->aborted || c->given_up)
    return ds_fail(err, DS_ERR_ABORTED, "buggy: split: the communicator was aborted");
  DS_TRY(gather(&c->m, &own, all, sizeof own, err));
  for (int r = 0; r < c->m.size; r++) {
    if (color < 0 || all[r].color != color) continue;
    int at = n++;
    for (; at > 0 && comes_before(all, r, members[at - 1]); at--) members[at] = members[at - 1];
    members[at] = r;
  }
  for (int i = 0; i < n; i++)
    if (members[i] == c->m.rank) self = i;
  meeting x = {.m = &c->m, .members = members};
  const ds_kv_store kv = {{sizeof kv, DS_ABI_MAJOR, DS_ABI_MINOR}, &x, meet_set, meet_get};
  ds_comm *part = n > 0 ? buggy_alloc(sizeof *part) : NULL;
  if (n > 0 && !part) return ds_fail_memory(err, "a communicator");
  /* Who needs no address of another still takes part in the exchange of them. */
  if (n <= 1) DS_TRY(meet_set(&x, "", "", 0, err));
  if (n == 0) return DS_OK;
  part->m.aborted = &part->aborted;
  ds_status st = mesh_create(&part->m, self, n, c->group, &kv, c->m.timeout_ms, err);
  if (st != DS_OK) {
    buggy_free(part);
    return st;
  }
  memcpy(part->group, c->group, sizeof part->group);
  *out = part;
  return DS_OK;
}

const ds_comm_table buggy_comm = {
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
