/* rules.c - what is done when one is broken, handles and threads, injected failures, options. */
#include "strict.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t devices_lock = PTHREAD_MUTEX_INITIALIZER;
static ds_device *devices; /* never freed: a call on a closed one must be seen */

void strict_register(ds_device *d) {
  pthread_mutex_lock(&devices_lock);
  d->next = devices;
  devices = d;
  pthread_mutex_unlock(&devices_lock);
}

ds_status strict_fail(ds_error *err, ds_status status, const char *fmt, ...) {
  if (!err) return status;
  va_list args;
  va_start(args, fmt);
  vsnprintf(err->message, sizeof err->message, fmt, args);
  va_end(args);
  err->status = status;
  return status;
}

ds_status strict_violation(ds_device *d, ds_stream *s, ds_error *err, const char *fmt, ...) {
  char what[600], text[700];
  va_list args;
  va_start(args, fmt);
  vsnprintf(what, sizeof what, fmt, args);
  va_end(args);
  snprintf(text, sizeof text, "strict: violation: %s", what);
  strict_host->log(strict_host->ctx, DS_LOG_ERROR, text + sizeof "strict: " - 1); /* core adds it */
  if (d && d->options.abort) {
    fprintf(stderr, "%s\n", text);
    abort();
  }
  if (s) strict_kill(s, DS_ERR_INTERNAL, text);
  return strict_fail(err, DS_ERR_INTERNAL, "%s", text);
}

static bool knows_device(const ds_device *d) {
  pthread_mutex_lock(&devices_lock);
  const ds_device *known = devices;
  while (known && known != d) known = known->next;
  pthread_mutex_unlock(&devices_lock);
  return known != NULL;
}

bool strict_knows_stream(const ds_stream *s) {
  bool found = false;
  pthread_mutex_lock(&devices_lock);
  for (ds_device *d = devices; d && !found; d = d->next) {
    if (d->closed) continue;
    pthread_mutex_lock(&d->lock);
    for (int i = 0; i < d->n_streams && !found; i++) found = d->streams[i] == s;
    pthread_mutex_unlock(&d->lock);
  }
  pthread_mutex_unlock(&devices_lock);
  return found;
}

/* Counts a call; the device is locked. */
static ds_status count_call(ds_device *d, const char *what, ds_error *err) {
  d->calls++;
  if (d->lost) return strict_fail(err, DS_ERR_DEVICE, "strict: %s: the device is lost", what);
  if (d->calls != d->options.fail_call) return DS_OK;
  if (d->options.lost) strict_lose(d);
  return strict_fail(err, d->options.status, "strict: %s: injected failure of call %llu", what,
                     (unsigned long long)d->calls);
}

static ds_status enter_device(ds_device *d, const char *what, ds_error *err) {
  if (!knows_device(d)) return strict_violation(NULL, NULL, err, "%s: no device of ours", what);
  if (d->closed) return strict_violation(d, NULL, err, "%s on a closed device", what);
  if (atomic_exchange(&d->busy, true))
    return strict_violation(d, NULL, err, "%s: another thread is in a call on the device", what);
  pthread_mutex_lock(&d->lock);
  return DS_OK;
}

void strict_leave_device(ds_device *d) {
  pthread_mutex_unlock(&d->lock);
  atomic_store(&d->busy, false);
}

ds_status strict_enter_device(ds_device *d, const char *what, ds_error *err) {
  ds_status status = enter_device(d, what, err);
  if (status != DS_OK) return status;
  status = count_call(d, what, err);
  if (status != DS_OK) strict_leave_device(d);
  return status;
}

bool strict_enter_quietly(ds_device *d, const char *what) {
  return enter_device(d, what, NULL) == DS_OK;
}

void strict_leave(ds_stream *s) {
  pthread_mutex_unlock(&s->device->lock);
  atomic_store(&s->busy, false);
}

