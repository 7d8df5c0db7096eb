/* comm_roll.c - who is missing, when a call on a communicator ran out of time. */
#include "comm_roll.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_MS = 500, MOST_MS = 2000, NAMED = 8 };

/* What a rank says of itself: the call that it gives up. */
typedef struct answer {
  int64_t number; /* of collectives on this communicator, from 1 */
  int64_t count;
  int32_t call, dtype;
} answer;

/* ---------------------------------------------------------------- the call */

/* One block: what can't be taken back of it is MPI's for good. */
typedef struct roll {
  answer mine, *all; /* by rank */
  ds_cpu_message *messages;
  void **requests;
} roll;

static roll *roll_create(int size) {
  size_t n = (size_t)size;
  roll *r =
      calloc(1, sizeof *r + n * (2 * (sizeof(ds_cpu_message) + sizeof(void *)) + sizeof(answer)));
  if (r == NULL) return NULL;
  r->messages = (ds_cpu_message *)(r + 1);
  r->requests = (void **)(r->messages + 2 * n);
  r->all = (answer *)(r->requests + 2 * n);
  return r;
}

static int64_t patience(const ds_comm *c) {
  int64_t ms = c->timeout_ms / 10;
  return ms < LEAST_MS ? LEAST_MS : ms > MOST_MS ? MOST_MS : ms;
}

/* Marks in c->seen who answered. *left: r is MPI's now. */
static void call_roll(ds_comm *c, roll *r, bool *left) {
  int n = 0;
  unsigned char *came = calloc((size_t)c->size, 1);
  if (came == NULL) return;
  for (int send = 0; send < 2; send++)
    for (int i = 0; i < c->size; i++)
      if (i != c->rank)
        r->messages[n++] = (ds_cpu_message){send ? &r->mine : &r->all[i], sizeof(answer), i, send};
  const ds_cpu_limit limit = {
      .deadline_ns = ds_cpu_now_ns() + patience(c) * 1000000, .aborted = &c->aborted, .seen = came};
  ds_error ignored;
  /* It ends by its limit as a rule: somebody is missing. */
  (void)!ds_cpu_mpi_exchange(c->group, DS_CPU_CHANNEL_ROLL, r->messages, n, r->requests, &limit,
                             left, &ignored);
  for (int i = 0; i < c->size; i++)
    if (came[i] & DS_CPU_CAME) c->seen[i] |= DS_CPU_HEARD;
  free(came);
}

/* ---------------------------------------------------------------- the words */

static void print(char *out, size_t room, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void print(char *out, size_t room, const char *format, ...) {
  size_t at = strlen(out);
  va_list args;
  va_start(args, format);
  if (at < room) vsnprintf(out + at, room - at, format, args);
  va_end(args);
}

/* Whether rank i is one of those with all bits of `with` and none of `without`. */
static bool is_such(const ds_comm *c, int i, int with, int without) {
  return i != c->rank && (c->seen[i] & with) == with && (c->seen[i] & without) == 0;
}

/* "rank 2", "ranks 2, 3 and 5"; how many. Where ranks of the world have other numbers, those too. */
static int name_such(const ds_comm *c, int with, int without, char *out, size_t room) {
  int total = 0, said = 0;
  for (int i = 0; i < c->size; i++) total += is_such(c, i, with, without);
  if (total == 0) return 0;
  print(out, room, total == 1 ? "rank" : "ranks");
  for (int i = 0; i < c->size && said < NAMED; i++) {
    if (!is_such(c, i, with, without)) continue;
    int world = ds_cpu_mpi_world_rank(c->group, i);
    said++;
    print(out, room, "%s %d", said == 1 ? "" : said == total ? " and" : ",", i);
    if (world != i) print(out, room, " (%d of the world)", world);
  }
  if (said < total) print(out, room, " and %d more", total - said);
  return total;
}

/* One class of ranks, after those named before. */
static int name_class(const ds_comm *c, int with, int without, const char *one, const char *more,
                      char *out, size_t room) {
  char names[256] = "";
  int n = name_such(c, with, without, names, sizeof names);
  if (n > 0) print(out, room, "%s%s %s", out[0] ? "; " : "", names, n == 1 ? one : more);
  return n;
}

/* By what has been seen. Whether anybody is missing. */
static bool name_missing(const ds_comm *c, char *out, size_t room) {
  enum { GONE = DS_CPU_ENDED | DS_CPU_STOPPED };
  int n = name_class(c, DS_CPU_ENDED, 0, "has ended", "have ended", out, room);
  n += name_class(c, DS_CPU_STOPPED, 0, "is stopped", "are stopped", out, room);
  n += name_class(
      c, 0, DS_CPU_CAME | DS_CPU_HEARD | GONE,
      n > 0 ? "has not come to it" : "has not come to it: late, gone or at another call",
      n > 0 ? "have not come to it" : "have not come to it: late, gone or at another call", out,
      room);
  if (n > 0) return true;
  const char *silent = "came to it and then fell silent: gone, or too slow for the limit";
  n = name_class(c, DS_CPU_AWAITED, DS_CPU_HEARD, silent, silent, out, room);
  if (n == 0) n = name_class(c, 0, DS_CPU_HEARD, silent, silent, out, room);
  return n > 0;
}

/* All are there: the first that is at another call than this rank. */
static void name_difference(const ds_comm *c, const roll *r, char *out, size_t room) {
  for (int i = 0; i < c->size; i++) {
    const answer *a = &r->all[i], *b = &r->mine;
    if (i == c->rank || (a->number == b->number && a->call == b->call && a->count == b->count &&
                         a->dtype == b->dtype))
      continue;
    print(
        out, room,
        "rank %d is at %s of %lld %s, its call %lld on this communicator; for this rank it is call "
        "%lld",
        i, ds_cpu_call_name(a->call), (long long)a->count, ds_cpu_dtype_name(a->dtype),
        (long long)a->number, (long long)b->number);
    return;
  }
  print(out, room, "all ranks are at it, too slow for the limit");
}

static void roll_by_messages(ds_comm *c, const ds_cpu_work *w, char *out, size_t room) {
  static const ds_cpu_work none = {.call = -1, .dtype = DS_I8};
  bool left = false;
  if (w == NULL) w = &none;
  roll *r = c->group != NULL ? roll_create(c->size) : NULL;
  if (r != NULL) {
    r->mine = (answer){w->number, w->count, w->call, w->dtype};
    call_roll(c, r, &left);
  }
  if (!name_missing(c, out, room) && r != NULL) name_difference(c, r, out, room);
  if (!left) free(r);
}

void ds_cpu_roll(ds_comm *c, const ds_cpu_work *w, char *out, size_t room) {
  out[0] = '\0';
  if (c->local == NULL || w == NULL) {
    roll_by_messages(c, w, out, room);
    return;
  }
  ds_cpu_local_look(c->local, c->seen);
  if (!name_missing(c, out, room))
    print(out, room, "another rank gave up before; see what it says");
}
