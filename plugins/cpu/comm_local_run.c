/* comm_local_run.c - the collectives on one host, without messages. See comm_local.h for turns.
 *
 * Small ones, by what fits into an entry: everybody publishes what it gives, and takes what it needs
 * once the others have arrived. Large ones: everybody publishes where its buffers lie, and reads what
 * it needs from there, straight to where it belongs; and nobody's call is over before all have read.
 * An allreduce goes in pieces: each rank adds up its share of a piece, while the others do theirs,
 * and then reads the other shares of the piece before, which mostly are in a cache still.
 */
#include "comm.h"

#include <string.h>

/* SUMMED: bytes times ranks up to which each rank adds up what the entries hold. COPIED: bytes for a
 * rank that go by an entry; more are read from where they lie, once instead of twice. WHOLE: bytes of
 * all other ranks together up to which each rank reads and adds up everything. SHARE: of a piece, for
 * each rank. CHUNK: read from all the others together before it is added up, so that it stays in the
 * second cache. MOVE: at once, between looks at limits. AT_ONCE: up to which a call may do the work
 * itself, some ten microseconds, where it could also be left to the stream's thread. */
enum {
  SUMMED = 64 << 10,
  COPIED = 4 << 10,
  SHARE = 1 << 20,
  CHUNK = 256 << 10,
  WHOLE = 64 << 10,
  MOVE = 4 << 20,
  LINE = 64,
  AT_ONCE = 256 << 10
};

typedef struct job {
  const ds_comm *c;
  ds_cpu_local *l;
  ds_stream *s;
  const ds_cpu_work *w;
  const ds_cpu_limit *limit;
  size_t one, bytes; /* of an element; of count elements */
  const void **part; /* by rank */
  char *data;        /* CHUNK + LINE * ranks bytes */
} job;

static size_t min_size(size_t a, size_t b) {
  return a < b ? a : b;
}

/* Whether each rank gives each other one something else. */
static bool has_parts(const ds_cpu_work *w) {
  return w->call == DS_CPU_REDUCE_SCATTER || w->call == DS_CPU_ALLTOALL;
}

/* The data that a rank gives to an entry; the same on all ranks but for broadcast. */
static size_t entry_bytes(const ds_comm *c, const ds_cpu_work *w) {
  size_t bytes = ds_cpu_dtype_bytes(w->dtype, w->count);
  return has_parts(w) ? bytes * (size_t)c->size : bytes;
}

static bool is_small(const ds_comm *c, const ds_cpu_work *w) {
  size_t bytes = ds_cpu_dtype_bytes(w->dtype, w->count);
  if (w->call == DS_CPU_ALLREDUCE)
    return bytes <= DS_CPU_LOCAL_SLOT && bytes * (size_t)c->size <= SUMMED;
  return bytes <= COPIED && entry_bytes(c, w) <= DS_CPU_LOCAL_SLOT;
}

static bool is_root(const ds_comm *c, const ds_cpu_work *w) {
  return w->call == DS_CPU_BROADCAST && w->peer == c->rank;
}

static ds_status job_init(job *j, const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                          const ds_cpu_limit *limit, ds_error *err) {
  size_t n = (size_t)c->size, arrays = (n * sizeof(void *) + LINE - 1) / LINE * LINE;
  char *p = ds_cpu_scratch(s, DS_CPU_SCRATCH_COMM, arrays + CHUNK + LINE * n, err);
  if (p == NULL) return DS_ERR_MEMORY;
  *j = (job){.c = c, .l = c->local, .s = s, .w = w, .limit = limit};
  j->one = ds_cpu_dtype_bytes(w->dtype, 1);
  j->bytes = j->one * (size_t)w->count;
  j->part = (const void **)p;
  j->data = p + arrays;
  return DS_OK;
}

static void arrive(const ds_comm *c, const ds_cpu_work *w) {
  const void *data = w->call == DS_CPU_BROADCAST ? w->recv : w->send;
  bool gives = is_small(c, w) && (w->call != DS_CPU_BROADCAST || is_root(c, w));
  ds_cpu_local_arrive(c->local, w, data, gives ? entry_bytes(c, w) : 0,
                      has_parts(w) ? ds_cpu_dtype_bytes(w->dtype, w->count) : 0);
}

