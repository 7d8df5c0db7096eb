/* section_graph.c - recording work and launching it again. What must come out is what the same calls give
 * when they aren't recorded, bit for bit. */
#include "usage.h"
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float want[WORK_N * WORK_N], got[WORK_N * WORK_N], host[3][WORK_N * WORK_N];

static bool lacks(const conformance *k, tally *t) {
  if (k->plugin->graph) return false;
  check_unsupported(t, "the plugin has no graph table");
  return true;
}

/* Other contents of a, b and c for each seed; c's are such as no work gives. */
static ds_status set(conformance *k, const work *w, uint64_t seed, ds_error *err) {
  void *const at[] = {w->a, w->b, w->c};
  uint64_t rng = seed;
  ds_status st = DS_OK;
  for (int m = 0; m < 3 && st == DS_OK; m++) {
    for (int i = 0; i < WORK_N * WORK_N; i++)
      host[m][i] = m == 2 ? -77 : (float)harness_normal(&rng);
    st = k->plugin->device->upload(k->stream, at[m], host[m], WORK_BYTES, err);
  }
  return st;
}

static ds_status result(conformance *k, const work *w, float *to, ds_error *err) {
  return k->plugin->device->download(k->stream, to, w->c, WORK_BYTES, err);
}

/* What the work gives on set(seed), not recorded. */
static ds_status directly(conformance *k, work *w, uint64_t seed, ds_error *err) {
  ds_status st = set(k, w, seed, err);
  if (st == DS_OK) st = work_launch(k, w, k->stream, err);
  return st == DS_OK ? result(k, w, want, err) : st;
}

static ds_status recorded(conformance *k, work *w, ds_stream *s, ds_graph **g, ds_error *err) {
  ds_status st = k->plugin->graph->begin(s, err);
  if (st == DS_OK) st = work_launch(k, w, s, err);
  return st == DS_OK ? k->plugin->graph->end(s, g, err) : st;
}

/* Runs `body` with device memory; a failure that it returns is told. */
static void with_work(conformance *k, tally *t,
                      ds_status (*body)(conformance *k, work *w, tally *t, ds_error *err)) {
  work w;
  ds_error err = check_error_new();
  if (lacks(k, t)) return;
  ds_status st = work_init(k, &w, k->dev, &err);
  if (st == DS_OK) st = body(k, &w, t, &err);
  if (st == DS_OK) st = k->plugin->device->stream_sync(k->stream, &err);
  work_finish(k, &w);
  if (st != DS_OK) check_fail(t, "gave %d \"%.300s\"", (int)st, check_text(st, &err));
}

#define TRY(call)                                                                                  \
  do {                                                                                             \
    ds_status tried = (call);                                                                      \
    if (tried != DS_OK) return tried;                                                              \
  } while (0)

static bool same(void) {
  return memcmp(want, got, WORK_BYTES) == 0;
}

/* The stream is waited for, so that g has no launch under way. */
static ds_status drop(conformance *k, ds_graph *g, ds_error *err) {
  TRY(k->plugin->device->stream_sync(k->stream, err));
  k->plugin->graph->destroy(g);
  return DS_OK;
}

/* ---------------------------------------------------------------- recording and launching */

static ds_status record_body(conformance *k, work *w, tally *t, ds_error *err) {
  ds_graph *g = NULL;
  TRY(directly(k, w, 1, err));
  TRY(set(k, w, 1, err));
  TRY(recorded(k, w, k->stream, &g, err));
  TRY(result(k, w, got, err));
  if (memcmp(got, host[2], WORK_BYTES) != 0)
    check_fail(t, "work ran while it was recorded; it must run at the launch");
  TRY(k->plugin->graph->launch(k->stream, g, err));
  TRY(result(k, w, got, err));
  if (!t->failed && !same()) check_fail(t, "a launch gives other bits than the same calls");
  return drop(k, g, err);
}

/* Memory is read anew at each launch, and launches don't wait for one another's results. */
static ds_status launch_body(conformance *k, work *w, tally *t, ds_error *err) {
  ds_graph *g = NULL;
  TRY(set(k, w, 99, err));
  TRY(recorded(k, w, k->stream, &g, err));
  for (uint64_t round = 0; round < 6; round++) {
    TRY(directly(k, w, round, err));
    TRY(set(k, w, round, err));
    for (uint64_t i = 0; i <= round; i++) TRY(k->plugin->graph->launch(k->stream, g, err));
    TRY(result(k, w, got, err));
    if (!t->failed && !same())
      check_fail(t, "launch %d, after inputs changed, gives other bits than the same calls",
                 (int)round + 1);
  }
  return drop(k, g, err);
}

