/* queue.c - a stream's pending work and the thread that does it. */
#include "queue.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* After work has come, the thread looks for more this often before it sleeps until it is woken:
 * waking it costs the caller a system call, which a caller who waits at once would pay for nothing.
 */
enum { LOOKS = 20, LOOK_MICROSECONDS = 50 };

struct ds_cpu_queue {
  pthread_mutex_t lock;
  pthread_cond_t changed; /* an item was done; or, for a sleeping thread, one has come */
  pthread_t thread;
  ds_cpu_work *items; /* a ring */
  size_t room, first, count;
  uint64_t pushed;
  int sleepers; /* threads that wait for `changed` */
  bool running; /* somebody runs the first item */
  bool started; /* the thread */
  bool stop;
  ds_error failure; /* status DS_OK: none */
};

int64_t ds_cpu_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void ds_cpu_sleep_us(int microseconds) {
  struct timespec t = {0, (long)microseconds * 1000};
  nanosleep(&t, NULL);
}

static void wait_changed(ds_cpu_queue *q) {
  q->sleepers++;
  pthread_cond_wait(&q->changed, &q->lock);
  q->sleepers--;
}

/* Lock held, an item there, nobody running. The lock is open while the item runs. */
static void run_first(ds_stream *s) {
  ds_cpu_queue *q = s->queue;
  ds_cpu_work w = q->items[q->first];
  const ds_error *failure = q->failure.status == DS_OK ? NULL : &q->failure;
  ds_error err = {.status = DS_OK};
  q->running = true;
  pthread_mutex_unlock(&q->lock);
  ds_status st = w.run(s, &w, failure, &err);
  pthread_mutex_lock(&q->lock);
  q->running = false;
  q->first = (q->first + 1) % q->room;
  q->count--;
  if (st != DS_OK && failure == NULL) {
    q->failure = err;
    q->failure.status = st;
  }
  if (q->count == 0 && q->failure.status == DS_OK)
    atomic_store_explicit(&s->busy, false, memory_order_release);
  if (q->sleepers > 0) pthread_cond_broadcast(&q->changed);
}

static void *thread_main(void *arg) {
  ds_stream *s = arg;
  ds_cpu_queue *q = s->queue;
  uint64_t seen = 0;
  pthread_mutex_lock(&q->lock);
  for (int looks = 0;;) {
    if (q->count > 0 && !q->running) {
      run_first(s);
      continue;
    }
    if (q->stop && q->count == 0) break;
    if (q->pushed != seen) looks = 0;
    seen = q->pushed;
    if (++looks > LOOKS) {
      wait_changed(q);
      continue;
    }
    pthread_mutex_unlock(&q->lock);
    ds_cpu_sleep_us(LOOK_MICROSECONDS);
    pthread_mutex_lock(&q->lock);
  }
  pthread_mutex_unlock(&q->lock);
  return NULL;
}

static ds_status create(ds_stream *s, ds_error *err) {
  if (s->queue != NULL) return DS_OK;
  ds_cpu_queue *q = calloc(1, sizeof *q);
  if (q == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for a stream's queue");
  pthread_mutex_init(&q->lock, NULL);
  pthread_cond_init(&q->changed, NULL);
  s->queue = q;
  return DS_OK;
}

/* Signals are for the host's threads. */
static ds_status start(ds_stream *s, ds_error *err) {
  if (s->queue->started) return DS_OK;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&s->queue->thread, NULL, thread_main, s);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  s->queue->started = failed == 0;
  if (failed == 0) return DS_OK;
  return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no thread for a stream's collectives: %s",
                     strerror(failed));
}

static ds_status grow(ds_cpu_queue *q, ds_error *err) {
  size_t room = q->room == 0 ? 16 : 2 * q->room;
  ds_cpu_work *items = malloc(room * sizeof *items);
  if (items == NULL) return ds_cpu_fail(err, DS_ERR_MEMORY, "cpu: no memory for %zu items", room);
  for (size_t i = 0; i < q->count; i++) items[i] = q->items[(q->first + i) % q->room];
  free(q->items);
  q->items = items;
  q->room = room;
  q->first = 0;
  return DS_OK;
}

/* Lock held. */
static ds_status tell(const ds_cpu_queue *q, ds_error *err) {
  if (q->failure.status == DS_OK) return DS_OK;
  if (err != NULL) *err = q->failure;
  return q->failure.status;
}

ds_status ds_cpu_queue_push(ds_stream *s, const ds_cpu_work *w, ds_error *err) {
  ds_status st = create(s, err);
  if (st == DS_OK) st = start(s, err);
  if (st != DS_OK) return st;
  ds_cpu_queue *q = s->queue;
  pthread_mutex_lock(&q->lock);
  st = tell(q, err);
  if (st == DS_OK && q->count == q->room) st = grow(q, err);
  if (st == DS_OK) {
    q->items[(q->first + q->count++) % q->room] = *w;
    q->pushed++;
    atomic_store_explicit(&s->busy, true, memory_order_release);
    if (q->sleepers > 0) pthread_cond_broadcast(&q->changed);
  }
  pthread_mutex_unlock(&q->lock);
  return st;
}

ds_status ds_cpu_queue_run(ds_stream *s, const ds_cpu_work *w, ds_error *err) {
  ds_error own = {.status = DS_OK}, unused;
  ds_status st = ds_cpu_queue_drain(s, &own);
  if (st == DS_OK) st = create(s, &own);
  if (st != DS_OK) {
    (void)w->run(s, w, &own, &unused);
  } else if ((st = w->run(s, w, NULL, &own)) != DS_OK) {
    own.status = st;
    s->queue->failure = own; /* nothing is pending, so no other thread looks */
    atomic_store_explicit(&s->busy, true, memory_order_release);
  }
  if (st != DS_OK && err != NULL) *err = own;
  return st;
}

ds_status ds_cpu_queue_check(ds_stream *s, ds_error *err) {
  ds_cpu_queue *q = s->queue;
  if (q == NULL || !atomic_load_explicit(&s->busy, memory_order_acquire)) return DS_OK;
  pthread_mutex_lock(&q->lock);
  ds_status st = tell(q, err);
  pthread_mutex_unlock(&q->lock);
  return st;
}

ds_status ds_cpu_queue_drain(ds_stream *s, ds_error *err) {
  ds_cpu_queue *q = s->queue;
  if (q == NULL) return DS_OK;
  pthread_mutex_lock(&q->lock);
  while (q->count > 0)
    if (q->running)
      wait_changed(q);
    else
      run_first(s);
  ds_status st = tell(q, err);
  pthread_mutex_unlock(&q->lock);
  return st;
}

bool ds_cpu_queue_is_thread(const ds_stream *s) {
  const ds_cpu_queue *q = s->queue;
  return q != NULL && q->started && pthread_equal(q->thread, pthread_self());
}

void ds_cpu_queue_destroy(ds_stream *s) {
  ds_cpu_queue *q = s->queue;
  if (q == NULL) return;
  pthread_mutex_lock(&q->lock);
  q->stop = true;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
  if (q->started) pthread_join(q->thread, NULL);
  pthread_cond_destroy(&q->changed);
  pthread_mutex_destroy(&q->lock);
  free(q->items);
  free(q);
  s->queue = NULL;
}
