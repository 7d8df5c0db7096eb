/* comm_moves.c - collectives against arithmetic: a line for each and each dtype. Every rank knows
 * what every other sends, so each checks all that it gets. */
#include "comm_moves.h"

#include <stdio.h>
#include <string.h>

static const int64_t counts[] = {1, 7, 0, 1000, 70001};
enum { N_COUNTS = sizeof counts / sizeof *counts };

typedef struct type {
  int32_t dtype;
  bool required, reduced;
} type;
static const type types[] = {{DS_F32, true, true},  {DS_BF16, true, true}, {DS_F16, true, true},
                             {DS_I32, true, true},  {DS_I8, true, true},   {DS_F64, false, true},
                             {DS_I64, false, true}, {DS_U8, false, true}};

/* What one collective on one dtype is about. */
typedef struct motion {
  conformance *k;
  const group *g;
  int32_t dtype;
  int64_t n;
  ds_reduce op;
  int64_t from; /* first element that counts, of those sent */
  int root;
} motion;

/* The sum of rounded inputs: f32 order is free, so a few roundings of f32 besides one of dtype. */
static double want_reduced(const void *ctx, int64_t i, double *bound) {
  const motion *m = ctx;
  double r = group_value(m->k, m->dtype, m->g->of[0], m->from + i), mag = fabs(r);
  for (int p = 1; p < m->g->size; p++) {
    double x = group_value(m->k, m->dtype, m->g->of[p], m->from + i);
    mag += fabs(x);
    r = m->op == DS_REDUCE_MAX ? fmax(r, x) : m->op == DS_REDUCE_MIN ? fmin(r, x) : r + x;
  }
  if (m->op == DS_REDUCE_MEAN) r /= m->g->size;
  bool whole =
      m->dtype != DS_F32 && m->dtype != DS_BF16 && m->dtype != DS_F16 && m->dtype != DS_F64;
  if (whole) return trunc(r);
  if (m->op == DS_REDUCE_MAX || m->op == DS_REDUCE_MIN || m->g->size == 1) return r;
  double f32 = m->dtype == DS_F64 ? 0x1p-53 : 0x1p-24;
  *bound = 1.01 * harness_half_ulp(m->dtype) * fabs(r) + 2 * m->g->size * f32 * mag;
  if (m->dtype == DS_F16) *bound += 0x1p-25; /* below its normal range */
  return r;
}

/* Element i of what member `root` sent from `from` on. */
static double want_moved(const void *ctx, int64_t i, double *bound) {
  const motion *m = ctx;
  *bound = 0;
  return group_value(m->k, m->dtype, m->g->of[m->root], m->from + i);
}

/* [size,n]: part r is member r's. */
static double want_gathered(const void *ctx, int64_t i, double *bound) {
  const motion *m = ctx;
  *bound = 0;
  return group_value(m->k, m->dtype, m->g->of[i / m->n], i % m->n);
}

/* [size,n]: part r is what member r has for this one. */
static double want_exchanged(const void *ctx, int64_t i, double *bound) {
  const motion *m = ctx;
  *bound = 0;
  return group_value(m->k, m->dtype, m->g->of[i / m->n], (int64_t)m->g->own * m->n + i % m->n);
}

static void *at(const guarded *b, int32_t dtype, int64_t element) {
  return GUARDED_AT(b, (size_t)element * harness_dtype_size(dtype));
}

/* Whether to go on after st, of a call and then of its stream. */
static bool done(motion *m, ds_status st, ds_error *err, const char *what, tally *t) {
  if (st == DS_OK) st = m->k->plugin->device->stream_sync(m->k->stream, err);
  if (st == DS_OK) return true;
  check_fail(t, "%s of %lld: status %d: %.300s", what, (long long)m->n, (int)st, err->message);
  return false;
}

/* ---------------------------------------------------------------- one collective each */

typedef bool move_fn(motion *m, bool in_place, tally *t);

