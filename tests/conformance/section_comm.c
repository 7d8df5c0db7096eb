/* section_comm.c - communicators: who is in them, what waits for whom, and how they end. */
#include "comm_moves.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---------------------------------------------------------------- who is in it */

static void world(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  ds_comm_world w = {.size = sizeof w};
  ds_error err;
  NEED(k->plugin->comm->world(&w, &err) == DS_OK, "world: %.300s", err.message);
  NEED(w.world_size == r->size && w.rank >= 0 && w.rank < r->size, "rank %d of %d; %d were started",
       w.rank, w.world_size, r->size);
  NEED(w.local_size >= 1 && w.local_rank >= 0 && w.local_rank < w.local_size, "local rank %d of %d",
       w.local_rank, w.local_size);
  kv_folder_mark(r->folder, "rank", w.rank);
  group_meet(k, t);
  NEED(kv_folder_marks(r->folder, "rank", r->size) == r->size, "two ranks have the same number");
}

static void refused(conformance *k, const int32_t *ranks, int n, const char *what, tally *t) {
  ds_comm *c = NULL;
  ds_error err = check_error_new();
  check_doing(k, "create of %s", what);
  ds_status st = k->plugin->comm->create(k->dev, ranks, n, &rank_of(k)->kv.store, 2000, &c, &err);
  NEED(check_explained(st, &err), "create of %s gave %d \"%.200s\"", what, (int)st,
       check_text(st, &err));
}

static void create(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const int32_t beyond[] = {r->rank, r->size}, negative[] = {-1};
  const int32_t other[] = {(r->rank + 1) % r->size};
  group g;
  refused(k, NULL, 0, "no ranks", t);
  refused(k, beyond, 2, "a rank beyond the world", t);
  refused(k, negative, 1, "rank -1", t);
  if (r->size > 1) refused(k, other, 1, "others only", t);
  k->plugin->comm->destroy(NULL);
  int32_t reversed[RANKS_MAX], own = -1, size = -1;
  ds_error err;
  for (int i = 0; i < r->size; i++) reversed[i] = r->size - 1 - i;
  if (!group_create(k, &g, reversed, r->size, GROUP_TIMEOUT_MS, t)) return;
  if (k->plugin->comm->rank(g.comm, &own, &size, &err) != DS_OK)
    check_fail(t, "rank: %.300s", err.message);
  else if (own != g.own || size != g.size)
    check_fail(t, "rank says %d of %d, wanted %d of %d", own, size, g.own, g.size);
  else
    (void)comm_is_group(k, &g, t);
  group_destroy(k, &g);
}

/* Halves by create: even and odd ranks at the same time. */
static void halves(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  int32_t of[RANKS_MAX];
  int n = 0;
  group g;
  for (int i = r->size - 1; i >= 0; i--)
    if (i % 2 == r->rank % 2) of[n++] = i;
  if (group_create(k, &g, of, n, GROUP_TIMEOUT_MS, t)) (void)comm_is_group(k, &g, t);
  group_destroy(k, &g);
}

