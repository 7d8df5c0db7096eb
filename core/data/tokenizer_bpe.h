/* tokenizer_bpe.h - a BPE tokenizer, whichever files describe it: added tokens, normalizer,
 * pre-tokenizer, merges, template; and the way back. */
#ifndef DS_DATA_TOKENIZER_BPE_H
#define DS_DATA_TOKENIZER_BPE_H

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/text_steps.h"
#include "data/token_decoder.h"
#include "data/tokenizer.h"

typedef struct ds_tokenizer_bpe {
  ds_vocab vocab;
  ds_bpe bpe;
  ds_added_tokens added;
  ds_text_steps normalizer, pretokenizer;
  ds_token_decoder decoder;
  ds_ids prefix, suffix; /* what the post-processor puts around the tokens */
} ds_tokenizer_bpe;

extern const ds_tokenizer_vtable ds_tokenizer_bpe_vtable;

/* NULL when out of memory. */
ds_tokenizer_bpe *ds_tokenizer_bpe_create(void);
void ds_tokenizer_bpe_destroy(void *self);

/* Adds a token with the id and the flags of `like`, whose text and length don't matter. The text
 * gets the id, unless it has it already. Adding a token twice is DS_ERR_FORMAT. */
DS_MUST_USE ds_status ds_tokenizer_bpe_add_token(ds_tokenizer_bpe *t, const char *text,
                                                 const ds_added_token *like, const char *name,
                                                 ds_error *err);
/* GPT-2's pre-tokenizer: a space in front (add_prefix_space), then its pattern (use_regex). */
DS_MUST_USE ds_status ds_tokenizer_bpe_byte_level(ds_tokenizer_bpe *t, bool add_prefix_space,
                                                  bool use_regex, const char *name, ds_error *err);
/* Call when everything is filled in. */
DS_MUST_USE ds_status ds_tokenizer_bpe_prepare(ds_tokenizer_bpe *t, const char *name,
                                               ds_error *err);

/* The loaders: from the text of the files. `name`s are paths for messages. */
DS_MUST_USE ds_status ds_tokenizer_json_create(const char *text, size_t size, const char *name,
                                               ds_tokenizer_bpe **out, ds_error *err);
/* tokenizer_config and added_tokens (texts of the files beside) may be NULL. */
DS_MUST_USE ds_status ds_tokenizer_gpt2_create(const ds_tokenizer_file *vocab,
                                               const ds_tokenizer_file *merges,
                                               const char *tokenizer_config,
                                               const char *added_tokens, ds_tokenizer_bpe **out,
                                               ds_error *err);

#endif
