#include "test.h"

#include "base/str.h"
#include "data/text_steps.h"

static ds_text_steps steps;
static ds_regex_scratch *scratch;

/* ds_text_fn: the pieces with bars between, '^' before one at the beginning. */
static ds_status note(void *ctx, const char *text, size_t length, bool first, ds_error *err) {
  ds_str_puts(ctx, first ? "^" : "|");
  ds_str_append(ctx, text, length);
  return ds_str_status(ctx, err);
}

static ds_text_step *add(ds_text_step_kind kind, const char *text, const char *pattern,
                         bool literal) {
  ds_error err;
  ds_text_step *step;
  CHECK_OK(ds_text_steps_add(&steps, kind, text, &step, &err), err);
  if (pattern) CHECK_OK(ds_regex_create(pattern, literal, "test", &step->pattern, &err), err);
  return step;
}

/* Runs text through the steps and drops these. */
static void expect(const char *text, const char *want) {
  ds_str s = {0};
  ds_error err;
  CHECK_OK(ds_text_steps_run(&steps, scratch, text, strlen(text), true, note, &s, &err), err);
  CHECK(strcmp(s.data ? s.data : "", want) == 0);
  if (strcmp(s.data ? s.data : "", want) != 0)
    fprintf(stderr, "  \"%s\" gave \"%s\"\n", text, s.data ? s.data : "");
  ds_str_finish(&s);
}

static void drop(void) {
  ds_text_steps_finish(&steps);
}

static void test_change(void) {
  expect("", "");
  expect("ab", "^ab");
  add(DS_TEXT_PREPEND, "_", NULL, false);
  add(DS_TEXT_REPLACE, "_", " ", true);
  expect("", "");
  expect("a b  c", "^_a_b__c");
  drop();
  add(DS_TEXT_PREPEND, "_", NULL, false)->unless_there = true;
  expect("_a", "^_a");
  expect("a", "^_a");
  drop();
  add(DS_TEXT_REPLACE, "", "x+", false);
  expect("xxaxb", "^ab");
  expect("xx", "");
  drop();
  add(DS_TEXT_REPLACE, "-", "", false); /* matches of nothing */
  expect("\xc3\xa9z", "^-\xc3\xa9-z-");
  drop();
  add(DS_TEXT_REPLACE, "!", ".", true); /* no dot of a pattern */
  expect("a.b\xff.", "^a!b\xff!");
  drop();
}

static void test_split(void) {
  add(DS_TEXT_SPLIT, NULL, "\\d+", false);
  expect("12a34bc5", "^12|a|34|bc|5");
  drop();
  add(DS_TEXT_SPLIT, NULL, "\\d+", false)->removed = true;
  expect("a1b22c", "^a|b|c");
  steps.items[0].inverted = true;
  expect("a1b22c", "|1|22");
  drop();
  add(DS_TEXT_SPLIT, NULL, "\\s", false);
  add(DS_TEXT_PREPEND, "_", NULL, false)->at_first_only = true;
  expect("a b", "^_a| |b");
  drop();
  ds_text_step *step = add(DS_TEXT_SPLIT_BEFORE, "_", NULL, false);
  expect("a__b_", "^a|_|_b|_");
  step->keep_runs = true;
  expect("a__b_c__", "^a|__b|_c|__");
  drop();
}

/* Bytes that aren't UTF-8 are never matched and never lost. */
static void test_invalid_text(void) {
  add(DS_TEXT_SPLIT, NULL, "\\p{L}+|\\s+(?!\\S)|\\s+", false);
  expect("ab\xff\xfe"
         "cd\x80  e\xc3",
         "^ab|\xff\xfe|cd|\x80| | |e|\xc3");
  expect("\xff", "^\xff");
  drop();
}

static void test_regex_errors(void) {
  ds_error err;
  ds_regex *r;
  CHECK_FAILS(ds_regex_create("a(", false, "file.json", &r, &err), DS_ERR_UNSUPPORTED, err,
              "\"a(\" can't be used");
  CHECK(r == NULL);
  add(DS_TEXT_SPLIT, NULL, "(x+x+)+[yz]", false);
  char text[4000];
  memset(text, 'x', sizeof text);
  ds_str s = {0};
  CHECK_FAILS(ds_text_steps_run(&steps, scratch, text, sizeof text, true, note, &s, &err),
              DS_ERR_INVALID, err, "gave up");
  ds_str_finish(&s);
  drop();
}

int main(void) {
  scratch = ds_regex_scratch_create();
  CHECK(scratch != NULL);
  test_change();
  test_split();
  test_invalid_text();
  test_regex_errors();
  ds_regex_scratch_destroy(scratch);
  return TEST_RESULT();
}