/* One color for even ranks, one for odd, in reverse by key; then equal keys; then with -1. */
static void split(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const ds_comm_table *q = k->plugin->comm;
  const ds_device_table *d = k->plugin->device;
  group all;
  void *sum = NULL;
  ds_error err;
  if (!group_create(k, &all, NULL, r->size, GROUP_TIMEOUT_MS, t)) return;
  NEED(d->alloc(k->dev, 4, &sum, &err) == DS_OK, "no memory: %.300s", err.message);
  for (int turn = 0; turn < 3 && !t->failed; turn++) {
    group part = {.own = -1};
    bool last_stays_out = turn == 2, out = last_stays_out && r->rank == r->size - 1;
    int color = turn == 0 ? 0 : r->rank % 2, key = turn == 1 ? 7 : -r->rank;
    check_doing(k, "split, turn %d", turn);
    part.comm = (ds_comm *)&part; /* must be set to NULL for who stays out */
    /* What was given to the whole may still be under way. */
    ds_status st = turn == 0
                       ? q->allreduce(all.comm, k->stream, sum, sum, 1, DS_I32, DS_REDUCE_SUM, &err)
                       : DS_OK;
    if (st == DS_OK) st = q->split(all.comm, out ? -1 : color, key, &part.comm, &err);
    NEED(st == DS_OK, "split: status %d: %.300s", (int)st, err.message);
    for (int n = 0; n < r->size; n++) {
      int i = turn == 1 ? n : r->size - 1 - n; /* equal keys: as in all */
      if ((turn > 0 && i % 2 != r->rank % 2) || (last_stays_out && i == r->size - 1)) continue;
      if (i == r->rank) part.own = part.size;
      part.of[part.size++] = i;
    }
    NEED(!out || !part.comm, "split with color -1 gave a communicator");
    if (out) continue;
    int32_t own = -1, size = -1;
    NEED(part.comm && q->rank(part.comm, &own, &size, &err) == DS_OK, "split gave no communicator");
    if (own != part.own || size != part.size)
      check_fail(t, "split by %s: this is rank %d of %d, wanted %d of %d",
                 turn == 1 ? "color, with equal keys" : "color and key", own, size, part.own,
                 part.size);
    else
      (void)comm_is_group(k, &part, t);
    if (turn == 0) group_destroy(k, &all); /* a part outlives the whole */
    if (turn == 0 && !t->failed) (void)comm_is_group(k, &part, t);
    group_destroy(k, &part);
    if (turn == 0 && !t->failed) (void)group_create(k, &all, NULL, r->size, GROUP_TIMEOUT_MS, t);
  }
  group_destroy(k, &all);
  NEED(d->stream_sync(k->stream, &err) == DS_OK, "sync: %.300s", err.message);
  d->free(k->dev, sum);
}

/* ---------------------------------------------------------------- who waits for whom */

/* In each round another rank comes last; after the barrier all must have come. */
static void barrier(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  group g;
  ds_error err;
  if (!group_create(k, &g, NULL, r->size, GROUP_TIMEOUT_MS, t)) return;
  for (int round = 0; round < 6 && !t->failed; round++) {
    char name[32];
    snprintf(name, sizeof name, "arrived%d", round);
    if (round % r->size == r->rank) usleep(40000);
    kv_folder_mark(r->folder, name, r->rank);
    check_doing(k, "barrier, round %d", round);
    ds_status st = k->plugin->comm->barrier(g.comm, k->stream, &err);
    if (st != DS_OK)
      check_fail(t, "barrier: %.300s", err.message);
    else if (kv_folder_marks(r->folder, name, r->size) != r->size)
      check_fail(t, "barrier returned before every rank had called it");
  }
  group_destroy(k, &g);
}

typedef struct pair {
  group a, b;
  ds_stream *second;
  guarded x, y;
} pair;

static bool pair_open(conformance *k, pair *p, tally *t) {
  ds_error err;
  memset(p, 0, sizeof *p);
  if (!group_create(k, &p->a, NULL, rank_of(k)->size, GROUP_TIMEOUT_MS, t) ||
      !group_create(k, &p->b, NULL, rank_of(k)->size, GROUP_TIMEOUT_MS, t))
    return false;
  if (k->plugin->device->stream_create(k->dev, &p->second, &err) != DS_OK) {
    check_fail(t, "stream_create: %.300s", err.message);
    p->second = NULL;
    return false;
  }
  return group_room(k, &p->x, DS_F32, 4096, rank_of(k)->rank, t) &&
         group_room(k, &p->y, DS_F32, 4096, -1, t);
}

static void pair_close(conformance *k, pair *p) {
  if (p->second) (void)!k->plugin->device->stream_sync(p->second, NULL);
  group_destroy(k, &p->a);
  group_destroy(k, &p->b);
  if (p->second) k->plugin->device->stream_destroy(p->second);
  check_drop(k, &p->x);
  check_drop(k, &p->y);
}

static double from_peer(const void *ctx, int64_t i, double *bound) {
  *bound = 0;
  return group_value(ctx, DS_F32, rank_of((conformance *)(uintptr_t)ctx)->rank ^ 1, i);
}

/* Rank 0 first waits for rank 1's message on one stream, then sends on another; rank 1 answers only
 * when that has come. Who blocks in recv never sends. */
