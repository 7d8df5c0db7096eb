/* json.h - reading JSON, over cJSON.
 *
 * Parsing refuses what would be silently lost: duplicate keys, trailing text, broken syntax - each
 * with the line and column - and strings with a U+0000 inside (DS_ERR_UNSUPPORTED). With
 * DS_JSON_RELAXED the comments and trailing commas of HJSON-style configs pass. The tree is plain
 * cJSON: walk it with cJSON's own functions, free it with cJSON_Delete().
 */
#ifndef DS_BASE_JSON_H
#define DS_BASE_JSON_H

#include "base/status.h"

#include <cjson/cJSON.h>
#include <stdbool.h>

enum { DS_JSON_RELAXED = 1 };

/* text need not be NUL-terminated. `name` (a path, or "config") begins every message. */
DS_MUST_USE ds_status ds_json_parse(const char *text, size_t length, int flags, const char *name,
                                    cJSON **out, ds_error *err);
/* The file must be at most limit bytes. */
DS_MUST_USE ds_status ds_json_load(const char *path, size_t limit, int flags, cJSON **out,
                                   ds_error *err);

/* A config as users give it: a path, or the JSON text itself (what has a '{', or only blanks, is
 * text). Relaxed; at most 16 MiB. */
DS_MUST_USE ds_status ds_json_config(const char *config, cJSON **out, ds_error *err);

/* Members of an object, with defaults for absent (or null) ones. A member of the wrong type, or an
 * integer that is not whole or out of [min, max], is DS_ERR_FORMAT naming `name` and the key. */
DS_MUST_USE ds_status ds_json_int(const cJSON *object, const char *key, int64_t fallback,
                                  int64_t min, int64_t max, int64_t *out, const char *name,
                                  ds_error *err);
DS_MUST_USE ds_status ds_json_number(const cJSON *object, const char *key, double fallback,
                                     double *out, const char *name, ds_error *err);
DS_MUST_USE ds_status ds_json_bool(const cJSON *object, const char *key, bool fallback, bool *out,
                                   const char *name, ds_error *err);
/* The string belongs to the tree. */
DS_MUST_USE ds_status ds_json_string(const cJSON *object, const char *key, const char *fallback,
                                     const char **out, const char *name, ds_error *err);
/* "a string", "an object", ... for messages. */
const char *ds_json_type(const cJSON *item);

#endif
