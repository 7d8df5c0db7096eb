/* A tokenizer.json, and behind the first NUL a text. A description that is accepted encodes and
 * decodes. */
#include "data/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const ds_tokenizer_bpe *t, const ds_ids *ids) {
  ds_error err;
  for (int special = 0; special < 2; special++) {
    ds_str out = {0};
    ds_status status =
        ds_tokenizer_bpe_vtable.decode(t, ids->data, ids->count, special, &out, &err);
    if (status != DS_OK) abort(); /* every id came from this tokenizer */
    ds_str_finish(&out);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *json = (const char *)data;
  const char *nul = size ? memchr(json, '\0', size) : NULL;
  size_t length = nul ? (size_t)(nul - json) : size;
  const char *text = nul ? nul + 1 : "the river\n\n it's  12 \xff\xe2\x96\x81 <s>";
  size_t text_length = nul ? size - length - 1 : strlen(text);
  ds_error err;
  ds_tokenizer_bpe *t;
  if (ds_tokenizer_json_create(json, length, "fuzz", &t, &err) != DS_OK) {
    if (t || strncmp(err.message, "fuzz", 4) != 0) abort();
    return 0;
  }
  for (int special = 0; special < 2; special++) {
    ds_ids ids = {0};
    if (ds_tokenizer_bpe_vtable.encode(t, text, text_length, special, &ids, &err) == DS_OK)
      decode(t, &ids);
    free(ids.data);
  }
  ds_tokenizer_bpe_destroy(t);
  return 0;
}
