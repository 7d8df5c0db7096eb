/* vocab.h - tokens and their ids, both ways. */
#ifndef DS_DATA_VOCAB_H
#define DS_DATA_VOCAB_H

#include "base/str.h"

#include <stdint.h>

/* Ids stay below this; a file with a larger one is corrupt (an array is indexed by id). */
#define DS_VOCAB_LIMIT (1 << 22)

enum {
  DS_TOKEN_PRESENT = 1, /* the id is used */
  DS_TOKEN_ADDED = 2,   /* matched in text as a whole, before the merges */
  DS_TOKEN_SPECIAL = 4  /* left out when decoding, unless asked for */
};

typedef struct ds_vocab_entry {
  size_t offset;
  uint32_t length;
  uint32_t flags;
} ds_vocab_entry;

/* Zero-initialize. */
typedef struct ds_vocab {
  ds_str text; /* all tokens, one after the other */
  ds_vocab_entry *entries;
  size_t capacity;
  int32_t size;   /* largest id + 1 */
  int32_t *slots; /* hash table of ids, -1 = empty */
  size_t n_slots, count;
} ds_vocab;

void ds_vocab_finish(ds_vocab *v);
/* Adds a token. An id out of range or used already, or a text that has an id, is DS_ERR_FORMAT;
 * `name` (the file) begins the message. */
DS_MUST_USE ds_status ds_vocab_add(ds_vocab *v, const char *text, size_t length, int64_t id,
                                   uint32_t flags, const char *name, ds_error *err);
/* The id, or -1. */
int32_t ds_vocab_find(const ds_vocab *v, const char *text, size_t length);
/* The entry of an id, or NULL when there is none. Its text is v->text.data + offset. */
const ds_vocab_entry *ds_vocab_entry_of(const ds_vocab *v, int64_t id);

#endif
