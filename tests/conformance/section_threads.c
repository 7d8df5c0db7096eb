/* section_threads.c - the tags of ds_abi.h: what may be called from several threads at once. */
#include "work.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 2, ROUNDS = 150 };

/* One thread's errand. */
typedef struct errand {
  conformance *k;
  ds_device *dev;
  ds_stream *stream;
  work w;
  uint64_t seed;
  bool whole; /* memory as well: it has its own device */
  float want[WORK_N * WORK_N], got[WORK_N * WORK_N];
  ds_status status;
  ds_error err;
  int wrong; /* the first round that gave other bits; -1: none */
} errand;

static void *run_errand(void *arg) {
  errand *e = arg;
  e->wrong = -1;
  for (int i = 0; i < ROUNDS && e->status == DS_OK && e->wrong < 0; i++) {
    e->status = e->whole ? work_on(e->k, e->dev, e->stream, e->seed, e->got, &e->err)
                         : work_do(e->k, &e->w, e->stream, e->seed, e->got, &e->err);
    if (e->status == DS_OK && memcmp(e->got, e->want, WORK_BYTES) != 0) e->wrong = i;
  }
  return NULL;
}

static void at_once(errand *e, const char *what, tally *t) {
  pthread_t thread[THREADS];
  int started = 0;
  for (; started < THREADS; started++)
    if (pthread_create(&thread[started], NULL, run_errand, &e[started]) != 0) break;
  for (int i = 0; i < started; i++) pthread_join(thread[i], NULL);
  NEED(started == THREADS, "no thread could be started");
  for (int i = 0; i < THREADS; i++) {
    NEED(e[i].status == DS_OK, "%s: %.300s", what, e[i].err.message);
    NEED(e[i].wrong < 0, "%s: round %d gave other bits than alone", what, e[i].wrong);
  }
}

/* Two threads with a stream each: of one device, or of one each. */
static void side_by_side(conformance *k, bool own_device, tally *t) {
  const ds_device_table *d = k->plugin->device;
  errand *e = calloc(THREADS, sizeof *e);
  ds_status st = e ? DS_OK : DS_ERR_MEMORY;
  ds_error err = {.message = "out of memory"};
  for (int i = 0; i < THREADS && st == DS_OK; i++) {
    e[i] = (errand){.k = k, .dev = k->dev, .seed = k->seed + (uint64_t)i, .whole = own_device};
    if (own_device) st = d->open(0, k->options, &e[i].dev, &err);
    if (st == DS_OK) st = d->stream_create(e[i].dev, &e[i].stream, &err);
    if (st == DS_OK) st = work_init(k, &e[i].w, e[i].dev, &err);
    if (st == DS_OK) st = work_do(k, &e[i].w, e[i].stream, e[i].seed, e[i].want, &err);
  }
  if (st == DS_OK)
    at_once(e, own_device ? "two devices in two threads" : "two streams in two threads", t);
  else
    check_fail(t, "%.300s", err.message);
  for (int i = 0; e && i < THREADS; i++) {
    if (!e[i].k) continue;
    work_finish(k, &e[i].w);
    if (e[i].stream) d->stream_destroy(e[i].stream);
    if (own_device && e[i].dev) d->close(e[i].dev);
  }
  free(e);
}

static void streams(conformance *k, tally *t) {
  side_by_side(k, false, t);
}

static void devices(conformance *k, tally *t) {
  side_by_side(k, true, t);
}

/* ---------------------------------------------------------------- [any-thread] */

typedef struct answers {
  int32_t count, world_size;
  int gemm, op, quant;
  size_t pack, workspace;
} answers;

typedef struct asker {
  conformance *k;
  answers first;
  atomic_bool *stop;
  bool changed, failed;
} asker;

