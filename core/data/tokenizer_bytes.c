#include "data/tokenizer.h"

#include <stdlib.h>

static int32_t vocab_size(const void *self) {
  (void)self;
  return 256;
}

static int32_t find(const void *self, const char *text) {
  (void)self;
  return text[0] && !text[1] ? (unsigned char)text[0] : -1;
}

static bool has(const void *self, int64_t id) {
  (void)self;
  return id >= 0 && id < 256;
}

static void destroy(void *self) {
  (void)self;
}

static ds_status encode(const void *self, const char *text, size_t length, bool special,
                        ds_ids *ids, ds_error *err) {
  (void)self;
  (void)special;
  DS_TRY(ds_reserve(&ids->data, &ids->capacity, ids->count + length, sizeof *ids->data, "tokens",
                    err));
  for (size_t i = 0; i < length; i++) ids->data[ids->count++] = (unsigned char)text[i];
  return DS_OK;
}

static ds_status decode(const void *self, const int32_t *ids, size_t count, bool special,
                        ds_str *out, ds_error *err) {
  (void)self;
  (void)special;
  for (size_t i = 0; i < count; i++) {
    if (ids[i] < 0 || ids[i] > 255)
      return ds_fail(err, DS_ERR_INVALID, "id %d (number %zu) isn't a byte", (int)ids[i], i);
    char byte = (char)ids[i];
    ds_str_append(out, &byte, 1);
  }
  return ds_str_status(out, err);
}

static const ds_tokenizer_vtable vtable = {destroy, vocab_size, find, has, encode, decode};

ds_status ds_tokenizer_bytes(ds_tokenizer **out, ds_error *err) {
  *out = NULL;
  ds_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return ds_fail_memory(err, "tokenizer");
  t->vtable = &vtable;
  t->bos = t->eos = -1;
  *out = t;
  return DS_OK;
}
