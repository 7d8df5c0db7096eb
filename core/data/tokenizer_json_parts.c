#include "data/tokenizer_json.h"

#include <string.h>

/* One component's reader: handles the object `item` of a type. */
typedef ds_status (*read_fn)(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                             const char *name, ds_error *err);

/* A part of the tokenizer: how it is called, the key of a Sequence's list, who reads the rest. */
typedef struct part {
  const char *key, *list_key;
  read_fn read;
} part;

static ds_status read_part(ds_tokenizer_bpe *t, const part *p, const cJSON *item, const char *name,
                           ds_error *err) {
  if (!item || cJSON_IsNull(item)) return DS_OK;
  if (!cJSON_IsObject(item))
    return ds_fail(err, DS_ERR_FORMAT, "%s: %s must be an object, not %s", name, p->key,
                   ds_json_type(item));
  const char *type;
  DS_TRY(ds_json_string(item, "type", NULL, &type, name, err));
  if (!type) return ds_fail(err, DS_ERR_FORMAT, "%s: a %s has no type", name, p->key);
  if (strcmp(type, "Sequence") != 0) return p->read(t, item, type, name, err);
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(item, p->list_key), *child;
  if (!cJSON_IsArray(list))
    return ds_fail(err, DS_ERR_FORMAT, "%s: the Sequence in %s needs an array \"%s\", not %s", name,
                   p->key, p->list_key, ds_json_type(list));
  cJSON_ArrayForEach(child, list) DS_TRY(read_part(t, p, child, name, err));
  return DS_OK;
}

static ds_status unsupported(const char *key, const char *type, const char *name, ds_error *err) {
  return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: the %s %.60s is not supported", name, key, type);
}

/* A string that must be there and say something. */
static ds_status required_string(const cJSON *item, const char *key, const char *type,
                                 const char **out, const char *name, ds_error *err) {
  DS_TRY(ds_json_string(item, key, "", out, name, err));
  if ((*out)[0]) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: %s needs \"%s\"", name, type, key);
}

/* {"String": "..."} or {"Regex": "..."} */
static ds_status read_pattern(const cJSON *item, const char *type, const char **text, bool *literal,
                              const char *name, ds_error *err) {
  const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(item, "pattern");
  *literal = cJSON_GetObjectItemCaseSensitive(pattern, "String") != NULL;
  return required_string(pattern, *literal ? "String" : "Regex", type, text, name, err);
}

/* "always", "first" or "never"; in older files add_prefix_space. */
static ds_status read_scheme(const cJSON *item, const char **scheme, const char *name,
                             ds_error *err) {
  bool add;
  DS_TRY(ds_json_bool(item, "add_prefix_space", true, &add, name, err));
  DS_TRY(ds_json_string(item, "prepend_scheme", add ? "always" : "never", scheme, name, err));
  if (strcmp(*scheme, "always") == 0 || strcmp(*scheme, "first") == 0 ||
      strcmp(*scheme, "never") == 0)
    return DS_OK;
  return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: prepend_scheme %.60s is not supported", name,
                 *scheme);
}

static ds_status add_replace(ds_text_steps *steps, const char *pattern, bool literal,
                             const char *content, const char *name, ds_error *err) {
  ds_text_step *step;
  DS_TRY(ds_text_steps_add(steps, DS_TEXT_REPLACE, content, &step, err));
  return ds_regex_create(pattern, literal, name, &step->pattern, err);
}

static ds_status add_split(ds_text_steps *steps, const char *pattern, bool literal,
                           ds_text_step **step, const char *name, ds_error *err) {
  DS_TRY(ds_text_steps_add(steps, DS_TEXT_SPLIT, NULL, step, err));
  return ds_regex_create(pattern, literal, name, &(*step)->pattern, err);
}

/* ---------------------------------------------------------------- normalizer */

static ds_status read_normalizer(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                                 const char *name, ds_error *err) {
  const char *text, *content;
  if (strcmp(type, "Prepend") == 0) {
    ds_text_step *step;
    DS_TRY(required_string(item, "prepend", type, &text, name, err));
    return ds_text_steps_add(&t->normalizer, DS_TEXT_PREPEND, text, &step, err);
  }
  if (strcmp(type, "Replace") == 0) {
    bool literal;
    DS_TRY(read_pattern(item, type, &text, &literal, name, err));
    DS_TRY(ds_json_string(item, "content", "", &content, name, err));
    return add_replace(&t->normalizer, text, literal, content, name, err);
  }
  return unsupported("normalizer", type, name, err);
}

/* ---------------------------------------------------------------- pre_tokenizer */

