#include "data/tokenizer_bpe.h"

#include "base/json.h"
#include "data/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

static ds_status parse_object(const char *text, size_t size, const char *name, cJSON **out,
                              ds_error *err) {
  DS_TRY(ds_json_parse(text, size, 0, name, out, err));
  if (cJSON_IsObject(*out)) return DS_OK;
  ds_status status =
      ds_fail(err, DS_ERR_FORMAT, "%s must hold an object, not %s", name, ds_json_type(*out));
  cJSON_Delete(*out);
  *out = NULL;
  return status;
}

static ds_status read_vocab(ds_tokenizer_bpe *t, const ds_tokenizer_file *file, ds_error *err) {
  cJSON *root;
  DS_TRY(parse_object(file->text, file->size, file->name, &root, err));
  ds_status status = DS_OK;
  const cJSON *item;
  cJSON_ArrayForEach(item, root) {
    if (status != DS_OK) break;
    status = ds_vocab_add(&t->vocab, item->string, strlen(item->string), ds_tokenizer_json_id(item),
                          0, file->name, err);
  }
  if (status == DS_OK && t->vocab.count == 0)
    status = ds_fail(err, DS_ERR_FORMAT, "%s is empty", file->name);
  cJSON_Delete(root);
  return status;
}

/* "left right" a line; a first line "#version: ..." is passed over. */
static ds_status read_merges(ds_tokenizer_bpe *t, const ds_tokenizer_file *file, ds_error *err) {
  const char *p = file->text, *end = file->text + file->size;
  for (size_t line = 1; p < end; line++) {
    const char *newline = memchr(p, '\n', (size_t)(end - p));
    const char *stop = newline ? newline : end;
    size_t length = (size_t)(stop - p);
    if (length && p[length - 1] == '\r') length--;
    const char *next = newline ? newline + 1 : end;
    bool version = line == 1 && length >= 8 && memcmp(p, "#version", 8) == 0;
    if (length && !version) {
      const char *space = memchr(p, ' ', length);
      size_t left = space ? (size_t)(space - p) : 0;
      size_t right = space ? length - left - 1 : 0;
      if (!left || !right || memchr(space + 1, ' ', right))
        return ds_fail(err, DS_ERR_FORMAT, "%s, line %zu: two tokens are expected, not \"%.*s\"",
                       file->name, line, length > 60 ? 60 : (int)length, p);
      DS_TRY(ds_bpe_add_merge(&t->bpe, &t->vocab, p, left, space + 1, right, file->name, err));
    }
    p = next;
  }
  return DS_OK;
}

static ds_status add_token(ds_tokenizer_bpe *t, const char *text, int64_t id, bool special,
                           const char *name, ds_error *err) {
  int32_t known = ds_vocab_find(&t->vocab, text, strlen(text));
  if (known >= 0 && known == id && (t->vocab.entries[known].flags & DS_TOKEN_ADDED)) return DS_OK;
  if (id < 0 || id >= DS_VOCAB_LIMIT)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: the id of \"%.60s\" must be a whole number from 0 to %d", name, text,
                   DS_VOCAB_LIMIT - 1);
  ds_added_token token = {.id = (int32_t)id, .special = special};
  return ds_tokenizer_bpe_add_token(t, text, &token, name, err);
}

/* The named tokens that the vocabulary has are special. */
static ds_status add_named(ds_tokenizer_bpe *t, const cJSON *config, const char *name,
                           ds_error *err) {
  static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, keys[i]);
    if (cJSON_IsObject(item)) item = cJSON_GetObjectItemCaseSensitive(item, "content");
    if (!cJSON_IsString(item)) continue;
    int32_t id = ds_vocab_find(&t->vocab, item->valuestring, strlen(item->valuestring));
    if (id >= 0) DS_TRY(add_token(t, item->valuestring, id, true, name, err));
  }
  return DS_OK;
}

