/* graph.c - work recorded once and launched many times, by the runtime's capture. */
#include "device.h"
#include "scratch.h"

#include <stdlib.h>

struct ds_graph {
  ds_device *dev;
  gpuGraphExec_t exec;
  gpu_block *scratch[GPU_SCRATCH_USES]; /* of its work alone, whatever stream it was recorded on */
  pthread_mutex_t lock;                 /* of launches by several threads */
  gpuEvent_t last;                      /* behind the last launch: the next one waits for it */
};

static ds_status begin(ds_stream *s, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "begin", err);
  if (st == DS_OK) st = gpu_given(s, gpuStreamBeginCapture(s->handle), "begin", err);
  s->recording = st == DS_OK || s->recording;
  return st;
}

/* Ends the capture and the recording; *out may be NULL. Its scratch stays with s. */
static gpuError_t stop(ds_stream *s, gpuGraph_t *out) {
  *out = NULL;
  const gpuError_t code = gpuStreamEndCapture(s->handle, out);
  (void)gpuGetLastError();
  s->recording = false;
  return code;
}

static void forget(ds_stream *s) {
  for (int i = 0; i < GPU_SCRATCH_USES; i++) {
    gpu_block_free(s->record_scratch[i]);
    s->record_scratch[i] = NULL;
  }
  s->record_failure.status = DS_OK;
}

void gpu_graph_drop(ds_stream *s) {
  gpuGraph_t captured;
  if (!s->recording) return;
  (void)stop(s, &captured);
  if (captured != NULL) (void)gpuGraphDestroy(captured);
  forget(s);
}

static void destroy(ds_graph *g) {
  if (g == NULL) return;
  (void)gpu_use(g->dev, NULL);
  if (g->exec != NULL) (void)gpuGraphExecDestroy(g->exec);
  if (g->last != NULL) (void)gpuEventDestroy(g->last);
  for (int i = 0; i < GPU_SCRATCH_USES; i++) gpu_block_free(g->scratch[i]);
  (void)gpuGetLastError();
  pthread_mutex_destroy(&g->lock);
  free(g);
}

static ds_status make(ds_stream *s, gpuGraph_t captured, ds_graph **out, ds_error *err) {
  ds_graph *g = calloc(1, sizeof *g);
  if (g == NULL) return gpu_fail(err, DS_ERR_MEMORY, "no memory for a graph");
  g->dev = s->dev;
  pthread_mutex_init(&g->lock, NULL);
  ds_status st = gpu_check(gpuEventCreate(&g->last), "an event for a graph", err);
  if (st == DS_OK)
    st = gpu_check(gpuGraphInstantiate(&g->exec, captured), "making a graph of the recording", err);
  /* What the runtime makes no graph of can run without one. A lost device says so at the next call. */
  if (st == DS_ERR_DEVICE) st = DS_ERR_UNSUPPORTED;
  if (st != DS_OK && err != NULL) err->status = st;
  if (st != DS_OK) {
    destroy(g);
    return st;
  }
  for (int i = 0; i < GPU_SCRATCH_USES; i++) {
    g->scratch[i] = s->record_scratch[i];
    s->record_scratch[i] = NULL;
  }
  *out = g;
  return DS_OK;
}

static ds_status end(ds_stream *s, ds_graph **out, ds_error *err) {
  gpuGraph_t captured;
  if (!s->recording) { /* a stream that died meanwhile dropped it */
    const ds_status dead = gpu_ready(s, err);
    if (dead != DS_OK) return dead;
    return gpu_fail(err, DS_ERR_STATE, "end without begin: this stream records nothing");
  }
  (void)gpu_use(s->dev, NULL);
  const gpuError_t code = stop(s, &captured);
  ds_status st = s->record_failure.status;
  if (st != DS_OK && err != NULL) *err = s->record_failure;
  if (st == DS_OK) st = gpu_ready(s, err);
  if (st == DS_OK) st = gpu_given(s, code, "end of a recording", err);
  if (st == DS_OK) st = make(s, captured, out, err);
  if (captured != NULL) (void)gpuGraphDestroy(captured);
  forget(s);
  return st;
}

static ds_status launch(ds_stream *s, ds_graph *g, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "launch", err);
  if (st != DS_OK) return st;
  if (g->dev != s->dev)
    return gpu_fail(err, DS_ERR_INVALID, "launch: the graph was recorded on another device");
  pthread_mutex_lock(&g->lock);
  gpuError_t code = gpuStreamWaitEvent(s->handle, g->last);
  if (code == gpuSuccess) code = gpuGraphLaunch(g->exec, s->handle);
  if (code == gpuSuccess) code = gpuEventRecord(g->last, s->handle);
  st = gpu_given(s, code, "graph launch", err);
  pthread_mutex_unlock(&g->lock);
  return st;
}

const ds_graph_table gpu_graph_table = {
    .base = {sizeof(ds_graph_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .begin = begin,
    .end = end,
    .launch = launch,
    .destroy = destroy,
};