static ds_status read_split(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                            const char *name, ds_error *err) {
  const char *text, *behavior;
  bool literal, inverted;
  ds_text_step *step;
  DS_TRY(read_pattern(item, type, &text, &literal, name, err));
  DS_TRY(ds_json_bool(item, "invert", false, &inverted, name, err));
  DS_TRY(required_string(item, "behavior", type, &behavior, name, err));
  bool removed = strcmp(behavior, "Removed") == 0;
  if (!removed && strcmp(behavior, "Isolated") != 0)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: the behavior %.60s of Split is not supported (Isolated and Removed are)",
                   name, behavior);
  DS_TRY(add_split(&t->pretokenizer, text, literal, &step, name, err));
  step->removed = removed;
  step->inverted = inverted;
  return DS_OK;
}

static ds_status read_metaspace(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                                const char *name, ds_error *err) {
  const char *mark, *scheme;
  bool split;
  ds_text_step *step;
  DS_TRY(required_string(item, "replacement", type, &mark, name, err));
  DS_TRY(read_scheme(item, &scheme, name, err));
  DS_TRY(ds_json_bool(item, "split", true, &split, name, err));
  DS_TRY(add_replace(&t->pretokenizer, " ", true, mark, name, err));
  if (strcmp(scheme, "never") != 0) {
    DS_TRY(ds_text_steps_add(&t->pretokenizer, DS_TEXT_PREPEND, mark, &step, err));
    step->unless_there = true;
    step->at_first_only = strcmp(scheme, "first") == 0;
  }
  return split ? ds_text_steps_add(&t->pretokenizer, DS_TEXT_SPLIT_BEFORE, mark, &step, err)
               : DS_OK;
}

static ds_status read_pretokenizer(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                                   const char *name, ds_error *err) {
  if (t->bpe.byte_level)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: the pre_tokenizer %.60s behind ByteLevel is not supported", name, type);
  if (strcmp(type, "ByteLevel") == 0) {
    bool add_prefix_space, use_regex;
    DS_TRY(ds_json_bool(item, "add_prefix_space", true, &add_prefix_space, name, err));
    DS_TRY(ds_json_bool(item, "use_regex", true, &use_regex, name, err));
    return ds_tokenizer_bpe_byte_level(t, add_prefix_space, use_regex, name, err);
  }
  if (strcmp(type, "Split") == 0) return read_split(t, item, type, name, err);
  if (strcmp(type, "Metaspace") == 0) return read_metaspace(t, item, type, name, err);
  if (strcmp(type, "Digits") == 0) {
    bool each;
    ds_text_step *step;
    DS_TRY(ds_json_bool(item, "individual_digits", false, &each, name, err));
    return add_split(&t->pretokenizer, each ? "\\p{N}" : "\\p{N}+", false, &step, name, err);
  }
  return unsupported("pre_tokenizer", type, name, err);
}

/* ---------------------------------------------------------------- post_processor */

/* {"SpecialToken": {"id": "<s>"}}: the ids that special_tokens lists under that name. */
static ds_status read_template_token(ds_tokenizer_bpe *t, const cJSON *processor,
                                     const cJSON *special, ds_ids *out, const char *name,
                                     ds_error *err) {
  const char *token;
  DS_TRY(required_string(special, "id", "SpecialToken", &token, name, err));
  const cJSON *table = cJSON_GetObjectItemCaseSensitive(processor, "special_tokens");
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(table, token), *item;
  const cJSON *ids = cJSON_GetObjectItemCaseSensitive(entry, "ids");
  if (!cJSON_IsArray(ids))
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: TemplateProcessing uses \"%.60s\", for which special_tokens has no ids",
                   name, token);
  cJSON_ArrayForEach(item, ids) {
    int64_t wide = ds_tokenizer_json_id(item);
    if (!ds_vocab_entry_of(&t->vocab, wide))
      return ds_fail(err, DS_ERR_FORMAT,
                     "%s: TemplateProcessing gives \"%.60s\" an id that isn't in the vocabulary",
                     name, token);
    int32_t id = (int32_t)wide;
    DS_TRY(ds_ids_append(out, &id, 1, err));
  }
  return DS_OK;
}