static void asynchrony(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const ds_comm_table *q = k->plugin->comm;
  pair p;
  ds_error err;
  bool open = pair_open(k, &p, t);
  if (open && r->rank < 2) {
    int peer = r->rank ^ 1;
    ds_status st = DS_OK;
    void *x = GUARDED_AT(&p.x, 0), *y = GUARDED_AT(&p.y, 0);
    if (r->rank == 0) {
      check_doing(k, "a recv on one stream, then the send on another that lets it through");
      st = q->recv(p.a.comm, k->stream, y, 4096, DS_F32, peer, &err);
      if (st == DS_OK) st = q->send(p.b.comm, p.second, x, 4096, DS_F32, peer, &err);
      if (st == DS_OK) st = k->plugin->device->stream_sync(p.second, &err);
    } else {
      st = q->recv(p.b.comm, p.second, y, 4096, DS_F32, peer, &err);
      if (st == DS_OK) st = k->plugin->device->stream_sync(p.second, &err);
      if (st == DS_OK) st = q->send(p.a.comm, k->stream, x, 4096, DS_F32, peer, &err);
    }
    if (st == DS_OK) st = k->plugin->device->stream_sync(k->stream, &err);
    if (st == DS_OK)
      (void)group_check(k, &p.y, DS_F32, 4096, (expectation){from_peer, k}, "recv", t);
    else
      check_fail(t, "a recv on one stream and a send on another: status %d: %.300s", (int)st,
                 err.message);
  }
  pair_close(k, &p);
}

/* What comes after a recv, on its stream or on one that waits for its event, sees what came. */
static void events(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const ds_device_table *d = k->plugin->device;
  pair p;
  ds_event *e = NULL;
  ds_error err;
  guarded z = {0};
  if (!d->event_create) {
    check_unsupported(t, "the device table has no events");
    return;
  }
  bool open = pair_open(k, &p, t) && group_room(k, &z, DS_F32, 4096, -1, t);
  ds_status st = open ? d->event_create(k->dev, &e, &err) : DS_ERR_STATE;
  if (st != DS_OK) e = NULL;
  if (st == DS_OK && r->rank < 2) {
    int peer = r->rank ^ 1;
    void *x = GUARDED_AT(&p.x, 0), *y = GUARDED_AT(&p.y, 0), *to = GUARDED_AT(&z, 0);
    check_doing(k, "work on one stream after a recv on another, by an event");
    if (r->rank == 0) {
      usleep(50000); /* so that who doesn't wait is too early */
      st = k->plugin->comm->send(p.a.comm, k->stream, x, 4096, DS_F32, peer, &err);
    } else {
      st = k->plugin->comm->recv(p.a.comm, k->stream, y, 4096, DS_F32, peer, &err);
      if (st == DS_OK) st = d->event_record(e, k->stream, &err);
      if (st == DS_OK) st = d->event_wait(e, p.second, &err);
      if (st == DS_OK && d->copy) st = d->copy(p.second, to, y, 4096 * 4, &err);
      if (st == DS_OK) st = d->stream_sync(p.second, &err);
      if (st == DS_OK && d->copy)
        (void)group_check(k, &z, DS_F32, 4096, (expectation){from_peer, k},
                          "a copy on a stream that waits for a recv's event", t);
    }
    if (st == DS_OK) st = d->stream_sync(k->stream, &err);
  }
  if (open && st != DS_OK) check_fail(t, "%.300s", err.message);
  if (e) d->event_destroy(e);
  check_drop(k, &z);
  pair_close(k, &p);
}

/* ---------------------------------------------------------------- how they end */

/* A call on a stream of its own, which the failure may kill. */
static ds_status lonely(conformance *k, const group *g, ds_stream *s, const guarded *b,
                        ds_error *err) {
  ds_status st = k->plugin->comm->allreduce(g->comm, s, GUARDED_AT(b, 0), GUARDED_AT(b, 0), 64,
                                            DS_F32, DS_REDUCE_SUM, err);
  return st == DS_OK ? k->plugin->device->stream_sync(s, err) : st;
}

/* Long enough for create on a machine that has much else to do. */
enum { LIMIT_MS = 3000 };

