/* Loading from folders and files, saving, the begin and end tokens, bytes. */
#include "test.h"

#include "base/file.h"
#include "base/str.h"
#include "ds.h"

#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/dscore-test-tokenizer-XXXXXX";

static const char *const all_files[] = {
    "tokenizer.json",          "vocab.json",  "merges.txt",        "tokenizer_config.json",
    "special_tokens_map.json", "config.json", "added_tokens.json",
};

static char *path_of(const char *name) {
  return ds_path_join(folder, name);
}

/* text NULL: no such file. */
static void put(const char *name, const char *text) {
  char *path = path_of(name);
  ds_error err;
  if (text)
    CHECK_OK(ds_file_write(path, text, strlen(text), &err), err);
  else
    unlink(path);
  free(path);
}

static void clear(void) {
  for (size_t i = 0; i < sizeof all_files / sizeof *all_files; i++) put(all_files[i], NULL);
}

/* {"a": 0, "b": 1, ..., the alphabet of bytes for a-d, and a few tokens} */
static void put_gpt2(void) {
  put("vocab.json", "{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0\":3,\"<|endoftext|>\":4,\"<s>\":5,"
                    "\"</s>\":6,\"\xc4\xa0"
                    "ab\":7}");
  put("merges.txt", "#version: 0.2\na b\n\xc4\xa0 ab\n");
}

static void expect_ids(const ds_tokenizer *t, const char *text, bool special, const char *want) {
  ds_error err;
  int32_t *ids;
  size_t count;
  CHECK_OK(ds_tokenizer_encode(t, text, strlen(text), special, &ids, &count, &err), err);
  ds_str got = {0};
  for (size_t i = 0; i < count; i++) ds_str_printf(&got, "%s%d", i ? " " : "", (int)ids[i]);
  CHECK(strcmp(got.data ? got.data : "", want) == 0);
  ds_str_finish(&got);
  free(ids);
}

static void test_nothing_there(void) {
  ds_error err;
  ds_tokenizer *t;
  CHECK_FAILS(ds_tokenizer_load(folder, &t, &err), DS_ERR_NOT_FOUND, err, "holds no tokenizer");
  CHECK_FAILS(ds_tokenizer_load("/nowhere/at/all", &t, &err), DS_ERR_NOT_FOUND, err,
              "/nowhere/at/all");
  CHECK(t == NULL);
  put("vocab.json", "{\"a\":0}");
  CHECK_FAILS(ds_tokenizer_load(folder, &t, &err), DS_ERR_NOT_FOUND, err, "merges.txt");
  clear();
}

static void test_gpt2_files(void) {
  static const char *const names[] = {"", "vocab.json", "merges.txt"};
  put_gpt2();
  for (int i = 0; i < 3; i++) {
    char *path = path_of(names[i]);
    ds_error err;
    ds_tokenizer *t;
    CHECK_OK(ds_tokenizer_load(path, &t, &err), err);
    expect_ids(t, "ab ab<|endoftext|>", true, "2 7 4");
    CHECK(ds_tokenizer_vocab_size(t) == 8);
    ds_tokenizer_destroy(t);
    free(path);
  }
  put("tokenizer_config.json",
      "{\"add_prefix_space\":true,\"added_tokens_decoder\":{\"9\":{\"content\":\"<x>\"},"
      "\"8\":{\"content\":\"<y>\",\"special\":true}}}");
  put("added_tokens.json", "{\"<z>\":11}");
  ds_error err;
  ds_tokenizer *t;
  CHECK_OK(ds_tokenizer_load(folder, &t, &err), err);
  expect_ids(t, "ab<x>ab<y><z>", true, "7 9 7 8 11");
  CHECK(ds_tokenizer_vocab_size(t) == 12);
  int32_t ids[] = {7, 8, 4, 9};
  char *text;
  size_t length;
  CHECK_OK(ds_tokenizer_decode(t, ids, 4, false, &text, &length, &err), err);
  CHECK(text && strcmp(text, " ab<x>") == 0);
  free(text);
  ids[0] = 10; /* a hole */
  CHECK_FAILS(ds_tokenizer_decode(t, ids, 1, false, &text, &length, &err), DS_ERR_INVALID, err,
              "id 10 (number 0)");
  CHECK(text == NULL);
  ds_tokenizer_destroy(t);
  clear();
}

static void expect_gpt2_error(const char *name, const char *text, const char *message) {
  put_gpt2();
  put(name, text);
  ds_error err;
  ds_tokenizer *t;
  CHECK_FAILS(ds_tokenizer_load(folder, &t, &err), DS_ERR_FORMAT, err, message);
  CHECK(strstr(err.message, folder) != NULL);
  clear();
}

