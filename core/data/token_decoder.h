/* token_decoder.h - from the texts of tokens to bytes, by the steps of a tokenizer's decoder. */
#ifndef DS_DATA_TOKEN_DECODER_H
#define DS_DATA_TOKEN_DECODER_H

#include "base/str.h"

#include <stdint.h>

typedef enum ds_decode_step_kind {
  DS_DECODE_BYTE_LEVEL,    /* GPT-2's alphabet -> bytes */
  DS_DECODE_BYTE_FALLBACK, /* a token "<0x41>" -> its byte */
  DS_DECODE_REPLACE,       /* every `from` -> `to` */
  DS_DECODE_METASPACE,     /* `from` -> a space; dropped in the first token when drop_first */
  DS_DECODE_STRIP,         /* up to start `from` at the beginning, up to stop at the end */
  DS_DECODE_FUSE,          /* all tokens become one */
  DS_DECODE_JOIN           /* the same with spaces between */
} ds_decode_step_kind;

typedef struct ds_decode_step {
  ds_decode_step_kind kind;
  char *from, *to; /* owned; to may be NULL */
  bool drop_first;
  int64_t start, stop;
} ds_decode_step;

/* Zero-initialize. */
typedef struct ds_token_decoder {
  ds_decode_step *steps;
  size_t count, capacity;
} ds_token_decoder;

/* The texts of tokens, one after the other. Zero-initialize. */
typedef struct ds_token_texts {
  ds_str text;
  struct ds_token_end {
    size_t end;
    bool literal; /* an added token: not in GPT-2's alphabet */
  } * ends;
  size_t count, capacity;
} ds_token_texts;

void ds_token_decoder_finish(ds_token_decoder *d);
/* Appends a step; from and to (may be NULL) are copied. */
DS_MUST_USE ds_status ds_token_decoder_add(ds_token_decoder *d, ds_decode_step_kind kind,
                                           const char *from, const char *to, ds_decode_step **out,
                                           ds_error *err);
/* Works on the texts in place; their concatenation is then the answer. */
DS_MUST_USE ds_status ds_token_decoder_run(const ds_token_decoder *d, ds_token_texts *texts,
                                           ds_error *err);

void ds_token_texts_finish(ds_token_texts *t);
/* Ends the token whose text was appended to t->text. */
DS_MUST_USE ds_status ds_token_texts_end(ds_token_texts *t, bool literal, ds_error *err);

#endif
