#include "backend/span.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/backend_impl.h"
#include "backend/record.h"

/* Spans under way at once; streams with a thread of their own; and how long a look at a mark takes
 * that was reached before. */
enum { SPANS = 4096, LANES = 16, LOOK_NANOSECONDS = 20000 };

typedef struct mark {
  ds_span *span;
  ds_mark *mark;
  bool set;   /* false: it could not be set, and `at` is all there is to know */
  int64_t at; /* when it was set */
  struct mark *next;
} mark;

/* A stream, and the thread that waits for its marks. */
typedef struct lane {
  struct ds_tracer *tracer;
  ds_side *side;
  pthread_t thread;
  pthread_cond_t come;
  mark *first, **end;
  int64_t last;              /* when the mark before was reached */
  int schedstat;             /* the thread's own file of that name; -1: there is none */
  int tracks[DS_SPAN_KINDS]; /* -1: none yet */
} lane;

struct ds_span {
  struct ds_tracer *tracer;
  lane *lane; /* NULL: the device has no events */
  ds_side *on;
  bool open;
  ds_trace_span t;
  ds_comms_row *row;
  mark begin, end;
  ds_span *next; /* that is free */
};

typedef struct ds_tracer {
  ds_backend *backend;
  ds_trace *trace;
  ds_comms_log *comms;
  bool paused, events;
  int64_t step, micro;
  int tracks[DS_SPAN_KINDS]; /* without lanes */
  pthread_mutex_t lock;      /* of what follows, and of lanes' lists */
  pthread_cond_t done;
  size_t pending; /* marks that threads are to wait for */
  bool stop;
  lane *lanes[LANES];
  int n_lanes;
  ds_span *spans[SPANS], *free;
  int n_spans;
} ds_tracer;

static const char *const kind_names[] = {"compute", "comm", "transfer"};

/* ---- the threads */

/* A span has ended. Lock not held. */
static void finish(ds_tracer *t, ds_span *s) {
  if (t->trace) ds_trace_add(t->trace, &s->t);
  if (s->row && !s->t.note) ds_comms_log_time(t->comms, s->row, s->t.end - s->t.begin);
}

/* Nanoseconds that this thread was ready to run and did not get to; 0 where the system doesn't
 * tell. On a busy machine a thread that waited comes back late by that. */
static int64_t delay(const lane *l) {
  char text[128];
  long long ran, waited;
  ssize_t n = l->schedstat < 0 ? -1 : pread(l->schedstat, text, sizeof text - 1, 0);
  if (n <= 0) return 0;
  text[n] = '\0';
  return sscanf(text, "%lld %lld", &ran, &waited) == 2 ? waited : 0;
}

static void look_at(lane *l, mark *m) {
  int64_t before = ds_trace_now(), delayed = delay(l);
  bool failed = m->set && ds_mark_sync(m->mark, NULL) != DS_OK;
  delayed = delay(l) - delayed;
  int64_t after = ds_trace_now() - delayed;
  int64_t least = m->at > l->last ? m->at : l->last;
  l->last = !m->set || after < least || after - before < LOOK_NANOSECONDS ? least : after;
  if (failed || !m->set) m->span->t.note = "failed";
  if (m == &m->span->begin)
    m->span->t.begin = l->last;
  else
    m->span->t.end = l->last;
}

static void *watch(void *arg) {
  lane *l = arg;
  ds_tracer *t = l->tracer;
  l->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  pthread_mutex_lock(&t->lock);
  for (;;) {
    mark *m = l->first;
    if (!m && t->stop) break;
    if (!m) {
      pthread_cond_wait(&l->come, &t->lock);
      continue;
    }
    l->first = m->next;
    if (!l->first) l->end = &l->first;
    pthread_mutex_unlock(&t->lock);
    ds_span *s = m->span;
    look_at(l, m);
    bool ended = m == &s->end;
    if (ended) finish(t, s);
    pthread_mutex_lock(&t->lock);
    if (ended) {
      s->next = t->free;
      t->free = s;
    }
    if (--t->pending == 0) pthread_cond_broadcast(&t->done);
  }
  pthread_mutex_unlock(&t->lock);
  if (l->schedstat >= 0) close(l->schedstat);
  return NULL;
}