ds_status strict_enter_unrecorded(ds_stream *s, const char *what, ds_error *err) {
  ds_status status = strict_enter(s, what, err);
  if (status != DS_OK || !s->recording) return status;
  status = strict_fail(err, DS_ERR_STATE, "strict: %s: stream %d records a graph", what, s->index);
  strict_leave(s);
  return status;
}

ds_status strict_enter(ds_stream *s, const char *what, ds_error *err) {
  if (!strict_knows_stream(s))
    return strict_violation(NULL, NULL, err, "%s: no stream of an open device", what);
  ds_device *d = s->device;
  if (s->destroyed) return strict_violation(d, NULL, err, "%s on a destroyed stream", what);
  if (atomic_exchange(&s->busy, true))
    return strict_violation(d, NULL, err, "%s: another thread is in a call on stream %d", what,
                            s->index);
  pthread_mutex_lock(&d->lock);
  ds_error e;
  ds_status status = count_call(d, what, &e);
  if (status != DS_OK) {
    strict_fail(err, status, "%s", e.message);
    strict_record_failure(s, status, e.message);
  }
  /* A stream whose wait fails has lost work: it can't live on. */
  if (status != DS_OK && strcmp(what, "stream_sync") == 0) strict_kill(s, status, e.message);
  if (status == DS_OK && s->failure.status != DS_OK)
    status = strict_fail(err, s->failure.status, "%s", s->failure.message);
  if (status != DS_OK) strict_leave(s);
  return status;
}

/* ---- options */

static ds_status parse_tables(const char *text, strict_options *o, ds_error *err) {
  bool all = text && strcmp(text, "all") == 0;
  o->gemm = all || (text && strcmp(text, "gemm") == 0);
  o->ops = all || (text && strcmp(text, "ops") == 0);
  if (o->gemm || o->ops || (text && strcmp(text, "none") == 0)) return DS_OK;
  return strict_fail(err, DS_ERR_INVALID, "strict: \"tables\" is all, none, gemm or ops");
}

static ds_status parse_option(const cJSON *item, strict_options *o, ds_error *err) {
  const char *key = item->string;
  bool truth = cJSON_IsTrue(item);
  uint64_t number = cJSON_IsNumber(item) && item->valuedouble > 0 ? (uint64_t)item->valuedouble : 0;
  if (strcmp(key, "seed") == 0)
    o->seed = number;
  else if (strcmp(key, "tables") == 0)
    return parse_tables(item->valuestring, o, err);
  else if (strcmp(key, "graph") == 0)
    o->graph = truth;
  else if (strcmp(key, "accessible") == 0)
    o->accessible = truth;
  else if (strcmp(key, "abort") == 0)
    o->abort = truth;
  else if (strcmp(key, "lost") == 0)
    o->lost = truth;
  else if (strcmp(key, "fail_call") == 0)
    o->fail_call = number;
  else if (strcmp(key, "fail_work") == 0)
    o->fail_work = number;
  else if (strcmp(key, "hang_work") == 0)
    o->hang_work = number;
  else if (strcmp(key, "hang_ms") == 0)
    o->hang_ms = (int64_t)number;
  else if (strcmp(key, "status") == 0)
    o->status = (ds_status)number;
  else
    return strict_fail(err, DS_ERR_INVALID, "strict: unknown option \"%s\"", key);
  return DS_OK;
}

ds_status strict_options_parse(const char *text, strict_options *out, ds_error *err) {
  *out = (strict_options){
      .gemm = true, .ops = true, .graph = true, .hang_ms = 20, .status = DS_ERR_DEVICE};
  if (!text) text = getenv("DS_STRICT");
  if (!text) return DS_OK;
  cJSON *tree = cJSON_Parse(text);
  ds_status status = DS_OK;
  if (!cJSON_IsObject(tree))
    status = strict_fail(err, DS_ERR_INVALID, "strict: options are no JSON object: %.200s", text);
  const cJSON *item;
  if (status == DS_OK) {
    cJSON_ArrayForEach(item, tree) {
      if (status == DS_OK) status = parse_option(item, out, err);
    }
  }
  cJSON_Delete(tree);
  return status;
}
