/* config_schema.h - every key of a training config: its type, its default, and whether what it
 * asks for is there.
 *
 * One table, one line a key. A key's path is its place in the config ("bf16.enabled"); keys of a
 * section that depends on a "type" stand under a pseudo section ("@adam.lr"). The check walks a
 * config against the table, collects every mistake, and fills in defaults.
 */
#ifndef DS_TRAIN_CONFIG_SCHEMA_H
#define DS_TRAIN_CONFIG_SCHEMA_H

#include "base/json.h"
#include "base/str.h"

typedef enum ds_config_type {
  DS_CONFIG_BOOL,
  DS_CONFIG_INT,
  DS_CONFIG_NUMBER,
  DS_CONFIG_STRING,
  DS_CONFIG_SECTION, /* an object whose keys stand in the table */
  DS_CONFIG_OPEN,    /* an object whose keys don't */
  DS_CONFIG_BETAS,   /* an array of two numbers */
  DS_CONFIG_LIST,
  DS_CONFIG_ANY
} ds_config_type;

typedef enum ds_config_state {
  DS_CONFIG_HERE,  /* does what it says */
  DS_CONFIG_IDLE,  /* tunes a feature that is off; checked, without effect */
  DS_CONFIG_LATER, /* not there yet: only the default passes */
  DS_CONFIG_RARE   /* refused for good: only absence or "enabled": false passes */
} ds_config_state;

typedef struct ds_config_key {
  const char *path;
  ds_config_type type;
  ds_config_state state;
  const char *fallback; /* the default as JSON; NULL = none */
  double min, max;      /* of numbers */
  const char *choices;  /* of strings: "a|b", any case; NULL = any */
} ds_config_key;

/* Mistakes found so far, a line each. Zero-initialize. */
typedef struct ds_config_errors {
  ds_str text;
  int count;
} ds_config_errors;

/* Adds a line. */
void ds_config_error(ds_config_errors *errors, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* DS_OK when there were none; else DS_ERR_INVALID with all lines (as many as fit, and how many
 * don't), beginning with `name`. Frees the text either way. */
DS_MUST_USE ds_status ds_config_errors_report(ds_config_errors *errors, const char *name,
                                              ds_error *err);

/* Checks the object `in` against the keys below `section` ("" = top level) and adds what is valid
 * to the object `out`, then the defaults of keys that are HERE or LATER. path stands before keys in
 * messages ("" = top level). False when out of memory. */
bool ds_config_check(const char *section, const char *path, const cJSON *in, cJSON *out,
                     ds_config_errors *errors);

#endif
