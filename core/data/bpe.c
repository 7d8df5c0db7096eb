#include "data/bpe.h"

#include "data/byte_level.h"
#include "data/hash.h"
#include "data/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  WORD_LENGTH_LIMIT = 64, /* longer words seldom come again */
  WORDS_LIMIT = 1 << 16   /* remembered words; more would fall out of the processor's cache */
};

ds_status ds_ids_append(ds_ids *ids, const int32_t *data, size_t count, ds_error *err) {
  DS_TRY(ds_reserve(&ids->data, &ids->capacity, ids->count + count, sizeof *data, "tokens", err));
  if (count) memcpy(ids->data + ids->count, data, count * sizeof *data);
  ids->count += count;
  return DS_OK;
}

void ds_bpe_finish(ds_bpe *b) {
  free(b->slots);
  free(b->merged);
  memset(b, 0, sizeof *b);
}

void ds_bpe_scratch_finish(ds_bpe_scratch *s) {
  free(s->symbols);
  free(s->heap);
  ds_str_finish(&s->mapped);
  free(s->words);
  ds_str_finish(&s->word_text);
  free(s->word_ids.data);
  memset(s, 0, sizeof *s);
}

static uint64_t pair_key(int32_t left, int32_t right) {
  return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static ds_bpe_merge *merge_slot(const ds_bpe *b, uint64_t pair) {
  size_t mask = b->n_slots - 1;
  size_t i = ds_hash_u64(pair) & mask;
  while (b->slots[i].rank != DS_BPE_NO_RANK && b->slots[i].pair != pair) i = (i + 1) & mask;
  return &b->slots[i];
}

static ds_status grow_merges(ds_bpe *b, ds_error *err) {
  size_t n = b->n_slots ? b->n_slots * 2 : 512;
  ds_bpe_merge *slots = malloc(n * sizeof *slots);
  if (!slots) return ds_fail_memory(err, "merges");
  for (size_t i = 0; i < n; i++) slots[i] = (ds_bpe_merge){0, DS_BPE_NO_RANK};
  ds_bpe_merge *old = b->slots;
  size_t n_old = b->n_slots;
  b->slots = slots;
  b->n_slots = n;
  for (size_t i = 0; i < n_old; i++)
    if (old[i].rank != DS_BPE_NO_RANK) *merge_slot(b, old[i].pair) = old[i];
  free(old);
  return DS_OK;
}

ds_status ds_bpe_add_merge(ds_bpe *b, const ds_vocab *v, const char *left, size_t left_length,
                           const char *right, size_t right_length, const char *name,
                           ds_error *err) {
  int32_t l = ds_vocab_find(v, left, left_length);
  int32_t r = ds_vocab_find(v, right, right_length);
  if (l < 0 || r < 0) {
    const char *missing = l < 0 ? left : right;
    size_t length = l < 0 ? left_length : right_length;
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: merge %zu names \"%.*s\", which isn't in the vocabulary", name,
                   b->n_merges + 1, length > 60 ? 60 : (int)length, missing);
  }
  ds_str both = {0};
  ds_str_append(&both, left, left_length);
  ds_str_append(&both, right, right_length);
  ds_status status = ds_str_status(&both, err);
  int32_t merged = status == DS_OK ? ds_vocab_find(v, both.data, both.length) : -1;
  if (status == DS_OK && merged < 0)
    status =
        ds_fail(err, DS_ERR_FORMAT, "%s: merge %zu makes \"%.60s\", which isn't in the vocabulary",
                name, b->n_merges + 1, both.data);
  ds_str_finish(&both);
  if (status != DS_OK) return status;
  if (2 * (b->n_pairs + 1) > b->n_slots) DS_TRY(grow_merges(b, err));
  DS_TRY(ds_reserve(&b->merged, &b->merged_capacity, b->n_merges + 1, sizeof *b->merged, "merges",
                    err));
  ds_bpe_merge *slot = merge_slot(b, pair_key(l, r));
  if (slot->rank == DS_BPE_NO_RANK) b->n_pairs++;
  *slot = (ds_bpe_merge){pair_key(l, r), (uint32_t)b->n_merges};
  b->merged[b->n_merges++] = merged;
  return DS_OK;
}

