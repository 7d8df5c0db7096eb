#include "data/dataset.h"

#include "base/file.h"
#include "data/bpe.h"
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>

typedef struct tokens {
  ds_ids ids;
  int64_t seq_len;
} tokens;

static int64_t tokens_length(void *self) {
  const tokens *t = self;
  return t->ids.count ? ((int64_t)t->ids.count - 1) / t->seq_len : 0;
}

/* Inputs and labels overlap in memory: both point into the ids. */
static ds_status tokens_get(void *self, int64_t index, ds_batch *sample, ds_error *err) {
  tokens *t = self;
  if (index < 0 || index >= tokens_length(t))
    return ds_fail(err, DS_ERR_INVALID, "there are %lld samples", (long long)tokens_length(t));
  sample->n = 2;
  for (int i = 0; i < 2; i++)
    sample->tensors[i] = (ds_host_tensor){.dtype = DS_I32,
                                          .rank = 1,
                                          .shape = {t->seq_len},
                                          .data = t->ids.data + index * t->seq_len + i};
  return DS_OK;
}

static void tokens_destroy(void *self) {
  tokens *t = self;
  free(t->ids.data);
  free(t);
}

static ds_status new_tokens(int64_t seq_len, tokens **out, ds_error *err) {
  *out = NULL;
  if (seq_len < 1)
    return ds_fail(err, DS_ERR_INVALID, "data set: seq_len must be positive, not %lld",
                   (long long)seq_len);
  tokens *t = calloc(1, sizeof *t);
  if (!t) return ds_fail_memory(err, "data set");
  t->seq_len = seq_len;
  *out = t;
  return DS_OK;
}

/* `what` names the ids from `from` on; tokenizer may be NULL. */
static ds_status check_vocab(const tokens *t, size_t from, int64_t vocab_size, const char *what,
                             const ds_tokenizer *tokenizer, ds_error *err) {
  for (size_t i = from; i < t->ids.count; i++) {
    int32_t id = t->ids.data[i];
    if (id >= 0 && (vocab_size <= 0 || id < vocab_size)) continue;
    if (!tokenizer)
      return ds_fail(err, DS_ERR_INVALID,
                     "%s: id %d (number %zu) is outside the model's vocabulary of %lld", what,
                     (int)id, i - from, (long long)vocab_size);
    return ds_fail(err, DS_ERR_INVALID,
                   "%s: token %zu has id %d, but the model's vocabulary has %lld entries and the "
                   "tokenizer's %d; use the model's own tokenizer, or a model with a vocab_size of "
                   "at least %d",
                   what, i - from, (int)id, (long long)vocab_size,
                   (int)ds_tokenizer_vocab_size(tokenizer),
                   (int)ds_tokenizer_vocab_size(tokenizer));
  }
  return DS_OK;
}

/* Takes t, whatever happens. */
static ds_status finish_tokens(tokens *t, const char *what, ds_dataset **out, ds_error *err) {
  static const ds_dataset_vtable vtable = {
      .size = sizeof vtable, .length = tokens_length, .get = tokens_get, .destroy = tokens_destroy};
  ds_status status = DS_OK;
  if (tokens_length(t) < 1)
    status = ds_fail(err, DS_ERR_INVALID,
                     "data set: %s gives %zu tokens, but one sample of seq_len %lld needs %lld; "
                     "add text or lower seq_len",
                     what, t->ids.count, (long long)t->seq_len, (long long)t->seq_len + 1);
  if (status == DS_OK) status = ds_dataset_create(&vtable, t, out, err);
  if (status != DS_OK) tokens_destroy(t);
  return status;
}

ds_status ds_dataset_tokens(const int32_t *ids, size_t count, int64_t seq_len, int64_t vocab_size,
                            ds_dataset **out, ds_error *err) {
  tokens *t;
  *out = NULL;
  DS_TRY(new_tokens(seq_len, &t, err));
  ds_status status = ds_ids_append(&t->ids, ids, count, err);
  if (status == DS_OK) status = check_vocab(t, 0, vocab_size, "data set", NULL, err);
  if (status == DS_OK) return finish_tokens(t, "the array of ids", out, err);
  tokens_destroy(t);
  return status;
}

/* Names of special tokens in the files are text like any other; no template is applied. */
static ds_status append_file(tokens *t, const char *path, const ds_tokenizer *tokenizer,
                             int64_t vocab_size, ds_error *err) {
  ds_file file;
  DS_TRY(ds_file_map(path, &file, err));
  size_t before = t->ids.count;
  const char *text = file.size ? (const char *)file.data : "";
  ds_status status =
      tokenizer->vtable->encode(tokenizer->self, text, file.size, false, &t->ids, err);
  ds_file_unmap(&file);
  if (status != DS_OK) return ds_fail_prefix(err, status, "%s", path);
  return check_vocab(t, before, vocab_size, path, tokenizer, err);
}

ds_status ds_dataset_text(const char *const *paths, int n_paths, const ds_tokenizer *t,
                          int64_t seq_len, int64_t vocab_size, ds_dataset **out, ds_error *err) {
  tokens *all;
  *out = NULL;
  DS_TRY(new_tokens(seq_len, &all, err));
  ds_status status = DS_OK;
  for (int i = 0; i < n_paths && status == DS_OK; i++)
    status = append_file(all, paths[i], t, vocab_size, err);
  if (status == DS_OK)
    return finish_tokens(all, n_paths == 1 ? paths[0] : "the text of all files", out, err);
  tokens_destroy(all);
  return status;
}
