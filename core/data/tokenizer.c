#include "data/tokenizer.h"

#include "base/file.h"
#include "data/tokenizer_bpe.h"

#include <stdlib.h>
#include <string.h>

/* Far above any real vocabulary's file; keeps a wrong path from filling the memory. */
enum { FILE_LIMIT = 256 << 20 };

void ds_tokenizer_destroy(ds_tokenizer *t) {
  if (!t) return;
  if (t->vtable) t->vtable->destroy(t->self);
  for (int i = 0; i < t->n_files; i++) free(t->files[i].text);
  free(t);
}

int32_t ds_tokenizer_vocab_size(const ds_tokenizer *t) {
  return t->vtable->vocab_size(t->self);
}

int32_t ds_tokenizer_bos(const ds_tokenizer *t) {
  return t->bos;
}

int32_t ds_tokenizer_eos(const ds_tokenizer *t) {
  return t->eos;
}

ds_status ds_tokenizer_encode(const ds_tokenizer *t, const char *text, size_t length, bool special,
                              int32_t **ids, size_t *count, ds_error *err) {
  *ids = NULL;
  *count = 0;
  ds_ids found = {0};
  ds_status status = ds_reserve(&found.data, &found.capacity, 1, sizeof *found.data, "tokens", err);
  if (status == DS_OK) status = t->vtable->encode(t->self, text, length, special, &found, err);
  if (status != DS_OK) {
    free(found.data);
    return status;
  }
  *ids = found.data;
  *count = found.count;
  return DS_OK;
}

ds_status ds_tokenizer_decode(const ds_tokenizer *t, const int32_t *ids, size_t count, bool special,
                              char **text, size_t *length, ds_error *err) {
  *text = NULL;
  *length = 0;
  ds_str s = {0};
  ds_status status = t->vtable->decode(t->self, ids, count, special, &s, err);
  if (status == DS_OK) {
    size_t n = s.length;
    *text = ds_str_take(&s);
    if (*text)
      *length = n;
    else
      status = ds_fail_memory(err, "decoded text");
  }
  ds_str_finish(&s);
  return status;
}

ds_status ds_tokenizer_save(const ds_tokenizer *t, const char *folder, ds_error *err) {
  if (t->n_files) DS_TRY(ds_make_folders(folder, err));
  for (int i = 0; i < t->n_files; i++) {
    char *path = ds_path_join(folder, t->files[i].name);
    if (!path) return ds_fail_memory(err, folder);
    ds_status status = ds_file_write(path, t->files[i].text, t->files[i].size, err);
    free(path);
    if (status != DS_OK) return status;
  }
  return DS_OK;
}

/* ---------------------------------------------------------------- loading */

/* Reads folder/name (static) and keeps it for save. Not there: NULL, unless required. */
static ds_status keep_file(ds_tokenizer *t, const char *path, const char *name, bool required,
                           const ds_tokenizer_file **out, ds_error *err) {
  *out = NULL;
  if (!required && !ds_file_exists(path)) return DS_OK;
  ds_tokenizer_file *f = &t->files[t->n_files];
  DS_TRY(ds_file_read(path, FILE_LIMIT, &f->text, &f->size, err));
  f->name = name;
  t->n_files++;
  *out = f;
  return DS_OK;
}

static ds_status keep_beside(ds_tokenizer *t, const char *folder, const char *name, bool required,
                             const ds_tokenizer_file **out, ds_error *err) {
  char *path = ds_path_join(folder, name);
  if (!path) return ds_fail_memory(err, name);
  ds_status status = keep_file(t, path, name, required, out, err);
  free(path);
  return status;
}

/* Without a template, LLaMA's kind of tokenizer (byte fallback) begins with BOS, as Hugging Face's
 * class for it does; tokenizer_config.json may say otherwise. */
static ds_status begin_with_bos(const ds_tokenizer *t, ds_tokenizer_bpe *bpe,
                                const char *tokenizer_config, ds_error *err) {
  bool add;
  DS_TRY(ds_special_tokens_add_bos(tokenizer_config, bpe->bpe.byte_fallback, &add, err));
  if (!add || t->bos < 0 || bpe->prefix.count || bpe->suffix.count) return DS_OK;
  return ds_ids_append(&bpe->prefix, &t->bos, 1, err);
}

