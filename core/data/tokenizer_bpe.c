#include "data/tokenizer_bpe.h"

#include <stdlib.h>
#include <string.h>

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* SentencePiece's mark for a space, U+2581. */
static const char space_mark[] = "\xe2\x96\x81";

ds_tokenizer_bpe *ds_tokenizer_bpe_create(void) {
  ds_tokenizer_bpe *t = calloc(1, sizeof *t);
  if (t) t->bpe.unk = -1;
  return t;
}

void ds_tokenizer_bpe_destroy(void *self) {
  ds_tokenizer_bpe *t = self;
  if (!t) return;
  ds_vocab_finish(&t->vocab);
  ds_bpe_finish(&t->bpe);
  ds_added_tokens_finish(&t->added);
  ds_text_steps_finish(&t->normalizer);
  ds_text_steps_finish(&t->pretokenizer);
  ds_token_decoder_finish(&t->decoder);
  free(t->prefix.data);
  free(t->suffix.data);
  free(t);
}

/* ---------------------------------------------------------------- building */

ds_status ds_tokenizer_bpe_add_token(ds_tokenizer_bpe *t, const char *text,
                                     const ds_added_token *like, const char *name, ds_error *err) {
  ds_added_token token = *like;
  token.length = strlen(text);
  if (token.length == 0) return ds_fail(err, DS_ERR_FORMAT, "%s: an added token is empty", name);
  uint32_t flags = DS_TOKEN_ADDED | (token.special ? DS_TOKEN_SPECIAL : 0u);
  int32_t known = ds_vocab_find(&t->vocab, text, token.length);
  if (known >= 0 && known == token.id) {
    if (t->vocab.entries[known].flags & DS_TOKEN_ADDED)
      return ds_fail(err, DS_ERR_FORMAT, "%s: the added token \"%.60s\" stands twice", name, text);
    t->vocab.entries[known].flags |= flags;
  } else {
    DS_TRY(ds_vocab_add(&t->vocab, text, token.length, token.id, flags, name, err));
  }
  token.text = strdup(text);
  if (!token.text) return ds_fail_memory(err, name);
  ds_status status = ds_added_tokens_add(&t->added, &token, err);
  if (status != DS_OK) free(token.text);
  return status;
}

ds_status ds_tokenizer_bpe_byte_level(ds_tokenizer_bpe *t, bool add_prefix_space, bool use_regex,
                                      const char *name, ds_error *err) {
  ds_text_step *step;
  t->bpe.byte_level = true;
  if (add_prefix_space) {
    DS_TRY(ds_text_steps_add(&t->pretokenizer, DS_TEXT_PREPEND, " ", &step, err));
    step->unless_there = true;
  }
  if (!use_regex) return DS_OK;
  DS_TRY(ds_text_steps_add(&t->pretokenizer, DS_TEXT_SPLIT, NULL, &step, err));
  return ds_regex_create(gpt2_pattern, false, name, &step->pattern, err);
}

/* ds_text_fn: appends to a string. */
static ds_status append_text(void *ctx, const char *text, size_t length, bool first,
                             ds_error *err) {
  (void)first;
  ds_str_append(ctx, text, length);
  return ds_str_status(ctx, err);
}

/* Tokens that are looked for in normalized text must look like it themselves. */
static ds_status normalize_added(ds_tokenizer_bpe *t, ds_error *err) {
  ds_regex_scratch *scratch = ds_regex_scratch_create();
  if (!scratch) return ds_fail_memory(err, "tokenizer");
  ds_status status = DS_OK;
  for (size_t i = 0; i < t->added.count && status == DS_OK; i++) {
    ds_added_token *token = &t->added.items[i];
    if (!token->normalized) continue;
    ds_str s = {0};
    status = ds_text_steps_run(&t->normalizer, scratch, token->text, token->length, false,
                               append_text, &s, err);
    if (status == DS_OK && s.length > 0) {
      token->length = s.length;
      free(token->text);
      token->text = ds_str_take(&s);
    }
    ds_str_finish(&s);
  }
  ds_regex_scratch_destroy(scratch);
  return status;
}

/* Whether no merge ever joins a token that doesn't end in the space mark to one that begins with
 * it. Then words can be merged on their own, and remembered: what SentencePiece-style tokenizers
 * do to a whole text comes out the same, sooner. */
static bool marks_begin_words(const ds_tokenizer_bpe *t) {
  size_t n = sizeof space_mark - 1;
  if (ds_vocab_find(&t->vocab, space_mark, n) < 0) return false;
  for (size_t i = 0; i < t->bpe.n_slots; i++) {
    if (t->bpe.slots[i].rank == DS_BPE_NO_RANK) continue;
    const ds_vocab_entry *l = &t->vocab.entries[t->bpe.slots[i].pair >> 32];
    const ds_vocab_entry *r = &t->vocab.entries[(uint32_t)t->bpe.slots[i].pair];
    const char *left = t->vocab.text.data + l->offset, *right = t->vocab.text.data + r->offset;
    bool ends = l->length >= n && memcmp(left + l->length - n, space_mark, n) == 0;
    bool begins = r->length >= n && memcmp(right, space_mark, n) == 0;
    if (begins && !ends) return false;
  }
  return true;
}