/* An empty graph; two graphs; a graph whose stream is gone; another stream than that it was recorded
 * on. */
static ds_status streams_body(conformance *k, work *w, tally *t, ds_error *err) {
  const ds_graph_table *graph = k->plugin->graph;
  ds_graph *empty = NULL, *g = NULL;
  ds_stream *s = NULL;
  graph->destroy(NULL);
  TRY(graph->begin(k->stream, err));
  TRY(graph->end(k->stream, &empty, err));
  TRY(graph->launch(k->stream, empty, err));
  TRY(directly(k, w, 3, err));
  TRY(set(k, w, 3, err));
  TRY(k->plugin->device->stream_create(k->dev, &s, err));
  ds_status st = recorded(k, w, s, &g, err);
  k->plugin->device->stream_destroy(s);
  if (st != DS_OK) return st;
  TRY(graph->launch(k->stream, g, err));
  TRY(graph->launch(k->stream, empty, err));
  TRY(result(k, w, got, err));
  if (!same()) check_fail(t, "a graph whose stream was destroyed gives other bits");
  TRY(drop(k, g, err));
  return drop(k, empty, err);
}

/* While one stream records, others and the device are as ever; destroying it drops the recording. */
static ds_status meanwhile_body(conformance *k, work *w, tally *t, ds_error *err) {
  ds_stream *s = NULL;
  TRY(work_do(k, w, k->stream, 5, want, err));
  TRY(k->plugin->device->stream_create(k->dev, &s, err));
  ds_status st = k->plugin->graph->begin(s, err);
  if (st == DS_OK) st = work_launch(k, w, s, err);
  if (st == DS_OK) st = work_on(k, k->dev, k->stream, 5, got, err);
  if (st == DS_OK && !same()) check_fail(t, "another stream gives other bits while one records");
  k->plugin->device->stream_destroy(s);
  if (st != DS_OK) return st;
  TRY(work_do(k, w, k->stream, 5, got, err));
  if (!same()) check_fail(t, "after a stream was destroyed while it recorded, others are wrong");
  return DS_OK;
}

/* ---------------------------------------------------------------- by value */

/* c = a + c on the stream, with a descriptor that is worthless once the call has returned. */
static ds_status give_add(conformance *k, const work *w, ds_stream *s, bool *offered,
                          ds_error *err) {
  struct {
    ds_tensor a, c;
    const ds_tensor *in[2], *out[1];
    ds_op op;
  } *d = calloc(1, sizeof *d);
  if (!d) return DS_ERR_MEMORY;
  d->a = (ds_tensor){.data = w->a, .rank = 1, .shape = {WORK_N * WORK_N}, .stride = {1}};
  d->c = d->a;
  d->c.data = w->c;
  d->in[0] = &d->a;
  d->in[1] = d->out[0] = &d->c;
  d->op = (ds_op){.size = sizeof d->op,
                  .id = DS_OP_ADD,
                  .n_in = 2,
                  .n_out = 1,
                  .in = d->in,
                  .out = d->out,
                  .workspace = w->b,
                  .workspace_size = WORK_BYTES};
  const ds_ops_table *ops = k->plugin->ops;
  *offered = ops && ops->supports(k->dev, &d->op) &&
             (!ops->workspace || ops->workspace(k->dev, &d->op) <= WORK_BYTES);
  ds_status st = *offered ? ops->run(s, &d->op, err) : DS_OK;
  memset(d, 0xee, sizeof *d);
  free(d);
  return st;
}