static bool move_allreduce(motion *m, bool in_place, tally *t) {
  conformance *k = m->k;
  guarded send = {0}, recv = {0};
  ds_error err;
  int self = m->g->of[m->g->own];
  bool ok = group_room(k, &send, m->dtype, m->n, self, t) &&
            (in_place || group_room(k, &recv, m->dtype, m->n, -1, t));
  const guarded *to = in_place ? &send : &recv;
  if (ok)
    ok = done(m,
              k->plugin->comm->allreduce(m->g->comm, k->stream, at(&send, m->dtype, 0),
                                         at(to, m->dtype, 0), m->n, m->dtype, m->op, &err),
              &err, in_place ? "allreduce in place" : "allreduce", t) &&
         group_check(k, to, m->dtype, m->n, (expectation){want_reduced, m}, "allreduce", t);
  if (ok && !in_place) {
    motion own = *m;
    own.root = m->g->own;
    ok = group_check(k, &send, m->dtype, m->n, (expectation){want_moved, &own},
                     "allreduce's send buffer", t);
  }
  check_drop(k, &send);
  check_drop(k, &recv);
  return ok;
}

static bool move_reduce_scatter(motion *m, bool in_place, tally *t) {
  conformance *k = m->k;
  guarded send = {0}, recv = {0};
  ds_error err;
  int64_t own = (int64_t)m->g->own * m->n;
  bool ok = group_room(k, &send, m->dtype, m->n * m->g->size, m->g->of[m->g->own], t) &&
            (in_place || group_room(k, &recv, m->dtype, m->n, -1, t));
  void *to = ok ? in_place ? at(&send, m->dtype, own) : at(&recv, m->dtype, 0) : NULL;
  m->from = own;
  if (ok)
    ok = done(m,
              k->plugin->comm->reduce_scatter(m->g->comm, k->stream, at(&send, m->dtype, 0), to,
                                              m->n, m->dtype, m->op, &err),
              &err, in_place ? "reduce_scatter in place" : "reduce_scatter", t);
  if (ok && !in_place)
    ok = group_check(k, &recv, m->dtype, m->n, (expectation){want_reduced, m}, "reduce_scatter", t);
  if (ok && in_place && m->n > 0) { /* a copy of the part, so that the check sees it alone */
    size_t bytes = (size_t)m->n * harness_dtype_size(m->dtype);
    ok = group_room(k, &recv, m->dtype, m->n, -1, t) &&
         k->plugin->device->download(k->stream, recv.image + GUARD, to, bytes, &err) == DS_OK &&
         check_upload(k, &recv, t) &&
         group_check(k, &recv, m->dtype, m->n, (expectation){want_reduced, m},
                     "reduce_scatter in place", t);
  }
  m->from = 0;
  check_drop(k, &send);
  check_drop(k, &recv);
  return ok;
}

static bool move_allgather(motion *m, bool in_place, tally *t) {
  conformance *k = m->k;
  guarded send = {0}, recv = {0};
  ds_error err;
  int self = m->g->of[m->g->own];
  bool ok = group_room(k, &recv, m->dtype, m->n * m->g->size, -1, t) &&
            group_room(k, &send, m->dtype, m->n, self, t);
  void *own = ok ? at(&recv, m->dtype, (int64_t)m->g->own * m->n) : NULL;
  if (ok && in_place)
    ok = k->plugin->device->upload(k->stream, own, send.image + GUARD,
                                   (size_t)m->n * harness_dtype_size(m->dtype), &err) == DS_OK;
  if (ok)
    ok = done(m,
              k->plugin->comm->allgather(m->g->comm, k->stream,
                                         in_place ? own : at(&send, m->dtype, 0),
                                         at(&recv, m->dtype, 0), m->n, m->dtype, &err),
              &err, in_place ? "allgather in place" : "allgather", t) &&
         group_check(k, &recv, m->dtype, m->n * m->g->size, (expectation){want_gathered, m},
                     in_place ? "allgather in place" : "allgather", t);
  check_drop(k, &send);
  check_drop(k, &recv);
  return ok;
}

static bool move_alltoall(motion *m, bool in_place, tally *t) {
  conformance *k = m->k;
  guarded send = {0}, recv = {0};
  ds_error err;
  int64_t all = m->n * m->g->size;
  if (in_place) return true; /* not allowed */
  bool ok = group_room(k, &send, m->dtype, all, m->g->of[m->g->own], t) &&
            group_room(k, &recv, m->dtype, all, -1, t);
  if (ok)
    ok = done(m,
              k->plugin->comm->alltoall(m->g->comm, k->stream, at(&send, m->dtype, 0),
                                        at(&recv, m->dtype, 0), m->n, m->dtype, &err),
              &err, "alltoall", t) &&
         group_check(k, &recv, m->dtype, all, (expectation){want_exchanged, m}, "alltoall", t);
  check_drop(k, &send);
  check_drop(k, &recv);
  return ok;
}

