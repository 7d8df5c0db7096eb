#include "data/added_tokens.h"

#include "base/str.h"
#include "data/utf8.h"

#include <stdlib.h>
#include <string.h>

void ds_added_tokens_finish(ds_added_tokens *a) {
  for (size_t i = 0; i < a->count; i++) free(a->items[i].text);
  free(a->items);
  memset(a, 0, sizeof *a);
}

ds_status ds_added_tokens_add(ds_added_tokens *a, const ds_added_token *token, ds_error *err) {
  DS_TRY(ds_reserve(&a->items, &a->capacity, a->count + 1, sizeof *a->items, "added tokens", err));
  a->items[a->count++] = *token;
  return DS_OK;
}

/* By table, first byte, and the longest first: the first that matches is the one. */
static int compare_tokens(const void *pa, const void *pb) {
  const ds_added_token *a = pa, *b = pb;
  if (a->normalized != b->normalized) return a->normalized ? 1 : -1;
  unsigned char ca = (unsigned char)a->text[0], cb = (unsigned char)b->text[0];
  if (ca != cb) return ca < cb ? -1 : 1;
  if (a->length != b->length) return a->length > b->length ? -1 : 1;
  return a->id < b->id ? -1 : a->id > b->id;
}

void ds_added_tokens_index(ds_added_tokens *a) {
  if (a->count) qsort(a->items, a->count, sizeof *a->items, compare_tokens);
  size_t i = 0;
  for (int table = 0; table < 2; table++) {
    for (int byte = 0; byte < 256; byte++) {
      a->first[table][byte] = (uint32_t)i;
      while (i < a->count && a->items[i].normalized == (table == 1) &&
             (unsigned char)a->items[i].text[0] == byte)
        i++;
    }
    a->first[table][256] = (uint32_t)i;
  }
}

static size_t blanks_before(const char *text, size_t from, size_t end) {
  while (end > from) {
    size_t begin = end - 1;
    while (begin > from && ((unsigned char)text[begin] & 0xc0) == 0x80) begin--;
    uint32_t code;
    if (ds_utf8_decode(text + begin, end - begin, &code) != end - begin || !ds_utf8_is_space(code))
      break;
    end = begin;
  }
  return end;
}

static size_t blanks_behind(const char *text, size_t length, size_t begin) {
  uint32_t code;
  size_t n;
  while ((n = ds_utf8_decode(text + begin, length - begin, &code)) && ds_utf8_is_space(code))
    begin += n;
  return begin;
}

bool ds_added_tokens_find(const ds_added_tokens *a, bool normalized, bool special, const char *text,
                          size_t length, size_t from, size_t *begin, size_t *end, int32_t *id) {
  const uint32_t *first = a->first[normalized];
  if (first[0] == first[256]) return false;
  for (size_t at = from; at < length; at++) {
    unsigned char byte = (unsigned char)text[at];
    for (uint32_t i = first[byte]; i < first[byte + 1]; i++) {
      const ds_added_token *t = &a->items[i];
      if ((t->special && !special) || t->length > length - at ||
          memcmp(text + at, t->text, t->length) != 0)
        continue;
      *begin = t->lstrip ? blanks_before(text, from, at) : at;
      *end = t->rstrip ? blanks_behind(text, length, at + t->length) : at + t->length;
      *id = t->id;
      return true;
    }
  }
  return false;
}