/* Launches on two streams that nothing else orders, each of which adds once. */
static ds_status value_body(conformance *k, work *w, tally *t, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  ds_stream *other = NULL;
  ds_graph *g = NULL;
  bool offered = false;
  for (int i = 0; i < WORK_N * WORK_N; i++) host[0][i] = (float)(i % 7), host[2][i] = (float)i;
  TRY(d->upload(k->stream, w->a, host[0], WORK_BYTES, err));
  TRY(d->upload(k->stream, w->c, host[2], WORK_BYTES, err));
  TRY(k->plugin->graph->begin(k->stream, err));
  TRY(give_add(k, w, k->stream, &offered, err));
  TRY(k->plugin->graph->end(k->stream, &g, err));
  TRY(d->stream_sync(k->stream, err));
  TRY(d->stream_create(k->dev, &other, err));
  ds_status st = DS_OK;
  for (int i = 0; i < 9 && st == DS_OK && offered; i++)
    st = k->plugin->graph->launch(i % 3 ? other : k->stream, g, err);
  if (st == DS_OK) st = d->stream_sync(other, err);
  d->stream_destroy(other);
  if (st != DS_OK) return st;
  TRY(result(k, w, got, err));
  for (int i = 0; i < WORK_N * WORK_N && offered && !t->failed; i++)
    if (got[i] != (float)(i + 9 * (i % 7)))
      check_fail(t, "9 launches of c += a on two streams: element %d is %g, expected %d", i,
                 (double)got[i], i + 9 * (i % 7));
  if (!offered) check_unsupported(t, "supports() says no to the add that this check would record");
  return drop(k, g, err);
}

/* ---------------------------------------------------------------- memory of the host */

static ds_status pinned(conformance *k, work *w, float *const to[2], tally *t, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  ds_graph *g = NULL;
  TRY(set(k, w, 11, err));
  TRY(k->plugin->graph->begin(k->stream, err));
  TRY(d->upload_async(k->stream, w->a, to[0], WORK_BYTES, err));
  TRY(work_launch(k, w, k->stream, err));
  TRY(d->download_async(k->stream, to[1], w->c, WORK_BYTES, err));
  TRY(k->plugin->graph->end(k->stream, &g, err));
  for (uint64_t round = 20; round < 24; round++) {
    TRY(directly(k, w, round, err));
    memcpy(to[0], host[0], WORK_BYTES); /* a comes from here */
    TRY(d->upload(k->stream, w->a, host[2], WORK_BYTES, err));
    TRY(d->upload(k->stream, w->c, host[2], WORK_BYTES, err));
    TRY(k->plugin->graph->launch(k->stream, g, err));
    TRY(d->stream_sync(k->stream, err));
    memcpy(got, to[1], WORK_BYTES);
    if (!t->failed && !same())
      check_fail(t,
                 "recorded transfers: memory of the host is not read and written at each launch");
  }
  return drop(k, g, err);
}

static ds_status pinned_body(conformance *k, work *w, tally *t, ds_error *err) {
  const ds_device_table *d = k->plugin->device;
  void *p[2] = {NULL, NULL};
  if (!d->host_alloc) {
    check_unsupported(t, "the plugin has no host_alloc and what belongs to it");
    return DS_OK;
  }
  ds_status st = d->host_alloc(k->dev, WORK_BYTES, &p[0], err);
  if (st == DS_OK) st = d->host_alloc(k->dev, WORK_BYTES, &p[1], err);
  if (st == DS_OK) st = pinned(k, w, (float *const[]){p[0], p[1]}, t, err);
  for (int i = 0; i < 2; i++)
    if (p[i]) d->host_free(k->dev, p[i]);
  return st;
}

/* ---------------------------------------------------------------- what is refused */

static void refused(ds_status st, const ds_error *err, const char *what, tally *t) {
  if (st == DS_ERR_STATE && check_explained(st, err)) return;
  check_fail(t, "%s while recording gave %d \"%.200s\"; wanted DS_ERR_STATE with a message", what,
             (int)st, check_text(st, err));
}

#define REFUSED(what, call)                                                                        \
  do {                                                                                             \
    ds_error e = check_error_new();                                                                \
    check_doing(k, "%s while recording", what);                                                    \
    ds_status refused_st = (call);                                                                 \
    refused(refused_st, &e, what, t);                                                              \
  } while (0)

static void try_all(conformance *k, const work *w, ds_event *event, ds_graph *g, tally *t) {
  const ds_device_table *d = k->plugin->device;
  static float bytes[4];
  void *p = NULL;
  REFUSED("upload", d->upload(k->stream, w->a, bytes, sizeof bytes, &e));
  REFUSED("download", d->download(k->stream, bytes, w->a, sizeof bytes, &e));
  REFUSED("stream_sync", d->stream_sync(k->stream, &e));
  if (event) REFUSED("event_record", d->event_record(event, k->stream, &e));
  if (event) REFUSED("event_wait", d->event_wait(event, k->stream, &e));
  if (d->stream_alloc) REFUSED("stream_alloc", d->stream_alloc(k->stream, 64, &p, &e));
  if (d->stream_alloc) REFUSED("stream_free", d->stream_free(k->stream, w->b, &e));
  REFUSED("begin", k->plugin->graph->begin(k->stream, &e));
  REFUSED("launch", k->plugin->graph->launch(k->stream, g, &e));
}

