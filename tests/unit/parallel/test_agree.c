/* Facts as text, and the first difference between two lists. (Among ranks: tests/dist/test_disagree.c.) */
#include "parallel/agree.h"

#include "test.h"

#include <stdlib.h>

static ds_agree list(const char *const *pairs, int n) {
  ds_agree a = {0};
  for (int i = 0; i < n; i++) ds_agree_add(&a, pairs[2 * i], "%s", pairs[2 * i + 1]);
  return a;
}

#define LIST(...)                                                                                  \
  list((const char *const[]){__VA_ARGS__},                                                         \
       (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *) / 2))

static bool differ(ds_agree a, ds_agree b, char *out, size_t room) {
  bool is =
      ds_agree_compare(a.facts.data, a.facts.length, b.facts.data, b.facts.length, 2, out, room);
  ds_agree_finish(&a);
  ds_agree_finish(&b);
  return is;
}

static void test_compare(void) {
  char text[512] = "";
  CHECK(!differ(LIST("a", "1", "b", "2"), LIST("a", "1", "b", "2"), text, sizeof text));
  CHECK(!differ(LIST("a", "1", "b", "2"), LIST("b", "2", "a", "1"), text, sizeof text));
  CHECK(!differ((ds_agree){0}, (ds_agree){0}, text, sizeof text));
  CHECK(differ(LIST("a", "1", "b", "4"), LIST("a", "1", "b", "8"), text, sizeof text));
  CHECK(strncmp(text, "ranks disagree: \"b\" is 4 on rank 0 but 8 on rank 2; ", 52) == 0);
  /* The first of rank 0's. */
  CHECK(differ(LIST("a", "1", "b", "4"), LIST("b", "8", "a", "9"), text, sizeof text));
  CHECK(strstr(text, "\"a\" is 1 on rank 0 but 9 on rank 2") != NULL);
  /* Of one only. */
  CHECK(differ(LIST("a", "1", "b", "4"), LIST("a", "1"), text, sizeof text));
  CHECK(strstr(text, "\"b\" is 4 on rank 0 but not there on rank 2") != NULL);
  CHECK(differ(LIST("a", "1"), LIST("c", "7", "a", "1"), text, sizeof text));
  CHECK(strstr(text, "\"c\" is not there on rank 0 but 7 on rank 2") != NULL);
  CHECK(differ((ds_agree){0}, LIST("c", "7"), text, sizeof text));
}

/* Texts of any length; of long ones the place that differs is shown. */
static void test_long(void) {
  static char one[3000], other[3000];
  char text[512];
  memset(one, 'x', sizeof one - 1);
  memset(other, 'x', sizeof other - 1);
  CHECK(!differ(LIST("k", one), LIST("k", other), text, sizeof text));
  memcpy(one + 2900, "left", 4);
  memcpy(other + 2900, "right", 5);
  CHECK(differ(LIST("k", one), LIST("k", other), text, sizeof text));
  CHECK(strstr(text, "left") && strstr(text, "right"));
}

/* A list that was cut anywhere is read as far as it goes, and never beyond. */
static void test_cut(void) {
  char text[512];
  ds_agree a = LIST("a", "1", "bc", "23");
  for (size_t n = 0; n <= a.facts.length; n++) {
    char *cut = malloc(n > 0 ? n : 1);
    if (!cut) return;
    memcpy(cut, a.facts.data, n);
    CHECK(ds_agree_compare(cut, n, a.facts.data, a.facts.length, 1, text, sizeof text) ==
          (n < a.facts.length));
    free(cut);
  }
  ds_agree_finish(&a);
}

static void test_json(void) {
  static const char *const but[] = {"local", "deep.path"};
  ds_error err;
  cJSON *tree = NULL;
  const char *config = "{\"stage\": 2, \"deep\": {\"x\": [1, 2], \"path\": \"/a\", \"pathology\": "
                       "true}, \"local\": {\"a\": 1}, \"locals\": \"b\"}";
  ds_agree a = {0};
  CHECK_OK(ds_json_parse(config, strlen(config), 0, "config", &tree, &err), err);
  ds_agree_add_json(&a, "", tree, but, 2);
  CHECK_OK(ds_agree_status(&a, &err), err);
  const char wanted[] = "stage\0002\0deep.x\0[1,2]\0deep.pathology\0true\0locals\0\"b\"";
  CHECK(a.facts.length == sizeof wanted && memcmp(a.facts.data, wanted, sizeof wanted) == 0);
  ds_agree_finish(&a);
  cJSON_Delete(tree);
}

static void test_alone(void) {
  ds_error err;
  ds_world w = {.size = 1};
  ds_agree a = LIST("a", "1");
  CHECK_OK(ds_agree_check(&a, &w, &err), err);
  ds_agree_finish(&a);
}

int main(void) {
  test_compare();
  test_long();
  test_cut();
  test_json();
  test_alone();
  return TEST_RESULT();
}
