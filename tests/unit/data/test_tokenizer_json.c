/* Descriptions that can't be right, or that aren't understood: each is a message, none a crash. */
#include "test.h"

#include "base/str.h"
#include "data/tokenizer_json.h"

#include <stdlib.h>

#define MODEL(rest) "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}" rest "}}"
#define PART(part)  "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"<s>\":2},\"merges\":[]}," part "}"

typedef struct bad {
  const char *text;
  ds_status status;
  const char *message;
} bad;

static const bad table[] = {
    {"", DS_ERR_FORMAT, "t.json"},
    {"[]", DS_ERR_FORMAT, "must hold an object, not an array"},
    {"{}", DS_ERR_FORMAT, "\"model\" must be an object, not nothing"},
    {"{\"version\":\"2.0\"}", DS_ERR_VERSION, "2.0"},
    {"{\"model\":{\"type\":\"Unigram\"}}", DS_ERR_UNSUPPORTED, "the model is Unigram"},
    {"{\"model\":{\"type\":3}}", DS_ERR_FORMAT, "\"type\" must be a string"},
    {"{\"model\":{}}", DS_ERR_FORMAT, "model.vocab must be an object, not nothing"},
    {"{\"model\":{\"vocab\":{}}}", DS_ERR_FORMAT, "model.vocab is empty"},
    {"{\"model\":{\"vocab\":{\"a\":-1}}}", DS_ERR_FORMAT, "id of token \"a\""},
    {"{\"model\":{\"vocab\":{\"a\":1.5}}}", DS_ERR_FORMAT, "not a number 1.5"},
    {"{\"model\":{\"vocab\":{\"a\":1e300}}}", DS_ERR_FORMAT, "id of token \"a\""},
    {"{\"model\":{\"vocab\":{\"a\":\"0\"}}}", DS_ERR_FORMAT, "not a string"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0}}}", DS_ERR_FORMAT, "the same id 0"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"a\":1}}}", DS_ERR_FORMAT, "stands twice"},
    {"{\"model\":{\"vocab\":{\"\\u0000\":0}}}", DS_ERR_UNSUPPORTED, "U+0000"},
    {MODEL(""), DS_ERR_FORMAT, "model.merges must be an array, not nothing"},
    {MODEL(",\"merges\":[\"a b\",\"a c\"]"), DS_ERR_FORMAT, "merge 2 names \"c\""},
    {MODEL(",\"merges\":[\"b a\"]"), DS_ERR_FORMAT, "merge 1 makes \"ba\""},
    {MODEL(",\"merges\":[\"ab\"]"), DS_ERR_FORMAT, "merge 1 must be two tokens"},
    {MODEL(",\"merges\":[\"a b c\"]"), DS_ERR_FORMAT, "merge 1 must be two tokens"},
    {MODEL(",\"merges\":[[\"a\"]]"), DS_ERR_FORMAT, "merge 1 must be"},
    {MODEL(",\"merges\":[[\"a\",\"b\",\"c\"]]"), DS_ERR_FORMAT, "merge 1 must be"},
    {MODEL(",\"merges\":[7]"), DS_ERR_FORMAT, "not a number"},
    {MODEL(",\"merges\":[],\"dropout\":0.1"), DS_ERR_UNSUPPORTED, "dropout is 0.1"},
    {MODEL(",\"merges\":[],\"end_of_word_suffix\":\"</w>\""), DS_ERR_UNSUPPORTED,
     "end_of_word_suffix"},
    {MODEL(",\"merges\":[],\"unk_token\":\"?\""), DS_ERR_FORMAT, "unk_token \"?\""},
    {MODEL(",\"merges\":[],\"byte_fallback\":true"), DS_ERR_FORMAT, "\"<0x00>\""},
    {MODEL(",\"merges\":[],\"fuse_unk\":1"), DS_ERR_FORMAT, "\"fuse_unk\" must be true or false"},
    {PART("\"added_tokens\":{}"), DS_ERR_FORMAT, "added_tokens must be an array"},
    {PART("\"added_tokens\":[5]"), DS_ERR_FORMAT, "added_tokens must hold objects"},
    {PART("\"added_tokens\":[{\"id\":9}]"), DS_ERR_FORMAT, "an added token is empty"},
    {PART("\"added_tokens\":[{\"content\":\"x\"}]"), DS_ERR_FORMAT, "id of token \"x\""},
    {PART("\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]"), DS_ERR_FORMAT, "the same id 0"},
    {PART("\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]"), DS_ERR_FORMAT, "two ids"},
    {PART("\"added_tokens\":[{\"id\":7,\"content\":\"x\"},{\"id\":7,\"content\":\"x\"}]"),
     DS_ERR_FORMAT, "stands twice"},
    {PART("\"added_tokens\":[{\"id\":7,\"content\":\"x\",\"single_word\":true}]"),
     DS_ERR_UNSUPPORTED, "single_word"},
    {PART("\"normalizer\":{\"type\":\"NFKC\"}"), DS_ERR_UNSUPPORTED, "normalizer NFKC"},
    {PART("\"normalizer\":3"), DS_ERR_FORMAT, "normalizer must be an object"},
    {PART("\"normalizer\":{}"), DS_ERR_FORMAT, "a normalizer has no type"},
    {PART("\"normalizer\":{\"type\":\"Prepend\"}"), DS_ERR_FORMAT, "Prepend needs \"prepend\""},
    {PART("\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"}}"), DS_ERR_FORMAT,
     "Replace needs \"String\""},
    {PART("\"pre_tokenizer\":{\"type\":\"Sequence\"}"), DS_ERR_FORMAT, "pretokenizers"},
    {PART("\"pre_tokenizer\":{\"type\":\"Whitespace\"}"), DS_ERR_UNSUPPORTED,
     "pre_tokenizer Whitespace"},
    {PART("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[\"},\"behavior\":"
          "\"Isolated\"}"),
     DS_ERR_UNSUPPORTED, "regular expression \"[\""},
    {PART("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":"
          "\"Contiguous\"}"),
     DS_ERR_UNSUPPORTED, "Contiguous"},
    {PART("\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
          "{\"type\":\"Digits\"}]}"),
     DS_ERR_UNSUPPORTED, "Digits behind ByteLevel"},
    {PART("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
          "\"odd\"}"),
     DS_ERR_UNSUPPORTED, "prepend_scheme odd"},
    {PART("\"post_processor\":{\"type\":\"BertProcessing\"}"), DS_ERR_UNSUPPORTED,
     "post_processor BertProcessing"},
    {PART("\"post_processor\":{\"type\":\"TemplateProcessing\"}"), DS_ERR_FORMAT, "\"single\""},
    {PART("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"), DS_ERR_FORMAT,
     "leaves out the text"},
    {PART("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
          "{\"id\":\"<s>\"}}]}"),
     DS_ERR_FORMAT, "special_tokens has no ids"},
    {PART("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
          "{\"id\":\"<s>\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[99]}}}"),
     DS_ERR_FORMAT, "isn't in the vocabulary"},
    {PART("\"decoder\":{\"type\":\"WordPiece\"}"), DS_ERR_UNSUPPORTED, "decoder WordPiece"},
    {PART("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1}"), DS_ERR_FORMAT,
     "\"start\""},
};

