/* comm_run.c - the collectives, built of messages.
 *
 * Data goes in pieces of 4 MiB, which mostly stay in cache between arriving in the scratch and
 * being added up or copied out. Up to FEW ranks every rank talks to every other directly:
 *
 *   reduce_scatter  each sends to each what is that one's, and adds up its own
 *   allgather       each sends to each its own
 *   allreduce       a reduce_scatter and an allgather; a small one sends everything to everybody, who
 *                   add it up all alike
 *   alltoall        as it says
 *   broadcast       down a binomial tree, the next piece arriving while one goes on
 *   barrier         dissemination: everybody has heard of everybody after log2 of the ranks
 *
 * That is the least traffic there is, in the fewest rounds, but a message to each rank; more ranks go
 * by comm_rounds.c. comm.h has the number of messages.
 */
#include "comm_job.h"

#include <string.h>

/* FEW: ranks that all talk to each other. SMALL: bytes times ranks up to which everybody gets
 * everything. */
enum { FEW = 8, PIECE = DS_CPU_PIECE, SMALL = 16 << 10 };

typedef ds_cpu_job job;
#define add        ds_cpu_job_add
#define exchange   ds_cpu_job_exchange
#define nth_after  ds_cpu_job_after
#define nth_before ds_cpu_job_before
#define min_size   ds_cpu_min_size

static ds_status job_init(job *j, const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                          const ds_cpu_limit *limit, ds_error *err) {
  size_t n = (size_t)c->size, most = 2 * n;
  size_t arrays =
      most * sizeof j->messages[0] + (most + n) * sizeof(void *) + (n + 1) * sizeof(size_t);
  arrays = (arrays + DS_CPU_LINE - 1) / DS_CPU_LINE * DS_CPU_LINE;
  char *p = ds_cpu_scratch(s, DS_CPU_SCRATCH_COMM, arrays + PIECE + DS_CPU_LINE * n, err);
  if (p == NULL) return DS_ERR_MEMORY;
  *j = (job){.c = c, .s = s, .w = w, .limit = limit, .one = ds_cpu_dtype_bytes(w->dtype, 1)};
  j->messages = (ds_cpu_message *)p;
  j->requests = (void **)(j->messages + most);
  j->part = (const void **)(j->requests + most);
  j->start = (size_t *)(j->part + n);
  j->data = p + arrays;
  return DS_OK;
}

void ds_cpu_job_add(job *j, bool send, int peer, const void *data, size_t bytes) {
  if (bytes == 0) return;
  j->messages[j->count++] = (ds_cpu_message){(void *)data, bytes, peer, send};
}

/* What was added, all at once. Scratch that MPI may still write to is MPI's for good. */
ds_status ds_cpu_job_exchange(job *j, ds_error *err) {
  bool left = false;
  if (j->count == 0) return DS_OK;
  ds_status st = ds_cpu_mpi_exchange(j->c->group, j->channel, j->messages, j->count, j->requests,
                                     j->limit, &left, err);
  if (left) j->s->scratch[DS_CPU_SCRATCH_COMM] = (ds_cpu_scratch_block){NULL, 0};
  j->count = 0;
  return st;
}

/* Bytes of a piece that each rank gets: whole lines, at least one. */
static size_t share(const job *j, size_t piece) {
  size_t ranks = (size_t)j->c->size, bytes = (piece + ranks - 1) / ranks;
  return (bytes + DS_CPU_LINE - 1) / DS_CPU_LINE * DS_CPU_LINE;
}

/* ---------------------------------------------------------------- reductions */

/* Adds up one part: own from here, the others' as they arrive in the scratch, `stride` apart. */
static void receive_parts(job *j, const void *own, size_t bytes, size_t stride) {
  for (int step = 1; step < j->c->size; step++) {
    int from = nth_before(j, step);
    j->part[from] = j->data + (size_t)from * stride;
    add(j, false, from, j->part[from], bytes);
  }
  j->part[j->c->rank] = own;
}

static void combine(const job *j, void *out, size_t bytes) {
  ds_cpu_comm_combine(j->s, j->w, j->part, j->c->size, out, bytes);
}

/* One piece of an allreduce, everything to everybody. */
static ds_status reduce_small(job *j, const char *send, char *recv, size_t bytes, ds_error *err) {
  size_t stride = (bytes + DS_CPU_LINE - 1) / DS_CPU_LINE * DS_CPU_LINE;
  receive_parts(j, send, bytes, stride);
  for (int step = 1; step < j->c->size; step++) add(j, true, nth_after(j, step), send, bytes);
  ds_status st = exchange(j, err);
  if (st == DS_OK) combine(j, recv, bytes);
  return st;
}

