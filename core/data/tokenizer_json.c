#include "data/tokenizer_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int64_t ds_tokenizer_json_id(const cJSON *item) {
  if (!cJSON_IsNumber(item)) return -1;
  double v = item->valuedouble;
  return v >= 0 && v <= DS_VOCAB_LIMIT && v == floor(v) ? (int64_t)v : -1;
}

static ds_status bad_id(const cJSON *item, const char *token, const char *name, ds_error *err) {
  char number[32] = "";
  if (cJSON_IsNumber(item)) snprintf(number, sizeof number, " %g", item->valuedouble);
  return ds_fail(err, DS_ERR_FORMAT,
                 "%s: the id of token \"%.60s\" must be a whole number from 0 "
                 "to %d, not %s%s",
                 name, token, DS_VOCAB_LIMIT - 1, ds_json_type(item), number);
}

static ds_status read_vocab(ds_tokenizer_bpe *t, const cJSON *model, const char *name,
                            ds_error *err) {
  const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(model, "vocab");
  if (!cJSON_IsObject(vocab))
    return ds_fail(err, DS_ERR_FORMAT, "%s: model.vocab must be an object, not %s", name,
                   ds_json_type(vocab));
  const cJSON *item;
  cJSON_ArrayForEach(item, vocab) {
    int64_t id = ds_tokenizer_json_id(item);
    if (id < 0 || id >= DS_VOCAB_LIMIT) return bad_id(item, item->string, name, err);
    DS_TRY(ds_vocab_add(&t->vocab, item->string, strlen(item->string), id, 0, name, err));
  }
  if (t->vocab.count == 0) return ds_fail(err, DS_ERR_FORMAT, "%s: model.vocab is empty", name);
  return DS_OK;
}

/* "a b" or ["a", "b"] */
static ds_status read_merge(ds_tokenizer_bpe *t, const cJSON *item, const char *name,
                            ds_error *err) {
  size_t number = t->bpe.n_merges + 1;
  if (cJSON_IsString(item)) {
    const char *left = item->valuestring, *space = strchr(left, ' ');
    if (!space || strchr(space + 1, ' '))
      return ds_fail(err, DS_ERR_FORMAT, "%s: merge %zu must be two tokens, not \"%.60s\"", name,
                     number, left);
    return ds_bpe_add_merge(&t->bpe, &t->vocab, left, (size_t)(space - left), space + 1,
                            strlen(space + 1), name, err);
  }
  const cJSON *left = cJSON_IsArray(item) ? item->child : NULL;
  const cJSON *right = left ? left->next : NULL;
  if (!right || !cJSON_IsString(left) || !cJSON_IsString(right) || right->next)
    return ds_fail(err, DS_ERR_FORMAT, "%s: merge %zu must be \"a b\" or [\"a\", \"b\"], not %s",
                   name, number, ds_json_type(item));
  return ds_bpe_add_merge(&t->bpe, &t->vocab, left->valuestring, strlen(left->valuestring),
                          right->valuestring, strlen(right->valuestring), name, err);
}

static ds_status read_merges(ds_tokenizer_bpe *t, const cJSON *model, const char *name,
                             ds_error *err) {
  const cJSON *merges = cJSON_GetObjectItemCaseSensitive(model, "merges");
  if (!cJSON_IsArray(merges))
    return ds_fail(err, DS_ERR_FORMAT, "%s: model.merges must be an array, not %s", name,
                   ds_json_type(merges));
  const cJSON *item;
  cJSON_ArrayForEach(item, merges) DS_TRY(read_merge(t, item, name, err));
  return DS_OK;
}

/* What would change the tokens and isn't here. */
static ds_status refuse_options(const cJSON *model, const char *name, ds_error *err) {
  double dropout;
  DS_TRY(ds_json_number(model, "dropout", 0, &dropout, name, err));
  if (dropout != 0)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: model.dropout is %g; only null or 0 is supported",
                   name, dropout);
  static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    const char *value;
    DS_TRY(ds_json_string(model, keys[i], "", &value, name, err));
    if (value[0])
      return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: model.%s is \"%.60s\"; only null is supported",
                     name, keys[i], value);
  }
  return DS_OK;
}