static bool ask(conformance *k, answers *a) {
  const ds_plugin *p = k->plugin;
  const char *reason = NULL;
  ds_comm_world world = {.size = sizeof world, .world_size = 1};
  const ds_gemm g = {.size = sizeof g,
                     .m = 64,
                     .n = 96,
                     .k = 32,
                     .lda = 32,
                     .ldb = 96,
                     .ldc = 96,
                     .batch = 1,
                     .alpha = 1};
  const ds_quant q = {.size = sizeof q, .qtype = DS_I8, .rows = 8, .cols = 16, .group = 16};
  const ds_tensor x = {.rank = 2, .shape = {8, 32}, .stride = {32, 1}};
  const ds_tensor row = {.rank = 1, .shape = {32}, .stride = {1}};
  const ds_tensor *in[] = {&x, &row, &row}, *out[] = {&x};
  const ds_op op = {
      .size = sizeof op, .id = DS_OP_LAYER_NORM, .n_in = 3, .n_out = 1, .in = in, .out = out};
  memset(a, 0, sizeof *a);
  bool ok = p->device->count(&a->count, &reason, NULL) == DS_OK;
  if (p->gemm) a->gemm = p->gemm->supports(k->dev, &g);
  if (p->gemm && p->gemm->pack_size) a->pack = p->gemm->pack_size(k->dev, &g);
  if (p->quant) a->quant = p->quant->supports(k->dev, &q, NULL);
  if (p->ops) a->op = p->ops->supports(k->dev, &op);
  if (p->ops && p->ops->workspace && a->op) a->workspace = p->ops->workspace(k->dev, &op);
  if (p->comm) ok = ok && p->comm->world(&world, NULL) == DS_OK;
  a->world_size = world.world_size;
  return ok;
}

static void *keep_asking(void *arg) {
  asker *a = arg;
  while (!atomic_load(a->stop)) {
    answers now;
    if (!ask(a->k, &now)) a->failed = true;
    if (memcmp(&now, &a->first, sizeof now) != 0) a->changed = true;
  }
  return NULL;
}

static void any_thread(conformance *k, tally *t) {
  enum { ASKERS = 3 };
  static float want[WORK_N * WORK_N], got[WORK_N * WORK_N];
  asker a[ASKERS];
  pthread_t thread[ASKERS];
  atomic_bool stop = false;
  answers first;
  ds_error err;
  NEED(ask(k, &first), "count or world fails");
  NEED(work_on(k, k->dev, k->stream, k->seed, want, &err) == DS_OK, "%.300s", err.message);
  int started = 0;
  for (; started < ASKERS; started++) {
    a[started] = (asker){.k = k, .first = first, .stop = &stop};
    if (pthread_create(&thread[started], NULL, keep_asking, &a[started]) != 0) break;
  }
  ds_status st = DS_OK;
  bool same = true;
  for (int i = 0; i < ROUNDS && st == DS_OK && same; i++) {
    st = work_on(k, k->dev, k->stream, k->seed, got, &err);
    same = st != DS_OK || memcmp(got, want, WORK_BYTES) == 0;
  }
  atomic_store(&stop, true);
  bool changed = false, failed = false;
  for (int i = 0; i < started; i++) {
    pthread_join(thread[i], NULL);
    changed = changed || a[i].changed;
    failed = failed || a[i].failed;
  }
  NEED(st == DS_OK, "work while others ask: %.300s", err.message);
  NEED(same, "work while others ask gave other bits");
  NEED(!failed, "count or world failed while work ran");
  NEED(!changed, "supports, pack_size, workspace, count or world answered otherwise");
}

/* ---------------------------------------------------------------- order */

/* Work of one stream in the order given, sources reused at once. */
static void order(conformance *k, tally *t) {
  enum { SLOTS = 64, SIZE = 4096 };
  const ds_device_table *d = k->plugin->device;
  static unsigned char source[SIZE], back[SIZE];
  guarded g;
  ds_error err;
  if (!check_make(k, &g, (size_t)SLOTS * SIZE, t)) return;
  ds_status st = DS_OK;
  for (int round = 0; round < 3 && st == DS_OK; round++)
    for (int i = 0; i < SLOTS && st == DS_OK; i++) {
      memset(source, 31 * round + i, SIZE);
      st = d->upload(k->stream, GUARDED_AT(&g, (size_t)i * SIZE), source, SIZE, &err);
      memset(source, 0xff, SIZE);
      if (st == DS_OK && d->copy && i > 0) /* the slot before gets this one, too */
        st = d->copy(k->stream, GUARDED_AT(&g, (size_t)(i - 1) * SIZE),
                     GUARDED_AT(&g, (size_t)i * SIZE), SIZE, &err);
    }
  for (int i = 0; i < SLOTS && st == DS_OK && !t->failed; i++) {
    st = d->download(k->stream, back, GUARDED_AT(&g, (size_t)i * SIZE), SIZE, &err);
    int want = 31 * 2 + (d->copy && i + 1 < SLOTS ? i + 1 : i);
    for (int b = 0; b < SIZE && st == DS_OK; b++)
      if (back[b] != (unsigned char)want) {
        check_fail(t,
                   "slot %d has byte %d, wanted %d: uploads and copies of one stream came in "
                   "another order, or a source was read after its upload had returned",
                   i, back[b], want & 255);
        break;
      }
  }
  check_drop(k, &g);
  NEED(st == DS_OK, "%.300s", err.message);
}