/* The same by rounds. */
static ds_status reduce_gathered(job *j, const char *send, char *recv, size_t bytes,
                                 ds_error *err) {
  ds_status st = ds_cpu_rounds_gather(j, send, bytes, err);
  for (int i = 0; i < j->c->size; i++) j->part[nth_after(j, i)] = j->data + (size_t)i * bytes;
  if (st == DS_OK) combine(j, recv, bytes);
  return st;
}

/* One piece of an allreduce, cut into a part for each rank. */
static ds_status reduce_piece(job *j, const char *send, char *recv, size_t bytes, ds_error *err) {
  size_t stride = share(j, bytes);
#define BEGIN(r)  min_size((size_t)(r)*stride, bytes)
#define LENGTH(r) (BEGIN((r) + 1) - BEGIN(r))
  int own = j->c->rank;
  receive_parts(j, send + BEGIN(own), LENGTH(own), stride);
  for (int step = 1; step < j->c->size; step++) {
    int to = nth_after(j, step);
    add(j, true, to, send + BEGIN(to), LENGTH(to));
  }
  ds_status st = exchange(j, err);
  if (st != DS_OK) return st;
  combine(j, recv + BEGIN(own), LENGTH(own));
  for (int step = 1; step < j->c->size; step++) {
    int from = nth_before(j, step);
    add(j, false, from, j->data + (size_t)from * stride, LENGTH(from));
  }
  for (int step = 1; step < j->c->size; step++)
    add(j, true, nth_after(j, step), recv + BEGIN(own), LENGTH(own));
  st = exchange(j, err);
  for (int r = 0; r < j->c->size && st == DS_OK; r++)
    if (r != own) memcpy(recv + BEGIN(r), j->data + (size_t)r * stride, LENGTH(r));
#undef BEGIN
#undef LENGTH
  return st;
}

static ds_status allreduce(job *j, ds_error *err) {
  size_t bytes = j->one * (size_t)j->w->count;
  const char *send = j->w->send;
  char *recv = j->w->recv;
  ds_status st = DS_OK;
  if (bytes * (size_t)j->c->size <= SMALL)
    return j->c->size <= FEW ? reduce_small(j, send, recv, bytes, err)
                             : reduce_gathered(j, send, recv, bytes, err);
  if (j->c->size > FEW) return ds_cpu_rounds_allreduce(j, err);
  for (size_t at = 0; at < bytes && st == DS_OK; at += PIECE)
    st = reduce_piece(j, send + at, recv + at, min_size(PIECE, bytes - at), err);
  return st;
}

static ds_status reduce_scatter(job *j, ds_error *err) {
  size_t bytes = j->one * (size_t)j->w->count, stride = share(j, PIECE);
  const char *send = j->w->send;
  ds_status st = DS_OK;
  if (j->c->size > FEW) return ds_cpu_rounds_reduce_scatter(j, err);
  for (size_t at = 0; at < bytes && st == DS_OK; at += stride) {
    size_t n = min_size(stride, bytes - at);
    receive_parts(j, send + (size_t)j->c->rank * bytes + at, n, stride);
    for (int step = 1; step < j->c->size; step++) {
      int to = nth_after(j, step);
      add(j, true, to, send + (size_t)to * bytes + at, n);
    }
    st = exchange(j, err);
    if (st == DS_OK) combine(j, (char *)j->w->recv + at, n);
  }
  return st;
}

/* ---------------------------------------------------------------- movement */

/* An alltoall of many large parts: with one rank after another. */
static ds_status by_turns(job *j, ds_error *err) {
  size_t bytes = j->one * (size_t)j->w->count;
  ds_status st = DS_OK;
  for (int step = 1; step < j->c->size; step++) {
    size_t to = (size_t)nth_after(j, step) * bytes, from = (size_t)nth_before(j, step) * bytes;
    for (size_t at = 0; at < bytes && st == DS_OK; at += PIECE) {
      size_t n = min_size(PIECE, bytes - at);
      add(j, false, nth_before(j, step), j->data, n);
      add(j, true, nth_after(j, step), (const char *)j->w->send + to + at, n);
      st = exchange(j, err);
      if (st == DS_OK) memcpy((char *)j->w->recv + from + at, j->data, n);
    }
  }
  return st;
}