/* Signals are for the host's threads. */
static bool start_thread(lane *l) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&l->thread, NULL, watch, l);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return failed == 0;
}

/* NULL: there can be no more. */
static lane *lane_of(ds_tracer *t, ds_side *side) {
  for (int i = 0; i < t->n_lanes; i++)
    if (t->lanes[i]->side == side) return t->lanes[i];
  lane *l = t->n_lanes < LANES ? calloc(1, sizeof *l) : NULL;
  if (!l) return NULL;
  l->tracer = t;
  l->side = side;
  l->end = &l->first;
  for (int i = 0; i < DS_SPAN_KINDS; i++) l->tracks[i] = -1;
  pthread_cond_init(&l->come, NULL);
  if (start_thread(l)) return t->lanes[t->n_lanes++] = l;
  pthread_cond_destroy(&l->come);
  free(l);
  return NULL;
}

static void give(ds_tracer *t, lane *l, mark *m) {
  m->next = NULL;
  pthread_mutex_lock(&t->lock);
  t->pending++;
  *l->end = m;
  l->end = &m->next;
  pthread_cond_signal(&l->come);
  pthread_mutex_unlock(&t->lock);
}

/* ---- spans */

static void destroy_span(ds_span *s) {
  if (!s) return;
  ds_mark_destroy(s->begin.mark);
  ds_mark_destroy(s->end.mark);
  free(s);
}

static ds_span *new_span(ds_tracer *t) {
  ds_span *s = t->n_spans < SPANS ? calloc(1, sizeof *s) : NULL;
  if (!s) return NULL;
  s->tracer = t;
  s->begin.span = s->end.span = s;
  if (t->events && (ds_mark_create(t->backend, &s->begin.mark, NULL) != DS_OK ||
                    ds_mark_create(t->backend, &s->end.mark, NULL) != DS_OK)) {
    destroy_span(s);
    return NULL;
  }
  return t->spans[t->n_spans++] = s;
}

static ds_span *take_span(ds_tracer *t) {
  pthread_mutex_lock(&t->lock);
  ds_span *s = t->free;
  if (s) t->free = s->next;
  pthread_mutex_unlock(&t->lock);
  return s ? s : new_span(t);
}

static void put_back(ds_tracer *t, ds_span *s) {
  pthread_mutex_lock(&t->lock);
  s->next = t->free;
  t->free = s;
  pthread_mutex_unlock(&t->lock);
}

static int track_of(ds_tracer *t, lane *l, ds_span_kind kind) {
  int *track = l ? &l->tracks[kind] : &t->tracks[kind];
  if (t->trace && *track < 0) *track = ds_trace_track(t->trace, kind_names[kind]);
  return *track;
}

static ds_span *begin(ds_tracer *t, ds_side *on, ds_span_kind kind, const char *name,
                      const char *group, int64_t bytes, ds_comms_row *row) {
  lane *l = t->events ? lane_of(t, on) : NULL;
  ds_span *s = l || !t->events ? take_span(t) : NULL;
  if (s && l && ds_mark_set(s->begin.mark, on, NULL) != DS_OK) {
    put_back(t, s); /* the stream is dead, as the call that follows will tell */
    s = NULL;
  }
  if (!s) {
    if (t->trace) ds_trace_drop(t->trace);
    return NULL;
  }
  s->lane = l;
  s->on = on;
  s->open = true;
  s->row = row;
  s->begin.set = true;
  s->begin.at = ds_trace_now();
  s->t = (ds_trace_span){.name = name,
                         .category = kind_names[kind],
                         .track = track_of(t, l, kind),
                         .begin = s->begin.at,
                         .group = group,
                         .bytes = bytes,
                         .step = t->step,
                         .micro = t->micro};
  if (l) give(t, l, &s->begin);
  return s;
}

static bool traced(ds_backend *b) {
  return b->tracer && !b->tracer->paused && !ds_record_under_way(b);
}