/* The last rank stays away from an allreduce; the others must be told, and can go on. */
static void timeout(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const ds_device_table *d = k->plugin->device;
  bool away = r->rank == r->size - 1;
  group g;
  guarded b = {0};
  ds_stream *s = NULL;
  ds_error err = {0};
  bool open =
      group_create(k, &g, NULL, r->size, LIMIT_MS, t) && group_room(k, &b, DS_F32, 64, 0, t);
  if (open && d->stream_create(k->dev, &s, &err) != DS_OK) {
    check_fail(t, "stream_create: %.300s", err.message);
    s = NULL;
  }
  if (s && !away) {
    err = check_error_new();
    check_doing(k, "an allreduce from which the last rank stays away, with a limit of %d ms",
                LIMIT_MS);
    ds_status st = lonely(k, &g, s, &b, &err);
    if (st != DS_ERR_TIMEOUT || !check_explained(st, &err))
      check_fail(t, "allreduce without the last rank gave %d \"%.200s\"; wanted DS_ERR_TIMEOUT",
                 (int)st, check_text(st, &err));
    else if (!strstr(err.message, "allreduce"))
      check_fail(t, "the message names no call: \"%.200s\"", err.message);
    else if (lonely(k, &g, s, &b, &err) == DS_OK)
      check_fail(t, "a communicator that ran out of time goes on");
  }
  group_meet(k, t);
  group_destroy(k, &g);
  if (s) d->stream_destroy(s);
  check_drop(k, &b);
  group_meet(k, t);
  if (!t->failed && group_create(k, &g, NULL, r->size, GROUP_TIMEOUT_MS, t)) {
    (void)comm_is_group(k, &g, t); /* another stream, another communicator: all well */
    group_destroy(k, &g);
  }
}

typedef struct aborter {
  conformance *k;
  ds_comm *comm;
} aborter;

static void *abort_soon(void *arg) {
  aborter *a = arg;
  usleep(100000);
  a->k->plugin->comm->abort(a->comm);
  return NULL;
}

/* Rank 0 waits for what nobody sends, and another of its threads gives up. */
static void abort_(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const ds_device_table *d = k->plugin->device;
  group g;
  guarded b = {0};
  ds_stream *s = NULL;
  ds_error err;
  pthread_t thread;
  bool open = group_create(k, &g, NULL, r->size, 0, t) && group_room(k, &b, DS_F32, 64, 0, t);
  if (open && d->stream_create(k->dev, &s, &err) != DS_OK) {
    check_fail(t, "stream_create: %.300s", err.message);
    s = NULL;
  }
  aborter a = {k, g.comm};
  if (s && r->rank == 0 && pthread_create(&thread, NULL, abort_soon, &a) == 0) {
    err = check_error_new();
    check_doing(k, "a recv that another thread aborts");
    ds_status st = k->plugin->comm->recv(g.comm, s, GUARDED_AT(&b, 0), 64, DS_F32, 1, &err);
    if (st == DS_OK) st = d->stream_sync(s, &err);
    pthread_join(thread, NULL);
    if (st != DS_ERR_ABORTED || !check_explained(st, &err))
      check_fail(t, "a recv that was aborted gave %d \"%.200s\"; wanted DS_ERR_ABORTED", (int)st,
                 check_text(st, &err));
    else if (lonely(k, &g, k->stream, &b, &err) != DS_ERR_ABORTED)
      check_fail(t, "a call after abort must fail with DS_ERR_ABORTED");
  }
  group_meet(k, t); /* the others stay until then */
  group_destroy(k, &g);
  if (s) d->stream_destroy(s);
  check_drop(k, &b);
}

/* Calls that are wrong by themselves are refused at once, and harm nothing. */
static void errors(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  const ds_comm_table *q = k->plugin->comm;
  group g;
  guarded b = {0};
  if (group_create(k, &g, NULL, r->size, GROUP_TIMEOUT_MS, t) &&
      group_room(k, &b, DS_F32, 64, 0, t)) {
    void *p = GUARDED_AT(&b, 0);
    for (int i = 0; i < 6 && !t->failed; i++) {
      static const char *const what[] = {"allreduce of dtype 99",    "allreduce of -1 elements",
                                         "allreduce by reduction 9", "broadcast from a rank beyond",
                                         "send to a rank beyond",    "allgather of dtype 99"};
      ds_error err = check_error_new();
      ds_comm *c = g.comm;
      ds_stream *s = k->stream;
      check_doing(k, "%s", what[i]);
      ds_status st = i == 0   ? q->allreduce(c, s, p, p, 4, 99, DS_REDUCE_SUM, &err)
                     : i == 1 ? q->allreduce(c, s, p, p, -1, DS_F32, DS_REDUCE_SUM, &err)
                     : i == 2 ? q->allreduce(c, s, p, p, 4, DS_F32, (ds_reduce)9, &err)
                     : i == 3 ? q->broadcast(c, s, p, 4, DS_F32, r->size, &err)
                     : i == 4 ? q->send(c, s, p, 4, DS_F32, r->size, &err)
                              : q->allgather(c, s, p, (char *)p + 64, 4, 99, &err);
      if (!check_explained(st, &err))
        check_fail(t, "%s gave %d \"%.200s\"", what[i], (int)st, check_text(st, &err));
    }
    if (!t->failed) (void)comm_is_group(k, &g, t);
  }
  group_destroy(k, &g);
  check_drop(k, &b);
}

