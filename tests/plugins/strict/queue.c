/* queue.c - work that runs late: on a thread of its own, when somebody waits or chance wants it. */
#include "strict.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t next_random(ds_device *d) {
  uint64_t x = d->random; /* xorshift64* (Vigna 2016) */
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  d->random = x;
  return x * 2685821657736338717u >> 32;
}

strict_task *strict_task_new(const char *name,
                             ds_status (*run)(strict_task *t, ds_device *d, ds_error *err)) {
  strict_task *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  snprintf(t->name, sizeof t->name, "%s", name);
  t->run = run;
  return t;
}

void strict_task_free(strict_task *t) {
  if (!t) return;
  free(t->bytes);
  free(t);
}

static void join(uint64_t *clock, const uint64_t *other) {
  for (int i = 0; i < STRICT_STREAMS; i++)
    if (clock[i] < other[i]) clock[i] = other[i];
}

/* ---- rules */

static bool conflict(const strict_task *a, const strict_task *b) {
  for (int i = 0; i < a->n_ranges; i++)
    for (int k = 0; k < b->n_ranges; k++)
      if (strict_overlap(&a->ranges[i], &b->ranges[k])) return true;
  return false;
}

/* Work on other streams that nothing orders before t. */
static ds_status check_order(ds_stream *s, const strict_task *t, ds_error *err) {
  ds_device *d = s->device;
  for (int i = 0; i < d->n_streams; i++) {
    if (i == s->index) continue;
    for (const strict_task *u = d->streams[i]->first; u; u = u->next)
      if (u->seq > t->after[i] && conflict(t, u))
        return strict_violation(d, s, err,
                                "%s on stream %d and %s on stream %d use the same memory, and "
                                "nothing orders them",
                                t->name, s->index, u->name, i);
  }
  return DS_OK;
}

ds_status strict_check_ranges(ds_stream *s, strict_task *t, ds_error *err) {
  ds_device *d = s->device;
  if (t->broken) return strict_violation(d, s, err, "%s %s", t->name, t->broken);
  for (int i = 0; i < t->n_ranges; i++) {
    const strict_range *r = &t->ranges[i];
    if (strict_find_block(d, r->lo, r->hi, r->host)) continue;
    return strict_violation(d, s, err, "%s on stream %d %s %zu bytes that are in no allocation",
                            t->name, s->index, r->write ? "writes" : "reads",
                            (size_t)(r->hi - r->lo));
  }
  return DS_OK;
}

ds_status strict_check(ds_stream *s, strict_task *t, ds_error *err) {
  join(s->clock, s->device->known); /* what the host knows to be done comes before all it gives */
  memcpy(t->after, s->clock, sizeof t->after);
  memcpy(t->relies, s->relies, sizeof t->relies);
  ds_status status = strict_check_ranges(s, t, err);
  return status == DS_OK ? check_order(s, t, err) : status;
}

/* ---- giving work */

/* Whoever looks at an output before the work has run shall see NaN; but not work that comes before
 * it. */
static void poison_outputs(ds_device *d, const strict_task *t) {
  for (int k = 0; k < t->n_ranges; k++) {
    const strict_range *r = &t->ranges[k];
    const strict_range written = {r->lo, r->hi, true, true, r->host};
    bool used = !r->fresh;
    for (int i = 0; i < d->n_streams && !used; i++)
      for (const strict_task *u = d->streams[i]->first; u && !used; u = u->next)
        for (int m = 0; m < u->n_ranges && !used; m++)
          used = !u->ran && strict_overlap(&u->ranges[m], &written);
    if (!used) strict_poison(d, r->lo, r->hi);
  }
}

ds_status strict_submit(ds_stream *s, strict_task *t, ds_error *err) {
  ds_device *d = s->device;
  if (s->recording) return strict_record(s, t, err);
  ds_status status = strict_check(s, t, err);
  if (status != DS_OK) {
    strict_task_free(t);
    return status;
  }
  poison_outputs(d, t);
  t->seq = ++s->submitted;
  t->number = ++d->works;
  s->clock[s->index] = t->seq;
  if (s->last)
    s->last->next = t;
  else
    s->first = t;
  s->last = t;
  if (next_random(d) % 4 == 0) {
    d->credit += next_random(d) % 6;
    pthread_cond_signal(&d->work);
  }
  return DS_OK;
}

/* ---- waiting */

const ds_stream *strict_failed_before(const ds_device *d, const uint64_t relies[STRICT_STREAMS]) {
  for (int i = 0; i < d->n_streams; i++) {
    const ds_stream *s = d->streams[i];
    if (s->failure.status != DS_OK && relies[i] > s->good) return s;
  }
  return NULL;
}

/* s dies of what it waited for, by event, and never came. */
static bool die_of_others(ds_stream *s, const uint64_t relies[STRICT_STREAMS]) {
  const ds_stream *dead = strict_failed_before(s->device, relies);
  if (dead) strict_kill(s, dead->failure.status, dead->failure.message);
  return dead != NULL;
}

/* Work that the host knows to be done is forgotten. */
static void forget(ds_device *d) {
  for (int i = 0; i < d->n_streams; i++) {
    ds_stream *s = d->streams[i];
    while (s->first && s->first->seq <= d->known[i]) {
      strict_task *t = s->first;
      s->first = t->next;
      if (!s->first) s->last = NULL;
      strict_task_free(t);
    }
  }
}

