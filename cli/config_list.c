#include "config_list.h"

#include "train/config_keys.h"

#include <stdio.h>
#include <string.h>

/* Keys that depend on a section's type stand under a name of ours in the table. */
static const struct {
  const char *prefix, *section, *types;
} typed[] = {
    {"@adam.", "optimizer.params.", "Adam, AdamW"},
    {"@warmup.", "scheduler.params.", "WarmupLR"},
    {"@warmup_decay.", "scheduler.params.", "WarmupDecayLR"},
    {"@warmup_cosine.", "scheduler.params.", "WarmupCosineLR"},
    {"@range_test.", "scheduler.params.", "LRRangeTest"},
    {"@one_cycle.", "scheduler.params.", "OneCycle"},
};

/* The path as a config has it, to `path`; which types have it, or NULL. */
static const char *place(const ds_schema_key *key, char *path, size_t size) {
  for (size_t i = 0; i < sizeof typed / sizeof *typed; i++) {
    size_t n = strlen(typed[i].prefix);
    if (strncmp(key->path, typed[i].prefix, n) != 0) continue;
    snprintf(path, size, "%s%s", typed[i].section, key->path + n);
    return typed[i].types;
  }
  snprintf(path, size, "%s", key->path);
  return NULL;
}

static void print_range(const ds_schema_key *key) {
  bool number = key->type == DS_SCHEMA_INT || key->type == DS_SCHEMA_NUMBER;
  if (key->choices)
    printf("%s", key->choices);
  else if (key->type == DS_SCHEMA_BOOL)
    printf("true|false");
  else if (number && key->max < 0x1p53)
    printf("from %g to %g", key->min, key->max);
  else if (number && key->min > -0x1p53)
    printf("at least %g", key->min);
}

static void print_what(const ds_schema_key *key) {
  switch (key->state) {
    case DS_SCHEMA_HERE: print_range(key); break;
    case DS_SCHEMA_IDLE:
      printf("no effect: %s", key->advice ? key->advice : "of a feature that is not there yet");
      break;
    case DS_SCHEMA_LATER:
      if (key->advice)
        printf("%s: %s", key->fallback ? "only the default" : "refused", key->advice);
      else
        printf("not there yet%s", key->fallback ? ": only the default" : "");
      break;
    case DS_SCHEMA_RARE:
      printf("refused%s%s", key->advice ? ": " : "", key->advice ? key->advice : "");
      break;
  }
}

void config_list_keys(void) {
  const ds_schema *schema = ds_config_keys();
  for (size_t i = 0; i < schema->count; i++) {
    const ds_schema_key *key = &schema->keys[i];
    char path[128];
    if (key->type == DS_SCHEMA_SECTION || key->type == DS_SCHEMA_OPTIONAL) continue;
    const char *types = place(key, path, sizeof path);
    printf("%-48s %-12s ", path, key->fallback ? key->fallback : "-");
    if (types) printf("(%s) ", types);
    print_what(key);
    printf("\n");
  }
}