/* Every rank's store fails at its Nth call. */
static void kv_fault(conformance *k, tally *t) {
  rank_state *r = rank_of(k);
  int32_t of[RANKS_MAX];
  bool used = false;
  for (int i = 0; i < r->size; i++) of[i] = i;
  for (int n = 1; n <= 4 && !t->failed; n++) {
    ds_comm *c = NULL;
    ds_error err = check_error_new();
    kv_folder_next(&r->kv, 0);
    r->kv.calls = 0;
    r->kv.fail_at = n;
    check_doing(k, "create while call %d of the key-value store fails", n);
    ds_status st = k->plugin->comm->create(k->dev, of, r->size, &r->kv.store, 700, &c, &err);
    bool failed = r->kv.calls >= n;
    r->kv.fail_at = 0;
    used = used || r->kv.calls > 0;
    if (st == DS_OK) k->plugin->comm->destroy(c);
    if (failed && st == DS_OK)
      check_fail(t, "create succeeds though call %d of the store failed", n);
    if (st != DS_OK && !check_explained(st, &err))
      check_fail(t, "create gave %d \"%.200s\"", (int)st, check_text(st, &err));
    t->cases = n;
    group_meet(k, t);
  }
  group g;
  if (!t->failed && group_create(k, &g, NULL, r->size, GROUP_TIMEOUT_MS, t)) {
    (void)comm_is_group(k, &g, t);
    group_destroy(k, &g);
  }
  if (!t->failed && !used) check_unsupported(t, "the store isn't used");
}

#define RANKS_UNIT(fn, label, least)                                                               \
  static void unit_##fn(conformance *k) {                                                          \
    tally t = {.cases = 1};                                                                        \
    if (rank_of(k)->size < (least)) return;                                                        \
    fn(k, &t);                                                                                     \
    check_report(k, &t, label, "");                                                                \
  }
RANKS_UNIT(world, "world", 1)
RANKS_UNIT(create, "create", 1)
RANKS_UNIT(halves, "halves", 2)
RANKS_UNIT(split, "split", 1)
RANKS_UNIT(barrier, "barrier", 1)
RANKS_UNIT(asynchrony, "asynchrony", 2)
RANKS_UNIT(events, "events", 2)
RANKS_UNIT(errors, "errors", 1)
RANKS_UNIT(timeout, "timeout", 2)
RANKS_UNIT(abort_, "abort", 2)
RANKS_UNIT(kv_fault, "kv-fault", 2)

const unit comm_units[] = {{"world", unit_world, NEEDS_DEVICE, false},
                           {"create", unit_create, NEEDS_DEVICE, false},
                           {"allreduce", comm_allreduce, NEEDS_DEVICE, false},
                           {"reduce_scatter", comm_reduce_scatter, NEEDS_DEVICE, false},
                           {"allgather", comm_allgather, NEEDS_DEVICE, false},
                           {"broadcast", comm_broadcast, NEEDS_DEVICE, false},
                           {"alltoall", comm_alltoall, NEEDS_DEVICE, false},
                           {"send_recv", comm_send_recv, NEEDS_DEVICE, false},
                           {"sums", comm_sums, NEEDS_DEVICE, false},
                           {"barrier", unit_barrier, NEEDS_DEVICE, false},
                           {"halves", unit_halves, NEEDS_DEVICE, false},
                           {"split", unit_split, NEEDS_DEVICE, false},
                           {"asynchrony", unit_asynchrony, NEEDS_DEVICE, false},
                           {"events", unit_events, NEEDS_DEVICE, false},
                           {"errors", unit_errors, NEEDS_DEVICE, false},
                           {"timeout", unit_timeout, NEEDS_DEVICE, false},
                           {"abort", unit_abort_, NEEDS_DEVICE, false},
                           {"kv-fault", unit_kv_fault, NEEDS_DEVICE, false},
                           {0}};