static bool reached(const ds_device *d, const uint64_t *clock) {
  for (int i = 0; i < d->n_streams; i++)
    if (d->streams[i]->ran < clock[i]) return false;
  return true;
}

void strict_wait(ds_device *d, const uint64_t clock[STRICT_STREAMS]) {
  uint64_t wanted[STRICT_STREAMS];
  memcpy(wanted, clock, sizeof wanted); /* a stream's own goes on while we wait */
  d->waiting++;
  pthread_cond_signal(&d->work);
  while (!reached(d, wanted)) pthread_cond_wait(&d->progress, &d->lock);
  d->waiting--;
  join(d->known, wanted);
  forget(d);
}

ds_status strict_sync(ds_stream *s, ds_error *err) {
  strict_wait(s->device, s->clock);
  (void)die_of_others(s, s->relies);
  if (s->failure.status == DS_OK) return DS_OK;
  return strict_fail(err, s->failure.status, "%s", s->failure.message);
}

/* ---- failing */

/* The rest of its work never runs; what it would have written is anything. */
void strict_kill(ds_stream *s, ds_status status, const char *message) {
  while (s->device->running) pthread_cond_wait(&s->device->progress, &s->device->lock);
  if (s->failure.status != DS_OK) return;
  strict_fail(&s->failure, status, "%s", message);
  for (strict_task *t = s->first; t; t = t->next) {
    if (t->ran) continue;
    t->ran = true;
    for (int k = 0; k < t->n_ranges; k++)
      if (t->ranges[k].write) strict_poison(s->device, t->ranges[k].lo, t->ranges[k].hi);
  }
  s->good = s->ran;
  s->ran = s->submitted;
  s->device->known[s->index] = s->submitted;
  pthread_cond_broadcast(&s->device->progress);
}

void strict_lose(ds_device *d) {
  d->lost = true;
  for (int i = 0; i < d->n_streams; i++)
    strict_kill(d->streams[i], DS_ERR_DEVICE, "strict: the device is lost");
}

/* ---- running */

static bool may_run(const ds_device *d, const ds_stream *s, const strict_task *t) {
  for (int i = 0; i < d->n_streams; i++)
    if (i != s->index && d->streams[i]->ran < t->after[i]) return false;
  return true;
}

static strict_task *next_of(ds_stream *s) {
  strict_task *t = s->first;
  while (t && t->ran) t = t->next;
  return t;
}

/* Some piece whose turn it may be, by chance. */
static strict_task *choose(ds_device *d, ds_stream **stream) {
  strict_task *found = NULL;
  uint64_t candidates = 0;
  if (!d->waiting && !d->stop && d->credit == 0) return NULL;
  for (int i = 0; i < d->n_streams; i++) {
    strict_task *t = next_of(d->streams[i]);
    if (!t || !may_run(d, d->streams[i], t)) continue;
    if (next_random(d) % ++candidates == 0) {
      found = t;
      *stream = d->streams[i];
    }
  }
  return found;
}

static bool injected(ds_device *d, ds_stream *s, const strict_task *t) {
  bool hangs = t->number == d->options.hang_work;
  if (!hangs && t->number != d->options.fail_work) return false;
  char text[256];
  if (hangs) {
    struct timespec limit = {d->options.hang_ms / 1000, d->options.hang_ms % 1000 * 1000000};
    d->running = t;
    pthread_mutex_unlock(&d->lock);
    nanosleep(&limit, NULL);
    pthread_mutex_lock(&d->lock);
    d->running = NULL;
    snprintf(text, sizeof text, "strict: %s (work %llu): not done after %lld ms", t->name,
             (unsigned long long)t->number, (long long)d->options.hang_ms);
  } else {
    snprintf(text, sizeof text, "strict: %s (work %llu): injected failure", t->name,
             (unsigned long long)t->number);
  }
  if (d->options.lost) {
    strncat(text, "; the device is lost", sizeof text - strlen(text) - 1);
    strict_kill(s, DS_ERR_DEVICE, text);
    strict_lose(d);
  } else {
    strict_kill(s, hangs ? DS_ERR_TIMEOUT : d->options.status, text);
  }
  return true;
}

static void run(ds_device *d, ds_stream *s, strict_task *t) {
  ds_error err;
  err.message[0] = '\0';
  if (d->credit > 0) d->credit--;
  if (die_of_others(s, t->relies) || injected(d, s, t)) return;
  for (int k = 0; k < t->n_ranges; k++)
    if (t->ranges[k].fresh) strict_poison(d, t->ranges[k].lo, t->ranges[k].hi);
  d->running = t;
  pthread_mutex_unlock(&d->lock);
  ds_status status = t->run(t, d, &err);
  pthread_mutex_lock(&d->lock);
  d->running = NULL;
  t->ran = true;
  s->ran = t->seq;
  if (status != DS_OK) strict_violation(d, s, NULL, "%s: %s", t->name, err.message);
}

void *strict_worker(void *device) {
  ds_device *d = device;
  pthread_mutex_lock(&d->lock);
  for (;;) {
    ds_stream *s = NULL;
    strict_task *t = choose(d, &s);
    if (t) {
      run(d, s, t);
      pthread_cond_broadcast(&d->progress);
    } else if (d->stop) {
      break;
    } else {
      d->credit = 0;
      pthread_cond_wait(&d->work, &d->lock);
    }
  }
  pthread_mutex_unlock(&d->lock);
  return NULL;
}
