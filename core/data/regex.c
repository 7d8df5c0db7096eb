#include "data/regex.h"

#include "data/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct ds_regex {
  pcre2_code *code;
  bool literal;
};

struct ds_regex_scratch {
  pcre2_match_data *match;
};

ds_status ds_regex_create(const char *pattern, bool literal, const char *name, ds_regex **out,
                          ds_error *err) {
  *out = NULL;
  ds_regex *r = calloc(1, sizeof *r);
  if (!r) return ds_fail_memory(err, name);
  int error;
  PCRE2_SIZE where;
  /* Literals are looked for among bytes, whatever these are. */
  uint32_t options = literal ? PCRE2_LITERAL : PCRE2_UTF | PCRE2_UCP;
  r->literal = literal;
  r->code =
      pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &error, &where, NULL);
  if (!r->code) {
    free(r);
    if (error == PCRE2_ERROR_HEAP_FAILED) return ds_fail_memory(err, name);
    unsigned char message[128] = "";
    pcre2_get_error_message(error, message, sizeof message);
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: the regular expression \"%.200s\" can't be used: %s (at byte %zu)", name,
                   pattern, (const char *)message, (size_t)where);
  }
  /* Where the machine refuses compiled code, the interpreter finds the same matches. */
  (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
  *out = r;
  return DS_OK;
}

void ds_regex_destroy(ds_regex *r) {
  if (!r) return;
  pcre2_code_free(r->code);
  free(r);
}

ds_regex_scratch *ds_regex_scratch_create(void) {
  ds_regex_scratch *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->match = pcre2_match_data_create(1, NULL);
  if (!s->match) {
    free(s);
    return NULL;
  }
  return s;
}

void ds_regex_scratch_destroy(ds_regex_scratch *s) {
  if (!s) return;
  pcre2_match_data_free(s->match);
  free(s);
}

static size_t valid_end(const ds_regex_search *s, size_t from) {
  if (s->regex->literal) return s->length;
  return from + ds_utf8_valid_prefix(s->text + from, s->length - from);
}

void ds_regex_search_begin(ds_regex_search *s, const ds_regex *regex, ds_regex_scratch *scratch,
                           const char *text, size_t length) {
  *s = (ds_regex_search){.regex = regex, .scratch = scratch, .text = text, .length = length};
  s->valid_end = valid_end(s, 0);
}

static int match_at(const ds_regex_search *s, uint32_t options) {
  return pcre2_match(s->regex->code, (PCRE2_SPTR)s->text + s->valid_begin,
                     s->valid_end - s->valid_begin, s->at - s->valid_begin,
                     options | PCRE2_NO_UTF_CHECK, s->scratch->match, NULL);
}

/* Past the character at i, or past one byte that isn't UTF-8. */
static size_t step_over(const ds_regex_search *s, size_t i) {
  uint32_t code;
  size_t n = ds_utf8_decode(s->text + i, s->length - i, &code);
  return i + (n ? n : 1);
}

ds_status ds_regex_search_next(ds_regex_search *s, bool *found, ds_error *err) {
  *found = false;
  for (;;) {
    int rc = s->at <= s->valid_end ? match_at(s, 0) : PCRE2_ERROR_NOMATCH;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = match_at(s, PCRE2_NO_JIT);
    if (rc >= 0) {
      const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->scratch->match);
      s->begin = s->valid_begin + range[0];
      s->end = s->valid_begin + range[1];
      if (s->end < s->begin) s->end = s->begin; /* \K in a lookahead can do that */
      s->at = s->end > s->at ? s->end : s->at;
      if (s->end == s->begin) s->at = s->at < s->length ? step_over(s, s->at) : s->length + 1;
      *found = true;
      return DS_OK;
    }
    if (rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT)
      return ds_fail_memory(err, "regular expression");
    if (rc != PCRE2_ERROR_NOMATCH)
      return ds_fail(err, DS_ERR_INVALID,
                     "the tokenizer's regular expression gave up at byte %zu "
                     "of the text (PCRE2 error %d); split the text",
                     s->at, rc);
    if (s->valid_end >= s->length) return DS_OK;
    s->valid_begin = s->valid_end;
    while (s->valid_begin < s->length && valid_end(s, s->valid_begin) == s->valid_begin)
      s->valid_begin++;
    s->valid_end = valid_end(s, s->valid_begin);
    s->at = s->valid_begin;
    if (s->valid_begin >= s->length) return DS_OK;
  }
}
