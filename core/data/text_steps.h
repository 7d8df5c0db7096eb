/* text_steps.h - what happens to text before the merges: the normalizer and the pre-tokenizer of a
 * tokenizer, as a list of steps that change or split it. */
#ifndef DS_DATA_TEXT_STEPS_H
#define DS_DATA_TEXT_STEPS_H

#include "data/regex.h"

typedef enum ds_text_step_kind {
  DS_TEXT_PREPEND,     /* text before it */
  DS_TEXT_REPLACE,     /* each match of pattern becomes text */
  DS_TEXT_SPLIT,       /* at the matches of pattern */
  DS_TEXT_SPLIT_BEFORE /* before each `text` */
} ds_text_step_kind;

typedef struct ds_text_step {
  ds_text_step_kind kind;
  char *text;         /* owned */
  size_t length;      /* of text */
  ds_regex *pattern;  /* owned */
  bool unless_there;  /* PREPEND: not where the text begins with it */
  bool at_first_only; /* PREPEND: only at the beginning of the whole input */
  bool removed;       /* SPLIT: drop the matches; else they are pieces like what is between them */
  bool inverted;      /* SPLIT: match and non-match change places */
  bool keep_runs;     /* SPLIT_BEFORE: not between one `text` and the next */
} ds_text_step;

/* Zero-initialize. */
typedef struct ds_text_steps {
  ds_text_step *items;
  size_t count, capacity;
} ds_text_steps;

void ds_text_steps_finish(ds_text_steps *s);
/* Appends a step; text (may be NULL) is copied. Gives the step to set the other fields of. */
DS_MUST_USE ds_status ds_text_steps_add(ds_text_steps *s, ds_text_step_kind kind, const char *text,
                                        ds_text_step **out, ds_error *err);

/* Gets each piece that is left, in order; never an empty one. first: the piece stands at the
 * beginning of the whole input. */
typedef ds_status (*ds_text_fn)(void *ctx, const char *text, size_t length, bool first,
                                ds_error *err);
/* Runs the text through all steps. Stops at the first failure, of its own or of fn. */
DS_MUST_USE ds_status ds_text_steps_run(const ds_text_steps *s, ds_regex_scratch *scratch,
                                        const char *text, size_t length, bool first, ds_text_fn fn,
                                        void *ctx, ds_error *err);

#endif