/* Part r of recv from rank r; part r of send to rank r, or the one part of send to all. */
static ds_status all_to_all(job *j, bool parts, ds_error *err) {
  size_t bytes = j->one * (size_t)j->w->count, stride = share(j, PIECE);
  const char *send = j->w->send;
  char *recv = j->w->recv, *own = recv + (size_t)j->c->rank * bytes;
#define SEND_TO(r) (parts ? send + (size_t)(r)*bytes : send)
  ds_status st = DS_OK;
  if (own != SEND_TO(j->c->rank)) memcpy(own, SEND_TO(j->c->rank), bytes);
  if (j->c->size > FEW && !parts) return ds_cpu_rounds_allgather(j, err);
  if (j->c->size > FEW && bytes * (size_t)j->c->size > PIECE) return by_turns(j, err);
  for (size_t at = 0; at < bytes && st == DS_OK; at += stride) {
    size_t n = min_size(stride, bytes - at);
    for (int step = 1; step < j->c->size; step++) {
      int from = nth_before(j, step);
      add(j, false, from, j->data + (size_t)from * stride, n);
    }
    for (int step = 1; step < j->c->size; step++) {
      int to = nth_after(j, step);
      add(j, true, to, SEND_TO(to) + at, n);
    }
    st = exchange(j, err);
    for (int r = 0; r < j->c->size && st == DS_OK; r++)
      if (r != j->c->rank) memcpy(recv + (size_t)r * bytes + at, j->data + (size_t)r * stride, n);
  }
#undef SEND_TO
  return st;
}

/* Ranks count from the root; below a rank are those that add one lower bit to it. */
static ds_status broadcast(job *j, ds_error *err) {
  enum { STEP = PIECE / 2 };
  size_t bytes = j->one * (size_t)j->w->count;
  int size = j->c->size, root = j->w->peer, own = (j->c->rank - root + size) % size;
  int low = 1; /* the lowest bit of own; for the root, beyond all */
  char *buffer = j->w->recv;
  ds_status st = DS_OK;
  while (low < size && (own & low) == 0) low *= 2;
  for (size_t at = 0; at < bytes + STEP && st == DS_OK; at += STEP) {
    size_t n = at < bytes ? min_size(STEP, bytes - at) : 0;
    size_t before = at == 0 ? 0 : min_size(STEP, bytes - (at - STEP));
    if (own != 0) add(j, false, (own - low + root) % size, j->data, n);
    for (int bit = low / 2; bit > 0 && at > 0; bit /= 2)
      if (own + bit < size) add(j, true, (own + bit + root) % size, buffer + (at - STEP), before);
    st = exchange(j, err);
    if (st == DS_OK && own != 0 && n > 0) memcpy(buffer + at, j->data, n);
  }
  return st;
}

static ds_status pair(job *j, bool send, ds_error *err) {
  size_t bytes = j->one * (size_t)j->w->count;
  ds_status st = DS_OK;
  j->channel = DS_CPU_CHANNEL_PAIR;
  for (size_t at = 0; at < bytes && st == DS_OK; at += PIECE) {
    size_t n = min_size(PIECE, bytes - at);
    add(j, send, j->w->peer, send ? (const char *)j->w->send + at : j->data, n);
    st = exchange(j, err);
    if (st == DS_OK && !send) memcpy((char *)j->w->recv + at, j->data, n);
  }
  return st;
}

static ds_status barrier(job *j, ds_error *err) {
  ds_status st = DS_OK;
  j->channel = DS_CPU_CHANNEL_CONTROL;
  j->data[0] = 0;
  for (int step = 1; step < j->c->size && st == DS_OK; step *= 2) {
    add(j, false, nth_before(j, step), j->data + DS_CPU_LINE, 1);
    add(j, true, nth_after(j, step), j->data, 1);
    st = exchange(j, err);
  }
  return st;
}

ds_status ds_cpu_comm_run(const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                          const ds_cpu_limit *limit, ds_error *err) {
  job j;
  if (c->local != NULL) return ds_cpu_comm_run_local(c, s, w, limit, err);
  ds_status st = job_init(&j, c, s, w, limit, err);
  if (st != DS_OK) return st;
  switch ((enum ds_cpu_call)w->call) {
    case DS_CPU_ALLREDUCE: return allreduce(&j, err);
    case DS_CPU_REDUCE_SCATTER: return reduce_scatter(&j, err);
    case DS_CPU_ALLGATHER: return all_to_all(&j, false, err);
    case DS_CPU_ALLTOALL: return all_to_all(&j, true, err);
    case DS_CPU_BROADCAST: return broadcast(&j, err);
    case DS_CPU_SEND: return pair(&j, true, err);
    case DS_CPU_RECV: return pair(&j, false, err);
    case DS_CPU_BARRIER: return barrier(&j, err);
  }
  return ds_cpu_fail(err, DS_ERR_INTERNAL, "cpu comm: call %d", w->call);
}
