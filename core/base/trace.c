#include "base/trace.h"

#include "base/file.h"
#include "base/str.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 1024, TRACKS = 64, PIECE = 1 << 16, LINE = 1 << 10 };

struct ds_trace {
  pthread_mutex_t lock;
  size_t limit, count, chunk_capacity;
  ds_trace_span **chunks; /* of CHUNK spans each */
  uint64_t dropped;
  int64_t epoch; /* nanoseconds from the monotonic clock to that of the system */
  int n_tracks;
  struct {
    const char *name;
    int number; /* of its name, from 1 */
  } tracks[TRACKS];
};

const char ds_trace_head[] = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n";
const char ds_trace_comma[] = ",\n";
const char ds_trace_tail[] = "\n]}\n";

static int64_t read_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t ds_trace_now(void) {
  return read_clock(CLOCK_MONOTONIC);
}

ds_status ds_trace_create(size_t limit, ds_trace **out, ds_error *err) {
  ds_trace *t = *out = calloc(1, sizeof *t);
  if (!t) return ds_fail_memory(err, "a trace");
  pthread_mutex_init(&t->lock, NULL);
  t->limit = limit;
  t->epoch = read_clock(CLOCK_REALTIME) - ds_trace_now();
  return DS_OK;
}

void ds_trace_destroy(ds_trace *t) {
  if (!t) return;
  for (size_t i = 0; i * CHUNK < t->count; i++) free(t->chunks[i]);
  free(t->chunks);
  pthread_mutex_destroy(&t->lock);
  free(t);
}

/* ---- recording */

int ds_trace_track(ds_trace *t, const char *name) {
  pthread_mutex_lock(&t->lock);
  int track = t->n_tracks < TRACKS ? t->n_tracks++ : TRACKS - 1, number = 1;
  for (int i = 0; i < track; i++) number += strcmp(t->tracks[i].name, name) == 0;
  t->tracks[track].name = name;
  t->tracks[track].number = number;
  pthread_mutex_unlock(&t->lock);
  return track;
}

/* Lock held. */
static bool have_room(ds_trace *t) {
  if (t->count == t->limit) return false;
  if (t->count % CHUNK != 0) return true;
  size_t chunk = t->count / CHUNK;
  if (ds_reserve(&t->chunks, &t->chunk_capacity, chunk + 1, sizeof *t->chunks, "a trace", NULL))
    return false;
  t->chunks[chunk] = malloc(CHUNK * sizeof **t->chunks);
  return t->chunks[chunk] != NULL;
}

void ds_trace_add(ds_trace *t, const ds_trace_span *span) {
  pthread_mutex_lock(&t->lock);
  if (have_room(t)) {
    t->chunks[t->count / CHUNK][t->count % CHUNK] = *span;
    t->count++;
  } else {
    t->dropped++;
  }
  pthread_mutex_unlock(&t->lock);
}

void ds_trace_drop(ds_trace *t) {
  pthread_mutex_lock(&t->lock);
  t->dropped++;
  pthread_mutex_unlock(&t->lock);
}

void ds_trace_count(ds_trace *t, uint64_t *kept, uint64_t *dropped) {
  pthread_mutex_lock(&t->lock);
  *kept = t->count;
  *dropped = t->dropped;
  pthread_mutex_unlock(&t->lock);
}

/* ---- writing */

/* A name that others gave: of a host. */
static void put_text(ds_str *s, const char *text) {
  for (; *text; text++)
    if ((unsigned char)*text >= ' ' && *text != '"' && *text != '\\') ds_str_append(s, text, 1);
}