/* What is refused otherwise is left out of the recording as well. */
static void try_wrong(conformance *k, tally *t) {
  const ds_gemm g = {.size = sizeof g, .m = -1, .n = 4, .k = 4, .batch = 1};
  const ds_op op = {.size = sizeof op, .id = 9999};
  ds_error err;
  if (k->plugin->gemm && k->plugin->gemm->run(k->stream, &g, &err) == DS_OK)
    check_fail(t, "gemm of m = -1 is taken while recording");
  if (k->plugin->ops && k->plugin->ops->run(k->stream, &op, &err) == DS_OK)
    check_fail(t, "op 9999 is taken while recording");
}

static ds_status refused_body(conformance *k, work *w, tally *t, ds_error *err) {
  const ds_graph_table *graph = k->plugin->graph;
  ds_graph *g = NULL, *first = NULL, *none = NULL;
  ds_event *event = NULL;
  ds_error e = check_error_new();
  ds_status st = graph->end(k->stream, &none, &e);
  if (st != DS_ERR_STATE || !check_explained(st, &e))
    check_fail(t, "end without begin gave %d \"%.200s\"; wanted DS_ERR_STATE", (int)st,
               check_text(st, &e));
  TRY(directly(k, w, 7, err));
  TRY(recorded(k, w, k->stream, &first, err));
  TRY(set(k, w, 7, err));
  if (k->plugin->device->event_create) TRY(k->plugin->device->event_create(k->dev, &event, err));
  TRY(graph->begin(k->stream, err));
  try_all(k, w, event, first, t);
  try_wrong(k, t);
  st = work_launch(k, w, k->stream, err);
  if (st == DS_OK) st = graph->end(k->stream, &g, err);
  if (event) k->plugin->device->event_destroy(event);
  if (st != DS_OK) return st;
  TRY(graph->launch(k->stream, g, err));
  TRY(result(k, w, got, err));
  if (!t->failed && !same())
    check_fail(t, "a recording in which calls were refused gives other bits");
  TRY(drop(k, first, err));
  return drop(k, g, err);
}

/* ---------------------------------------------------------------- nothing is left behind */

static bool cycle(conformance *k, int i, tally *t) {
  work *w = k->of_section;
  ds_graph *g = NULL;
  ds_error err = check_error_new();
  check_doing(k, "record, launch and destroy, round %d", i);
  ds_status st = recorded(k, w, k->stream, &g, &err);
  if (st == DS_OK) st = k->plugin->graph->launch(k->stream, g, &err);
  if (st == DS_OK) st = drop(k, g, &err);
  if (st != DS_OK) check_fail(t, "in round %d: %.300s", i, check_text(st, &err));
  return st == DS_OK;
}

static ds_status cycles_body(conformance *k, work *w, tally *t, ds_error *err) {
  TRY(set(k, w, 1, err));
  k->of_section = w;
  usage_flat(k, 20, 50, cycle, t);
  return DS_OK;
}

#define GRAPH_UNIT(name, label)                                                                    \
  static void name##_check(conformance *k, tally *t) {                                             \
    with_work(k, t, name##_body);                                                                  \
  }                                                                                                \
  UNIT_OF(name##_check, label)
GRAPH_UNIT(record, "record")
GRAPH_UNIT(launch, "launch")
GRAPH_UNIT(streams, "streams")
GRAPH_UNIT(meanwhile, "meanwhile")
GRAPH_UNIT(value, "by-value")
GRAPH_UNIT(pinned, "host-memory")
GRAPH_UNIT(refused, "refused")
GRAPH_UNIT(cycles, "cycles")

const unit graph_units[] = {{"record", unit_record_check, NEEDS_DEVICE, false},
                            {"launch", unit_launch_check, NEEDS_DEVICE, false},
                            {"streams", unit_streams_check, NEEDS_DEVICE, false},
                            {"meanwhile", unit_meanwhile_check, NEEDS_DEVICE, false},
                            {"by-value", unit_value_check, NEEDS_DEVICE, false},
                            {"host-memory", unit_pinned_check, NEEDS_DEVICE, false},
                            {"refused", unit_refused_check, NEEDS_DEVICE, false},
                            {"cycles", unit_cycles_check, NEEDS_DEVICE, false},
                            {0}};
