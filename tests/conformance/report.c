/* report.c - lines of the report: a table as they come, or one JSON document; known gaps. */
#include "suite.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line of the --expect file. */
typedef struct gap {
  char *id, *reason;
  int met;
} gap;

struct report_state {
  const suite *s;
  gap *gaps;
  int n_gaps, count, totals[OUTCOME_COUNT];
  cJSON *document, *checks;
};

static void *room(void *p, size_t bytes) {
  p = realloc(p, bytes);
  if (p) return p;
  fprintf(stderr, "ds conform: out of memory\n");
  exit(2);
}

static bool read_gaps(report_state *r, const char *path) {
  FILE *f = fopen(path, "re");
  char *line = NULL;
  size_t size = 0;
  int number = 0;
  bool ok = f != NULL;
  if (!f) fprintf(stderr, "ds conform: --expect %s: cannot be read\n", path);
  while (ok && getline(&line, &size, f) >= 0) {
    number++;
    line[strcspn(line, "\n")] = '\0';
    char *id = line + strspn(line, " \t"), *end = id + strcspn(id, " \t");
    if (*id == '\0' || *id == '#') continue;
    char *reason = end + strspn(end, " \t");
    *end = *reason ? '\0' : *end;
    ok = *reason && strchr(id, '/');
    if (!ok)
      fprintf(stderr, "ds conform: --expect %s, line %d: wanted \"section/name  reason\"\n", path,
              number);
    if (!ok) break;
    r->gaps = room(r->gaps, (size_t)(r->n_gaps + 1) * sizeof *r->gaps);
    gap *g = &r->gaps[r->n_gaps++];
    *g = (gap){.id = strcpy(room(NULL, strlen(id) + 1), id),
               .reason = strcpy(room(NULL, strlen(reason) + 1), reason)};
  }
  free(line);
  if (f) fclose(f);
  return ok;
}

report_state *report_create(const suite *s) {
  report_state *r = memset(room(NULL, sizeof *r), 0, sizeof *r);
  r->s = s;
  if (s->json) {
    r->document = cJSON_CreateObject();
    r->checks = cJSON_CreateArray();
  }
  if (!s->expect || read_gaps(r, s->expect)) return r;
  (void)report_finish(r, true);
  return NULL;
}

int report_count(const report_state *r) {
  return r->count;
}

void report_plugin(report_state *r, const char *name, const char *version, const char *device) {
  if (r->s->json) {
    cJSON_AddStringToObject(r->document, "plugin", name);
    cJSON_AddStringToObject(r->document, "version", version);
    cJSON_AddStringToObject(r->document, "device", device);
    cJSON_AddStringToObject(r->document, "path", r->s->path);
    cJSON_AddNumberToObject(r->document, "seed", (double)r->s->seed);
    return;
  }
  printf("%s %s on %s\n", name, version, device);
  printf("%-11s %-30s %-15s %5s  %-7s\n", "", "check", "dtype", "cases", "error");
  fflush(stdout);
}

/* "section/name" stands for all its dtypes; a * at the end for any rest. */
static bool stands_for(const char *id, const record *line) {
  char name[80], full[120];
  snprintf(name, sizeof name, "%s/%s", line->section, line->name);
  snprintf(full, sizeof full, "%s/%s", name, line->dtype);
  size_t n = strlen(id);
  if (n && id[n - 1] == '*') return strncmp(full, id, n - 1) == 0;
  return strcmp(id, name) == 0 || strcmp(id, full) == 0;
}

static gap *expected(const report_state *r, const record *line) {
  for (int i = 0; i < r->n_gaps; i++)
    if (stands_for(r->gaps[i].id, line)) return &r->gaps[i];
  return NULL;
}

static void add_json(const report_state *r, const record *l) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddStringToObject(o, "section", l->section);
  cJSON_AddStringToObject(o, "name", l->name);
  cJSON_AddStringToObject(o, "dtype", l->dtype);
  cJSON_AddStringToObject(o, "outcome", record_outcome(l));
  cJSON_AddNumberToObject(o, "cases", l->cases);
  cJSON_AddNumberToObject(o, "unsupported", l->unsupported);
  cJSON_AddNumberToObject(o, "failed", l->failed);
  cJSON_AddNumberToObject(o, "max_error", l->max_err);
  cJSON_AddNumberToObject(o, "tolerance", l->tol);
  cJSON_AddStringToObject(o, "message", l->message);
  cJSON_AddItemToArray(r->checks, o);
}

