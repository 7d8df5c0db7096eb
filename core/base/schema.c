#include "base/schema.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- collecting mistakes */

void ds_schema_error(ds_schema_errors *errors, const char *fmt, ...) {
  char line[512];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof line, fmt, args);
  va_end(args);
  ds_str_printf(&errors->text, "%s%s", errors->count ? "\n" : "", line);
  errors->count++;
}

ds_status ds_schema_errors_report(ds_schema_errors *errors, const char *name, ds_error *err) {
  ds_status status = ds_str_status(&errors->text, err);
  if (status == DS_OK && errors->count > 0) {
    /* Whole lines only, and room to say that there are more. */
    char *text = errors->text.data;
    size_t room = DS_ERROR_MESSAGE_MAX - 64 - strnlen(name, 256);
    int shown = errors->count;
    if (strlen(text) > room) {
      text[room] = '\0';
      char *cut = strrchr(text, '\n');
      if (cut) *cut = '\0';
      shown = 1;
      for (const char *p = text; (p = strchr(p, '\n')); p++) shown++;
    }
    char more[48] = "";
    if (shown < errors->count)
      snprintf(more, sizeof more, "\n(and %d more)", errors->count - shown);
    status = errors->count == 1 ? ds_fail(err, DS_ERR_INVALID, "%.256s: %s", name, text)
                                : ds_fail(err, DS_ERR_INVALID, "%.256s: %d errors\n%s%s", name,
                                          errors->count, text, more);
  }
  ds_str_finish(&errors->text);
  errors->count = 0;
  return status;
}

/* ---- finding keys */

/* The name of a key that stands directly in the section, or NULL. */
static const char *name_in(const ds_schema_key *key, const char *section) {
  size_t n = strlen(section);
  const char *name = key->path;
  if (n > 0) {
    if (strncmp(name, section, n) != 0 || name[n] != '.') return NULL;
    name += n + 1;
  }
  return strchr(name, '.') || (n == 0 && name[0] == '@') ? NULL : name;
}

static const ds_schema_key *find(const ds_schema *schema, const char *section, const char *name) {
  for (size_t i = 0; i < schema->count; i++) {
    const char *candidate = name_in(&schema->keys[i], section);
    if (candidate && strcmp(candidate, name) == 0) return &schema->keys[i];
  }
  return NULL;
}

static void unknown_key(const ds_schema *schema, const char *section, const char *path,
                        const char *name, ds_schema_errors *errors) {
  size_t n = 0;
  const char *names[256];
  for (size_t i = 0; i < schema->count && n < sizeof names / sizeof names[0]; i++) {
    const char *candidate = name_in(&schema->keys[i], section);
    if (candidate) names[n++] = candidate;
  }
  const char *near = ds_nearest(name, names, n);
  if (near)
    ds_schema_error(errors, "%s%s: unknown key; did you mean \"%s\"?", path, name, near);
  else
    ds_schema_error(errors, "%s%s: unknown key", path, name);
}

/* ---- checking values */

static bool in_choices(const char *choices, const char *value) {
  size_t n = strlen(value);
  for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
    size_t m = strcspn(p, "|");
    if (m == n && strncasecmp(p, value, n) == 0) return true;
  }
  return false;
}

static bool check_number(const ds_schema_key *key, const char *at, const cJSON *item,
                         ds_schema_errors *errors) {
  double v = item->valuedouble;
  if (key->type == DS_SCHEMA_INT && v != floor(v)) {
    ds_schema_error(errors, "%s: must be a whole number, not %g", at, v);
    return false;
  }
  if (v >= key->min && v <= key->max && !isinf(v)) return true;
  if (isinf(key->max) || key->max >= 0x1p53)
    ds_schema_error(errors, "%s: must be at least %g%s, not %g", at, key->min,
                    isinf(v) ? " and finite" : "", v);
  else
    ds_schema_error(errors, "%s: must be from %g to %g, not %g", at, key->min, key->max, v);
  return false;
}

static bool check_betas(const char *at, const cJSON *item, ds_schema_errors *errors) {
  bool good = cJSON_GetArraySize(item) == 2;
  const cJSON *beta;
  cJSON_ArrayForEach(beta, item) good =
      good && cJSON_IsNumber(beta) && beta->valuedouble >= 0 && beta->valuedouble < 1;
  if (!good) ds_schema_error(errors, "%s: must be two numbers from 0 to below 1", at);
  return good;
}

static bool check_type(const ds_schema_key *key, const char *at, const cJSON *item,
                       ds_schema_errors *errors) {
  const char *want = NULL;
  switch (key->type) {
    case DS_SCHEMA_BOOL: want = cJSON_IsBool(item) ? NULL : "true or false"; break;
    case DS_SCHEMA_INT: want = cJSON_IsNumber(item) ? NULL : "a whole number"; break;
    case DS_SCHEMA_NUMBER: want = cJSON_IsNumber(item) ? NULL : "a number"; break;
    case DS_SCHEMA_STRING: want = cJSON_IsString(item) ? NULL : "a string"; break;
    case DS_SCHEMA_SECTION:
    case DS_SCHEMA_OPTIONAL:
    case DS_SCHEMA_OPEN: want = cJSON_IsObject(item) ? NULL : "an object"; break;
    case DS_SCHEMA_BETAS:
    case DS_SCHEMA_LIST: want = cJSON_IsArray(item) ? NULL : "an array"; break;
    case DS_SCHEMA_ANY: break;
  }
  if (want) {
    ds_schema_error(errors, "%s: must be %s, not %s", at, want, ds_json_type(item));
    return false;
  }
  if (key->type == DS_SCHEMA_INT || key->type == DS_SCHEMA_NUMBER)
    return check_number(key, at, item, errors);
  if (key->type == DS_SCHEMA_BETAS) return check_betas(at, item, errors);
  if (key->type == DS_SCHEMA_STRING && key->choices &&
      !in_choices(key->choices, item->valuestring)) {
    ds_schema_error(errors, "%s: must be one of %s, not \"%.64s\"", at, key->choices,
                    item->valuestring);
    return false;
  }
  return true;
}

