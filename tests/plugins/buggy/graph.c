/* graph.c - recorded calls, which a launch gives anew. */
#include "buggy.h"

typedef struct step {
  struct step *next;
  ds_status (*run)(struct step *t, ds_stream *s, ds_error *err);
  const ds_op *given; /* for BUG_KEEPS_POINTERS only */
  ds_op op;
  ds_tensor tensors[16];
  const ds_tensor *list[16];
  ds_attr attr[16];
  ds_gemm gemm;
  buggy_move *move;
  void *dst;
  const void *src;
  size_t bytes;
  uint8_t byte;
} step;

struct ds_graph {
  step *first, **last;
  int launches;
  bool gone; /* for BUG_GRAPH_OF_STREAM only */
};

static ds_graph *latest; /* for BUG_GRAPH_OF_STREAM only */

void buggy_graph_drop(ds_graph *g) {
  if (BUG == BUG_GRAPH_OF_STREAM && latest) latest->gone = true;
  while (g && g->first) {
    step *t = g->first;
    g->first = t->next;
    buggy_free(t);
  }
  buggy_free(g);
}

/* A new last step of what s records. */
static ds_status add(ds_stream *s, ds_status (*run)(step *t, ds_stream *s, ds_error *err),
                     step **out, ds_error *err) {
  ds_graph *g = *buggy_recording(s);
  step *t = buggy_alloc(sizeof *t);
  if (!t) return ds_fail_memory(err, "a recorded call");
  t->run = run;
  *g->last = t;
  g->last = &t->next;
  *out = t;
  return DS_OK;
}

static ds_status run_op(step *t, ds_stream *s, ds_error *err) {
  return buggy_ops.run(s, BUG == BUG_KEEPS_POINTERS ? t->given : &t->op, err);
}

static void keep_op(step *t, const ds_op *op) {
  t->given = op;
  t->op = *op;
  for (uint32_t i = 0; i < op->n_in + op->n_out; i++) {
    const ds_tensor *x = i < op->n_in ? op->in[i] : op->out[i - op->n_in];
    if (x) t->tensors[i] = *x;
    t->list[i] = x ? &t->tensors[i] : NULL;
  }
  for (uint32_t i = 0; i < op->n_attr; i++) t->attr[i] = op->attr[i];
  t->op.in = t->list;
  t->op.out = t->list + op->n_in;
  t->op.attr = t->attr;
}

bool buggy_record_op(ds_stream *s, const ds_op *op, ds_status *st, ds_error *err) {
  step *t = NULL;
  if (!*buggy_recording(s) || !ds_reference_ops.supports(NULL, op)) return false;
  *st = add(s, run_op, &t, err);
  if (*st == DS_OK) keep_op(t, op);
  return BUG != BUG_RUNS_RECORDED;
}

static ds_status run_gemm(step *t, ds_stream *s, ds_error *err) {
  return buggy_gemm.run(s, &t->gemm, err);
}

bool buggy_record_gemm(ds_stream *s, const ds_gemm *g, ds_status *st, ds_error *err) {
  step *t = NULL;
  if (!*buggy_recording(s) || !ds_reference_gemm.supports(NULL, g)) return false;
  *st = add(s, run_gemm, &t, err);
  if (*st == DS_OK) memcpy(&t->gemm, g, g->size < sizeof *g ? g->size : sizeof *g);
  return BUG != BUG_RUNS_RECORDED;
}

static ds_status run_move(step *t, ds_stream *s, ds_error *err) {
  return t->move(s, t->dst, t->src, t->bytes, err);
}

bool buggy_record_move(ds_stream *s, buggy_move *move, void *dst, const void *src, size_t bytes,
                       ds_status *st, ds_error *err) {
  step *t = NULL;
  if (!*buggy_recording(s)) return false;
  *st = add(s, run_move, &t, err);
  if (*st != DS_OK) return true;
  t->move = move;
  t->dst = dst;
  t->src = src;
  t->bytes = bytes;
  return true;
}

static ds_status run_fill(step *t, ds_stream *s, ds_error *err) {
  return buggy_device.fill(s, t->dst, t->byte, t->bytes, err);
}

bool buggy_record_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_status *st,
                       ds_error *err) {
  step *t = NULL;
  if (!*buggy_recording(s)) return false;
  *st = add(s, run_fill, &t, err);
  if (*st != DS_OK) return true;
  t->dst = dst;
  t->byte = byte;
  t->bytes = bytes;
  return true;
}

ds_status buggy_not_recorded(ds_stream *s, const char *what, ds_error *err) {
  if (!*buggy_recording(s)) return DS_OK;
  return ds_fail(err, DS_ERR_UNSUPPORTED, "buggy: %s can't be recorded", what);
}

static ds_status begin(ds_stream *s, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "begin", err));
  ds_graph *g = buggy_alloc(sizeof *g);
  if (!g) return ds_fail_memory(err, "a graph");
  g->last = &g->first;
  *buggy_recording(s) = g;
  return DS_OK;
}

static ds_status end(ds_stream *s, ds_graph **out, ds_error *err) {
  ds_graph *g = *buggy_recording(s);
  if (!g) return ds_fail(err, DS_ERR_STATE, "buggy: end without begin");
  *buggy_recording(s) = NULL;
  latest = g;
  *out = g;
  return DS_OK;
}

static ds_status launch(ds_stream *s, ds_graph *g, ds_error *err) {
  DS_TRY(buggy_unrecorded(s, "launch", err));
  if (BUG == BUG_GRAPH_OF_STREAM && g->gone) return DS_OK;
  if (BUG == BUG_LAUNCHES_ONCE && g->launches++ > 0) return DS_OK;
  for (step *t = g->first; t; t = t->next) DS_TRY(t->run(t, s, err));
  return DS_OK;
}

static void destroy(ds_graph *g) {
  if (g == latest) latest = NULL;
  if (BUG != BUG_LEAKS_GRAPH) buggy_graph_drop(g);
}

const ds_graph_table buggy_graph = {
    .base = DS_REFERENCE_TABLE(ds_graph_table),
    .begin = begin,
    .end = end,
    .launch = launch,
    .destroy = destroy,
};
