/* What the tokenizers library makes of tricky texts (tests/golden/gen_tokenizers.py), and that
 * every text comes back from its tokens. */
#include "test.h"

#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "ds.h"

#include <stdlib.h>

#define GOLDEN DS_SOURCE_ROOT "/tests/golden/tokenizers/"

static const char *const names[] = {"gpt2", "byte_level", "sentencepiece", "metaspace"};
enum { N_NAMES = sizeof names / sizeof *names };
static ds_tokenizer *tokenizers[N_NAMES];

static void load_all(void) {
  for (int i = 0; i < N_NAMES; i++) {
    ds_error err;
    char *path = ds_path_join(GOLDEN, names[i]);
    CHECK_OK(ds_tokenizer_load(path, &tokenizers[i], &err), err);
    free(path);
  }
}

static ds_tokenizer *by_name(const char *name) {
  for (int i = 0; i < N_NAMES; i++)
    if (strcmp(names[i], name) == 0) return tokenizers[i];
  return NULL;
}

static int text_of(const cJSON *item, const char *key, const char *fallback, const char **out) {
  const cJSON *text = cJSON_GetObjectItemCaseSensitive(item, key);
  *out = cJSON_IsString(text) ? text->valuestring : fallback;
  return *out != NULL;
}

static void check_decoded(const ds_tokenizer *t, const int32_t *ids, size_t count, bool special,
                          const char *want) {
  ds_error err;
  char *text;
  size_t length;
  CHECK_OK(ds_tokenizer_decode(t, ids, count, special, &text, &length, &err), err);
  if (!text) return;
  CHECK(length == strlen(want) && memcmp(text, want, length) == 0);
  if (length != strlen(want) || memcmp(text, want, length) != 0)
    fprintf(stderr, "  decoded \"%s\"\n  not     \"%s\"\n", text, want);
  free(text);
}

static bool same_ids(const cJSON *want, const int32_t *ids, size_t count) {
  size_t i = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, want) {
    if (i >= count || ids[i] != item->valueint) return false;
    i++;
  }
  return i == count;
}

static void check_case(const cJSON *item) {
  const char *name, *text, *decoded, *decoded_special;
  if (!text_of(item, "tokenizer", NULL, &name) || !text_of(item, "text", NULL, &text)) return;
  const ds_tokenizer *t = by_name(name);
  CHECK(t != NULL);
  if (!t) return;
  bool special = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(item, "special"));
  ds_error err;
  int32_t *ids;
  size_t count;
  CHECK_OK(ds_tokenizer_encode(t, text, strlen(text), special, &ids, &count, &err), err);
  if (!ids) return;
  bool same = same_ids(cJSON_GetObjectItemCaseSensitive(item, "ids"), ids, count);
  CHECK(same);
  if (!same) {
    fprintf(stderr, "  %s, special %d, \"%s\":", name, special, text);
    for (size_t i = 0; i < count; i++) fprintf(stderr, " %d", (int)ids[i]);
    fprintf(stderr, "\n");
  }
  text_of(item, "decoded", text, &decoded);
  text_of(item, "decoded_special", text, &decoded_special);
  check_decoded(t, ids, count, false, decoded);
  check_decoded(t, ids, count, true, decoded_special);
  free(ids);
}

static void test_cases(void) {
  ds_error err;
  cJSON *golden;
  CHECK_OK(ds_json_load(GOLDEN "golden.json", 1 << 20, 0, &golden, &err), err);
  int n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, golden) {
    check_case(item);
    n++;
  }
  CHECK(n > 250);
  cJSON_Delete(golden);
}

/* Any bytes at all come back from a byte-level tokenizer, and from one with byte fallback. */
static void test_bytes_come_back(void) {
  char text[4096];
  unsigned state = 1;
  for (int round = 0; round < 200; round++) {
    size_t n = 1 + (state >> 8) % (round < 100 ? 20 : sizeof text - 1);
    for (size_t i = 0; i < n; i++) {
      state = state * 1664525u + 1013904223u;
      unsigned r = state >> 16;
      /* a mix of any bytes, letters and blanks, with pieces of UTF-8 */
      char any = (char)(r >> 8), word = "the \n"[(r >> 8) % 5];
      char part = "\xe2\x96\x81\xc3\xa9 a'"[(r >> 8) % 8];
      text[i] = r % 4 == 0 ? any : r % 4 == 1 ? word : part;
    }
    for (int k = 0; k < 3; k++) {
      ds_error err;
      int32_t *ids;
      size_t count, length;
      char *back;
      CHECK_OK(ds_tokenizer_encode(tokenizers[k], text, n, false, &ids, &count, &err), err);
      CHECK_OK(ds_tokenizer_decode(tokenizers[k], ids, count, true, &back, &length, &err), err);
      /* The SentencePiece kind can't tell its mark from a space. */
      char *want = malloc(n), *p = want;
      for (size_t i = 0; i < n; i++) {
        bool mark = k == 2 && i + 2 < n && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        *p++ = mark ? ' ' : text[i];
        i += mark ? 2 : 0;
      }
      CHECK(back && length == (size_t)(p - want) && memcmp(back, want, length) == 0);
      free(want);
      free(back);
      free(ids);
    }
  }
}

static void test_begin_and_end(void) {
  CHECK(ds_tokenizer_bos(by_name("gpt2")) == 0 && ds_tokenizer_eos(by_name("gpt2")) == 0);
  CHECK(ds_tokenizer_bos(by_name("sentencepiece")) == 1);
  CHECK(ds_tokenizer_eos(by_name("sentencepiece")) == 2);
}

int main(void) {
  load_all();
  test_cases();
  test_bytes_come_back();
  test_begin_and_end();
  for (int i = 0; i < N_NAMES; i++) ds_tokenizer_destroy(tokenizers[i]);
  return TEST_RESULT();
}
