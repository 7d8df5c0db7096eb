/* tokenizer_json.h - Hugging Face's tokenizer.json (format 1.0), model BPE.
 *
 * What is understood
 *   normalizer      Sequence, Prepend, Replace
 *   pre_tokenizer   Sequence, ByteLevel (last), Split (Isolated, Removed), Metaspace, Digits
 *   model           BPE with byte_fallback, fuse_unk, ignore_merges
 *   post_processor  Sequence, ByteLevel, TemplateProcessing
 *   decoder         Sequence, ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip
 * Anything else is DS_ERR_UNSUPPORTED with its name. "truncation" and "padding" are for batches of
 * one kind of caller and don't apply here.
 *
 * Where it differs from the tokenizers library: text that neither the vocabulary nor an unknown
 * token covers is an error, not dropped; bytes that aren't UTF-8 are encoded as bytes; decoding
 * gives bytes as they are, not U+FFFD; an added token decodes to itself; U+180E counts as a blank
 * (\s) in patterns.
 */
#ifndef DS_DATA_TOKENIZER_JSON_H
#define DS_DATA_TOKENIZER_JSON_H

#include "base/json.h"
#include "data/tokenizer_bpe.h"

/* normalizer, pre_tokenizer, post_processor, decoder (tokenizer_json_parts.c). */
DS_MUST_USE ds_status ds_tokenizer_json_parts(ds_tokenizer_bpe *t, const cJSON *root,
                                              const char *name, ds_error *err);

/* A whole number for an id; else -1, which no vocabulary takes. */
int64_t ds_tokenizer_json_id(const cJSON *item);

#endif
