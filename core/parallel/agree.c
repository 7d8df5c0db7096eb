#include "parallel/agree.h"

#include "base/checksum.h"
#include "parallel/tell.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- listing */

void ds_agree_add(ds_agree *a, const char *name, const char *fmt, ...) {
  char text[512], *whole = text;
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  if (n >= (int)sizeof text) {
    whole = malloc((size_t)n + 1);
    va_start(args, fmt);
    if (whole) vsnprintf(whole, (size_t)n + 1, fmt, args);
    va_end(args);
  }
  if (n < 0 || !whole) {
    a->facts.failed = true;
    return;
  }
  ds_str_append(&a->facts, name, strlen(name) + 1);
  ds_str_append(&a->facts, whole, (size_t)n + 1);
  if (whole != text) free(whole);
}

static bool is_left_out(const char *place, const char *const *but, int n_but) {
  for (int i = 0; i < n_but; i++) {
    size_t n = strlen(but[i]);
    if (strncmp(place, but[i], n) == 0 && (place[n] == '\0' || place[n] == '.')) return true;
  }
  return false;
}

static void add_value(ds_agree *a, const char *place, const cJSON *item, const char *const *but,
                      int n_but) {
  if (is_left_out(place, but, n_but)) return;
  if (cJSON_IsObject(item)) {
    ds_agree_add_json(a, place, item, but, n_but);
    return;
  }
  char *text = cJSON_PrintUnformatted(item);
  if (text)
    ds_agree_add(a, place, "%s", text);
  else
    a->facts.failed = true;
  cJSON_free(text);
}

void ds_agree_add_json(ds_agree *a, const char *prefix, const cJSON *object, const char *const *but,
                       int n_but) {
  const cJSON *item;
  cJSON_ArrayForEach(item, object) {
    char *place = ds_format("%s%s%s", prefix, prefix[0] ? "." : "", item->string);
    if (place)
      add_value(a, place, item, but, n_but);
    else
      a->facts.failed = true;
    free(place);
  }
}

ds_status ds_agree_status(const ds_agree *a, ds_error *err) {
  return ds_str_status(&a->facts, err);
}

void ds_agree_finish(ds_agree *a) {
  ds_str_finish(&a->facts);
}

/* ---- comparing */

typedef struct fact {
  const char *name, *text;
} fact;

/* The fact at *at, which goes on; false at the end, or where the list is broken off. */
static bool next_fact(const char *facts, size_t bytes, size_t *at, fact *out) {
  size_t name = *at < bytes ? strnlen(facts + *at, bytes - *at) : 0;
  size_t text_at = *at + name + 1;
  if (text_at >= bytes) return false;
  size_t text = strnlen(facts + text_at, bytes - text_at);
  if (text_at + text >= bytes) return false;
  *out = (fact){facts + *at, facts + text_at};
  *at = text_at + text + 1;
  return true;
}

/* From *at on, and then from the beginning: lists mostly have one order. NULL: there is none. */
static const char *find(const char *facts, size_t bytes, size_t *at, const char *name) {
  fact f;
  for (int turn = 0; turn < 2; turn++, *at = 0)
    while (next_fact(facts, bytes, at, &f))
      if (strcmp(f.name, name) == 0) return f.text;
  return NULL;
}

/* Long texts differ late: from shortly before the first difference on. */
static const char *from_difference(const char *text, const char *other) {
  enum { BEFORE = 40, LONG = 120 };
  size_t n = 0;
  if (!text || !other || strlen(text) < LONG) return text;
  while (text[n] && text[n] == other[n]) n++;
  return n > BEFORE ? text + (n - BEFORE) : text;
}

static void explain(const char *name, const char *first, const char *mine, int rank, char *out,
                    size_t room) {
  const char *a = from_difference(first, mine), *b = from_difference(mine, first);
  snprintf(
      out, room,
      "ranks disagree: \"%.100s\" is %s%.160s on rank 0 but %s%.160s on rank %d; all ranks need "
      "the same code, config, model and data",
      name, a != first ? "..." : "", a ? a : "not there", b != mine ? "..." : "",
      b ? b : "not there", rank);
}