static const char *text_of(const ds_tokenizer_file *f) {
  return f ? f->text : NULL;
}

static ds_status load_bpe(ds_tokenizer *t, const char *folder, const char *json_path,
                          const char *config, ds_error *err) {
  const ds_tokenizer_file *json = NULL, *vocab = NULL, *merges = NULL, *added = NULL;
  const ds_tokenizer_file *tc = NULL, *map = NULL;
  ds_tokenizer_bpe *bpe = NULL;
  DS_TRY(keep_beside(t, folder, "tokenizer_config.json", false, &tc, err));
  DS_TRY(keep_beside(t, folder, "special_tokens_map.json", false, &map, err));
  if (json_path) {
    DS_TRY(keep_file(t, json_path, "tokenizer.json", true, &json, err));
    DS_TRY(ds_tokenizer_json_create(json->text, json->size, json_path, &bpe, err));
  } else {
    DS_TRY(keep_beside(t, folder, "vocab.json", true, &vocab, err));
    DS_TRY(keep_beside(t, folder, "merges.txt", true, &merges, err));
    DS_TRY(keep_beside(t, folder, "added_tokens.json", false, &added, err));
    ds_status status =
        ds_tokenizer_gpt2_create(vocab, merges, text_of(tc), text_of(added), &bpe, err);
    if (status != DS_OK) return ds_fail_prefix(err, status, "%s", folder);
  }
  t->self = bpe;
  t->vtable = &ds_tokenizer_bpe_vtable;
  ds_status status = ds_special_tokens_find(t, text_of(tc), text_of(map), config, err);
  if (status == DS_OK) status = begin_with_bos(t, bpe, text_of(tc), err);
  return status == DS_OK ? DS_OK : ds_fail_prefix(err, status, "%s", folder);
}

static ds_status load_folder(ds_tokenizer *t, const char *folder, const char *json_path,
                             ds_error *err) {
  char *path = ds_path_join(folder, "config.json");
  if (!path) return ds_fail_memory(err, folder);
  char *config = NULL;
  size_t size;
  ds_status status = DS_OK;
  if (ds_file_exists(path)) status = ds_file_read(path, FILE_LIMIT, &config, &size, err);
  if (status == DS_OK) status = load_bpe(t, folder, json_path, config, err);
  free(config);
  free(path);
  return status;
}

/* Which files path means. *folder and *json (NULL: vocab.json + merges.txt) are new. */
static ds_status resolve(const char *path, char **folder, char **json, ds_error *err) {
  *folder = *json = NULL;
  if (ds_is_folder(path)) {
    *folder = strdup(path);
    *json = ds_path_join(path, "tokenizer.json");
    if (!*folder || !*json) return ds_fail_memory(err, path);
    if (ds_file_exists(*json)) return DS_OK;
    free(*json);
    *json = NULL;
    char *vocab = ds_path_join(path, "vocab.json");
    if (!vocab) return ds_fail_memory(err, path);
    bool there = ds_file_exists(vocab);
    free(vocab);
    if (there) return DS_OK;
    return ds_fail(err, DS_ERR_NOT_FOUND,
                   "%s holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt",
                   path);
  }
  const char *slash = strrchr(path, '/');
  const char *base = slash ? slash + 1 : path;
  *folder = !slash          ? strdup(".")
            : slash == path ? strdup("/")
                            : strndup(path, (size_t)(slash - path));
  if (!*folder) return ds_fail_memory(err, path);
  if (strcmp(base, "vocab.json") == 0 || strcmp(base, "merges.txt") == 0) return DS_OK;
  *json = strdup(path);
  return *json ? DS_OK : ds_fail_memory(err, path);
}

ds_status ds_tokenizer_load(const char *path, ds_tokenizer **out, ds_error *err) {
  *out = NULL;
  char *folder, *json;
  ds_tokenizer *t = NULL;
  ds_status status = resolve(path, &folder, &json, err);
  if (status != DS_OK) goto done;
  t = calloc(1, sizeof *t);
  if (!t) {
    status = ds_fail_memory(err, "tokenizer");
    goto done;
  }
  t->bos = t->eos = -1;
  status = load_folder(t, folder, json, err);
done:
  if (status == DS_OK)
    *out = t;
  else
    ds_tokenizer_destroy(t);
  free(folder);
  free(json);
  return status;
}
