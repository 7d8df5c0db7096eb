/* fate.c - how a stream ends. */
#include "fate.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { WHY = 600 };

/* Work `position` of `waiter`, and all after it, hangs on this fate's work up to `at`. */
typedef struct edge {
  gpu_fate *waiter;
  uint64_t at, position;
} edge;

struct gpu_fate {
  atomic_int owners;
  atomic_int dead;  /* ds_status; set after `from` and `why` */
  atomic_bool left; /* the stream is gone */
  pthread_mutex_t lock;
  uint64_t done; /* work up to here is done */
  uint64_t from; /* dead: the first work that failed */
  char why[WHY];
  edge *edges; /* at most one a waiter */
  size_t n_edges, room;
};

gpu_fate *gpu_fate_create(void) {
  gpu_fate *f = calloc(1, sizeof *f);
  if (f == NULL) return NULL;
  atomic_init(&f->owners, 1);
  atomic_init(&f->dead, DS_OK);
  atomic_init(&f->left, false);
  pthread_mutex_init(&f->lock, NULL);
  return f;
}

gpu_fate *gpu_fate_hold(gpu_fate *f) {
  atomic_fetch_add(&f->owners, 1);
  return f;
}

static void drop_edges(edge *edges, size_t n) {
  for (size_t i = 0; i < n; i++) gpu_fate_drop(edges[i].waiter);
  free(edges);
}

void gpu_fate_drop(gpu_fate *f) {
  if (f == NULL || atomic_fetch_sub(&f->owners, 1) != 1) return;
  drop_edges(f->edges, f->n_edges);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

/* [locked] */
static size_t take_edges(gpu_fate *f, edge **out) {
  const size_t n = f->n_edges;
  *out = f->edges;
  f->edges = NULL;
  f->n_edges = f->room = 0;
  return n;
}

/* Called with f's lock held, returns with it free: no two fates are ever locked at once, for they
 * may wait for each other. */
static void end_locked(gpu_fate *f, uint64_t from, ds_status status, const char *why) {
  edge *edges = NULL;
  size_t n = 0;
  if (atomic_load(&f->dead) == DS_OK) {
    f->from = from;
    snprintf(f->why, sizeof f->why, "%s", why);
    atomic_store_explicit(&f->dead, (int)status, memory_order_release);
    n = take_edges(f, &edges);
  }
  pthread_mutex_unlock(&f->lock);
  for (size_t i = 0; i < n; i++) {
    if (edges[i].at < from) continue;
    pthread_mutex_lock(&edges[i].waiter->lock);
    end_locked(edges[i].waiter, edges[i].position, status, why);
  }
  drop_edges(edges, n);
}

/* from NULL: the first work that isn't known to be done. */
static void end(gpu_fate *f, const uint64_t *from, ds_status status, const char *format,
                va_list args) {
  char why[WHY];
  vsnprintf(why, sizeof why, format, args);
  pthread_mutex_lock(&f->lock);
  end_locked(f, from != NULL ? *from : f->done + 1, status, why);
}

void gpu_fate_end(gpu_fate *f, uint64_t from, ds_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  end(f, &from, status, format, args);
  va_end(args);
}

void gpu_fate_end_here(gpu_fate *f, ds_status status, const char *format, ...) {
  va_list args;
  va_start(args, format);
  end(f, NULL, status, format, args);
  va_end(args);
}

void gpu_fate_reach(gpu_fate *f, uint64_t position) {
  pthread_mutex_lock(&f->lock);
  if (position > f->done) f->done = position;
  pthread_mutex_unlock(&f->lock);
}

void gpu_fate_leave(gpu_fate *f) {
  edge *edges;
  pthread_mutex_lock(&f->lock);
  atomic_store(&f->left, true);
  f->done = UINT64_MAX - 1; /* of a dead one nobody asks */
  const size_t n = take_edges(f, &edges);
  pthread_mutex_unlock(&f->lock);
  drop_edges(edges, n);
}

ds_status gpu_fate_check_at(gpu_fate *f, uint64_t at, ds_error *err) {
  const ds_status dead = (ds_status)atomic_load_explicit(&f->dead, memory_order_acquire);
  if (dead == DS_OK || at < f->from) return DS_OK;
  return gpu_fail(err, dead, "%s", f->why);
}

ds_status gpu_fate_check(gpu_fate *f, ds_error *err) {
  return gpu_fate_check_at(f, UINT64_MAX, err);
}

/* Whether f can no longer end the waiter through this edge. [locked] */
static bool is_over(const gpu_fate *f, const edge *e) {
  return e->at <= f->done || atomic_load(&e->waiter->dead) != DS_OK ||
         atomic_load(&e->waiter->left);
}

/* Adds an edge, or widens the one to the same waiter, and lets go of those that are over, so that
 * their number stays that of the streams that wait. [locked] */
static ds_status add_edge(gpu_fate *f, edge added, ds_error *err) {
  size_t kept = 0;
  for (size_t i = 0; i < f->n_edges; i++) {
    const edge e = f->edges[i];
    if (!is_over(f, &e) && e.waiter != added.waiter) {
      f->edges[kept++] = e;
      continue;
    }
    if (!is_over(f, &e)) added.position = e.position; /* the earlier wait still counts */
    gpu_fate_drop(e.waiter);
  }
  f->n_edges = kept;
  if (kept == f->room) {
    const size_t room = f->room ? 2 * f->room : 4;
    edge *more = realloc(f->edges, room * sizeof *more);
    if (more == NULL) return gpu_fail(err, DS_ERR_MEMORY, "no memory to wait for an event");
    f->edges = more;
    f->room = room;
  }
  gpu_fate_hold(added.waiter);
  f->edges[f->n_edges++] = added;
  return DS_OK;
}

ds_status gpu_fate_follow(gpu_fate *f, uint64_t at, gpu_fate *waiter, uint64_t position,
                          ds_error *err) {
  ds_status st = DS_OK;
  pthread_mutex_lock(&f->lock);
  const ds_status dead = gpu_fate_check_at(f, at, NULL);
  if (atomic_load(&f->dead) == DS_OK && at > f->done)
    st = add_edge(f, (edge){waiter, at, position}, err);
  pthread_mutex_unlock(&f->lock);
  if (dead != DS_OK) gpu_fate_end(waiter, position, dead, "%s", f->why);
  return st;
}