static bool move_broadcast(motion *m, bool in_place, tally *t) {
  conformance *k = m->k;
  bool ok = !in_place;
  for (int root = 0; root < m->g->size && ok; root++) {
    guarded b;
    ds_error err;
    m->root = root;
    ok = group_room(k, &b, m->dtype, m->n, m->g->of[m->g->own], t) &&
         done(m,
              k->plugin->comm->broadcast(m->g->comm, k->stream, at(&b, m->dtype, 0), m->n, m->dtype,
                                         root, &err),
              &err, "broadcast", t) &&
         group_check(k, &b, m->dtype, m->n, (expectation){want_moved, m}, "broadcast", t);
    check_drop(k, &b);
  }
  return ok || in_place;
}

/* Around the ring: two messages from each, that must come in order. Even ranks send first. */
static bool move_ring(motion *m, bool in_place, tally *t) {
  conformance *k = m->k;
  const ds_comm_table *c = k->plugin->comm;
  int size = m->g->size, next = (m->g->own + 1) % size, before = (m->g->own + size - 1) % size;
  guarded send = {0}, recv[2] = {{0}};
  ds_error err;
  if (in_place || size % 2) return true;
  bool ok = group_room(k, &send, m->dtype, 2 * m->n, m->g->of[m->g->own], t) &&
            group_room(k, &recv[0], m->dtype, m->n, -1, t) &&
            group_room(k, &recv[1], m->dtype, m->n, -1, t);
  for (int turn = 0; turn < 2 && ok; turn++)
    for (int i = 0; i < 2 && ok; i++) {
      bool sends = turn == m->g->own % 2;
      void *p = sends ? at(&send, m->dtype, i * m->n) : at(&recv[i], m->dtype, 0);
      ds_status st = sends ? c->send(m->g->comm, k->stream, p, m->n, m->dtype, next, &err)
                           : c->recv(m->g->comm, k->stream, p, m->n, m->dtype, before, &err);
      ok = done(m, st, &err, sends ? "send" : "recv", t);
    }
  m->root = before;
  for (int i = 0; i < 2 && ok; i++) {
    m->from = i * m->n;
    ok = group_check(k, &recv[i], m->dtype, m->n, (expectation){want_moved, m}, "recv", t);
  }
  m->from = 0;
  check_drop(k, &send);
  check_drop(k, &recv[0]);
  check_drop(k, &recv[1]);
  return ok;
}

/* ---------------------------------------------------------------- all dtypes of one */

/* A dtype that isn't required may be refused, before anything is sent. */
static bool offered(conformance *k, const group *g, const type *y, bool reduces) {
  ds_error err;
  guarded b;
  tally silent = {0};
  if (y->required) return true;
  if (!group_room(k, &b, y->dtype, 1, 0, &silent)) return true;
  ds_status st =
      reduces ? k->plugin->comm->allreduce(g->comm, k->stream, at(&b, y->dtype, 0),
                                           at(&b, y->dtype, 0), 1, y->dtype, DS_REDUCE_MAX, &err)
              : k->plugin->comm->broadcast(g->comm, k->stream, at(&b, y->dtype, 0), 1, y->dtype, 0,
                                           &err);
  const ds_status done = k->plugin->device->stream_sync(k->stream, &err); /* the upload, at least */
  check_drop(k, &b);
  return st != DS_ERR_UNSUPPORTED && done != DS_ERR_UNSUPPORTED;
}

