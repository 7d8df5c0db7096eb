/* bpe.h - byte pair encoding: merges pairs of tokens, the earliest rule first, leftmost first.
 *
 * A word of n symbols takes O(n log n): a linked list of symbols and a heap of the pairs that a
 * rule applies to. Words are remembered for the length of one encode call, since text repeats them.
 */
#ifndef DS_DATA_BPE_H
#define DS_DATA_BPE_H

#include "data/vocab.h"

/* A growing array of ids; zero-initialize, free(data). */
typedef struct ds_ids {
  int32_t *data;
  size_t count, capacity;
} ds_ids;

DS_MUST_USE ds_status ds_ids_append(ds_ids *ids, const int32_t *data, size_t count, ds_error *err);

typedef struct ds_bpe_merge {
  uint64_t pair; /* left << 32 | right */
  uint32_t rank; /* DS_BPE_NO_RANK = an empty slot */
} ds_bpe_merge;

#define DS_BPE_NO_RANK UINT32_MAX

/* Zero-initialize. Read-only once loaded: any number of threads may encode with it. */
typedef struct ds_bpe {
  ds_bpe_merge *slots; /* pair -> rank */
  size_t n_slots, n_pairs;
  int32_t *merged; /* rank -> id */
  size_t n_merges, merged_capacity;
  int32_t byte_ids[256]; /* the symbol of a byte (alphabet or <0x..>), -1 = none */
  int32_t unk;           /* -1 = none */
  bool byte_level;       /* symbols are bytes; else characters */
  bool byte_fallback;    /* a character that isn't in the vocabulary becomes its bytes */
  bool fuse_unk;         /* one unknown token for a run of unknown characters */
  bool ignore_merges;    /* a word that is a token is that token */
} ds_bpe;

void ds_bpe_finish(ds_bpe *b);
/* The next rule: left right -> their concatenation. Tokens that the vocabulary lacks are
 * DS_ERR_FORMAT; `name` begins the message. A pair that comes again takes its later rank. */
DS_MUST_USE ds_status ds_bpe_add_merge(ds_bpe *b, const ds_vocab *v, const char *left,
                                       size_t left_length, const char *right, size_t right_length,
                                       const char *name, ds_error *err);
/* Fills byte_ids, when the vocabulary is complete. With byte_fallback and some <0x..> missing it is
 * DS_ERR_FORMAT. */
DS_MUST_USE ds_status ds_bpe_prepare(ds_bpe *b, const ds_vocab *v, const char *name, ds_error *err);

typedef struct ds_bpe_symbol {
  int32_t id;
  uint32_t previous, next; /* DS_BPE_NO_RANK = none */
  uint32_t rank;           /* of the pair that begins here */
} ds_bpe_symbol;

typedef struct ds_bpe_word {
  uint64_t hash;
  size_t text, ids;       /* offsets into the caches */
  uint32_t length, count; /* length 0 = an empty slot */
} ds_bpe_word;

/* What one encode call works with; zero-initialize. */
typedef struct ds_bpe_scratch {
  ds_bpe_symbol *symbols;
  size_t n_symbols, symbols_capacity;
  uint64_t *heap; /* rank << 32 | position */
  size_t n_heap, heap_capacity;
  ds_str mapped; /* the word in the byte-level alphabet */
  ds_bpe_word *words;
  size_t n_words, n_word_slots;
  ds_str word_text;
  ds_ids word_ids;
} ds_bpe_scratch;

void ds_bpe_scratch_finish(ds_bpe_scratch *s);
/* Appends the ids of one word. Text that has no token, where there is no unknown token either, is
 * DS_ERR_INVALID: it would be lost. */
DS_MUST_USE ds_status ds_bpe_encode(const ds_bpe *b, const ds_vocab *v, ds_bpe_scratch *s,
                                    const char *word, size_t length, ds_ids *out, ds_error *err);

#endif