static ds_status read_template(ds_tokenizer_bpe *t, const cJSON *item, const char *name,
                               ds_error *err) {
  const cJSON *single = cJSON_GetObjectItemCaseSensitive(item, "single"), *piece;
  if (!cJSON_IsArray(single))
    return ds_fail(err, DS_ERR_FORMAT, "%s: TemplateProcessing needs an array \"single\", not %s",
                   name, ds_json_type(single));
  if (t->prefix.count || t->suffix.count)
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: two TemplateProcessing are not supported", name);
  bool text_seen = false;
  cJSON_ArrayForEach(piece, single) {
    const cJSON *special = cJSON_GetObjectItemCaseSensitive(piece, "SpecialToken");
    const cJSON *sequence = cJSON_GetObjectItemCaseSensitive(piece, "Sequence");
    if (special) {
      ds_ids *out = text_seen ? &t->suffix : &t->prefix;
      DS_TRY(read_template_token(t, item, special, out, name, err));
    } else if (sequence && !text_seen) {
      const char *id;
      DS_TRY(required_string(sequence, "id", "Sequence", &id, name, err));
      if (strcmp(id, "A") != 0) return unsupported("template sequence", id, name, err);
      text_seen = true;
    } else {
      return ds_fail(err, DS_ERR_UNSUPPORTED,
                     "%s: TemplateProcessing may hold SpecialToken and one Sequence", name);
    }
  }
  if (text_seen) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: TemplateProcessing leaves out the text", name);
}

static ds_status read_processor(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                                const char *name, ds_error *err) {
  if (strcmp(type, "ByteLevel") == 0) return DS_OK; /* concerns offsets, which aren't kept */
  if (strcmp(type, "TemplateProcessing") == 0) return read_template(t, item, name, err);
  return unsupported("post_processor", type, name, err);
}

/* ---------------------------------------------------------------- decoder */

static ds_status read_decode_replace(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                                     const char *name, ds_error *err) {
  const char *text, *content;
  bool literal;
  ds_decode_step *step;
  DS_TRY(read_pattern(item, type, &text, &literal, name, err));
  DS_TRY(ds_json_string(item, "content", "", &content, name, err));
  if (!literal) return unsupported("decoder", "Replace with a Regex", name, err);
  return ds_token_decoder_add(&t->decoder, DS_DECODE_REPLACE, text, content, &step, err);
}

static ds_status read_decode_strip(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                                   const char *name, ds_error *err) {
  const char *text;
  int64_t start, stop;
  ds_decode_step *step;
  DS_TRY(required_string(item, "content", type, &text, name, err));
  DS_TRY(ds_json_int(item, "start", 0, 0, INT32_MAX, &start, name, err));
  DS_TRY(ds_json_int(item, "stop", 0, 0, INT32_MAX, &stop, name, err));
  DS_TRY(ds_token_decoder_add(&t->decoder, DS_DECODE_STRIP, text, NULL, &step, err));
  step->start = start;
  step->stop = stop;
  return DS_OK;
}

static ds_status read_decoder(ds_tokenizer_bpe *t, const cJSON *item, const char *type,
                              const char *name, ds_error *err) {
  ds_decode_step *step;
  if (strcmp(type, "ByteLevel") == 0)
    return ds_token_decoder_add(&t->decoder, DS_DECODE_BYTE_LEVEL, NULL, NULL, &step, err);
  if (strcmp(type, "ByteFallback") == 0)
    return ds_token_decoder_add(&t->decoder, DS_DECODE_BYTE_FALLBACK, NULL, NULL, &step, err);
  if (strcmp(type, "Fuse") == 0)
    return ds_token_decoder_add(&t->decoder, DS_DECODE_FUSE, NULL, NULL, &step, err);
  if (strcmp(type, "Replace") == 0) return read_decode_replace(t, item, type, name, err);
  if (strcmp(type, "Strip") == 0) return read_decode_strip(t, item, type, name, err);
  if (strcmp(type, "Metaspace") == 0) {
    const char *mark, *scheme;
    DS_TRY(required_string(item, "replacement", type, &mark, name, err));
    DS_TRY(read_scheme(item, &scheme, name, err));
    DS_TRY(ds_token_decoder_add(&t->decoder, DS_DECODE_METASPACE, mark, NULL, &step, err));
    step->drop_first = strcmp(scheme, "never") != 0;
    return DS_OK;
  }
  return unsupported("decoder", type, name, err);
}

ds_status ds_tokenizer_json_parts(ds_tokenizer_bpe *t, const cJSON *root, const char *name,
                                  ds_error *err) {
  static const part parts[] = {
      {"normalizer", "normalizers", read_normalizer},
      {"pre_tokenizer", "pretokenizers", read_pretokenizer},
      {"post_processor", "processors", read_processor},
      {"decoder", "decoders", read_decoder},
  };
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, parts[i].key);
    DS_TRY(read_part(t, &parts[i], item, name, err));
  }
  const cJSON *decoder = cJSON_GetObjectItemCaseSensitive(root, "decoder");
  if (decoder && !cJSON_IsNull(decoder)) return DS_OK;
  ds_decode_step *step; /* a file without a decoder means tokens with spaces between */
  return ds_token_decoder_add(&t->decoder, DS_DECODE_JOIN, NULL, NULL, &step, err);
}
