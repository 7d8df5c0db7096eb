#include "data/text_steps.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

void ds_text_steps_finish(ds_text_steps *s) {
  for (size_t i = 0; i < s->count; i++) {
    free(s->items[i].text);
    ds_regex_destroy(s->items[i].pattern);
  }
  free(s->items);
  memset(s, 0, sizeof *s);
}

ds_status ds_text_steps_add(ds_text_steps *s, ds_text_step_kind kind, const char *text,
                            ds_text_step **out, ds_error *err) {
  *out = NULL;
  DS_TRY(ds_reserve(&s->items, &s->capacity, s->count + 1, sizeof *s->items, "tokenizer", err));
  char *copy = strdup(text ? text : "");
  if (!copy) return ds_fail_memory(err, "tokenizer");
  ds_text_step *step = &s->items[s->count++];
  *step = (ds_text_step){.kind = kind, .text = copy, .length = strlen(copy)};
  *out = step;
  return DS_OK;
}

/* The steps that are still to do, and where the text goes after them. */
typedef struct rest {
  const ds_text_step *steps;
  size_t count;
  ds_regex_scratch *scratch;
  ds_text_fn fn;
  void *ctx;
} rest;

static ds_status run(const rest *r, const char *text, size_t length, bool first, ds_error *err);

static ds_status run_prepend(const ds_text_step *step, const rest *after, const char *text,
                             size_t length, bool first, ds_error *err) {
  bool there = length >= step->length && memcmp(text, step->text, step->length) == 0;
  if ((step->unless_there && there) || (step->at_first_only && !first))
    return run(after, text, length, first, err);
  ds_str s = {0};
  ds_str_append(&s, step->text, step->length);
  ds_str_append(&s, text, length);
  ds_status status = ds_str_status(&s, err);
  if (status == DS_OK) status = run(after, s.data, s.length, first, err);
  ds_str_finish(&s);
  return status;
}

static ds_status run_replace(const ds_text_step *step, const rest *after, const char *text,
                             size_t length, bool first, ds_error *err) {
  ds_str s = {0};
  ds_regex_search search;
  ds_regex_search_begin(&search, step->pattern, after->scratch, text, length);
  size_t done = 0;
  bool found;
  ds_status status;
  while ((status = ds_regex_search_next(&search, &found, err)) == DS_OK && found) {
    if (search.begin < done) continue;
    ds_str_append(&s, text + done, search.begin - done);
    ds_str_append(&s, step->text, step->length);
    done = search.end;
  }
  ds_str_append(&s, text + done, length - done);
  if (status == DS_OK) status = ds_str_status(&s, err);
  if (status == DS_OK) status = run(after, s.data, s.length, first, err);
  ds_str_finish(&s);
  return status;
}

static ds_status run_split(const ds_text_step *step, const rest *after, const char *text,
                           size_t length, bool first, ds_error *err) {
  bool keep_match = !step->removed || step->inverted;
  bool keep_between = !step->removed || !step->inverted;
  ds_regex_search search;
  ds_regex_search_begin(&search, step->pattern, after->scratch, text, length);
  size_t done = 0;
  bool found;
  for (;;) {
    DS_TRY(ds_regex_search_next(&search, &found, err));
    if (!found) break;
    if (search.begin < done) continue;
    if (keep_between) DS_TRY(run(after, text + done, search.begin - done, first && done == 0, err));
    if (keep_match)
      DS_TRY(run(after, text + search.begin, search.end - search.begin, first && search.begin == 0,
                 err));
    done = search.end;
  }
  return keep_between ? run(after, text + done, length - done, first && done == 0, err) : DS_OK;
}

static ds_status run_split_before(const ds_text_step *step, const rest *after, const char *text,
                                  size_t length, bool first, ds_error *err) {
  size_t begin = 0, mark_end = 0;
  const char *found;
  for (size_t i = 0; (found = memmem(text + i, length - i, step->text, step->length));) {
    size_t at = (size_t)(found - text);
    if (!(step->keep_runs && at == mark_end)) {
      DS_TRY(run(after, text + begin, at - begin, first && begin == 0, err));
      begin = at;
    }
    i = mark_end = at + step->length;
  }
  return run(after, text + begin, length - begin, first && begin == 0, err);
}

/* The recursion is as deep as there are steps. */
static ds_status run(const rest *r, const char *text, size_t length, bool first, ds_error *err) {
  if (length == 0) return DS_OK;
  if (r->count == 0) return r->fn(r->ctx, text, length, first, err);
  rest after = *r;
  after.steps++;
  after.count--;
  switch (r->steps->kind) {
    case DS_TEXT_PREPEND: return run_prepend(r->steps, &after, text, length, first, err);
    case DS_TEXT_REPLACE: return run_replace(r->steps, &after, text, length, first, err);
    case DS_TEXT_SPLIT: return run_split(r->steps, &after, text, length, first, err);
    case DS_TEXT_SPLIT_BEFORE: return run_split_before(r->steps, &after, text, length, first, err);
  }
  return ds_fail(err, DS_ERR_INTERNAL, "text step of kind %d", (int)r->steps->kind);
}

ds_status ds_text_steps_run(const ds_text_steps *s, ds_regex_scratch *scratch, const char *text,
                            size_t length, bool first, ds_text_fn fn, void *ctx, ds_error *err) {
  rest r = {s->items, s->count, scratch, fn, ctx};
  return run(&r, text, length, first, err);
}
