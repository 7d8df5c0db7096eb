#include "hostfile.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define BLANKS " \t\r"

/* ---- lists of hosts */

ds_status hostfile_add(run_hosts *hosts, const char *name, size_t length, int n, ds_error *err) {
  DS_TRY(ds_reserve(&hosts->at, &hosts->room, (size_t)hosts->count + 1, sizeof *hosts->at,
                    "the hosts", err));
  run_host h = {strndup(name, length), malloc((size_t)n * sizeof *h.slots), n};
  if (!h.name || !h.slots) {
    free(h.name);
    free(h.slots);
    return ds_fail_memory(err, "the hosts");
  }
  for (int i = 0; i < n; i++) h.slots[i] = i;
  hosts->at[hosts->count++] = h;
  return DS_OK;
}

int hostfile_slots(const run_hosts *hosts) {
  int n = 0;
  for (int i = 0; i < hosts->count; i++) n += hosts->at[i].n_slots;
  return n;
}

ds_status hostfile_copy(const run_hosts *from, run_hosts *to, ds_error *err) {
  for (int i = 0; i < from->count; i++) {
    const run_host *h = &from->at[i];
    DS_TRY(hostfile_add(to, h->name, strlen(h->name), h->n_slots, err));
    memcpy(to->at[i].slots, h->slots, (size_t)h->n_slots * sizeof *h->slots);
  }
  return DS_OK;
}

void hostfile_drop(run_hosts *hosts, int i) {
  free(hosts->at[i].name);
  free(hosts->at[i].slots);
  hosts->count--;
  memmove(&hosts->at[i], &hosts->at[i + 1], (size_t)(hosts->count - i) * sizeof *hosts->at);
}

void hostfile_finish(run_hosts *hosts) {
  while (hosts->count > 0) hostfile_drop(hosts, hosts->count - 1);
  free(hosts->at);
  memset(hosts, 0, sizeof *hosts);
}

static int find(const run_hosts *hosts, const char *name, size_t length) {
  for (int i = 0; i < hosts->count; i++)
    if (strlen(hosts->at[i].name) == length && memcmp(hosts->at[i].name, name, length) == 0)
      return i;
  return -1;
}

/* Whole numbers from 0 to max; -1 for anything else. */
static long number(const char *text, size_t length, long max) {
  long v = 0;
  if (length == 0 || length > 9) return -1;
  for (size_t i = 0; i < length; i++) {
    if (text[i] < '0' || text[i] > '9') return -1;
    v = v * 10 + (text[i] - '0');
  }
  return v <= max ? v : -1;
}

/* ---- the file */

static ds_status bad_line(const char *file, int line, const char *text, size_t length,
                          ds_error *err) {
  return ds_fail(err, DS_ERR_FORMAT, "%s:%d: \"%.*s\" is not \"HOST slots=N\", N from 1 to %d",
                 file, line, (int)(length < 80 ? length : 80), text, (int)HOSTFILE_SLOTS_MAX);
}

/* text[length] without comment and blanks at its ends. */
static ds_status parse_line(const char *text, size_t length, const char *file, int line,
                            run_hosts *hosts, ds_error *err) {
  const size_t name = strcspn(text, BLANKS) < length ? strcspn(text, BLANKS) : length;
  const char *rest = text + name, *end = text + length;
  rest += strspn(rest, BLANKS);
  if (rest >= end || end - rest < 6 || memcmp(rest, "slots=", 6) != 0)
    return bad_line(file, line, text, length, err);
  rest += 6;
  size_t digits = strspn(rest, "0123456789");
  if (digits > (size_t)(end - rest)) digits = (size_t)(end - rest);
  const long n = number(rest, digits, HOSTFILE_SLOTS_MAX);
  rest += digits;
  const char *more = rest + strspn(rest, BLANKS);
  /* Open MPI's second number, how far a host may be overloaded, has no meaning here. */
  const bool known = more >= end || (more > rest && (strncmp(more, "max_slots=", 10) == 0 ||
                                                     strncmp(more, "max-slots=", 10) == 0));
  if (n < 1 || !known) return bad_line(file, line, text, length, err);
  if (find(hosts, text, name) >= 0)
    return ds_fail(err, DS_ERR_INVALID, "%s:%d: host \"%.*s\" is there a second time", file, line,
                   (int)name, text);
  return hostfile_add(hosts, text, name, (int)n, err);
}

