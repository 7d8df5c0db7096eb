#include "parallel/start.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* Of the caller and the thread; whoever is last frees it. */
typedef struct start {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  const ds_comm_table *table;
  int owners;
  bool done;
  ds_comm_world world;
  ds_status status;
  ds_error err;
} start;

static start *start_create(const ds_comm_table *table) {
  start *s = calloc(1, sizeof *s);
  pthread_condattr_t clock;
  if (!s) return NULL;
  if (pthread_condattr_init(&clock) != 0) {
    free(s);
    return NULL;
  }
  pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
  bool made = pthread_cond_init(&s->changed, &clock) == 0;
  pthread_condattr_destroy(&clock);
  if (!made) {
    free(s);
    return NULL;
  }
  pthread_mutex_init(&s->lock, NULL);
  s->table = table;
  s->owners = 2;
  s->world = (ds_comm_world){.size = sizeof s->world, .world_size = 1, .local_size = 1};
  return s;
}

/* With the lock held. */
static void let_go(start *s) {
  bool last = --s->owners == 0;
  pthread_mutex_unlock(&s->lock);
  if (!last) return;
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->lock);
  free(s);
}

static void *run(void *arg) {
  start *s = arg;
  ds_status status = s->table->world(&s->world, &s->err);
  pthread_mutex_lock(&s->lock);
  s->status = status;
  s->done = true;
  pthread_cond_signal(&s->changed);
  let_go(s);
  return NULL;
}

/* The host's signals are the host's threads'. */
static bool begin(start *s) {
  sigset_t all, before;
  pthread_t thread;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  bool begun = pthread_create(&thread, NULL, run, s) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (begun) pthread_detach(thread);
  return begun;
}

/* With the lock held. */
static bool is_done_within(start *s, int64_t timeout_ms) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  int64_t ns = t.tv_nsec + timeout_ms % 1000 * 1000000;
  t.tv_sec += timeout_ms / 1000 + ns / 1000000000;
  t.tv_nsec = ns % 1000000000;
  while (!s->done && pthread_cond_timedwait(&s->changed, &s->lock, &t) != ETIMEDOUT) {
  }
  return s->done;
}

ds_status ds_start_world(const ds_comm_table *table, bool several, int64_t timeout_ms,
                         ds_comm_world *out, ds_error *err) {
  *out = (ds_comm_world){.size = sizeof *out, .world_size = 1, .local_size = 1};
  if (!several) return table->world(out, err);
  start *s = start_create(table);
  if (!s) return ds_fail_memory(err, "the start of the launcher's runtime");
  if (!begin(s)) {
    s->owners = 1;
    pthread_mutex_lock(&s->lock);
    let_go(s);
    return ds_fail(err, DS_ERR_MEMORY, "no thread for the start of the launcher's runtime");
  }
  pthread_mutex_lock(&s->lock);
  ds_status status;
  if (!is_done_within(s, timeout_ms)) {
    status =
        ds_fail(err, DS_ERR_TIMEOUT,
                "the start of the launcher's runtime was not done in %lld ms (comm_timeout): "
                "another rank has not come to ds_initialize: late, stopped, gone, or it failed "
                "before (see what it says); end this process",
                (long long)timeout_ms);
  } else {
    *out = s->world;
    status = s->status == DS_OK ? DS_OK : ds_fail(err, s->status, "%s", s->err.message);
  }
  let_go(s);
  return status;
}