static void all_types(conformance *k, const char *name, move_fn *move, bool reduces, int least) {
  rank_state *r = rank_of(k);
  group g;
  tally made = {.cases = 1};
  if (r->size < least) return;
  if (!group_create(k, &g, NULL, r->size, GROUP_TIMEOUT_MS, &made)) {
    check_report(k, &made, name, "");
    return;
  }
  for (size_t y = 0; y < sizeof types / sizeof *types; y++) {
    tally t = {0};
    bool ok = true;
    if (!offered(k, &g, &types[y], reduces)) {
      check_unsupported(&t, "%s is not among the required types",
                        harness_dtype_name(types[y].dtype));
      ok = false;
    }
    for (int n = 0; n < N_COUNTS && ok; n++)
      for (int op = 0; op < (reduces ? 4 : 1) && ok; op++)
        for (int in_place = 0; in_place < 2 && ok; in_place++) {
          motion m = {
              .k = k, .g = &g, .dtype = types[y].dtype, .n = counts[n], .op = (ds_reduce)op};
          check_doing(k, "%s of %lld %s, reduction %d%s", name, (long long)m.n,
                      harness_dtype_name(m.dtype), op, in_place ? ", in place" : "");
          t.cases++;
          ok = move(&m, in_place != 0, &t);
        }
    check_report(k, &t, name, harness_dtype_name(types[y].dtype));
    if (t.failed) break; /* ranks may have parted: what follows would only tell of that */
  }
  group_destroy(k, &g);
}

void comm_allreduce(conformance *k) {
  all_types(k, "allreduce", move_allreduce, true, 1);
}
void comm_reduce_scatter(conformance *k) {
  all_types(k, "reduce_scatter", move_reduce_scatter, true, 1);
}
void comm_allgather(conformance *k) {
  all_types(k, "allgather", move_allgather, false, 1);
}
void comm_broadcast(conformance *k) {
  all_types(k, "broadcast", move_broadcast, false, 1);
}
void comm_alltoall(conformance *k) {
  all_types(k, "alltoall", move_alltoall, false, 1);
}
void comm_send_recv(conformance *k) {
  all_types(k, "send_recv", move_ring, false, 2);
}

/* An allgather of 100 f32 on g: that these are the members, in this order. */
bool comm_is_group(conformance *k, const group *g, tally *t) {
  motion m = {.k = k, .g = g, .dtype = DS_F32, .n = 100};
  return move_allgather(&m, false, t);
}

/* i8 sums wrap around; the same call twice gives the same bits. */
void comm_sums(conformance *k) {
  rank_state *r = rank_of(k);
  group g;
  tally t = {.cases = 1};
  if (group_create(k, &g, NULL, r->size, GROUP_TIMEOUT_MS, &t)) {
    enum { N = 5000 };
    guarded a = {0}, b = {0}, c = {0};
    ds_error err;
    static unsigned char x[N * 4 + 2 * GUARD], y[N * 4 + 2 * GUARD];
    const ds_comm_table *q = k->plugin->comm;
    bool ok = group_room(k, &a, DS_F32, N, r->rank, &t) && group_room(k, &b, DS_F32, N, -1, &t) &&
              group_room(k, &c, DS_I8, 16, -1, &t);
    for (int i = 0; i < 2 && ok; i++) {
      ds_status st = q->allreduce(g.comm, k->stream, GUARDED_AT(&a, 0), GUARDED_AT(&b, 0), N,
                                  DS_F32, DS_REDUCE_SUM, &err);
      ok = st == DS_OK && check_download(k, &b, i ? y : x, &t);
      if (st != DS_OK) check_fail(&t, "allreduce: %.300s", err.message);
    }
    if (ok && memcmp(x, y, sizeof x) != 0)
      check_fail(&t,
                 "the same allreduce of f32 twice gave other bits: the order of sums must hold");
    if (ok) {
      memset(c.image + GUARD, 100, 16);
      ok = check_upload(k, &c, &t) &&
           q->allreduce(g.comm, k->stream, GUARDED_AT(&c, 0), GUARDED_AT(&c, 0), 16, DS_I8,
                        DS_REDUCE_SUM, &err) == DS_OK &&
           check_download(k, &c, x, &t);
      int8_t want = (int8_t)(uint8_t)(100 * r->size);
      if (ok && (int8_t)x[GUARD] != want)
        check_fail(&t, "%d times 100 as i8 sums to %d, wanted %d: it wraps around", r->size,
                   (int8_t)x[GUARD], want);
    }
    check_drop(k, &a);
    check_drop(k, &b);
    check_drop(k, &c);
  }
  group_destroy(k, &g);
  check_report(k, &t, "sums", "");
}