ds_span *ds_span_begin(ds_backend *b, ds_side *on, ds_span_kind kind, const char *name) {
  if (!traced(b) || !b->tracer->trace) return NULL;
  return begin(b->tracer, on, kind, name, NULL, -1, NULL);
}

ds_span *ds_span_begin_transfer(ds_backend *b, ds_side *on, const char *name, size_t bytes) {
  if (!traced(b) || !b->tracer->trace) return NULL;
  return begin(b->tracer, on, DS_SPAN_TRANSFER, name, NULL, (int64_t)bytes, NULL);
}

ds_span *ds_span_begin_comm(ds_backend *b, ds_side *on, int op, const char *name, const char *group,
                            int ranks, size_t message, size_t sent) {
  if (!traced(b)) return NULL;
  ds_tracer *t = b->tracer;
  ds_comms_row *row = NULL;
  if (t->comms) row = ds_comms_log_call(t->comms, op, name, group, ranks, message, sent);
  if (!t->trace && !row) return NULL;
  return begin(t, on, DS_SPAN_COMM, name, group, (int64_t)message, row);
}

void ds_span_end(ds_span *s) {
  if (!s) return;
  ds_tracer *t = s->tracer;
  s->open = false;
  s->end.set = !s->lane || ds_mark_set(s->end.mark, s->on, NULL) == DS_OK;
  s->end.at = ds_trace_now();
  if (s->lane) {
    give(t, s->lane, &s->end);
    return;
  }
  s->t.end = s->end.at;
  finish(t, s);
  put_back(t, s);
}

/* ---- begin and end of it all */

ds_status ds_span_start(ds_backend *b, ds_trace *trace, ds_comms_log *comms, ds_error *err) {
  if (b->tracer) return ds_fail(err, DS_ERR_STATE, "the backend is traced already");
  ds_tracer *t = calloc(1, sizeof *t);
  if (!t) return ds_fail_memory(err, "a tracer");
  t->backend = b;
  t->trace = trace;
  t->comms = comms;
  t->events = b->plugin->device->event_create != NULL;
  t->step = t->micro = -1;
  for (int i = 0; i < DS_SPAN_KINDS; i++) t->tracks[i] = -1;
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->done, NULL);
  b->tracer = t;
  if (trace) track_of(t, t->events ? lane_of(t, NULL) : NULL, DS_SPAN_COMPUTE); /* the first line */
  return DS_OK;
}

void ds_span_drain(ds_backend *b) {
  ds_tracer *t = b->tracer;
  if (!t) return;
  pthread_mutex_lock(&t->lock);
  while (t->pending > 0) pthread_cond_wait(&t->done, &t->lock);
  pthread_mutex_unlock(&t->lock);
}

static void stop_lanes(ds_tracer *t) {
  pthread_mutex_lock(&t->lock);
  t->stop = true;
  for (int i = 0; i < t->n_lanes; i++) pthread_cond_signal(&t->lanes[i]->come);
  pthread_mutex_unlock(&t->lock);
  for (int i = 0; i < t->n_lanes; i++) {
    pthread_join(t->lanes[i]->thread, NULL);
    pthread_cond_destroy(&t->lanes[i]->come);
    free(t->lanes[i]);
  }
}

void ds_span_stop(ds_backend *b) {
  ds_tracer *t = b->tracer;
  if (!t) return;
  b->tracer = NULL;
  stop_lanes(t);
  for (int i = 0; i < t->n_spans; i++) {
    ds_span *s = t->spans[i];
    if (s->open) {
      s->t.end = ds_trace_now();
      s->t.note = "unfinished";
      finish(t, s);
    }
    destroy_span(s);
  }
  pthread_cond_destroy(&t->done);
  pthread_mutex_destroy(&t->lock);
  free(t);
}

void ds_span_at(ds_backend *b, int64_t step, int64_t micro) {
  if (!b->tracer) return;
  b->tracer->step = step;
  b->tracer->micro = micro;
}

void ds_span_pause(ds_backend *b, bool pause) {
  if (b->tracer) b->tracer->paused = pause;
}
