/* graph.c - the graph table: what was recorded is given anew at each launch, and runs as late as all
 * other work. */
#include "strict.h"

#include <stdlib.h>
#include <string.h>

/* The graph itself stays, so that a call on it is found out. */
static void empty(ds_graph *g) {
  while (g->first) {
    strict_task *t = g->first;
    g->first = t->next;
    strict_task_free(t);
  }
  g->last = NULL;
  g->destroyed = true;
}

void strict_graph_free(ds_graph *g) {
  empty(g);
  free(g);
}

/* d is locked. */
static bool knows_graph(const ds_device *d, const ds_graph *g) {
  const ds_graph *known = d->graphs;
  while (known && known != g) known = known->next;
  return known && !known->destroyed;
}

const strict_task *strict_recorded_use(const ds_device *d, const strict_block *b) {
  for (const ds_graph *g = d->graphs; g; g = g->next)
    for (const strict_task *t = g->destroyed ? NULL : g->first; t; t = t->next)
      for (int i = 0; i < t->n_ranges; i++)
        if (t->ranges[i].host == b->host && t->ranges[i].lo < b->hi && b->lo < t->ranges[i].hi)
          return t;
  return NULL;
}

ds_status strict_record(ds_stream *s, strict_task *t, ds_error *err) {
  ds_graph *g = s->recording;
  ds_status status = strict_check_ranges(s, t, err); /* its order is that of the launch */
  if (status != DS_OK) {
    strict_task_free(t);
    return status;
  }
  if (g->last)
    g->last->next = t;
  else
    g->first = t;
  g->last = t;
  return DS_OK;
}

void strict_record_failure(ds_stream *s, ds_status status, const char *message) {
  bool refused = status == DS_ERR_STATE || status == DS_ERR_UNSUPPORTED || status == DS_ERR_INVALID;
  if (s->recording && !refused && s->recording->failure.status == DS_OK)
    strict_fail(&s->recording->failure, status, "%s", message);
}

static ds_status graph_begin(ds_stream *s, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "graph begin", err);
  if (status != DS_OK) return status;
  ds_graph *g = NULL;
  if (!s->device->options.graph)
    status = strict_fail(err, DS_ERR_UNSUPPORTED, "strict: graph begin: switched off by \"graph\"");
  else if (!(g = calloc(1, sizeof *g)))
    status = strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
  if (g) {
    g->device = s->device;
    g->next = s->device->graphs;
    s->device->graphs = g;
    s->recording = g;
  }
  strict_leave(s);
  return status;
}

/* Also on a dead stream: the recording ends, whatever is told. */
static ds_status graph_end(ds_stream *s, ds_graph **out, ds_error *err) {
  ds_error e;
  ds_status status = strict_enter(s, "graph end", &e);
  bool entered = status == DS_OK;
  if (!entered && (!strict_knows_stream(s) || s->destroyed))
    return strict_fail(err, status, "%s", e.message);
  if (!entered) pthread_mutex_lock(&s->device->lock);
  ds_graph *g = s->recording;
  s->recording = NULL;
  if (!g && entered)
    status = strict_fail(&e, DS_ERR_STATE, "strict: graph end: nothing is being recorded");
  if (g && entered && g->failure.status != DS_OK)
    status = strict_fail(&e, g->failure.status, "%s", g->failure.message);
  if (g && status != DS_OK) empty(g);
  if (status == DS_OK)
    *out = g;
  else
    strict_fail(err, status, "%s", e.message);
  if (entered)
    strict_leave(s);
  else
    pthread_mutex_unlock(&s->device->lock);
  return status;
}

static void point_to_own(strict_task *t, const strict_task *from) {
  const ds_tensor *tensors = from->u.op.tensors;
  for (uint32_t i = 0; i < t->u.op.op.n_in + t->u.op.op.n_out; i++)
    if (t->u.op.list[i]) t->u.op.list[i] = t->u.op.tensors + (from->u.op.list[i] - tensors);
  t->u.op.op.in = t->u.op.list;
  t->u.op.op.out = t->u.op.list + t->u.op.op.n_in;
  t->u.op.op.attr = t->u.op.attr;
}

static strict_task *copy_of(const strict_task *from) {
  strict_task *t = strict_task_new(from->name, from->run);
  if (!t) return NULL;
  *t = *from;
  t->next = NULL;
  if (from->is_op) point_to_own(t, from);
  return t;
}

static void later(uint64_t *clock, const uint64_t *other) {
  for (int i = 0; i < STRICT_STREAMS; i++)
    if (clock[i] < other[i]) clock[i] = other[i];
}

static ds_status give_all(ds_stream *s, ds_graph *g, ds_error *err) {
  ds_status status = DS_OK;
  later(s->clock, g->clock);
  for (const strict_task *t = g->first; t && status == DS_OK; t = t->next) {
    strict_task *copy = copy_of(t);
    status = copy ? strict_submit(s, copy, err)
                  : strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
  }
  memcpy(g->clock, s->clock, sizeof g->clock);
  return status;
}

static ds_status graph_launch(ds_stream *s, ds_graph *g, ds_error *err) {
  ds_status status = strict_enter_unrecorded(s, "graph launch", err);
  if (status != DS_OK) return status;
  if (knows_graph(s->device, g))
    status = give_all(s, g, err);
  else
    status = strict_violation(s->device, s, err,
                              "graph launch of no graph of this device, or of a destroyed one");
  strict_leave(s);
  return status;
}

static bool under_way(const ds_device *d, const ds_graph *g) {
  for (int i = 0; i < d->n_streams; i++)
    if (d->known[i] < g->clock[i]) return true;
  return false;
}

static void graph_destroy(ds_graph *g) {
  if (!g || !strict_enter_quietly(g->device, "graph destroy")) return;
  ds_device *d = g->device;
  if (g->destroyed) strict_violation(d, NULL, NULL, "graph destroy, twice");
  if (under_way(d, g))
    strict_violation(d, NULL, NULL, "graph destroy with a launch that was not waited for");
  empty(g);
  strict_leave_device(d);
}

const ds_graph_table strict_graph = {
    .base = {sizeof(ds_graph_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .begin = graph_begin,
    .end = graph_end,
    .launch = graph_launch,
    .destroy = graph_destroy,
};
