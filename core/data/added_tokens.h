/* added_tokens.h - tokens that stand in text as they are, like "<|endoftext|>": found before
 * anything else happens to it. */
#ifndef DS_DATA_ADDED_TOKENS_H
#define DS_DATA_ADDED_TOKENS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ds_added_token {
  char *text; /* what is looked for; owned */
  size_t length;
  int32_t id;
  bool special;
  bool normalized;     /* looked for after normalization, else before */
  bool lstrip, rstrip; /* swallows the blanks before, behind it */
} ds_added_token;

/* Zero-initialize. */
typedef struct ds_added_tokens {
  ds_added_token *items;
  size_t count, capacity;
  uint32_t first[2][257]; /* [normalized][first byte]: where its tokens begin in items */
} ds_added_tokens;

void ds_added_tokens_finish(ds_added_tokens *a);
/* Takes token->text on success. */
DS_MUST_USE ds_status ds_added_tokens_add(ds_added_tokens *a, const ds_added_token *token,
                                          ds_error *err);
/* Call once after the last add. */
void ds_added_tokens_index(ds_added_tokens *a);

/* The leftmost, then longest token in text[from, length): true, and where it begins and ends,
 * swallowed blanks included. special: whether special tokens count. */
bool ds_added_tokens_find(const ds_added_tokens *a, bool normalized, bool special, const char *text,
                          size_t length, size_t from, size_t *begin, size_t *end, int32_t *id);

#endif