/* Waits for a rank; *e is its entry, which must be of the same call. */
static ds_status meet(const job *j, int rank, const ds_cpu_local_entry **e, ds_error *err) {
  ds_status st = ds_cpu_local_await_turn(j->l, rank, j->limit);
  if (st != DS_OK) return st;
  *e = ds_cpu_local_entry_of(j->l, rank);
  const ds_cpu_work *w = j->w;
  if ((*e)->call == w->call && (*e)->dtype == w->dtype && (*e)->count == w->count &&
      (*e)->op == w->op && (*e)->root == w->peer)
    return DS_OK;
  return ds_cpu_fail(err, DS_ERR_INVALID,
                     "cpu comm: rank %d of %d calls %s of %lld %s, but rank %d calls %s of %lld "
                     "%s%s; all must make the same calls in one order",
                     j->c->rank, j->c->size, ds_cpu_call_name(w->call), (long long)w->count,
                     ds_cpu_dtype_name(w->dtype), rank, ds_cpu_call_name((*e)->call),
                     (long long)(*e)->count, ds_cpu_dtype_name((*e)->dtype),
                     (*e)->op != w->op || (*e)->root != w->peer ? ", with another reduction or root"
                                                                : "");
}

/* The other ranks, in an order that differs from rank to rank. */
static int nth_after(const job *j, int step) {
  return (j->c->rank + step) % j->c->size;
}

/* ---------------------------------------------------------------- small */

static void copy(char *to, const void *from, size_t bytes) {
  if (to != from) memcpy(to, from, bytes);
}

/* What a rank gives: all of it, of which this rank needs its part or everything. */
static void take(const job *j, int rank, const char *all) {
  size_t own = (size_t)j->c->rank * j->bytes;
  char *to = (char *)j->w->recv + (size_t)rank * j->bytes;
  switch ((enum ds_cpu_call)j->w->call) {
    case DS_CPU_ALLREDUCE: j->part[rank] = all; break;
    case DS_CPU_REDUCE_SCATTER: j->part[rank] = all + own; break;
    case DS_CPU_ALLGATHER: copy(to, all, j->bytes); break;
    case DS_CPU_ALLTOALL: copy(to, all + own, j->bytes); break;
    case DS_CPU_BROADCAST: copy(j->w->recv, all, j->bytes); break;
    case DS_CPU_SEND:
    case DS_CPU_RECV:
    case DS_CPU_BARRIER: break;
  }
}

static ds_status finish_small(const job *j, ds_error *err) {
  const ds_cpu_local_entry *e = NULL;
  ds_status st = DS_OK;
  if (is_root(j->c, j->w)) return DS_OK;
  if (j->w->call == DS_CPU_BROADCAST) {
    st = meet(j, j->w->peer, &e, err);
    if (st == DS_OK) take(j, j->w->peer, e->data);
    return st;
  }
  take(j, j->c->rank, j->w->send);
  for (int step = 1; step < j->c->size && st == DS_OK; step++) {
    st = meet(j, nth_after(j, step), &e, err);
    if (st == DS_OK) take(j, nth_after(j, step), e->data);
  }
  if (st != DS_OK) return st;
  j->l->seen = j->l->turn;
  if (j->w->call == DS_CPU_ALLREDUCE || j->w->call == DS_CPU_REDUCE_SCATTER)
    ds_cpu_comm_combine(j->s, j->w, j->part, j->c->size, j->w->recv, j->bytes);
  return DS_OK;
}

/* ---------------------------------------------------------------- large */

static ds_status meet_all(const job *j, ds_error *err) {
  const ds_cpu_local_entry *e;
  ds_status st = DS_OK;
  for (int step = 1; step < j->c->size && st == DS_OK; step++)
    st = meet(j, nth_after(j, step), &e, err);
  if (st == DS_OK) j->l->seen = j->l->turn;
  return st;
}

/* Mine is needed by nobody any more. */
static ds_status await_all_done(const job *j) {
  ds_status st = DS_OK;
  for (int step = 1; step < j->c->size && st == DS_OK; step++)
    st = ds_cpu_local_await_done(j->l, nth_after(j, step), j->limit);
  return st;
}

/* And I need nobody's. */
static ds_status part_all(const job *j) {
  ds_status st = ds_cpu_local_check(j->l, -1, j->limit);
  if (st != DS_OK) return st;
  ds_cpu_local_tell_done(j->l);
  return await_all_done(j);
}

