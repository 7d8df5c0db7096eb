/* event.c - events: a point in a stream's queue, which others wait for.
 *
 * An event names the point that it was last recorded at, or none where the stream had nothing
 * pending: that one is over already. Points have owners (the event, the queues that reach or wait
 * for them) and go with the last.
 */
#include "event.h"
#include "queue.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct point {
  atomic_int owners;
  pthread_mutex_t lock;
  pthread_cond_t reached_now;
  bool reached;
  ds_error failure; /* of the stream, before the point was reached; DS_OK: none */
} point;

struct ds_event {
  pthread_mutex_t lock; /* of last: event_sync comes from any thread */
  point *last;
};

static void let_go(point *p) {
  if (p == NULL || atomic_fetch_sub(&p->owners, 1) != 1) return;
  pthread_cond_destroy(&p->reached_now);
  pthread_mutex_destroy(&p->lock);
  free(p);
}

static point *point_create(int owners) {
  point *p = calloc(1, sizeof *p);
  if (p == NULL) return NULL;
  atomic_init(&p->owners, owners);
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->reached_now, NULL);
  return p;
}

static ds_status reach(ds_stream *s, const ds_cpu_work *w, const ds_error *failure, ds_error *err) {
  point *p = w->object;
  (void)s, (void)err;
  pthread_mutex_lock(&p->lock);
  p->reached = true;
  if (failure != NULL) p->failure = *failure;
  pthread_cond_broadcast(&p->reached_now);
  pthread_mutex_unlock(&p->lock);
  let_go(p);
  return DS_OK;
}

/* Lock held. What was to be done before the point was not: who waits for it fails alike. */
static ds_status tell(const point *p, ds_error *err) {
  if (p->failure.status != DS_OK && err != NULL) *err = p->failure;
  return p->failure.status;
}

static ds_status wait_for(ds_stream *s, const ds_cpu_work *w, const ds_error *failure,
                          ds_error *err) {
  point *p = w->object;
  (void)s;
  pthread_mutex_lock(&p->lock);
  while (failure == NULL && !p->reached) pthread_cond_wait(&p->reached_now, &p->lock);
  ds_status st = failure == NULL ? tell(p, err) : DS_OK;
  pthread_mutex_unlock(&p->lock);
  let_go(p);
  return st;
}

/* What e was last recorded at, as one more owner; NULL for a point that needs no waiting. */
static point *last_of(ds_event *e) {
  pthread_mutex_lock(&e->lock);
  point *p = e->last;
  if (p != NULL) atomic_fetch_add(&p->owners, 1);
  pthread_mutex_unlock(&e->lock);
  return p;
}

static bool is_good(point *p) {
  pthread_mutex_lock(&p->lock);
  bool good = p->reached && p->failure.status == DS_OK;
  pthread_mutex_unlock(&p->lock);
  return good;
}

static void set_last(ds_event *e, point *p) {
  pthread_mutex_lock(&e->lock);
  point *before = e->last;
  e->last = p;
  pthread_mutex_unlock(&e->lock);
  let_go(before);
}

ds_status ds_cpu_event_create(ds_device *dev, ds_event **out, ds_error *err) {
  (void)dev;
  ds_event *e = calloc(1, sizeof *e);
  if (e == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for an event");
  pthread_mutex_init(&e->lock, NULL);
  *out = e;
  return DS_OK;
}

void ds_cpu_event_destroy(ds_event *e) {
  if (e == NULL) return;
  let_go(e->last);
  pthread_mutex_destroy(&e->lock);
  free(e);
}

ds_status ds_cpu_event_record(ds_event *e, ds_stream *s, ds_error *err) {
  if (!atomic_load_explicit(&s->busy, memory_order_acquire)) {
    set_last(e, NULL);
    return DS_OK;
  }
  point *p = point_create(2);
  if (p == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory to record an event");
  ds_status st = ds_cpu_queue_push(s, &(ds_cpu_work){.run = reach, .object = p}, err);
  if (st == DS_OK)
    set_last(e, p);
  else {
    let_go(p);
    let_go(p);
  }
  return st;
}

ds_status ds_cpu_event_wait(ds_event *e, ds_stream *s, ds_error *err) {
  point *p = last_of(e);
  if (p == NULL || is_good(p)) {
    let_go(p);
    return ds_cpu_queue_check(s, err);
  }
  ds_status st = ds_cpu_queue_push(s, &(ds_cpu_work){.run = wait_for, .object = p}, err);
  if (st != DS_OK) let_go(p);
  return st;
}

ds_status ds_cpu_event_sync(ds_event *e, ds_error *err) {
  point *p = last_of(e);
  if (p == NULL) return DS_OK;
  pthread_mutex_lock(&p->lock);
  while (!p->reached) pthread_cond_wait(&p->reached_now, &p->lock);
  ds_status st = tell(p, err);
  pthread_mutex_unlock(&p->lock);
  let_go(p);
  return st;
}
