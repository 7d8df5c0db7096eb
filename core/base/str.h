/* str.h - growing strings and arrays, and the edit distance behind "did you mean". */
#ifndef DS_BASE_STR_H
#define DS_BASE_STR_H

#include "base/status.h"

#include <stdbool.h>

/* A growing byte string. Zero-initialize; ds_str_finish() frees. data is NUL-terminated once
 * anything was added. After a failed append, `failed` is set, further appends do nothing, and
 * ds_str_status() reports it: check once at the end. */
typedef struct ds_str {
  char *data;
  size_t length;
  size_t capacity;
  bool failed;
} ds_str;

void ds_str_append(ds_str *s, const void *bytes, size_t length);
void ds_str_puts(ds_str *s, const char *text);
void ds_str_printf(ds_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
DS_MUST_USE ds_status ds_str_status(const ds_str *s, ds_error *err);
/* Hands the string over (free() it), "" when empty, NULL on failure; s is empty afterwards. */
char *ds_str_take(ds_str *s);
void ds_str_finish(ds_str *s);

/* Makes room for `need` elements of `size` bytes in *array (capacity *capacity), doubling. On
 * failure the array is unchanged. */
DS_MUST_USE ds_status ds_reserve(void *array, size_t *capacity, size_t need, size_t size,
                                 const char *what, ds_error *err);

/* printf to a new string; NULL when out of memory. free() it. */
char *ds_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The word of words[count] nearest to `word` by edit distance, case-insensitive, if it is near
 * enough to be a slip of the fingers; else NULL. */
const char *ds_nearest(const char *word, const char *const *words, size_t count);

#endif
