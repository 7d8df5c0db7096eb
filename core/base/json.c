#include "base/json.h"

#include "base/file.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void position(const char *text, size_t offset, int *line, int *column) {
  *line = 1;
  *column = 1;
  for (size_t i = 0; i < offset; i++) {
    (*column)++;
    if (text[i] == '\n') {
      (*line)++;
      *column = 1;
    }
  }
}

/* Past the end of the string literal that begins at text[i]. */
static size_t skip_string(const char *text, size_t length, size_t i) {
  for (i++; i < length && text[i] != '"'; i++)
    if (text[i] == '\\') i++;
  return i < length ? i + 1 : length;
}

static size_t skip_comment(const char *text, size_t length, size_t i) {
  bool block = i + 1 < length && text[i] == '/' && text[i + 1] == '*';
  bool line = text[i] == '#' || (i + 1 < length && text[i] == '/' && text[i + 1] == '/');
  if (!block && !line) return i;
  if (line) {
    while (i < length && text[i] != '\n') i++;
    return i;
  }
  for (i += 2; i + 1 < length; i++)
    if (text[i] == '*' && text[i + 1] == '/') return i + 2;
  return length;
}

/* Blanks comments and trailing commas, keeping every offset and newline where it was. */
static void relax(char *text, size_t length) {
  size_t comma = length; /* a comma with only blanks after it so far */
  for (size_t i = 0; i < length;) {
    size_t end = skip_comment(text, length, i);
    if (end > i) {
      for (; i < end; i++)
        if (text[i] != '\n') text[i] = ' ';
      continue;
    }
    char c = text[i];
    if ((c == '}' || c == ']') && comma < length) text[comma] = ' ';
    if (!isspace((unsigned char)c)) comma = c == ',' ? i : length;
    i = c == '"' ? skip_string(text, length, i) : i + 1;
  }
}

static int compare_keys(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorting finds duplicates in a 100,000-entry vocabulary in no time. */
static ds_status check_object_keys(const cJSON *object, const char *name, ds_error *err) {
  int count = cJSON_GetArraySize(object);
  if (count < 2) return DS_OK;
  const char **keys = malloc((size_t)count * sizeof *keys);
  if (!keys) return ds_fail_memory(err, name);
  int n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, object) keys[n++] = item->string;
  qsort(keys, (size_t)n, sizeof *keys, compare_keys);
  ds_status status = DS_OK;
  for (int i = 1; i < n && status == DS_OK; i++)
    if (strcmp(keys[i - 1], keys[i]) == 0)
      status = ds_fail(err, DS_ERR_FORMAT, "%s: key \"%s\" stands twice in one object; remove one",
                       name, keys[i]);
  free(keys);
  return status;
}

/* cJSON bounds the nesting (CJSON_NESTING_LIMIT), so the recursion is bounded too. */
static ds_status check_duplicates(const cJSON *item, const char *name, ds_error *err) {
  if (cJSON_IsObject(item)) DS_TRY(check_object_keys(item, name, err));
  const cJSON *child;
  cJSON_ArrayForEach(child, item) {
    if (child->child) DS_TRY(check_duplicates(child, name, err));
  }
  return DS_OK;
}

/* A NUL, as it is or as an escape: cJSON would end the string there. */
static bool holds_nul(const char *text, size_t length) {
  if (memchr(text, '\0', length)) return true;
  for (size_t i = 0; i + 5 < length; i++) {
    if (text[i] != '\\') continue;
    if (memcmp(text + i + 1, "u0000", 5) == 0) return true;
    i++;
  }
  return false;
}