static ds_status read_options(ds_tokenizer_bpe *t, const cJSON *model, const char *name,
                              ds_error *err) {
  DS_TRY(refuse_options(model, name, err));
  DS_TRY(ds_json_bool(model, "fuse_unk", false, &t->bpe.fuse_unk, name, err));
  DS_TRY(ds_json_bool(model, "byte_fallback", false, &t->bpe.byte_fallback, name, err));
  DS_TRY(ds_json_bool(model, "ignore_merges", false, &t->bpe.ignore_merges, name, err));
  const char *unk;
  DS_TRY(ds_json_string(model, "unk_token", NULL, &unk, name, err));
  if (!unk) return DS_OK;
  t->bpe.unk = ds_vocab_find(&t->vocab, unk, strlen(unk));
  if (t->bpe.unk >= 0) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: model.unk_token \"%.60s\" isn't in the vocabulary", name,
                 unk);
}

static ds_status read_added(ds_tokenizer_bpe *t, const cJSON *item, const char *name,
                            ds_error *err) {
  if (!cJSON_IsObject(item))
    return ds_fail(err, DS_ERR_FORMAT, "%s: added_tokens must hold objects, not %s", name,
                   ds_json_type(item));
  ds_added_token token = {0};
  const char *text;
  bool single_word;
  DS_TRY(ds_json_string(item, "content", "", &text, name, err));
  DS_TRY(ds_json_bool(item, "special", false, &token.special, name, err));
  DS_TRY(ds_json_bool(item, "normalized", !token.special, &token.normalized, name, err));
  DS_TRY(ds_json_bool(item, "lstrip", false, &token.lstrip, name, err));
  DS_TRY(ds_json_bool(item, "rstrip", false, &token.rstrip, name, err));
  DS_TRY(ds_json_bool(item, "single_word", false, &single_word, name, err));
  if (single_word)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: the added token \"%.60s\" has single_word, which is not supported", name,
                   text);
  const cJSON *number = cJSON_GetObjectItemCaseSensitive(item, "id");
  int64_t id = ds_tokenizer_json_id(number);
  if (id < 0 || id >= DS_VOCAB_LIMIT) return bad_id(number, text, name, err);
  token.id = (int32_t)id;
  return ds_tokenizer_bpe_add_token(t, text, &token, name, err);
}

static ds_status read_all(ds_tokenizer_bpe *t, const cJSON *root, const char *name, ds_error *err) {
  if (!cJSON_IsObject(root))
    return ds_fail(err, DS_ERR_FORMAT, "%s must hold an object, not %s", name, ds_json_type(root));
  const char *version, *type;
  DS_TRY(ds_json_string(root, "version", "1.0", &version, name, err));
  if (strcmp(version, "1.0") != 0)
    return ds_fail(err, DS_ERR_VERSION, "%s has format version \"%.20s\"; only 1.0 is known", name,
                   version);
  const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
  if (!cJSON_IsObject(model))
    return ds_fail(err, DS_ERR_FORMAT, "%s: \"model\" must be an object, not %s", name,
                   ds_json_type(model));
  DS_TRY(ds_json_string(model, "type", "BPE", &type, name, err));
  if (strcmp(type, "BPE") != 0)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: the model is %.60s; only BPE is supported", name,
                   type);
  DS_TRY(read_vocab(t, model, name, err));
  const cJSON *added = cJSON_GetObjectItemCaseSensitive(root, "added_tokens");
  if (added && !cJSON_IsNull(added) && !cJSON_IsArray(added))
    return ds_fail(err, DS_ERR_FORMAT, "%s: added_tokens must be an array, not %s", name,
                   ds_json_type(added));
  const cJSON *item;
  cJSON_ArrayForEach(item, added) DS_TRY(read_added(t, item, name, err));
  DS_TRY(read_options(t, model, name, err));
  DS_TRY(read_merges(t, model, name, err));
  DS_TRY(ds_tokenizer_json_parts(t, root, name, err));
  return ds_tokenizer_bpe_prepare(t, name, err);
}

ds_status ds_tokenizer_json_create(const char *text, size_t size, const char *name,
                                   ds_tokenizer_bpe **out, ds_error *err) {
  *out = NULL;
  cJSON *root;
  DS_TRY(ds_json_parse(text, size, 0, name, &root, err));
  ds_tokenizer_bpe *t = ds_tokenizer_bpe_create();
  ds_status status = t ? read_all(t, root, name, err) : ds_fail_memory(err, name);
  cJSON_Delete(root);
  if (status == DS_OK)
    *out = t;
  else
    ds_tokenizer_bpe_destroy(t);
  return status;
}
