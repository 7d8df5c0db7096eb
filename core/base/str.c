#include "base/str.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ds_status ds_reserve(void *array, size_t *capacity, size_t need, size_t size, const char *what,
                     ds_error *err) {
  if (need <= *capacity) return DS_OK;
  size_t grown = *capacity ? *capacity : 8;
  while (grown < need) {
    if (grown > SIZE_MAX / 2) return ds_fail_memory(err, what);
    grown *= 2;
  }
  if (grown > SIZE_MAX / size) return ds_fail_memory(err, what);
  void *old;
  memcpy(&old, array, sizeof old);
  void *p = realloc(old, grown * size);
  if (!p) return ds_fail_memory(err, what);
  memcpy(array, &p, sizeof p);
  *capacity = grown;
  return DS_OK;
}

void ds_str_append(ds_str *s, const void *bytes, size_t length) {
  if (s->failed) return;
  if (length > SIZE_MAX / 2 - s->length ||
      ds_reserve(&s->data, &s->capacity, s->length + length + 1, 1, "text", NULL) != DS_OK) {
    s->failed = true;
    return;
  }
  if (length) memcpy(s->data + s->length, bytes, length);
  s->length += length;
  s->data[s->length] = '\0';
}

void ds_str_puts(ds_str *s, const char *text) {
  ds_str_append(s, text, strlen(text));
}

void ds_str_printf(ds_str *s, const char *fmt, ...) {
  char small[256];
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  int n = vsnprintf(small, sizeof small, fmt, args);
  va_end(args);
  if (n < 0) {
    s->failed = true;
  } else if ((size_t)n < sizeof small) {
    ds_str_append(s, small, (size_t)n);
  } else if (!s->failed) {
    if (ds_reserve(&s->data, &s->capacity, s->length + (size_t)n + 1, 1, "text", NULL) != DS_OK) {
      s->failed = true;
    } else {
      vsnprintf(s->data + s->length, (size_t)n + 1, fmt, again);
      s->length += (size_t)n;
    }
  }
  va_end(again);
}

ds_status ds_str_status(const ds_str *s, ds_error *err) {
  return s->failed ? ds_fail_memory(err, "text") : DS_OK;
}

char *ds_str_take(ds_str *s) {
  ds_str_append(s, "", 0);
  char *p = s->failed ? NULL : s->data;
  if (s->failed) free(s->data);
  memset(s, 0, sizeof *s);
  return p;
}

void ds_str_finish(ds_str *s) {
  free(s->data);
  memset(s, 0, sizeof *s);
}

char *ds_format(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  char *out = NULL;
  int n = vasprintf(&out, fmt, args);
  va_end(args);
  return n < 0 ? NULL : out;
}

/* Levenshtein distance over at most 63 characters. */
static size_t edit_distance(const char *a, const char *b) {
  size_t la = strlen(a), lb = strlen(b);
  size_t row[64];
  if (la > 63 || lb > 63) return 64;
  for (size_t j = 0; j <= lb; j++) row[j] = j;
  for (size_t i = 1; i <= la; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= lb; j++) {
      size_t up = row[j];
      size_t cost = tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]);
      size_t best = diagonal + cost;
      if (up + 1 < best) best = up + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      row[j] = best;
      diagonal = up;
    }
  }
  return row[lb];
}

const char *ds_nearest(const char *word, const char *const *words, size_t count) {
  const char *best = NULL;
  size_t limit = strlen(word) / 3 + 1;
  for (size_t i = 0; i < count; i++) {
    size_t d = edit_distance(word, words[i]);
    if (d > limit) continue;
    if (d < limit || !best) {
      best = words[i];
      limit = d;
    }
  }
  return best;
}
