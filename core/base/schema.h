/* schema.h - a config's keys as a table: type, default, and whether what a key asks for is there.
 *
 * One table, one line a key. A key's path is its place in the config ("bf16.enabled"); keys of a
 * section that depends on a "type" stand under a pseudo section ("@adam.lr"). The check walks a
 * config against the table, collects every mistake, and fills in defaults.
 */
#ifndef DS_BASE_SCHEMA_H
#define DS_BASE_SCHEMA_H

#include "base/json.h"
#include "base/str.h"

typedef enum ds_schema_type {
  DS_SCHEMA_BOOL,
  DS_SCHEMA_INT,
  DS_SCHEMA_NUMBER,
  DS_SCHEMA_STRING,
  DS_SCHEMA_SECTION,  /* an object whose keys stand in the table; made of defaults when absent */
  DS_SCHEMA_OPTIONAL, /* the same, but absent when absent */
  DS_SCHEMA_OPEN,     /* an object whose keys don't */
  DS_SCHEMA_BETAS,    /* an array of two numbers */
  DS_SCHEMA_LIST,
  DS_SCHEMA_ANY
} ds_schema_type;

typedef enum ds_schema_state {
  DS_SCHEMA_HERE, /* does what it says */
  DS_SCHEMA_IDLE, /* checked, without effect: tunes a feature that is off, or what the advice says */
  DS_SCHEMA_LATER, /* not there yet: only the default passes */
  DS_SCHEMA_RARE   /* refused for good: only absence or "enabled": false passes */
} ds_schema_state;

typedef struct ds_schema_key {
  const char *path;
  ds_schema_type type;
  ds_schema_state state;
  const char *fallback; /* the default as JSON; NULL = none */
  double min, max;      /* of numbers */
  const char *choices;  /* of strings: "a|b", any case; NULL = any */
  /* Of a LATER or RARE key: said when it is used, instead of the usual words. Of an IDLE one: why it
   * is without effect. May be NULL. */
  const char *advice;
} ds_schema_key;

/* A table of keys. Static data. */
typedef struct ds_schema {
  const ds_schema_key *keys;
  size_t count;
} ds_schema;

/* Mistakes found so far, a line each. Zero-initialize. */
typedef struct ds_schema_errors {
  ds_str text;
  int count;
} ds_schema_errors;

/* Adds a line. */
void ds_schema_error(ds_schema_errors *errors, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* DS_OK when there were none; else DS_ERR_INVALID with all lines (as many as fit, and how many
 * don't), beginning with `name`. Frees the text either way. */
DS_MUST_USE ds_status ds_schema_errors_report(ds_schema_errors *errors, const char *name,
                                              ds_error *err);

/* Checks the object `in` against the keys below `section` ("" = top level) and adds what is valid
 * to the object `out`, then the defaults of keys that are HERE or LATER. path stands before keys in
 * messages ("" = top level). False when out of memory. */
bool ds_schema_check(const ds_schema *schema, const char *section, const char *path,
                     const cJSON *in, cJSON *out, ds_schema_errors *errors);

#endif
