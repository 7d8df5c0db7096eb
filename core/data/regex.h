/* regex.h - regular expressions over text that may hold bytes which aren't UTF-8 (PCRE2 inside).
 *
 * Patterns see Unicode (\p{L}, \s, case). Bytes that aren't UTF-8 never match and act as the end of
 * the text on both sides.
 */
#ifndef DS_DATA_REGEX_H
#define DS_DATA_REGEX_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Read-only once made: any number of threads may search with it. */
typedef struct ds_regex ds_regex;

/* literal: the pattern's characters mean themselves. A pattern that PCRE2 refuses is
 * DS_ERR_UNSUPPORTED; `name` (the file) begins the message. */
DS_MUST_USE ds_status ds_regex_create(const char *pattern, bool literal, const char *name,
                                      ds_regex **out, ds_error *err);
void ds_regex_destroy(ds_regex *r);

/* PCRE2's own scratch; one serves all searches of a thread, nested ones too. */
typedef struct ds_regex_scratch ds_regex_scratch;
/* NULL when out of memory. */
ds_regex_scratch *ds_regex_scratch_create(void);
void ds_regex_scratch_destroy(ds_regex_scratch *s);

typedef struct ds_regex_search {
  const ds_regex *regex;
  ds_regex_scratch *scratch;
  const char *text;
  size_t length;
  size_t valid_begin, valid_end; /* the stretch of valid UTF-8 being searched */
  size_t at;                     /* where the next match may begin */
  size_t begin, end;             /* the match, after next() said found */
} ds_regex_search;

void ds_regex_search_begin(ds_regex_search *s, const ds_regex *regex, ds_regex_scratch *scratch,
                           const char *text, size_t length);
/* The next match, or *found = false at the end. A pattern that backtracks beyond PCRE2's limit is
 * DS_ERR_INVALID. */
DS_MUST_USE ds_status ds_regex_search_next(ds_regex_search *s, bool *found, ds_error *err);

#endif