/* The place in list a of the first fact that list b has otherwise, or only of the first that it has not
 * at all; -1: none. *out is that fact, *other b's text or NULL. */
static int first_other(const char *a, size_t a_bytes, const char *b, size_t b_bytes, bool absent,
                       fact *out, const char **other) {
  size_t at = 0, in_b = 0;
  for (int place = 0; next_fact(a, a_bytes, &at, out); place++) {
    *other = find(b, b_bytes, &in_b, out->name);
    if (!*other || (!absent && strcmp(*other, out->text) != 0)) return place;
  }
  return -1;
}

bool ds_agree_compare(const char *first, size_t first_bytes, const char *mine, size_t mine_bytes,
                      int rank, char *out, size_t room) {
  fact of_first = {NULL, NULL}, of_mine = {NULL, NULL};
  const char *other = NULL, *none = NULL;
  int i = first_other(first, first_bytes, mine, mine_bytes, false, &of_first, &other);
  int j = first_other(mine, mine_bytes, first, first_bytes, true, &of_mine, &none);
  /* One fact too many may change those behind it. */
  if (j >= 0 && (i < 0 || j <= i))
    explain(of_mine.name, NULL, of_mine.text, rank, out, room);
  else if (i >= 0)
    explain(of_first.name, of_first.text, other, rank, out, room);
  return i >= 0 || j >= 0;
}

/* ---- among ranks */

/* Rank 0's, before its facts. New code keeps magic and format where they are. */
typedef struct head {
  char magic[8];
  uint32_t format, unused;
  uint64_t bytes, checksum;
} head;

enum { FORMAT = 1 };

static head head_of(const ds_agree *a) {
  return (head){.magic = "dsagree",
                .format = FORMAT,
                .bytes = a->facts.length,
                .checksum = a->facts.length ? ds_checksum(a->facts.data, a->facts.length) : 0};
}

/* What the lowest rank that differs has to say. */
static void find_difference(const ds_agree *a, const char *first, const head *h, int rank,
                            ds_error *said) {
  if (h->format != FORMAT)
    ds_fail(
        said, DS_ERR_VERSION,
        "ranks disagree: rank 0 compares by format %u, rank %d by %d: they run different versions "
        "of dscore",
        h->format, rank, FORMAT);
  else if (!ds_agree_compare(first, h->bytes, a->facts.data, a->facts.length, rank, said->message,
                             sizeof said->message))
    ds_fail(said, DS_ERR_INTERNAL, "rank %d lists other facts than rank 0, but none differs", rank);
}

/* Every rank's, once one differs: rank 0's facts to all, and the words of the one that differs. */
static ds_status tell_difference(const ds_agree *a, ds_world *w, const head *h, int differs,
                                 ds_error *err) {
  ds_error said = {DS_ERR_INVALID, ""};
  char *first = w->rank == 0 ? a->facts.data : malloc(h->bytes > 0 ? h->bytes : 1);
  if (!first) return ds_fail_memory(err, "rank 0's facts");
  ds_status status = ds_tell_all(w, 0, first, h->bytes, err);
  if (status == DS_OK && w->rank == differs) find_difference(a, first, h, w->rank, &said);
  if (w->rank != 0) free(first);
  if (status == DS_OK) status = ds_tell_all(w, differs, &said, sizeof said, err);
  if (status != DS_OK) return status;
  said.message[sizeof said.message - 1] = '\0';
  return ds_fail(err, said.status, "%s", said.message);
}

ds_status ds_agree_check(const ds_agree *a, ds_world *w, ds_error *err) {
  head mine = head_of(a), first = mine, unused = mine;
  int differs;
  if (!w->group) return DS_OK;
  DS_TRY(ds_tell_all(w, 0, &first, sizeof first, err));
  DS_TRY(ds_tell_first(w, memcmp(&first, &mine, sizeof mine) != 0, &unused, sizeof unused, &differs,
                       err));
  return differs < 0 ? DS_OK : tell_difference(a, w, &first, differs, err);
}