/* {"50256": {"content": "<|endoftext|>", "special": true}, ...} */
static ds_status add_decoder_tokens(ds_tokenizer_bpe *t, const cJSON *config, const char *name,
                                    ds_error *err) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(config, "added_tokens_decoder"), *item;
  cJSON_ArrayForEach(item, list) {
    const char *text;
    bool special;
    char *end;
    if (!item->string)
      return ds_fail(err, DS_ERR_FORMAT,
                     "%s: added_tokens_decoder must be an "
                     "object",
                     name);
    long long id = strtoll(item->string, &end, 10);
    if (*end || end == item->string) id = -1;
    DS_TRY(ds_json_string(item, "content", "", &text, name, err));
    DS_TRY(ds_json_bool(item, "special", false, &special, name, err));
    DS_TRY(add_token(t, text, id, special, name, err));
  }
  return DS_OK;
}

static ds_status read_config(ds_tokenizer_bpe *t, const char *text, bool *add_prefix_space,
                             ds_error *err) {
  static const char name[] = "tokenizer_config.json";
  *add_prefix_space = false;
  if (!text) return DS_OK;
  cJSON *root;
  DS_TRY(parse_object(text, strlen(text), name, &root, err));
  ds_status status = ds_json_bool(root, "add_prefix_space", false, add_prefix_space, name, err);
  if (status == DS_OK) status = add_decoder_tokens(t, root, name, err);
  if (status == DS_OK) status = add_named(t, root, name, err);
  cJSON_Delete(root);
  return status;
}

/* {"<|pad|>": 50257, ...} */
static ds_status read_added(ds_tokenizer_bpe *t, const char *text, ds_error *err) {
  static const char name[] = "added_tokens.json";
  if (!text) return DS_OK;
  cJSON *root;
  DS_TRY(parse_object(text, strlen(text), name, &root, err));
  ds_status status = DS_OK;
  const cJSON *item;
  cJSON_ArrayForEach(item, root) {
    if (status != DS_OK) break;
    status = add_token(t, item->string, ds_tokenizer_json_id(item), false, name, err);
  }
  cJSON_Delete(root);
  return status;
}

static ds_status read_all(ds_tokenizer_bpe *t, const ds_tokenizer_file *vocab,
                          const ds_tokenizer_file *merges, const char *tokenizer_config,
                          const char *added_tokens, ds_error *err) {
  static const char end_of_text[] = "<|endoftext|>";
  bool add_prefix_space;
  ds_decode_step *step;
  DS_TRY(read_vocab(t, vocab, err));
  DS_TRY(read_merges(t, merges, err));
  DS_TRY(read_config(t, tokenizer_config, &add_prefix_space, err));
  DS_TRY(read_added(t, added_tokens, err));
  int32_t id = ds_vocab_find(&t->vocab, end_of_text, sizeof end_of_text - 1);
  if (id >= 0) DS_TRY(add_token(t, end_of_text, id, true, vocab->name, err));
  DS_TRY(ds_tokenizer_bpe_byte_level(t, add_prefix_space, true, vocab->name, err));
  DS_TRY(ds_token_decoder_add(&t->decoder, DS_DECODE_BYTE_LEVEL, NULL, NULL, &step, err));
  return ds_tokenizer_bpe_prepare(t, vocab->name, err);
}

ds_status ds_tokenizer_gpt2_create(const ds_tokenizer_file *vocab, const ds_tokenizer_file *merges,
                                   const char *tokenizer_config, const char *added_tokens,
                                   ds_tokenizer_bpe **out, ds_error *err) {
  *out = NULL;
  ds_tokenizer_bpe *t = ds_tokenizer_bpe_create();
  if (!t) return ds_fail_memory(err, "tokenizer");
  ds_status status = read_all(t, vocab, merges, tokenizer_config, added_tokens, err);
  if (status == DS_OK)
    *out = t;
  else
    ds_tokenizer_bpe_destroy(t);
  return status;
}