static void print_line(const report_state *r, const record *l) {
  const suite *s = r->s;
  char name[80];
  snprintf(name, sizeof name, "%s/%s", l->section, l->name);
  printf("%-11s %-30s %-15s %5d", record_outcome(l), name, l->dtype, l->cases);
  if (l->max_err > 0) printf("  %.1e", l->max_err);
  if (l->max_share > 1000)
    printf("  (over 1000 times the tolerance)");
  else if (l->max_share > 0)
    printf("  (%.0f%% of tolerance)", 100 * l->max_share);
  if (l->unsupported && l->unsupported < l->cases) printf("  (%d unsupported)", l->unsupported);
  printf("\n");
  if (l->message[0]) printf("            %s\n", l->message);
  if (l->outcome == OUTCOME_FAIL)
    printf("            again: ds conform %s --section %s --op %s --seed %llu --cases %d%s%s%s\n",
           s->path, l->section, l->name, (unsigned long long)s->seed, s->cases,
           s->options ? " --options '" : "", s->options ? s->options : "", s->options ? "'" : "");
  fflush(stdout);
}

void report_line(report_state *r, record *l) {
  gap *g = expected(r, l);
  if (g) g->met++;
  if (g && l->outcome == OUTCOME_FAIL) {
    char said[sizeof l->message];
    l->outcome = OUTCOME_XFAIL;
    snprintf(said, sizeof said, "%s", l->message);
    snprintf(l->message, sizeof l->message, "known: %.300s: %.1200s", g->reason, said);
  } else if (g && l->outcome == OUTCOME_PASS) {
    l->outcome = OUTCOME_XPASS;
    snprintf(l->message, sizeof l->message, "passes, but %.200s expects it to fail: %.300s",
             r->s->expect, g->reason);
  }
  if (l->failed > 1 && l->message[0]) {
    char said[sizeof l->message];
    snprintf(said, sizeof said, "%s", l->message);
    snprintf(l->message, sizeof l->message, "%d failed; first: %.1500s", l->failed, said);
  }
  r->count++;
  r->totals[l->outcome]++;
  if (r->s->json)
    add_json(r, l);
  else
    print_line(r, l);
}

static void finish_json(const report_state *r) {
  static const char *const names[] = {"passed", "failed", "unsupported", "expected_failures",
                                      "unexpected_passes"};
  cJSON *totals = cJSON_AddObjectToObject(r->document, "totals");
  for (int i = 0; i < OUTCOME_COUNT; i++) cJSON_AddNumberToObject(totals, names[i], r->totals[i]);
  cJSON_AddItemToObject(r->document, "checks", r->checks);
  char *text = cJSON_Print(r->document);
  printf("%s\n", text ? text : "");
  cJSON_free(text);
  cJSON_Delete(r->document);
}

int report_finish(report_state *r, bool void_) {
  const int *n = r->totals;
  bool whole = !r->s->section && !r->s->op && !void_;
  for (int i = 0; i < r->n_gaps; i++) {
    if (whole && !r->gaps[i].met)
      fprintf(stderr, "ds conform: --expect %s names \"%s\", which is no check here\n",
              r->s->expect, r->gaps[i].id);
    free(r->gaps[i].id);
    free(r->gaps[i].reason);
  }
  if (void_)
    cJSON_Delete(r->checks), cJSON_Delete(r->document);
  else if (r->s->json)
    finish_json(r);
  else {
    printf("%d passed, %d failed, %d unsupported", n[OUTCOME_PASS], n[OUTCOME_FAIL],
           n[OUTCOME_UNSUPPORTED]);
    if (n[OUTCOME_XFAIL]) printf(", %d failed as expected", n[OUTCOME_XFAIL]);
    if (n[OUTCOME_XPASS]) printf(", %d passed unexpectedly", n[OUTCOME_XPASS]);
    printf("\n");
  }
  int code = void_ ? 2 : n[OUTCOME_FAIL] || n[OUTCOME_XPASS] ? 1 : 0;
  free(r->gaps);
  free(r);
  return code;
}