static ds_status move(const job *j, int rank, char *to, const void *from, size_t at, size_t bytes,
                      ds_error *err) {
  ds_status st = DS_OK;
  for (size_t end = at + bytes; at < end && st == DS_OK; at += MOVE) {
    if (atomic_load_explicit(j->limit->aborted, memory_order_relaxed)) return DS_ERR_ABORTED;
    st = ds_cpu_local_read(j->l, rank, to + at, (const char *)from + at, min_size(MOVE, end - at),
                           err);
  }
  return st;
}

/* out[0..bytes) = the sum of all ranks' send[at..at + bytes). */
static ds_status add_up(const job *j, char *out, size_t at, size_t bytes, ds_error *err) {
  size_t others = (size_t)j->c->size - 1, chunk = CHUNK / others / LINE * LINE;
  if (chunk == 0) chunk = LINE;
  ds_status st = DS_OK;
  for (size_t i = 0; i < bytes && st == DS_OK; i += chunk) {
    size_t n = min_size(chunk, bytes - i);
    char *to = j->data;
    if (atomic_load_explicit(j->limit->aborted, memory_order_relaxed)) return DS_ERR_ABORTED;
    for (int step = 1; step < j->c->size && st == DS_OK; step++, to += chunk) {
      int r = nth_after(j, step);
      const char *from = ds_cpu_local_entry_of(j->l, r)->send;
      st = ds_cpu_local_read(j->l, r, to, from + at + i, n, err);
      j->part[r] = to;
    }
    j->part[j->c->rank] = (const char *)j->w->send + at + i;
    if (st == DS_OK) ds_cpu_comm_combine(j->s, j->w, j->part, j->c->size, out + i, n);
  }
  return st;
}

/* How an allreduce is cut: whole lines for each rank. */
typedef struct cut {
  size_t share, piece;
  uint32_t pieces;
} cut;

static cut cut_of(const job *j) {
  size_t n = (size_t)j->c->size, even = (j->bytes + n - 1) / n;
  cut c = {.share = min_size((even + LINE - 1) / LINE * LINE, SHARE)};
  c.piece = c.share * n;
  c.pieces = (uint32_t)((j->bytes + c.piece - 1) / c.piece);
  return c;
}

static void share_of(const job *j, const cut *c, uint32_t piece, int rank, size_t *at,
                     size_t *bytes) {
  *at = min_size(piece * c->piece + (size_t)rank * c->share, j->bytes);
  *bytes = min_size(c->share, j->bytes - *at);
}

/* The other ranks' sums of a piece. */
static ds_status collect(const job *j, const cut *c, uint32_t piece, ds_error *err) {
  ds_status st = DS_OK;
  for (int step = 1; step < j->c->size && st == DS_OK; step++) {
    int r = nth_after(j, step);
    size_t at, bytes;
    share_of(j, c, piece, r, &at, &bytes);
    if (bytes == 0) continue;
    st = ds_cpu_local_await_pieces(j->l, r, j->l->pieces + piece + 1, j->limit);
    if (st == DS_OK)
      st = move(j, r, j->w->recv, ds_cpu_local_entry_of(j->l, r)->recv, at, bytes, err);
  }
  return st;
}

static ds_status allreduce(const job *j, ds_error *err) {
  cut c = cut_of(j);
  ds_status st = DS_OK;
  for (uint32_t i = 0; i < c.pieces && st == DS_OK; i++) {
    size_t at, bytes;
    share_of(j, &c, i, j->c->rank, &at, &bytes);
    st = add_up(j, (char *)j->w->recv + at, at, bytes, err);
    if (st == DS_OK) ds_cpu_local_tell_pieces(j->l, j->l->pieces + i + 1);
    if (st == DS_OK && i > 0) st = collect(j, &c, i - 1, err);
  }
  if (st == DS_OK) st = collect(j, &c, c.pieces - 1, err);
  j->l->pieces += c.pieces;
  return st;
}

/* Not much: each rank reads everything and adds it all up, once nobody needs what lies there; that is
 * one round less. */
static ds_status allreduce_whole(const job *j, ds_error *err) {
  char *to = j->data;
  ds_status st = DS_OK;
  for (int step = 1; step < j->c->size && st == DS_OK; step++, to += j->bytes) {
    int r = nth_after(j, step);
    st = ds_cpu_local_read(j->l, r, to, ds_cpu_local_entry_of(j->l, r)->send, j->bytes, err);
    j->part[r] = to;
  }
  j->part[j->c->rank] = j->w->send;
  if (st == DS_OK) st = part_all(j);
  if (st == DS_OK) ds_cpu_comm_combine(j->s, j->w, j->part, j->c->size, j->w->recv, j->bytes);
  return st;
}

