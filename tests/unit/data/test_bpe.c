/* The merges against the definition, done naively: over and over, the earliest rule that applies
 * anywhere, at its leftmost place. */
#include "test.h"

#include "base/rng.h"
#include "data/bpe.h"

#include <stdlib.h>
#include <time.h>

enum { RULES = 60, LENGTH = 200 };

static ds_vocab vocab;
static ds_bpe bpe;
static int32_t left_of[RULES], right_of[RULES], made_by[RULES];
static int n_rules;

static void add_token(const char *text, int64_t id) {
  ds_error err;
  CHECK_OK(ds_vocab_add(&vocab, text, strlen(text), id, 0, "test", &err), err);
}

/* Random rules over a, b, c: each joins two tokens that exist. */
static void make_rules(ds_rng *rng) {
  add_token("a", 0);
  add_token("b", 1);
  add_token("c", 2);
  bpe.unk = -1;
  for (n_rules = 0; n_rules < RULES;) {
    int32_t l = (int32_t)ds_rng_below(rng, (uint64_t)vocab.size);
    int32_t r = (int32_t)ds_rng_below(rng, (uint64_t)vocab.size);
    const ds_vocab_entry *left = ds_vocab_entry_of(&vocab, l),
                         *right = ds_vocab_entry_of(&vocab, r);
    char text[256];
    if (left->length + right->length > 12) continue;
    snprintf(text, sizeof text, "%.*s%.*s", (int)left->length, vocab.text.data + left->offset,
             (int)right->length, vocab.text.data + right->offset);
    if (ds_vocab_find(&vocab, text, strlen(text)) < 0) add_token(text, vocab.size);
    bool known = false;
    for (int i = 0; i < n_rules; i++) known |= left_of[i] == l && right_of[i] == r;
    if (known) continue;
    left = ds_vocab_entry_of(&vocab, l);
    right = ds_vocab_entry_of(&vocab, r);
    ds_error err;
    CHECK_OK(ds_bpe_add_merge(&bpe, &vocab, text, left->length, text + left->length, right->length,
                              "test", &err),
             err);
    left_of[n_rules] = l;
    right_of[n_rules] = r;
    made_by[n_rules++] = ds_vocab_find(&vocab, text, strlen(text));
  }
}

static size_t naive(const char *word, size_t n, int32_t *ids) {
  for (size_t i = 0; i < n; i++) ids[i] = word[i] - 'a';
  for (int rule = 0; rule < n_rules; rule++) {
    for (size_t i = 0; i + 1 < n; i++) {
      if (ids[i] != left_of[rule] || ids[i + 1] != right_of[rule]) continue;
      ids[i] = made_by[rule];
      memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
      n--;
      rule = -1; /* an earlier rule may apply now */
      break;
    }
  }
  return n;
}

static void test_against_naive(void) {
  ds_rng rng;
  ds_rng_init(&rng, 7, 0);
  make_rules(&rng);
  ds_bpe_scratch scratch = {0};
  ds_ids ids = {0};
  int bad = 0;
  for (int round = 0; round < 2000; round++) {
    char word[LENGTH];
    int32_t want[LENGTH];
    size_t n = 1 + ds_rng_below(&rng, round % 2 ? 8 : LENGTH - 1);
    for (size_t i = 0; i < n; i++) word[i] = (char)('a' + ds_rng_below(&rng, 3));
    ds_error err;
    ids.count = 0;
    CHECK_OK(ds_bpe_encode(&bpe, &vocab, &scratch, word, n, &ids, &err), err);
    size_t count = naive(word, n, want);
    bad += ids.count != count || memcmp(ids.data, want, count * sizeof *want) != 0;
  }
  CHECK(bad == 0);
  CHECK(scratch.n_words > 100);
  free(ids.data);
  ds_bpe_scratch_finish(&scratch);
}

/* One word of a megabyte is no trap. */
static void test_long_word(void) {
  size_t n = 1 << 20;
  char *word = malloc(n);
  CHECK(word != NULL);
  if (!word) return;
  for (size_t i = 0; i < n; i++) word[i] = (char)('a' + i * i % 7 % 3);
  ds_bpe_scratch scratch = {0};
  ds_ids ids = {0};
  ds_error err;
  clock_t begin = clock();
  CHECK_OK(ds_bpe_encode(&bpe, &vocab, &scratch, word, n, &ids, &err), err);
  CHECK((double)(clock() - begin) / CLOCKS_PER_SEC < 20); /* n^2 would take hours */
  CHECK(ids.count > 0 && ids.count < n);
  free(ids.data);
  free(word);
  ds_bpe_scratch_finish(&scratch);
}

static void test_unknown(void) {
  ds_bpe_scratch scratch = {0};
  ds_ids ids = {0};
  ds_error err;
  CHECK_FAILS(ds_bpe_encode(&bpe, &vocab, &scratch, "axb", 3, &ids, &err), DS_ERR_INVALID, err,
              "no token for \"x\"");
  bpe.unk = 2;
  ds_bpe_scratch_finish(&scratch);
  ids.count = 0;
  CHECK_OK(ds_bpe_encode(&bpe, &vocab, &scratch, "xyz", 3, &ids, &err), err);
  CHECK(ids.count >= 1);
  bpe.fuse_unk = true;
  ds_bpe_scratch_finish(&scratch);
  ids.count = 0;
  CHECK_OK(ds_bpe_encode(&bpe, &vocab, &scratch, "x\xff\xe2\x96\x81", 5, &ids, &err), err);
  CHECK(ids.count == 1 && ids.data[0] == 2);
  free(ids.data);
  ds_bpe_scratch_finish(&scratch);
}

static void test_bad_merges(void) {
  ds_error err;
  CHECK_FAILS(ds_bpe_add_merge(&bpe, &vocab, "q", 1, "a", 1, "m.txt", &err), DS_ERR_FORMAT, err,
              "names \"q\"");
  CHECK_FAILS(ds_bpe_add_merge(&bpe, &vocab, "a", 1, "r", 1, "m.txt", &err), DS_ERR_FORMAT, err,
              "names \"r\"");
  CHECK_FAILS(ds_vocab_add(&vocab, "new", 3, -1, 0, "v.json", &err), DS_ERR_FORMAT, err, "-1");
  CHECK_FAILS(ds_vocab_add(&vocab, "new", 3, DS_VOCAB_LIMIT, 0, "v.json", &err), DS_ERR_FORMAT, err,
              "ids go from 0");
  CHECK_FAILS(ds_vocab_add(&vocab, "new", 3, 0, 0, "v.json", &err), DS_ERR_FORMAT, err,
              "the same id 0");
  CHECK_FAILS(ds_vocab_add(&vocab, "a", 1, 4000, 0, "v.json", &err), DS_ERR_FORMAT, err, "two ids");
}

int main(void) {
  test_against_naive();
  test_long_word();
  test_unknown();
  test_bad_merges();
  ds_bpe_finish(&bpe);
  ds_vocab_finish(&vocab);
  return TEST_RESULT();
}