ds_status hostfile_parse(const char *text, const char *name, run_hosts *hosts, ds_error *err) {
  int line = 0;
  while (*text) {
    const char *end = strchrnul(text, '\n');
    const char *from = text + strspn(text, BLANKS);
    const char *hash = memchr(text, '#', (size_t)(end - text));
    const char *to = hash ? hash : end;
    line++;
    while (to > from && strchr(BLANKS, to[-1])) to--;
    if (to > from) DS_TRY(parse_line(from, (size_t)(to - from), name, line, hosts, err));
    text = *end ? end + 1 : end;
  }
  if (hosts->count == 0)
    return ds_fail(err, DS_ERR_FORMAT, "%s: there is no host in it; a line is \"HOST slots=N\"",
                   name);
  return DS_OK;
}

/* ---- filters */

enum { UNNAMED, WHOLE, PART };

/* What a filter says of each host, and of each slot. */
typedef struct marks {
  const char *option;
  char *host;  /* by host */
  char **slot; /* by host and slot */
} marks;

static ds_status mark(const run_hosts *hosts, marks *m, const char *spec, size_t length,
                      ds_error *err) {
  const char *colon = memchr(spec, ':', length), *end = spec + length;
  const size_t name = colon ? (size_t)(colon - spec) : length;
  const int h = find(hosts, spec, name);
  if (h < 0)
    return ds_fail(err, DS_ERR_NOT_FOUND, "%s: there is no host \"%.*s\"", m->option, (int)name,
                   spec);
  if (!colon) {
    if (m->host[h] == UNNAMED) m->host[h] = WHOLE;
    return DS_OK;
  }
  m->host[h] = PART;
  for (const char *p = colon + 1;; p++) {
    const char *comma = memchr(p, ',', (size_t)(end - p));
    const size_t digits = (size_t)((comma ? comma : end) - p);
    const long slot = number(p, digits, HOSTFILE_SLOTS_MAX);
    const run_host *host = &hosts->at[h];
    int i = 0;
    while (i < host->n_slots && host->slots[i] != slot) i++;
    if (i == host->n_slots)
      return ds_fail(err, DS_ERR_NOT_FOUND, "%s: host \"%s\" has no slot \"%.*s\" (it has %d)",
                     m->option, host->name, (int)digits, p, host->n_slots);
    m->slot[h][i] = 1;
    if (!comma) return DS_OK;
    p = comma;
  }
}

static ds_status read_filter(const run_hosts *hosts, marks *m, const char *text, ds_error *err) {
  m->host = calloc((size_t)hosts->count, 1);
  m->slot = calloc((size_t)hosts->count, sizeof *m->slot);
  if (!m->host || !m->slot) return ds_fail_memory(err, "a filter");
  for (int i = 0; i < hosts->count; i++) {
    m->slot[i] = calloc((size_t)hosts->at[i].n_slots, 1);
    if (!m->slot[i]) return ds_fail_memory(err, "a filter");
  }
  for (;;) {
    const char *end = strchrnul(text, '@');
    DS_TRY(mark(hosts, m, text, (size_t)(end - text), err));
    if (!*end) return DS_OK;
    text = end + 1;
  }
}

static void apply(run_hosts *hosts, const marks *m, bool including) {
  for (int i = hosts->count - 1; i >= 0; i--) {
    run_host *h = &hosts->at[i];
    int kept = 0;
    for (int k = 0; k < h->n_slots; k++) {
      const bool named = m->host[i] == WHOLE || (m->host[i] == PART && m->slot[i][k]);
      if (named == including) h->slots[kept++] = h->slots[k];
    }
    h->n_slots = kept;
    if (kept == 0) hostfile_drop(hosts, i);
  }
}

ds_status hostfile_filter(run_hosts *hosts, const char *include, const char *exclude,
                          ds_error *err) {
  const bool including = include && include[0], excluding = exclude && exclude[0];
  marks m = {including ? "--include" : "--exclude", NULL, NULL};
  const int n = hosts->count;
  if (including && excluding)
    return ds_fail(err, DS_ERR_INVALID, "--include and --exclude: give one of them");
  if (!including && !excluding) return DS_OK;
  ds_status status = read_filter(hosts, &m, including ? include : exclude, err);
  if (status == DS_OK) apply(hosts, &m, including);
  for (int i = 0; m.slot && i < n; i++) free(m.slot[i]);
  free(m.slot);
  free(m.host);
  if (status == DS_OK && hosts->count == 0)
    status = ds_fail(err, DS_ERR_INVALID, "%s leaves no host", m.option);
  return status;
}