static void put_names(ds_str *s, const ds_trace *t, int rank) {
  char host[256] = "";
  if (gethostname(host, sizeof host - 1) != 0) host[0] = '\0';
  ds_str_printf(
      s,
      "{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %d, \"tid\": 0, \"args\": {\"name\": "
      "\"rank %d, ",
      rank, rank);
  put_text(s, host);
  ds_str_printf(
      s,
      "\"}},\n{\"name\": \"process_sort_index\", \"ph\": \"M\", \"pid\": %d, \"tid\": 0, \"args\": "
      "{\"sort_index\": %d}}",
      rank, rank);
  if (t->dropped)
    ds_str_printf(
        s,
        ",\n{\"name\": \"process_labels\", \"ph\": \"M\", \"pid\": %d, \"tid\": 0, \"args\": "
        "{\"labels\": \"%llu spans left out\"}}",
        rank, (unsigned long long)t->dropped);
  for (int i = 0; i < t->n_tracks; i++) {
    ds_str_printf(
        s,
        ",\n{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": %d, \"tid\": %d, \"args\": "
        "{\"name\": \"%s",
        rank, i, t->tracks[i].name);
    if (t->tracks[i].number > 1) ds_str_printf(s, " %d", t->tracks[i].number);
    ds_str_puts(s, "\"}}");
  }
}

static void put_number(ds_str *s, const char *name, int64_t value, const char **comma) {
  if (value < 0) return;
  ds_str_printf(s, "%s\"%s\": %lld", *comma, name, (long long)value);
  *comma = ", ";
}

static void put_word(ds_str *s, const char *name, const char *value, const char **comma) {
  if (!value) return;
  ds_str_printf(s, "%s\"%s\": \"%s\"", *comma, name, value);
  *comma = ", ";
}

/* Microseconds with three digits behind the point, in whole numbers: a double has too few
 * digits. */
static void put_span(ds_str *s, const ds_trace *t, const ds_trace_span *x, int rank) {
  int64_t at = x->begin + t->epoch, length = x->end - x->begin;
  const char *comma = "";
  ds_str_printf(
      s,
      ",\n{\"name\": \"%s\", \"cat\": \"%s\", \"ph\": \"X\", \"ts\": %lld.%03lld, \"dur\": "
      "%lld.%03lld, \"pid\": %d, \"tid\": %d, \"args\": {",
      x->name, x->category, (long long)(at / 1000), (long long)(at % 1000),
      (long long)(length / 1000), (long long)(length % 1000), rank, x->track);
  put_word(s, "group", x->group, &comma);
  put_number(s, "bytes", x->bytes, &comma);
  put_number(s, "step", x->step, &comma);
  put_number(s, "micro", x->micro, &comma);
  put_word(s, "note", x->note, &comma);
  ds_str_puts(s, "}}");
}

ds_status ds_trace_print(ds_trace *t, int rank, ds_trace_put put, void *ctx, ds_error *err) {
  ds_str s = {0};
  ds_status status = DS_OK;
  pthread_mutex_lock(&t->lock);
  put_names(&s, t, rank);
  for (size_t i = 0; i <= t->count && status == DS_OK; i++) {
    bool last = i == t->count;
    if (!last) put_span(&s, t, &t->chunks[i / CHUNK][i % CHUNK], rank);
    status = ds_str_status(&s, err);
    if (status != DS_OK || (!last && s.length < PIECE - LINE)) continue;
    if (s.length > 0) status = put(ctx, s.data, s.length, err);
    s.length = 0;
  }
  pthread_mutex_unlock(&t->lock);
  ds_str_finish(&s);
  return status;
}

static ds_status put_file(void *ctx, const void *data, size_t bytes, ds_error *err) {
  return ds_writer_write(ctx, data, bytes, err);
}

ds_status ds_trace_write(ds_trace *t, int rank, const char *path, ds_error *err) {
  ds_writer w;
  DS_TRY(ds_writer_open(&w, path, err));
  ds_status status = ds_writer_write(&w, ds_trace_head, strlen(ds_trace_head), err);
  if (status == DS_OK) status = ds_trace_print(t, rank, put_file, &w, err);
  if (status == DS_OK) status = ds_writer_write(&w, ds_trace_tail, strlen(ds_trace_tail), err);
  if (status == DS_OK) return ds_writer_commit(&w, err);
  ds_writer_abort(&w);
  return status;
}
