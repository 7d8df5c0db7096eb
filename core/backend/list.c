/* list.c - ds_backend_list: every candidate, what became of it, and why. */
#include <stdlib.h>
#include <string.h>

#include "backend/choice.h"
#include "base/str.h"
#include "ds.h"

/* The fields are the caller's to read, ours to make and free. */
static bool copy_text(const char *from, const char **to) {
  *to = from ? strdup(from) : NULL;
  return *to || !from;
}

static bool describe(const ds_candidate *k, const char *state, const char *reason,
                     const char *device, ds_backend_candidate *out) {
  bool named = k->note.name[0] != '\0';
  out->size = sizeof *out;
  out->priority = k->note.priority;
  out->state = state;
  return copy_text(named ? k->note.name : NULL, &out->name) &&
         copy_text(named ? k->note.version : NULL, &out->version) &&
         copy_text(k->path, &out->path) && copy_text(reason, &out->reason) &&
         copy_text(device, &out->device);
}

/* Why one that could be opened was not: another has its name. NULL: it has no rival. */
static char *rival_of(const ds_choice *c, size_t i) {
  const ds_candidate *k = &c->candidates.items[i], *chosen = &c->candidates.items[c->chosen];
  if (!c->backend || strcmp(k->note.name, chosen->note.name) != 0) return NULL;
  return ds_format(
      "%s %s at %s is taken: %s", chosen->note.name, chosen->note.version, chosen->path,
      chosen->note.priority > k->note.priority ? "its priority is higher" : "it is found first");
}

/* Whether one that was not chosen could be: with its own defaults, for the options in the config
 * are another's. */
static ds_status describe_other(ds_choice *c, size_t i, ds_backend_candidate *out, ds_error *err) {
  const ds_backend_config defaults = {.fallback = c->config->fallback,
                                      .probe_timeout = c->config->probe_timeout};
  ds_backend *b = NULL;
  if (!c->reasons[i]) DS_TRY(ds_choice_try(c, i, &defaults, &b, err));
  char *rival = b ? rival_of(c, i) : NULL;
  bool good = describe(&c->candidates.items[i], b ? "available" : "rejected",
                       b ? rival : c->reasons[i], b ? ds_backend_device(b) : NULL, out);
  free(rival);
  ds_backend_close(b);
  return good ? DS_OK : ds_fail_memory(err, "the list of backends");
}

static ds_status list(const ds_backend_config *config, ds_backend_candidate **out, size_t *count,
                      ds_error *err) {
  ds_choice c;
  DS_TRY(ds_choice_make(config, NULL, &c, err));
  size_t n = c.candidates.count;
  ds_status status = DS_OK;
  ds_backend_candidate *items = calloc(n, sizeof *items);
  if (!items) status = ds_fail_memory(err, "the list of backends");
  for (size_t i = 0; i < n && status == DS_OK; i++) {
    if (!c.backend || i != c.chosen) {
      status = describe_other(&c, i, &items[i], err);
    } else if (!describe(&c.candidates.items[i], "chosen", NULL, ds_backend_device(c.backend),
                         &items[i])) {
      status = ds_fail_memory(err, "the list of backends");
    }
  }
  ds_choice_finish(&c);
  if (status != DS_OK) {
    if (items) ds_backend_list_destroy(items, n);
    return status;
  }
  *out = items;
  *count = n;
  return DS_OK;
}

DS_API ds_status ds_backend_list(const char *config, ds_backend_candidate **out, size_t *count,
                                 ds_error *err) {
  ds_backend_config parsed;
  cJSON *tree = NULL;
  *out = NULL;
  *count = 0;
  if (config) DS_TRY(ds_json_config(config, &tree, err));
  ds_status status =
      ds_backend_config_parse(cJSON_GetObjectItemCaseSensitive(tree, "backend"), &parsed, err);
  cJSON_Delete(tree);
  if (status != DS_OK) return status;
  status = list(&parsed, out, count, err);
  ds_backend_config_finish(&parsed);
  return status;
}

DS_API void ds_backend_list_destroy(ds_backend_candidate *items, size_t count) {
  for (size_t i = 0; items && i < count; i++) {
    const char *texts[] = {items[i].name, items[i].version, items[i].path, items[i].reason,
                           items[i].device};
    for (size_t j = 0; j < sizeof texts / sizeof *texts; j++) free((void *)(uintptr_t)texts[j]);
  }
  free(items);
}