ds_status ds_json_parse(const char *text, size_t length, int flags, const char *name, cJSON **out,
                        ds_error *err) {
  *out = NULL;
  char *copy = malloc(length + 1);
  if (!copy) return ds_fail_memory(err, name);
  memcpy(copy, text, length);
  copy[length] = '\0';
  if (flags & DS_JSON_RELAXED) relax(copy, length);

  ds_status status = DS_OK;
  const char *end = copy;
  cJSON *root = cJSON_ParseWithLengthOpts(copy, length + 1, &end, 0);
  size_t at = end ? (size_t)(end - copy) : 0;
  int line, column;
  if (root)
    while (at < length && isspace((unsigned char)copy[at])) at++;
  if (at > length) at = length;
  position(copy, at, &line, &column);
  if (!root) {
    status = ds_fail(err, DS_ERR_FORMAT, "%s: not valid JSON at line %d, column %d%s", name, line,
                     column, at >= length ? " (the text ends too early)" : "");
  } else if (at < length) {
    status = ds_fail(err, DS_ERR_FORMAT, "%s: text after the end of the JSON at line %d, column %d",
                     name, line, column);
  } else if (holds_nul(copy, length)) {
    status = ds_fail(err, DS_ERR_UNSUPPORTED, "%s: a string holds the character U+0000", name);
  } else {
    status = check_duplicates(root, name, err);
  }
  if (status == DS_OK)
    *out = root;
  else
    cJSON_Delete(root);
  free(copy);
  return status;
}

ds_status ds_json_load(const char *path, size_t limit, int flags, cJSON **out, ds_error *err) {
  char *text;
  size_t size;
  *out = NULL;
  DS_TRY(ds_file_read(path, limit, &text, &size, err));
  ds_status status = ds_json_parse(text, size, flags, path, out, err);
  free(text);
  return status;
}

ds_status ds_json_config(const char *config, cJSON **out, ds_error *err) {
  bool text = strchr(config, '{') || config[strspn(config, " \t\r\n")] == '\0';
  if (text) return ds_json_parse(config, strlen(config), DS_JSON_RELAXED, "config", out, err);
  ds_status status = ds_json_load(config, (size_t)16 << 20, DS_JSON_RELAXED, out, err);
  return status == DS_OK ? DS_OK : ds_fail_prefix(err, status, "config");
}

const char *ds_json_type(const cJSON *item) {
  if (!item) return "nothing";
  if (cJSON_IsString(item)) return "a string";
  if (cJSON_IsNumber(item)) return "a number";
  if (cJSON_IsBool(item)) return "a boolean";
  if (cJSON_IsNull(item)) return "null";
  return cJSON_IsArray(item) ? "an array" : "an object";
}

/* The member, or NULL when it is absent or null. */
static const cJSON *member(const cJSON *object, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  return cJSON_IsNull(item) ? NULL : item;
}

static ds_status wrong_type(const cJSON *item, const char *key, const char *want, const char *name,
                            ds_error *err) {
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" must be %s, not %s", name, key, want,
                 ds_json_type(item));
}

ds_status ds_json_int(const cJSON *object, const char *key, int64_t fallback, int64_t min,
                      int64_t max, int64_t *out, const char *name, ds_error *err) {
  const cJSON *item = member(object, key);
  *out = fallback;
  if (!item) return DS_OK;
  if (!cJSON_IsNumber(item)) return wrong_type(item, key, "a whole number", name, err);
  double v = item->valuedouble;
  if (!(v >= (double)min && v <= (double)max) || v != floor(v) || fabs(v) > 0x1p53)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: \"%s\" must be a whole number from %lld to %lld, not %g", name, key,
                   (long long)min, (long long)max, v);
  *out = (int64_t)v;
  return DS_OK;
}

ds_status ds_json_number(const cJSON *object, const char *key, double fallback, double *out,
                         const char *name, ds_error *err) {
  const cJSON *item = member(object, key);
  *out = fallback;
  if (!item) return DS_OK;
  if (!cJSON_IsNumber(item)) return wrong_type(item, key, "a number", name, err);
  *out = item->valuedouble;
  return DS_OK;
}

ds_status ds_json_bool(const cJSON *object, const char *key, bool fallback, bool *out,
                       const char *name, ds_error *err) {
  const cJSON *item = member(object, key);
  *out = fallback;
  if (!item) return DS_OK;
  if (!cJSON_IsBool(item)) return wrong_type(item, key, "true or false", name, err);
  *out = cJSON_IsTrue(item);
  return DS_OK;
}

ds_status ds_json_string(const cJSON *object, const char *key, const char *fallback,
                         const char **out, const char *name, ds_error *err) {
  const cJSON *item = member(object, key);
  *out = fallback;
  if (!item) return DS_OK;
  if (!cJSON_IsString(item)) return wrong_type(item, key, "a string", name, err);
  *out = item->valuestring;
  return DS_OK;
}