static void test_gpt2_errors(void) {
  expect_gpt2_error("vocab.json", "[1]", "vocab.json must hold an object, not an array");
  expect_gpt2_error("vocab.json", "{}", "vocab.json is empty");
  expect_gpt2_error("vocab.json", "{\"a\":0,", "vocab.json: not valid JSON");
  expect_gpt2_error("vocab.json", "{\"a\":\"0\"}", "id -1");
  expect_gpt2_error("vocab.json", "{\"a\":0,\"b\":0}", "the same id 0");
  expect_gpt2_error("merges.txt", "#version: 0.2\na b\nab\n", "merges.txt, line 3: two tokens");
  expect_gpt2_error("merges.txt", "a b c", "merges.txt, line 1: two tokens");
  expect_gpt2_error("merges.txt", "a q", "merge 1 names \"q\"");
  expect_gpt2_error("added_tokens.json", "{\"x\":-4}", "added_tokens.json");
  expect_gpt2_error("added_tokens.json", "{\"x\":0}", "the same id 0");
  expect_gpt2_error("tokenizer_config.json", "{\"bos_token\":\"<q>\"}",
                    "\"bos_token\" is \"<q>\", which isn't");
  expect_gpt2_error("tokenizer_config.json", "{\"eos_token\":7}", "must be a token, not a number");
  expect_gpt2_error("tokenizer_config.json",
                    "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}", "the id of \"y\"");
  expect_gpt2_error("special_tokens_map.json", "3", "must hold an object, not a number");
}

static void expect_specials(const char *tokenizer_config, const char *map, const char *config,
                            int32_t bos, int32_t eos) {
  put_gpt2();
  put("tokenizer_config.json", tokenizer_config);
  put("special_tokens_map.json", map);
  put("config.json", config);
  ds_error err;
  ds_tokenizer *t;
  CHECK_OK(ds_tokenizer_load(folder, &t, &err), err);
  if (t) CHECK(ds_tokenizer_bos(t) == bos && ds_tokenizer_eos(t) == eos);
  ds_tokenizer_destroy(t);
  clear();
}

static void test_begin_and_end(void) {
  expect_specials(NULL, NULL, NULL, 5, 6); /* by name */
  expect_specials("{\"bos_token\":\"a\",\"eos_token\":{\"content\":\"b\"}}", NULL, NULL, 0, 1);
  expect_specials("{\"bos_token\":null}", "{\"bos_token\":\"a\",\"eos_token\":\"b\"}", NULL, -1, 1);
  expect_specials(NULL, NULL, "{\"bos_token_id\":1,\"eos_token_id\":[2,3]}", 1, 2);
  expect_specials(NULL, NULL, "{\"bos_token_id\":50256,\"eos_token_id\":-1}", 5, 6);
  expect_specials("{\"eos_token\":\"b\"}", NULL, "{\"bos_token_id\":3,\"eos_token_id\":0}", 3, 1);
}

static void test_save(void) {
  put_gpt2();
  put("tokenizer_config.json", "{\"bos_token\":\"a\"}");
  ds_error err;
  ds_tokenizer *t, *again;
  CHECK_OK(ds_tokenizer_load(folder, &t, &err), err);
  clear(); /* what was loaded is kept, whatever happens to the files */
  CHECK_OK(ds_tokenizer_save(t, folder, &err), err);
  CHECK_OK(ds_tokenizer_load(folder, &again, &err), err);
  expect_ids(again, "ab ab", false, "2 7");
  CHECK(ds_tokenizer_bos(again) == 0);
  ds_tokenizer_destroy(t);
  ds_tokenizer_destroy(again);
  clear();
}

static void test_bytes(void) {
  ds_error err;
  ds_tokenizer *t;
  CHECK_OK(ds_tokenizer_bytes(&t, &err), err);
  CHECK(ds_tokenizer_vocab_size(t) == 256);
  CHECK(ds_tokenizer_bos(t) == -1 && ds_tokenizer_eos(t) == -1);
  expect_ids(t, "a\xff\n", true, "97 255 10");
  expect_ids(t, "", true, "");
  int32_t ids[] = {0, 255, 256};
  char *text;
  size_t length;
  CHECK_OK(ds_tokenizer_decode(t, ids, 2, true, &text, &length, &err), err);
  CHECK(length == 2 && text && memcmp(text, "\0\xff", 3) == 0);
  free(text);
  CHECK_FAILS(ds_tokenizer_decode(t, ids, 3, true, &text, &length, &err), DS_ERR_INVALID, err,
              "id 256 (number 2)");
  CHECK_OK(ds_tokenizer_save(t, "/nowhere/at/all", &err), err); /* nothing to write */
  ds_tokenizer_destroy(t);
  ds_tokenizer_destroy(NULL);
}

int main(void) {
  CHECK(mkdtemp(folder) != NULL);
  test_nothing_there();
  test_gpt2_files();
  test_gpt2_errors();
  test_begin_and_end();
  test_save();
  test_bytes();
  CHECK(rmdir(folder) == 0);
  return TEST_RESULT();
}