ds_status ds_bpe_prepare(ds_bpe *b, const ds_vocab *v, const char *name, ds_error *err) {
  for (int i = 0; i < 256; i++) {
    char text[8];
    size_t length = b->byte_level ? ds_utf8_encode(ds_byte_level_char((unsigned char)i), text)
                                  : (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
    b->byte_ids[i] = ds_vocab_find(v, text, length);
    if (b->byte_ids[i] < 0 && b->byte_fallback && !b->byte_level)
      return ds_fail(err, DS_ERR_FORMAT,
                     "%s: byte_fallback needs the token \"%s\", which isn't in "
                     "the vocabulary",
                     name, text);
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- a word's symbols */

static ds_status push_symbol(ds_bpe_scratch *s, int32_t id, ds_error *err) {
  DS_TRY(ds_reserve(&s->symbols, &s->symbols_capacity, s->n_symbols + 1, sizeof *s->symbols,
                    "symbols", err));
  uint32_t at = (uint32_t)s->n_symbols++;
  s->symbols[at] = (ds_bpe_symbol){id, at - 1, at + 1, DS_BPE_NO_RANK};
  return DS_OK;
}

/* The vocabulary has nothing for these bytes: the unknown token, or an error. */
static ds_status push_unknown(const ds_bpe *b, ds_bpe_scratch *s, const char *text, size_t length,
                              bool *in_run, ds_error *err) {
  if (b->unk < 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "the tokenizer has no token for \"%.*s\" (first byte 0x%02x) and no unknown "
                   "token; use a tokenizer that covers the text",
                   (int)length, text, (unsigned)(unsigned char)text[0]);
  if (*in_run && b->fuse_unk) return DS_OK;
  *in_run = true;
  return push_symbol(s, b->unk, err);
}

static ds_status push_bytes(const ds_bpe *b, ds_bpe_scratch *s, const char *text, size_t length,
                            bool *in_run, ds_error *err) {
  for (size_t i = 0; i < length; i++) {
    int32_t id = b->byte_ids[(unsigned char)text[i]];
    if (id < 0) {
      DS_TRY(push_unknown(b, s, text + i, 1, in_run, err));
    } else {
      *in_run = false;
      DS_TRY(push_symbol(s, id, err));
    }
  }
  return DS_OK;
}

static ds_status split_word(const ds_bpe *b, const ds_vocab *v, ds_bpe_scratch *s, const char *word,
                            size_t length, ds_error *err) {
  bool in_run = false; /* of unknown characters */
  s->n_symbols = 0;
  if (length >= DS_BPE_NO_RANK)
    return ds_fail(err, DS_ERR_INVALID,
                   "a piece of text without a break has %zu bytes; at most "
                   "4 GB are handled: split the text",
                   length);
  if (b->byte_level) return push_bytes(b, s, word, length, &in_run, err);
  for (size_t i = 0; i < length;) {
    uint32_t code;
    size_t n = ds_utf8_decode(word + i, length - i, &code);
    int32_t id = n ? ds_vocab_find(v, word + i, n) : -1;
    if (n == 0) n = 1; /* a byte that isn't UTF-8 */
    if (id >= 0) {
      in_run = false;
      DS_TRY(push_symbol(s, id, err));
    } else if (b->byte_fallback) {
      DS_TRY(push_bytes(b, s, word + i, n, &in_run, err));
    } else {
      DS_TRY(push_unknown(b, s, word + i, n, &in_run, err));
    }
    i += n;
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- merging */

static void sift_down(uint64_t *heap, size_t n, size_t i) {
  uint64_t key = heap[i];
  for (size_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (heap[child] >= key) break;
    heap[i] = heap[child];
  }
  heap[i] = key;
}

static void heap_push(ds_bpe_scratch *s, uint64_t key) {
  size_t i = s->n_heap++;
  for (; i > 0 && s->heap[(i - 1) / 2] > key; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
  s->heap[i] = key;
}

static uint64_t heap_pop(ds_bpe_scratch *s) {
  uint64_t top = s->heap[0];
  s->heap[0] = s->heap[--s->n_heap];
  if (s->n_heap) sift_down(s->heap, s->n_heap, 0);
  return top;
}

/* The rank of the pair that begins at `at`, noted there. An older heap entry for `at` no longer
 * agrees with the note and is skipped when it surfaces. */
static uint32_t note_rank(const ds_bpe *b, ds_bpe_symbol *symbols, uint32_t at) {
  ds_bpe_symbol *left = &symbols[at];
  left->rank = DS_BPE_NO_RANK;
  if (left->next != DS_BPE_NO_RANK)
    left->rank = merge_slot(b, pair_key(left->id, symbols[left->next].id))->rank;
  return left->rank;
}

static void push_pair(const ds_bpe *b, ds_bpe_scratch *s, uint32_t at) {
  uint32_t rank = note_rank(b, s->symbols, at);
  if (rank != DS_BPE_NO_RANK) heap_push(s, (uint64_t)rank << 32 | at);
}

static ds_status merge_symbols(const ds_bpe *b, ds_bpe_scratch *s, ds_error *err) {
  if (s->n_symbols < 2 || !b->n_slots) return DS_OK;
  /* A merge takes an entry off the heap and adds at most two; there are fewer merges than
   * symbols. */
  DS_TRY(ds_reserve(&s->heap, &s->heap_capacity, 2 * s->n_symbols, sizeof *s->heap, "merges", err));
  ds_bpe_symbol *symbols = s->symbols;
  symbols[s->n_symbols - 1].next = DS_BPE_NO_RANK;
  s->n_heap = 0;
  for (uint32_t i = 0; i + 1 < s->n_symbols; i++) {
    uint32_t rank = note_rank(b, symbols, i);
    if (rank != DS_BPE_NO_RANK) s->heap[s->n_heap++] = (uint64_t)rank << 32 | i;
  }
  for (size_t i = s->n_heap / 2; i-- > 0;) sift_down(s->heap, s->n_heap, i);
  while (s->n_heap) {
    uint64_t top = heap_pop(s);
    uint32_t at = (uint32_t)top, rank = (uint32_t)(top >> 32);
    ds_bpe_symbol *left = &symbols[at];
    if (left->rank != rank) continue;
    ds_bpe_symbol *right = &symbols[left->next];
    left->id = b->merged[rank];
    left->next = right->next;
    right->id = -1;
    right->rank = DS_BPE_NO_RANK;
    if (left->next != DS_BPE_NO_RANK) symbols[left->next].previous = at;
    push_pair(b, s, at);
    if (left->previous != DS_BPE_NO_RANK) push_pair(b, s, left->previous);
  }
  return DS_OK;
}

static ds_status append_symbols(const ds_bpe_scratch *s, ds_ids *out, ds_error *err) {
  DS_TRY(ds_reserve(&out->data, &out->capacity, out->count + s->n_symbols, sizeof *out->data,
                    "tokens", err));
  for (size_t i = 0; i < s->n_symbols; i++)
    if (s->symbols[i].id >= 0) out->data[out->count++] = s->symbols[i].id;
  return DS_OK;
}

/* The id of a word that is a token, or -1. */
static int32_t whole_word(const ds_bpe *b, const ds_vocab *v, ds_bpe_scratch *s, const char *word,
                          size_t length) {
  if (!b->byte_level) return ds_vocab_find(v, word, length);
  s->mapped.length = 0;
  ds_byte_level_encode(word, length, &s->mapped);
  return s->mapped.failed ? -1 : ds_vocab_find(v, s->mapped.data, s->mapped.length);
}

static ds_status encode_word(const ds_bpe *b, const ds_vocab *v, ds_bpe_scratch *s,
                             const char *word, size_t length, ds_ids *out, ds_error *err) {
  if (b->ignore_merges) {
    int32_t id = whole_word(b, v, s, word, length);
    DS_TRY(ds_str_status(&s->mapped, err));
    if (id >= 0) return ds_ids_append(out, &id, 1, err);
  }
  DS_TRY(split_word(b, v, s, word, length, err));
  DS_TRY(merge_symbols(b, s, err));
  return append_symbols(s, out, err);
}

/* ---------------------------------------------------------------- the words of this call */

static ds_bpe_word *word_slot(const ds_bpe_scratch *s, uint64_t hash, const char *word,
                              size_t length) {
  size_t mask = s->n_word_slots - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    ds_bpe_word *w = &s->words[i];
    if (w->length == 0 || (w->hash == hash && w->length == length &&
                           memcmp(s->word_text.data + w->text, word, length) == 0))
      return w;
  }
}

static ds_status grow_words(ds_bpe_scratch *s, ds_error *err) {
  size_t n = s->n_word_slots ? s->n_word_slots * 2 : 256;
  ds_bpe_word *words = calloc(n, sizeof *words);
  if (!words) return ds_fail_memory(err, "remembered words");
  for (size_t i = 0; i < s->n_word_slots; i++) {
    if (s->words[i].length == 0) continue;
    size_t at = s->words[i].hash & (n - 1);
    while (words[at].length) at = (at + 1) & (n - 1);
    words[at] = s->words[i];
  }
  free(s->words);
  s->words = words;
  s->n_word_slots = n;
  return DS_OK;
}

ds_status ds_bpe_encode(const ds_bpe *b, const ds_vocab *v, ds_bpe_scratch *s, const char *word,
                        size_t length, ds_ids *out, ds_error *err) {
  if (length == 0) return DS_OK;
  if (length > WORD_LENGTH_LIMIT) return encode_word(b, v, s, word, length, out, err);
  if (2 * (s->n_words + 1) > s->n_word_slots) DS_TRY(grow_words(s, err));
  uint64_t hash = ds_hash_bytes(word, length);
  ds_bpe_word *w = word_slot(s, hash, word, length);
  if (w->length) return ds_ids_append(out, s->word_ids.data + w->ids, w->count, err);
  size_t before = out->count;
  DS_TRY(encode_word(b, v, s, word, length, out, err));
  if (s->n_words >= WORDS_LIMIT) return DS_OK;
  ds_bpe_word new = {hash, s->word_text.length, s->word_ids.count, (uint32_t)length,
                     (uint32_t)(out->count - before)};
  ds_str_append(&s->word_text, word, length);
  DS_TRY(ds_str_status(&s->word_text, err));
  DS_TRY(ds_ids_append(&s->word_ids, out->data + before, new.count, err));
  *w = new;
  s->n_words++;
  return DS_OK;
}
