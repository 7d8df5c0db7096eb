#include "backend/record.h"

#include <stdlib.h>

#include "backend/backend_impl.h"
#include "base/str.h"

#define ALIGN ((size_t)64)

enum {
  RULES_SINCE = 10
}; /* minor: what is refused while work is recorded, and that refusals do no harm */

struct ds_recording {
  ds_recording *next; /* of the backend's */
  ds_graph *graph;    /* NULL once dropped */
  char *inputs;       /* device memory */
  char *host;         /* what is to be there at first; gone after end */
  size_t room, used;
  size_t *offsets; /* of inputs */
  size_t n_inputs, capacity;
};

bool ds_record_offered(const ds_backend *b, const char **why) {
  const ds_graph_table *t = b->plugin->graph;
  const char *reason = NULL;
  if (b->graph == DS_GRAPH_OFF)
    reason = "\"graph\" is false in the config's \"backend\"";
  else if (!t)
    reason = "the plugin has no graph table";
  else if (t->base.minor < RULES_SINCE)
    reason = "the plugin's graph table is older than the rules of recorded work (ABI 0.10)";
  if (why) *why = reason;
  return !reason;
}

bool ds_record_wanted(const ds_backend *b) {
  return b->graph == DS_GRAPH_ON;
}

bool ds_record_under_way(const ds_backend *b) {
  return b->recording != NULL;
}

/* Straight through the table: ds_backend_free would drop all recordings. */
static void finish(ds_backend *b, ds_recording *r) {
  if (r->inputs) b->plugin->device->free(b->device, r->inputs);
  if (r->inputs) b->bytes_held -= r->room;
  free(r->host);
  free(r->offsets);
  free(r);
}

static ds_status make(ds_backend *b, size_t input_bytes, ds_recording **out, ds_error *err) {
  void *p = NULL;
  ds_recording *r = calloc(1, sizeof *r);
  if (!r) return ds_fail_memory(err, "a recording");
  r->room = input_bytes ? input_bytes : ALIGN;
  r->host = calloc(1, r->room);
  ds_status status =
      r->host ? ds_backend_alloc(b, r->room, &p, err) : ds_fail_memory(err, "a recording's inputs");
  r->inputs = p;
  if (status != DS_OK) {
    finish(b, r);
    return status;
  }
  *out = r;
  return DS_OK;
}

ds_status ds_record_begin(ds_backend *b, size_t input_bytes, ds_error *err) {
  ds_recording *r = NULL;
  DS_BLANK_ERROR(e);
  DS_TRY(make(b, input_bytes, &r, err));
  ds_status status = b->plugin->graph->begin(b->stream, &e);
  if (status != DS_OK) {
    finish(b, r);
    return ds_device_wrap(b, "graph begin", &e, status, err);
  }
  b->recording = r;
  return DS_OK;
}

ds_status ds_record_input(ds_backend *b, size_t bytes, void **device, void **host, ds_error *err) {
  ds_recording *r = b->recording;
  size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
  if (rounded > r->room - r->used)
    return ds_fail(err, DS_ERR_STATE,
                   "%s: %zu more bytes of host data in recorded work than before", b->label, bytes);
  DS_TRY(ds_reserve(&r->offsets, &r->capacity, r->n_inputs + 1, sizeof *r->offsets,
                    "a recording's inputs", err));
  r->offsets[r->n_inputs++] = r->used;
  *device = r->inputs + r->used;
  *host = r->host + r->used;
  r->used += rounded;
  return DS_OK;
}

ds_status ds_record_end(ds_backend *b, ds_recording **out, ds_error *err) {
  ds_recording *r = b->recording;
  DS_BLANK_ERROR(e);
  *out = NULL;
  if (!r) return ds_fail(err, DS_ERR_STATE, "%s: nothing is being recorded", b->label);
  b->recording = NULL;
  ds_status status = b->plugin->graph->end(b->stream, &r->graph, &e);
  if (status != DS_OK) {
    finish(b, r);
    return ds_device_wrap(b, "graph end", &e, status, err);
  }
  r->next = b->recordings;
  b->recordings = r;
  status = ds_backend_upload(b, r->inputs, r->host, r->used, err);
  free(r->host);
  r->host = NULL;
  if (status == DS_OK)
    *out = r;
  else
    ds_recording_destroy(b, r);
  return status;
}

/* The end of a recording that nobody wants: on a dead stream it fails, and is over all the same. */
static void end_unwanted(ds_backend *b) {
  ds_graph *g = NULL;
  if (b->plugin->graph->end(b->stream, &g, NULL) == DS_OK) b->plugin->graph->destroy(g);
}

void ds_record_cancel(ds_backend *b) {
  ds_recording *r = b->recording;
  if (!r) return;
  b->recording = NULL;
  end_unwanted(b);
  finish(b, r);
}

bool ds_record_refused(ds_backend *b) {
  return b->plugin->device->stream_sync(b->stream, NULL) == DS_OK;
}

bool ds_recording_alive(const ds_recording *r) {
  return r && r->graph;
}

void *ds_recording_input(const ds_recording *r, int i) {
  return r->inputs + r->offsets[i];
}

ds_status ds_recording_launch(ds_backend *b, ds_recording *r, ds_error *err) {
  ds_kind_counter *k = &b->kinds[DS_KIND_LAUNCH];
  DS_BLANK_ERROR(e);
  if (!r->graph)
    return ds_fail(err, DS_ERR_STATE, "%s: a recording that was dropped can't be launched",
                   b->label);
  int64_t begin = ds_backend_ticks();
  ds_status status = b->plugin->graph->launch(b->stream, r->graph, &e);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return ds_backend_wrap(b, ds_kind_name(DS_KIND_LAUNCH), &e, status, err);
}

/* No launch may be under way when a graph is destroyed. A failure is told by the next call that
 * waits, and work of a stream that failed is over. */
static void wait(ds_backend *b) {
  ds_status ignored = b->plugin->device->stream_sync(b->stream, NULL);
  (void)ignored;
}

void ds_recording_destroy(ds_backend *b, ds_recording *r) {
  if (!r) return;
  wait(b);
  for (ds_recording **at = &b->recordings; *at; at = &(*at)->next) {
    if (*at != r) continue;
    *at = r->next;
    break;
  }
  if (r->graph) b->plugin->graph->destroy(r->graph);
  finish(b, r);
}

void ds_record_drop(ds_backend *b) {
  ds_record_cancel(b);
  if (!b->recordings) return;
  wait(b);
  for (ds_recording *r = b->recordings; r; r = r->next) {
    if (r->graph) b->plugin->graph->destroy(r->graph);
    r->graph = NULL;
  }
}
