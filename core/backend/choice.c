#include "backend/choice.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

const char *ds_choice_name(const ds_candidate *candidate) {
  return candidate->note.name[0] ? candidate->note.name : candidate->path;
}

ds_status ds_choice_try(ds_choice *c, size_t candidate, const ds_backend_config *config,
                        ds_backend **out, ds_error *err) {
  const ds_loaded *loaded;
  ds_error why;
  bool rankless = false;
  *out = NULL;
  ds_status status = DS_OK;
  if (config->except && strcmp(c->candidates.items[candidate].note.name, config->except) == 0)
    status = ds_fail(&why, DS_ERR_UNSUPPORTED, "another one is wanted beside it");
  if (status == DS_OK)
    status = ds_loader_load(&c->candidates.items[candidate], config->probe_timeout, c->logger,
                            &loaded, &why);
  if (status == DS_OK) status = ds_device_open(loaded, config, c->logger, out, &rankless, &why);
  if (status == DS_OK && config->host_only && !ds_backend_host_accessible(*out)) {
    ds_backend_close(*out);
    *out = NULL;
    status = ds_fail(&why, DS_ERR_UNSUPPORTED, "its memory is not the host's");
  }
  if (status == DS_OK) return DS_OK;
  /* Ranks of one world on two backends would wait for each other for ever. */
  if (rankless)
    return ds_fail(err, status, "backend %s: %s, or name another backend",
                   ds_choice_name(&c->candidates.items[candidate]), why.message);
  c->reasons[candidate] = strdup(why.message);
  return c->reasons[candidate] ? DS_OK : ds_fail_memory(err, "the choice of a backend");
}

static ds_status take(ds_choice *c, size_t candidate, ds_error *err) {
  c->chosen = candidate;
  return ds_choice_try(c, candidate, c->config, &c->backend, err);
}

/* Whether a is tried before b. */
static bool is_before(const ds_choice *c, size_t a, size_t b) {
  const ds_candidate *x = &c->candidates.items[a], *y = &c->candidates.items[b];
  if (!x->path != !y->path) return x->path != NULL; /* the reference is last */
  if (x->note.priority != y->note.priority) return x->note.priority > y->note.priority;
  return a < b;
}

/* The best first, until one opens. */
static ds_status take_name(ds_choice *c, const char *name, ds_error *err) {
  bool any = strcmp(name, "auto") == 0;
  size_t n = c->candidates.count;
  while (!c->backend) {
    size_t best = n;
    for (size_t i = 0; i < n; i++) {
      if (c->reasons[i] || (!any && strcmp(c->candidates.items[i].note.name, name) != 0)) continue;
      if (best == n || is_before(c, i, best)) best = i;
    }
    if (best == n) break;
    DS_TRY(take(c, best, err));
  }
  return DS_OK;
}

bool ds_choice_knows(const ds_choice *c, const char *name, const char **near) {
  size_t n = 0;
  *near = NULL;
  if (strcmp(name, "auto") == 0) return true;
  for (size_t i = 0; i < c->candidates.count; i++) {
    if (strcmp(c->candidates.items[i].note.name, name) == 0) return true;
  }
  const char **words = calloc(c->candidates.count + 1, sizeof *words);
  if (!words) return false; /* only the hint is lost */
  words[n++] = "auto";
  for (size_t i = 0; i < c->candidates.count; i++) {
    if (c->candidates.items[i].note.name[0]) words[n++] = c->candidates.items[i].note.name;
  }
  *near = ds_nearest(name, words, n);
  free(words);
  return false;
}

ds_status ds_choice_make(const ds_backend_config *config, const ds_logger *logger, ds_choice *out,
                         ds_error *err) {
  *out = (ds_choice){.config = config, .logger = logger};
  DS_TRY(ds_discovery_find(config->plugin_path, config->n_plugin_path, &out->candidates, err));
  ds_status status = DS_OK;
  out->reasons = calloc(out->candidates.count, sizeof *out->reasons);
  if (!out->reasons) status = ds_fail_memory(err, "the choice of a backend");
  for (int i = 0; i < config->n_names && !out->backend && status == DS_OK; i++) {
    status = take_name(out, config->names[i], err);
  }
  if (status != DS_OK) ds_choice_finish(out);
  return status;
}

void ds_choice_finish(ds_choice *c) {
  ds_backend_close(c->backend);
  for (size_t i = 0; c->reasons && i < c->candidates.count; i++) free(c->reasons[i]);
  free(c->reasons);
  ds_discovery_finish(&c->candidates);
  memset(c, 0, sizeof *c);
}