static void test_bad(void) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    ds_error err;
    ds_tokenizer_bpe *t;
    CHECK_FAILS(ds_tokenizer_json_create(table[i].text, strlen(table[i].text), "t.json", &t, &err),
                table[i].status, err, table[i].message);
    CHECK(t == NULL);
    CHECK(strncmp(err.message, "t.json", 6) == 0);
  }
}

/* Every truncation of a good file fails, at the file's name. */
static void test_truncated(void) {
  static const char good[] =
      "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":2,\"content\":\"<s>\",\"special\":true}],"
      "\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,"
      "\"\\u2581a\":3,\"\\u2581\":4},\"merges\":[[\"\\u2581\",\"a\"]]}}";
  ds_tokenizer_bpe *t;
  ds_error err;
  CHECK_OK(ds_tokenizer_json_create(good, sizeof good - 1, "t.json", &t, &err), err);
  ds_tokenizer_bpe_destroy(t);
  for (size_t n = 0; n < sizeof good - 1; n++)
    CHECK_FAILS(ds_tokenizer_json_create(good, n, "t.json", &t, &err), DS_ERR_FORMAT, err,
                "t.json");
}

/* Text -> ids, as a string. */
static void expect_ids(const char *json, const char *text, bool special, const char *want) {
  ds_error err;
  ds_tokenizer_bpe *t;
  ds_ids ids = {0};
  CHECK_OK(ds_tokenizer_json_create(json, strlen(json), "t.json", &t, &err), err);
  if (!t) return;
  CHECK_OK(ds_tokenizer_bpe_vtable.encode(t, text, strlen(text), special, &ids, &err), err);
  ds_str got = {0};
  for (size_t i = 0; i < ids.count; i++)
    ds_str_printf(&got, "%s%d", i ? " " : "", (int)ids.data[i]);
  CHECK(strcmp(got.data ? got.data : "", want) == 0);
  if (strcmp(got.data ? got.data : "", want) != 0)
    fprintf(stderr, "  \"%s\" gave %s, not %s\n", text, got.data ? got.data : "", want);
  ds_str_finish(&got);
  free(ids.data);
  ds_tokenizer_bpe_destroy(t);
}

#define SMALL                                                                                      \
  "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"_\":3,\"abb\":4},"                             \
  "\"merges\":[\"a b\",[\"ab\",\"b\"]]}"

static void test_small(void) {
  expect_ids("{" SMALL "}", "abbab", false, "4 2");
  expect_ids("{" SMALL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Removed\","
             "\"pattern\":{\"String\":\"_\"}}}",
             "ab_b_a", false, "2 1 0");
  expect_ids("{" SMALL ",\"added_tokens\":[{\"id\":5,\"content\":\"bb\"},{\"id\":6,\"content\":"
             "\"bba\",\"special\":true}]}",
             "abba", false, "0 5 0");
  expect_ids("{" SMALL ",\"added_tokens\":[{\"id\":5,\"content\":\"bb\"},{\"id\":6,\"content\":"
             "\"bba\",\"special\":true}]}",
             "abba", true, "0 6");
  expect_ids("{" SMALL ",\"added_tokens\":[{\"id\":5,\"content\":\"#\",\"lstrip\":true,\"rstrip\":"
             "true}]}",
             "a \t# \xe3\x80\x80"
             "b",
             false, "0 5 1");
}

int main(void) {
  test_bad();
  test_truncated();
  test_small();
  return TEST_RESULT();
}
