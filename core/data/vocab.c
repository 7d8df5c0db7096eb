#include "data/vocab.h"

#include "data/hash.h"

#include <stdlib.h>
#include <string.h>

void ds_vocab_finish(ds_vocab *v) {
  ds_str_finish(&v->text);
  free(v->entries);
  free(v->slots);
  memset(v, 0, sizeof *v);
}

const ds_vocab_entry *ds_vocab_entry_of(const ds_vocab *v, int64_t id) {
  if (id < 0 || id >= v->size || !(v->entries[id].flags & DS_TOKEN_PRESENT)) return NULL;
  return &v->entries[id];
}

/* The slot that holds the text, or the empty one where it belongs. */
static size_t slot_of(const ds_vocab *v, const char *text, size_t length) {
  size_t mask = v->n_slots - 1;
  size_t i = ds_hash_bytes(text, length) & mask;
  for (; v->slots[i] >= 0; i = (i + 1) & mask) {
    const ds_vocab_entry *e = &v->entries[v->slots[i]];
    if (e->length == length && memcmp(v->text.data + e->offset, text, length) == 0) break;
  }
  return i;
}

int32_t ds_vocab_find(const ds_vocab *v, const char *text, size_t length) {
  return v->n_slots ? v->slots[slot_of(v, text, length)] : -1;
}

static ds_status grow_slots(ds_vocab *v, ds_error *err) {
  size_t n = v->n_slots ? v->n_slots * 2 : 512;
  int32_t *slots = malloc(n * sizeof *slots);
  if (!slots) return ds_fail_memory(err, "vocabulary");
  for (size_t i = 0; i < n; i++) slots[i] = -1;
  int32_t *old = v->slots;
  size_t n_old = v->n_slots;
  v->slots = slots;
  v->n_slots = n;
  for (size_t i = 0; i < n_old; i++) {
    if (old[i] < 0) continue;
    const ds_vocab_entry *e = &v->entries[old[i]];
    slots[slot_of(v, v->text.data + e->offset, e->length)] = old[i];
  }
  free(old);
  return DS_OK;
}

ds_status ds_vocab_add(ds_vocab *v, const char *text, size_t length, int64_t id, uint32_t flags,
                       const char *name, ds_error *err) {
  if (id < 0 || id >= DS_VOCAB_LIMIT)
    return ds_fail(err, DS_ERR_FORMAT, "%s: token \"%.60s\" has id %lld; ids go from 0 to %d", name,
                   text, (long long)id, DS_VOCAB_LIMIT - 1);
  const ds_vocab_entry *other = ds_vocab_entry_of(v, id);
  if (other)
    return ds_fail(err, DS_ERR_FORMAT, "%s: tokens \"%.*s\" and \"%.60s\" have the same id %lld",
                   name, other->length > 60 ? 60 : (int)other->length, v->text.data + other->offset,
                   text, (long long)id);
  if (2 * (v->count + 1) > v->n_slots) DS_TRY(grow_slots(v, err));
  size_t slot = slot_of(v, text, length);
  if (v->slots[slot] >= 0)
    return ds_fail(err, DS_ERR_FORMAT, "%s: token \"%.60s\" has two ids, %d and %lld", name, text,
                   (int)v->slots[slot], (long long)id);
  DS_TRY(
      ds_reserve(&v->entries, &v->capacity, (size_t)id + 1, sizeof *v->entries, "vocabulary", err));
  size_t offset = v->text.length;
  ds_str_append(&v->text, text, length);
  DS_TRY(ds_str_status(&v->text, err));
  if (id >= v->size) {
    memset(v->entries + v->size, 0, (size_t)(id + 1 - v->size) * sizeof *v->entries);
    v->size = (int32_t)id + 1;
  }
  v->entries[id] = (ds_vocab_entry){offset, (uint32_t)length, flags | DS_TOKEN_PRESENT};
  v->slots[slot] = (int32_t)id;
  v->count++;
  return DS_OK;
}
