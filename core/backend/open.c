/* open.c - choosing among the candidates: names in order of preference, the first that opens. */
#include <stdlib.h>
#include <string.h>

#include "backend/backend_impl.h"
#include "base/str.h"

/* A choice in progress. */
typedef struct choice {
  const ds_backend_config *config;
  const ds_logger *logger;
  ds_candidates candidates;
  char **reasons; /* by candidate: why it was passed over, once it was tried */
  ds_backend *backend;
} choice;

static bool is_builtin(const ds_candidate *c) {
  return c->path == NULL;
}

static const char *name_of(const ds_candidate *c) {
  return c->note.name[0] ? c->note.name : c->path;
}

/* Tries one candidate, once. DS_OK also when it could not be used: then there is no c->backend
 * yet. */
static ds_status try_candidate(choice *c, size_t i, ds_error *err) {
  const ds_candidate *k = &c->candidates.items[i];
  const ds_loaded *loaded;
  ds_error why;
  if (c->reasons[i]) return DS_OK;
  ds_status status = ds_loader_load(k, c->logger, &loaded, &why);
  if (status == DS_OK) status = ds_device_open(loaded, c->config, c->logger, &c->backend, &why);
  if (status == DS_OK) return DS_OK;
  c->reasons[i] = strdup(why.message);
  return c->reasons[i] ? DS_OK : ds_fail_memory(err, "the choice of a backend");
}

/* Whether a should be tried before b by "auto". */
static bool is_better(const choice *c, size_t a, size_t b) {
  const ds_candidate *x = &c->candidates.items[a], *y = &c->candidates.items[b];
  if (is_builtin(x) != is_builtin(y)) return is_builtin(y);
  if (x->note.priority != y->note.priority) return x->note.priority > y->note.priority;
  return a < b;
}

static ds_status try_auto(choice *c, ds_error *err) {
  for (;;) {
    size_t best = c->candidates.count;
    for (size_t i = 0; i < c->candidates.count; i++) {
      if (c->reasons[i]) continue;
      if (best == c->candidates.count || is_better(c, i, best)) best = i;
    }
    if (best == c->candidates.count) return DS_OK;
    DS_TRY(try_candidate(c, best, err));
    if (c->backend) return DS_OK;
  }
}

/* False when no candidate has the name. */
static bool is_known(const choice *c, const char *name) {
  for (size_t i = 0; i < c->candidates.count; i++) {
    if (strcmp(c->candidates.items[i].note.name, name) == 0) return true;
  }
  return strcmp(name, "auto") == 0;
}

static ds_status try_name(choice *c, const char *name, ds_error *err) {
  if (strcmp(name, "auto") == 0) return try_auto(c, err);
  for (size_t i = 0; i < c->candidates.count && !c->backend; i++) {
    if (strcmp(c->candidates.items[i].note.name, name) == 0) DS_TRY(try_candidate(c, i, err));
  }
  return DS_OK;
}

static const char *did_you_mean(const choice *c, const char *name) {
  const char *best = NULL;
  const char **words = calloc(c->candidates.count + 1, sizeof *words);
  if (!words) return NULL; /* only a hint is lost */
  size_t n = 0;
  words[n++] = "auto";
  for (size_t i = 0; i < c->candidates.count; i++) {
    if (c->candidates.items[i].note.name[0]) words[n++] = c->candidates.items[i].note.name;
  }
  best = ds_nearest(name, words, n);
  free(words);
  return best;
}

/* The names before the one that opened, the candidates tried in vain, and the files and folders
 * that were refused unread: they may be what the user had in mind. */
static void warn_of_passed(const choice *c, int chosen) {
  const char *using = c->backend->plugin->name;
  for (int i = 0; i < chosen; i++) {
    if (is_known(c, c->config->names[i])) continue;
    const char *near = did_you_mean(c, c->config->names[i]);
    ds_log(c->logger, DS_LOG_WARN, "backend: there is no plugin \"%s\"%s%s%s; using %s",
           c->config->names[i], near ? " (did you mean \"" : "", near ? near : "",
           near ? "\"?)" : "", using);
  }
  for (size_t i = 0; i < c->candidates.count; i++) {
    const ds_candidate *k = &c->candidates.items[i];
    const char *reason = c->reasons[i] ? c->reasons[i] : k->reason;
    if (reason)
      ds_log(c->logger, DS_LOG_WARN, "backend: %s is not usable: %s; using %s", name_of(k), reason,
             using);
  }
}

/* What there is, a line each, as far as an error message has room. */
static ds_status fail_with_list(const choice *c, ds_error *err) {
  ds_str s = {0};
  ds_str_puts(&s, "no backend could be opened");
  for (int i = 0; i < c->config->n_names; i++) {
    if (is_known(c, c->config->names[i])) continue;
    const char *near = did_you_mean(c, c->config->names[i]);
    ds_str_printf(&s, "; there is no plugin \"%s\"", c->config->names[i]);
    if (near) ds_str_printf(&s, ", did you mean \"%s\"?", near);
  }
  ds_str_puts(&s, ". Candidates:");
  for (size_t i = 0; i < c->candidates.count; i++) {
    const ds_candidate *k = &c->candidates.items[i];
    const char *reason = c->reasons[i] ? c->reasons[i] : k->reason;
    if (s.length > DS_ERROR_MESSAGE_MAX - 200) {
      ds_str_printf(&s, "\n  and %zu more; `ds backends` lists them", c->candidates.count - i);
      break;
    }
    ds_str_printf(&s, "\n  %s: %.500s", name_of(k), reason ? reason : "not asked for");
  }
  ds_status status = ds_str_status(&s, err);
  if (status == DS_OK) status = ds_fail(err, DS_ERR_NOT_FOUND, "%s", s.data);
  ds_str_finish(&s);
  return status;
}

static ds_status choose(choice *c, ds_error *err) {
  int used = 0;
  for (int i = 0; i < c->config->n_names && !c->backend; i++) {
    used = i;
    DS_TRY(try_name(c, c->config->names[i], err));
  }
  if (!c->backend) return fail_with_list(c, err);
  warn_of_passed(c, used);
  ds_log(c->logger, DS_LOG_INFO, "backend: %s %s on %s", c->backend->plugin->name,
         c->backend->plugin->version, c->backend->device_name);
  return DS_OK;
}

ds_status ds_backend_open(const ds_backend_config *config, const ds_logger *logger,
                          ds_backend **out, ds_error *err) {
  choice c = {.config = config, .logger = logger};
  *out = NULL;
  DS_TRY(ds_discovery_find(config->plugin_path, config->n_plugin_path, &c.candidates, err));
  ds_status status = DS_OK;
  c.reasons = calloc(c.candidates.count, sizeof *c.reasons);
  if (!c.reasons)
    status = ds_fail_memory(err, "the choice of a backend");
  else
    status = choose(&c, err);
  if (status == DS_OK)
    *out = c.backend;
  else
    ds_backend_close(c.backend);
  for (size_t i = 0; c.reasons && i < c.candidates.count; i++) free(c.reasons[i]);
  free(c.reasons);
  ds_discovery_finish(&c.candidates);
  return status;
}