/* ---------------------------------------------------------------- events */

typedef struct relay {
  conformance *k;
  ds_stream *s;
  ds_event *mine, *other;
  guarded *g;
  pthread_barrier_t *turn;
  int parity;
  ds_status status;
  ds_error err;
} relay;

/* Two threads fill the same memory in turns; each waits, on its stream, for the other's event. */
static void *run_relay(void *arg) {
  relay *r = arg;
  const ds_device_table *d = r->k->plugin->device;
  static unsigned char pattern[2][65536];
  for (int round = 0; round < 60; round++) {
    pthread_barrier_wait(r->turn);
    if (round % 2 != r->parity || r->status != DS_OK) continue;
    memset(pattern[r->parity], round, sizeof pattern[0]);
    if (round > 0) r->status = d->event_wait(r->other, r->s, &r->err);
    if (r->status == DS_OK)
      r->status =
          d->upload(r->s, GUARDED_AT(r->g, 0), pattern[r->parity], sizeof pattern[0], &r->err);
    if (r->status == DS_OK) r->status = d->event_record(r->mine, r->s, &r->err);
  }
  return NULL;
}

static void events(conformance *k, tally *t) {
  const ds_device_table *d = k->plugin->device;
  if (!d->event_create) {
    check_unsupported(t, "the device table has no events");
    return;
  }
  relay r[2] = {{.k = k, .parity = 0}, {.k = k, .parity = 1}};
  pthread_barrier_t turn;
  pthread_t thread;
  guarded g;
  ds_error err = {0};
  static unsigned char back[65536];
  if (!check_make(k, &g, sizeof back, t)) return;
  pthread_barrier_init(&turn, NULL, 2);
  ds_status st = DS_OK;
  for (int i = 0; i < 2 && st == DS_OK; i++) {
    st = d->stream_create(k->dev, &r[i].s, &err);
    if (st == DS_OK) st = d->event_create(k->dev, &r[i].mine, &err);
    r[i].g = &g;
    r[i].turn = &turn;
  }
  r[0].other = r[1].mine;
  r[1].other = r[0].mine;
  if (st == DS_OK && pthread_create(&thread, NULL, run_relay, &r[1]) == 0) {
    run_relay(&r[0]);
    pthread_join(thread, NULL);
    if (r[0].status != DS_OK || r[1].status != DS_OK)
      check_fail(t, "%.300s", r[0].status != DS_OK ? r[0].err.message : r[1].err.message);
    else if ((st = d->event_sync(r[1].mine, &err)) == DS_OK)
      st = d->download(k->stream, back, GUARDED_AT(&g, 0), sizeof back, &err);
    for (size_t b = 0; b < sizeof back && st == DS_OK && !t->failed; b++)
      if (back[b] != 59) check_fail(t, "two streams ordered by events came in the wrong order");
  }
  if (st != DS_OK) check_fail(t, "%.300s", err.message);
  for (int i = 0; i < 2; i++) {
    if (r[i].s) (void)!d->stream_sync(r[i].s, NULL);
    if (r[i].mine) d->event_destroy(r[i].mine);
    if (r[i].s) d->stream_destroy(r[i].s);
  }
  pthread_barrier_destroy(&turn);
  check_drop(k, &g);
}

UNIT_OF(streams, "streams")
UNIT_OF(devices, "devices")
UNIT_OF(any_thread, "any-thread")
UNIT_OF(order, "order")
UNIT_OF(events, "events")

const unit threads_units[] = {{"streams", unit_streams, NEEDS_DEVICE, false},
                              {"devices", unit_devices, NEEDS_DEVICE, false},
                              {"any-thread", unit_any_thread, NEEDS_DEVICE, false},
                              {"order", unit_order, NEEDS_DEVICE, false},
                              {"events", unit_events, NEEDS_DEVICE, false},
                              {0}};
