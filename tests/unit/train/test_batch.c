/* Batch arithmetic as a table: DeepSpeed's rule, and every way to get it wrong. */
#include "train/batch.h"

#include "test.h"

enum { U = -9999 }; /* unset */

static int64_t given(int v) {
  return v == U ? DS_BATCH_UNSET : v;
}

static void test_good(void) {
  static const struct {
    int t, m, g, w, want_t, want_m, want_g;
  } rows[] = {
      {16, 4, 2, 2, 16, 4, 2}, /* all three: checked */
      {32, 4, U, 2, 32, 4, 4}, /* G = T/M/W */
      {32, U, 4, 2, 32, 4, 4}, /* M = T/W/G */
      {U, 4, 2, 3, 24, 4, 2},  /* T = M G W */
      {12, U, U, 3, 12, 4, 1}, /* T alone */
      {U, 5, U, 4, 20, 5, 1},  /* M alone */
      {1, U, U, 1, 1, 1, 1},   {U, 1, U, 1, 1, 1, 1}, {7, 7, U, 1, 7, 7, 1},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ds_error err;
    ds_batch_sizes s = {given(rows[i].t), given(rows[i].m), given(rows[i].g)};
    CHECK_OK(ds_batch_resolve(&s, rows[i].w, "a test", false, &err), err);
    CHECK(s.train == rows[i].want_t && s.micro == rows[i].want_m &&
          s.accumulation == rows[i].want_g);
  }
}

static void test_bad(void) {
  static const struct {
    int t, m, g, w;
    const char *message;
  } rows[] = {
      {U, U, U, 1,
       "Either train_batch_size or train_micro_batch_size_per_gpu needs to be provided"},
      {U, U, 4, 1,
       "Either train_batch_size or train_micro_batch_size_per_gpu needs to be provided"},
      {10, 4, 2, 2, "10 != 4 * 2 * 2 (world size 2: a test)"},
      {10, 4, U, 1,
       "10 != 4 * 2 * 1 (derived gradient_accumulation_steps = 10 / 4 / 1 = 2; world "
       "size 1: a test)"},
      {4, 4, U, 2,
       "gradient_accumulation_steps has to be greater than 0, but comes out as 0: derived"
       " gradient_accumulation_steps = 4 / 4 / 2 = 0, with world size 2 (a test)"},
      {2, U, 4, 1, "train_micro_batch_size_per_gpu has to be greater than 0, but comes out as 0"},
      {3, U, U, 2, "3 != 1 * 1 * 2"},
      {1, U, U, 2, "train_micro_batch_size_per_gpu has to be greater than 0"},
      {0, U, U, 1, "train_batch_size: 0 has to be greater than 0"},
      {-8, 4, 2, 1, "train_batch_size: -8 has to be greater than 0"},
      {8, 0, U, 1, "train_micro_batch_size_per_gpu: 0 has to be greater than 0"},
      {8, -4, -2, 1, "train_micro_batch_size_per_gpu: -4 has to be greater than 0"},
      {8, U, 0, 1, "has to be greater than 0"},
      {8, 4, 0, 1, "gradient_accumulation_steps: 0 has to be greater than 0"},
      {U, 0, U, 1, "has to be greater than 0"},
      {U, -1, -1, 1, "train_micro_batch_size_per_gpu: -1 has to be greater than 0"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ds_error err;
    ds_batch_sizes s = {given(rows[i].t), given(rows[i].m), given(rows[i].g)}, before = s;
    CHECK_FAILS(ds_batch_resolve(&s, rows[i].w, "a test", false, &err), DS_ERR_INVALID, err,
                rows[i].message);
    CHECK(memcmp(&s, &before, sizeof s) == 0);
  }
}

static void test_extremes(void) {
  ds_error err;
  ds_batch_sizes s = {DS_BATCH_UNSET, INT64_MAX, 2};
  CHECK_FAILS(ds_batch_resolve(&s, 3, "a test", false, &err), DS_ERR_INVALID, err,
              "train_batch_size");
  s = (ds_batch_sizes){INT64_MIN + 1, -1, DS_BATCH_UNSET};
  CHECK_FAILS(ds_batch_resolve(&s, 1, "a test", false, &err), DS_ERR_INVALID, err,
              "greater than 0");
  s = (ds_batch_sizes){DS_BATCH_UNSET, DS_BATCH_UNSET, DS_BATCH_UNSET}; /* all "auto" */
  CHECK_OK(ds_batch_resolve(&s, 3, "a test", true, &err), err);
  CHECK(s.train == 3 && s.micro == 1 && s.accumulation == 1);
  s = (ds_batch_sizes){12, DS_BATCH_UNSET, DS_BATCH_UNSET};
  CHECK_OK(ds_batch_resolve(&s, 3, "a test", true, &err), err);
  CHECK(s.micro == 4 && s.accumulation == 1);
}

int main(void) {
  test_good();
  test_bad();
  test_extremes();
  return TEST_RESULT();
}
