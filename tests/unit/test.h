/* test.h - the unit tests' few macros. A test file is a program: main() calls test functions and
 * returns TEST_RESULT(). Every CHECK is counted; a failed one prints where, and the rest still
 * runs. */
#ifndef DS_TEST_H
#define DS_TEST_H

#include "ds_abi.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int test_failures, test_checks;

#define CHECK(cond)                                                                                \
  do {                                                                                             \
    test_checks++;                                                                                 \
    if (!(cond)) {                                                                                 \
      test_failures++;                                                                             \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                   \
    }                                                                                              \
  } while (0)

/* expr gives a ds_status; err is the ds_error it filled. */
#define CHECK_OK(expr, err)                                                                        \
  do {                                                                                             \
    test_checks++;                                                                                 \
    if ((expr) != DS_OK) {                                                                         \
      test_failures++;                                                                             \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr, (err).message);                \
    }                                                                                              \
  } while (0)

/* expr must fail with `want`, and the message must contain `text`. */
#define CHECK_FAILS(expr, want, err, text)                                                         \
  do {                                                                                             \
    test_checks++;                                                                                 \
    (err).message[0] = '\0';                                                                       \
    ds_status test_status_ = (expr);                                                               \
    if (test_status_ != (want) || !strstr((err).message, (text))) {                                \
      test_failures++;                                                                             \
      fprintf(stderr, "%s:%d: %s: status %d, message \"%s\"\n", __FILE__, __LINE__, #expr,         \
              (int)test_status_, (err).message);                                                   \
    }                                                                                              \
  } while (0)

#define CHECK_NEAR(a, b, tolerance)                                                                \
  do {                                                                                             \
    double test_a_ = (a), test_b_ = (b);                                                           \
    test_checks++;                                                                                 \
    if (!(fabs(test_a_ - test_b_) <= (tolerance))) {                                               \
      test_failures++;                                                                             \
      fprintf(stderr, "%s:%d: %s = %.9g, not %.9g\n", __FILE__, __LINE__, #a, test_a_, test_b_);   \
    }                                                                                              \
  } while (0)

static inline int test_result(void) {
  if (test_checks == 0) fprintf(stderr, "no checks ran\n");
  return test_failures || !test_checks ? 1 : 0;
}
#define TEST_RESULT() test_result()

#endif