ds_status ds_tokenizer_bpe_prepare(ds_tokenizer_bpe *t, const char *name, ds_error *err) {
  DS_TRY(ds_bpe_prepare(&t->bpe, &t->vocab, name, err));
  DS_TRY(normalize_added(t, err));
  ds_added_tokens_index(&t->added);
  if (!t->bpe.byte_level && !t->bpe.ignore_merges && marks_begin_words(t)) {
    ds_text_step *step;
    DS_TRY(ds_text_steps_add(&t->pretokenizer, DS_TEXT_SPLIT_BEFORE, space_mark, &step, err));
    step->keep_runs = true;
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- encoding */

typedef struct encoder {
  const ds_tokenizer_bpe *t;
  bool special;
  ds_regex_scratch *regex;
  ds_bpe_scratch bpe;
  ds_ids *ids;
} encoder;

/* ds_text_fn: a word. */
static ds_status encode_word(void *ctx, const char *text, size_t length, bool first,
                             ds_error *err) {
  (void)first;
  encoder *e = ctx;
  return ds_bpe_encode(&e->t->bpe, &e->t->vocab, &e->bpe, text, length, e->ids, err);
}

/* Takes the added tokens of one table out of the text; what is between them goes on to steps. */
static ds_status around_added(encoder *e, bool normalized, const ds_text_steps *steps,
                              ds_text_fn fn, const char *text, size_t length, bool first,
                              ds_error *err) {
  size_t done = 0, begin, end;
  int32_t id;
  while (ds_added_tokens_find(&e->t->added, normalized, e->special, text, length, done, &begin,
                              &end, &id)) {
    DS_TRY(ds_text_steps_run(steps, e->regex, text + done, begin - done, first && done == 0, fn, e,
                             err));
    DS_TRY(ds_ids_append(e->ids, &id, 1, err));
    done = end;
  }
  return ds_text_steps_run(steps, e->regex, text + done, length - done, first && done == 0, fn, e,
                           err);
}

/* ds_text_fn: a stretch of normalized text. */
static ds_status encode_normalized(void *ctx, const char *text, size_t length, bool first,
                                   ds_error *err) {
  encoder *e = ctx;
  return around_added(e, true, &e->t->pretokenizer, encode_word, text, length, first, err);
}

static ds_status encode(const void *self, const char *text, size_t length, bool special,
                        ds_ids *ids, ds_error *err) {
  encoder e = {.t = self, .special = special, .ids = ids};
  e.regex = ds_regex_scratch_create();
  if (!e.regex) return ds_fail_memory(err, "tokenizer");
  ds_status status = DS_OK;
  if (special) status = ds_ids_append(ids, e.t->prefix.data, e.t->prefix.count, err);
  if (status == DS_OK)
    status = around_added(&e, false, &e.t->normalizer, encode_normalized, text, length, true, err);
  if (status == DS_OK && special)
    status = ds_ids_append(ids, e.t->suffix.data, e.t->suffix.count, err);
  ds_bpe_scratch_finish(&e.bpe);
  ds_regex_scratch_destroy(e.regex);
  return status;
}

/* ---------------------------------------------------------------- decoding */

static ds_status decode(const void *self, const int32_t *ids, size_t count, bool special,
                        ds_str *out, ds_error *err) {
  const ds_tokenizer_bpe *t = self;
  ds_token_texts texts = {0};
  ds_status status = DS_OK;
  for (size_t i = 0; i < count && status == DS_OK; i++) {
    const ds_vocab_entry *e = ds_vocab_entry_of(&t->vocab, ids[i]);
    if (!e) {
      status = ds_fail(err, DS_ERR_INVALID,
                       "id %d (number %zu) isn't in the vocabulary, which has ids from 0 to %d",
                       (int)ids[i], i, (int)t->vocab.size - 1);
    } else if (special || !(e->flags & DS_TOKEN_SPECIAL)) {
      ds_str_append(&texts.text, t->vocab.text.data + e->offset, e->length);
      status = ds_token_texts_end(&texts, (e->flags & DS_TOKEN_ADDED) != 0, err);
    }
  }
  if (status == DS_OK) status = ds_token_decoder_run(&t->decoder, &texts, err);
  if (status == DS_OK) {
    ds_str_append(out, texts.text.data, texts.text.length);
    status = ds_str_status(out, err);
  }
  ds_token_texts_finish(&texts);
  return status;
}

static int32_t vocab_size(const void *self) {
  return ((const ds_tokenizer_bpe *)self)->vocab.size;
}

static int32_t find(const void *self, const char *text) {
  return ds_vocab_find(&((const ds_tokenizer_bpe *)self)->vocab, text, strlen(text));
}

static bool has(const void *self, int64_t id) {
  return ds_vocab_entry_of(&((const ds_tokenizer_bpe *)self)->vocab, id) != NULL;
}

const ds_tokenizer_vtable ds_tokenizer_bpe_vtable = {
    ds_tokenizer_bpe_destroy, vocab_size, find, has, encode, decode};
