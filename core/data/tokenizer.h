/* tokenizer.h - what stands behind ds_tokenizer: a kind of tokenizer (a vtable), its begin and end
 * tokens, and the files it came from. */
#ifndef DS_DATA_TOKENIZER_H
#define DS_DATA_TOKENIZER_H

#include "ds.h"

#include "base/status.h"
#include "data/bpe.h"

/* Functions of a kind. All but destroy may run on any number of threads at once. */
typedef struct ds_tokenizer_vtable {
  void (*destroy)(void *self);
  int32_t (*vocab_size)(const void *self);
  /* The id of a token's text, or -1. */
  int32_t (*find)(const void *self, const char *text);
  /* Whether an id is in the vocabulary, which may have holes. */
  bool (*has)(const void *self, int64_t id);
  /* Appends to ids. */
  ds_status (*encode)(const void *self, const char *text, size_t length, bool special, ds_ids *ids,
                      ds_error *err);
  /* Appends to out. */
  ds_status (*decode)(const void *self, const int32_t *ids, size_t count, bool special, ds_str *out,
                      ds_error *err);
} ds_tokenizer_vtable;

/* A file as it was read. */
typedef struct ds_tokenizer_file {
  const char *name; /* static */
  char *text;       /* NUL-terminated */
  size_t size;
} ds_tokenizer_file;

enum { DS_TOKENIZER_FILES = 6 };

struct ds_tokenizer {
  const ds_tokenizer_vtable *vtable;
  void *self;
  int32_t bos, eos; /* -1 = none */
  ds_tokenizer_file files[DS_TOKENIZER_FILES];
  int n_files;
};

/* The begin and end tokens (special_tokens.c), from the first of these that says something:
 * tokenizer_config.json and special_tokens_map.json (a token that the vocabulary lacks is
 * DS_ERR_FORMAT; null means there is none), config.json (an id that the vocabulary lacks is passed
 * over: model configs carry defaults), the well-known names "<s>", "<|begin_of_text|>", "</s>",
 * "<|end_of_text|>", "<|endoftext|>". The three texts may be NULL. */
DS_MUST_USE ds_status ds_special_tokens_find(ds_tokenizer *t, const char *tokenizer_config,
                                             const char *special_tokens_map, const char *config,
                                             ds_error *err);
/* "add_bos_token" of tokenizer_config.json (text, may be NULL); fallback where it says nothing. */
DS_MUST_USE ds_status ds_special_tokens_add_bos(const char *tokenizer_config, bool fallback,
                                                bool *out, ds_error *err);

#endif