/* Whether a value asks for nothing: the default, an empty section, a section that is off. */
static bool is_off(const ds_schema_key *key, const cJSON *item) {
  if (cJSON_IsObject(item)) {
    const cJSON *enabled = cJSON_GetObjectItemCaseSensitive(item, "enabled");
    return !item->child || cJSON_IsFalse(enabled);
  }
  if (!key->fallback) return false;
  cJSON *fallback = cJSON_Parse(key->fallback);
  bool same = cJSON_IsString(item) && cJSON_IsString(fallback)
                  ? strcasecmp(item->valuestring, fallback->valuestring) == 0
                  : cJSON_Compare(item, fallback, 1);
  cJSON_Delete(fallback);
  return same;
}

static void check_state(const ds_schema_key *key, const char *at, const cJSON *item,
                        ds_schema_errors *errors) {
  if (key->state != DS_SCHEMA_LATER && key->state != DS_SCHEMA_RARE) return;
  if (is_off(key, item)) return;
  if (key->advice) {
    ds_schema_error(errors, "%s: %s", at, key->advice);
    return;
  }
  char *value = cJSON_PrintUnformatted(item);
  const char *shown = value && strlen(value) <= 64 ? value : "this";
  if (key->state == DS_SCHEMA_RARE)
    ds_schema_error(errors, "%s: %s is refused: dscore does not offer this feature; remove it", at,
                    shown);
  else if (key->fallback)
    ds_schema_error(errors, "%s: %s is not there yet; for now it can only be %s", at, shown,
                    key->fallback);
  else
    ds_schema_error(errors, "%s: %s is not there yet; remove it", at, shown);
  cJSON_free(value);
}

/* ---- walking */

static bool add(cJSON *out, const char *name, cJSON *item) {
  if (item && cJSON_AddItemToObject(out, name, item)) return true;
  cJSON_Delete(item);
  return false;
}

static bool check_key(const ds_schema *schema, const ds_schema_key *key, const char *name,
                      const char *path, const cJSON *item, cJSON *out, ds_schema_errors *errors) {
  char at[192];
  snprintf(at, sizeof at, "%s%s", path, name);
  if (!check_type(key, at, item, errors)) return true;
  check_state(key, at, item, errors);
  bool section_type = key->type == DS_SCHEMA_SECTION || key->type == DS_SCHEMA_OPTIONAL;
  if (!section_type) return add(out, name, cJSON_Duplicate(item, 1));
  cJSON *section = cJSON_CreateObject();
  if (!section) return false;
  if (!add(out, name, section)) return false;
  char below[200];
  snprintf(below, sizeof below, "%s.", at);
  return ds_schema_check(schema, key->path, below, item, section, errors);
}

/* null and "auto" stand for the default; a key for which "auto" is an ordinary word has choices or
 * is no scalar. */
static bool is_default(const ds_schema_key *key, const cJSON *item) {
  if (cJSON_IsNull(item)) return true;
  return cJSON_IsString(item) && strcasecmp(item->valuestring, "auto") == 0 &&
         key->type != DS_SCHEMA_ANY;
}

static bool fill_default(const ds_schema *schema, const ds_schema_key *key, const char *name,
                         cJSON *out, ds_schema_errors *errors) {
  if (key->state != DS_SCHEMA_HERE && key->state != DS_SCHEMA_LATER) return true;
  if (cJSON_GetObjectItemCaseSensitive(out, name)) return true;
  if (key->fallback) return add(out, name, cJSON_Parse(key->fallback));
  if (key->type != DS_SCHEMA_SECTION) return true;
  cJSON *nothing = cJSON_CreateObject();
  cJSON *section = nothing ? cJSON_CreateObject() : NULL;
  bool good = add(out, name, section);
  if (good) good = ds_schema_check(schema, key->path, "", nothing, section, errors);
  if (good && !section->child) cJSON_DeleteItemFromObjectCaseSensitive(out, name);
  cJSON_Delete(nothing);
  return good;
}

bool ds_schema_check(const ds_schema *schema, const char *section, const char *path,
                     const cJSON *in, cJSON *out, ds_schema_errors *errors) {
  const cJSON *item;
  cJSON_ArrayForEach(item, in) {
    const ds_schema_key *key = find(schema, section, item->string);
    if (!key)
      unknown_key(schema, section, path, item->string, errors);
    else if (!is_default(key, item) &&
             !check_key(schema, key, item->string, path, item, out, errors))
      return false;
  }
  for (size_t i = 0; i < schema->count; i++) {
    const char *name = name_in(&schema->keys[i], section);
    if (name && !fill_default(schema, &schema->keys[i], name, out, errors)) return false;
  }
  return true;
}