/* Part r of recv from rank r: what it has for all, or for this rank. */
static ds_status gather(const job *j, bool parts, ds_error *err) {
  const char *send = j->w->send;
  char *recv = j->w->recv;
  size_t own = (size_t)j->c->rank * j->bytes, skip = parts ? own : 0;
  ds_status st = DS_OK;
  copy(recv + own, send + skip, j->bytes);
  for (int step = 1; step < j->c->size && st == DS_OK; step++) {
    int r = nth_after(j, step);
    const char *from = ds_cpu_local_entry_of(j->l, r)->send;
    st = move(j, r, recv + (size_t)r * j->bytes, from + skip, 0, j->bytes, err);
  }
  return st;
}

/* Only the root's memory is read, so only the root waits for all. */
static ds_status broadcast(const job *j, ds_error *err) {
  const ds_cpu_local_entry *e;
  if (is_root(j->c, j->w)) return await_all_done(j);
  ds_status st = meet(j, j->w->peer, &e, err);
  if (st == DS_OK) st = move(j, j->w->peer, j->w->recv, e->recv, 0, j->bytes, err);
  if (st == DS_OK) st = ds_cpu_local_check(j->l, j->w->peer, j->limit);
  if (st == DS_OK) ds_cpu_local_tell_done(j->l);
  return st;
}

static ds_status finish_large(const job *j, ds_error *err) {
  if (j->w->call == DS_CPU_BROADCAST) return broadcast(j, err);
  ds_status st = meet_all(j, err);
  if (st != DS_OK) return st;
  switch ((enum ds_cpu_call)j->w->call) {
    case DS_CPU_ALLREDUCE:
      if (j->bytes * (size_t)(j->c->size - 1) <= WHOLE) return allreduce_whole(j, err);
      st = allreduce(j, err);
      break;
    case DS_CPU_REDUCE_SCATTER:
      st = add_up(j, j->w->recv, (size_t)j->c->rank * j->bytes, j->bytes, err);
      break;
    case DS_CPU_ALLGATHER: st = gather(j, false, err); break;
    case DS_CPU_ALLTOALL: st = gather(j, true, err); break;
    case DS_CPU_BROADCAST:
    case DS_CPU_SEND:
    case DS_CPU_RECV:
    case DS_CPU_BARRIER: break;
  }
  return st == DS_OK ? part_all(j) : st;
}

/* ---------------------------------------------------------------- the two ways in */

ds_status ds_cpu_comm_run_local(const ds_comm *c, ds_stream *s, const ds_cpu_work *w,
                                const ds_cpu_limit *limit, ds_error *err) {
  job j;
  if (w->call == DS_CPU_SEND || w->call == DS_CPU_RECV)
    return ds_cpu_comm_pair_local(c, w, limit, err);
  ds_status st = job_init(&j, c, s, w, limit, err);
  if (st == DS_OK && !w->arrived) {
    st = ds_cpu_local_await_room(c->local, limit);
    if (st == DS_OK) arrive(c, w);
  }
  if (st == DS_OK) st = is_small(c, w) ? finish_small(&j, err) : finish_large(&j, err);
  if (st != DS_OK) ds_cpu_local_lose(c->local);
  return st;
}

enum ds_cpu_try ds_cpu_comm_try_local(const ds_comm *c, ds_stream *s, ds_cpu_work *w) {
  job j;
  ds_cpu_limit none = {.aborted = &c->aborted};
  ds_error unused;
  if (entry_bytes(c, w) > AT_ONCE || !ds_cpu_local_may_arrive(c->local) ||
      job_init(&j, c, s, w, &none, &unused) != DS_OK)
    return DS_CPU_TRY_LATER;
  arrive(c, w);
  w->arrived = true;
  bool small = is_small(c, w), from_root = w->call == DS_CPU_BROADCAST && !is_root(c, w);
  if (small && is_root(c, w)) return DS_CPU_TRY_DONE;
  if (!ds_cpu_local_soon(c->local, from_root ? w->peer : -1)) return DS_CPU_TRY_LATER;
  if (small && finish_small(&j, &unused) == DS_OK) return DS_CPU_TRY_DONE;
  return DS_CPU_TRY_READY;
}
