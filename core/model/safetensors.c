#include "model/safetensors.h"

#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "model/safetensors_types.h"
#include "tensor/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The reference implementation's limit. */
#define HEADER_MAX 100000000u

typedef struct shard {
  char *file; /* its name as the index gives it */
  ds_file map;
  cJSON *header; /* tensors' names point into it */
} shard;

struct ds_safetensors {
  shard *shards;
  size_t n_shards, shard_capacity;
  ds_safetensor *tensors; /* sorted by name */
  size_t count, capacity;
};

static const cJSON *member(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* A whole number that a double holds exactly. */
static bool get_count(const cJSON *item, uint64_t *out) {
  if (!cJSON_IsNumber(item)) return false;
  double v = item->valuedouble;
  if (!(v >= 0 && v <= 0x1p53) || v != floor(v)) return false;
  *out = (uint64_t)v;
  return true;
}

/* dtype and shape; the bytes that they make. */
static ds_status read_type(const cJSON *info, const char *where, ds_safetensor *t, ds_error *err) {
  const cJSON *type = member(info, "dtype"), *shape = member(info, "shape");
  if (!cJSON_IsString(type) || !cJSON_IsArray(shape))
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: tensor \"%s\" needs a \"dtype\" string and a \"shape\" array", where,
                   t->name);
  size_t size;
  if (!ds_safetensors_type(type->valuestring, &t->dtype, &size))
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: tensor \"%s\" has the unknown dtype \"%s\"", where,
                   t->name, type->valuestring);
  t->type = type->valuestring;
  uint64_t bytes = size;
  const cJSON *dimension;
  cJSON_ArrayForEach(dimension, shape) {
    uint64_t n;
    if (t->rank == DS_MAX_RANK)
      return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: tensor \"%s\" has more than %d dimensions",
                     where, t->name, DS_MAX_RANK);
    if (!get_count(dimension, &n) || __builtin_mul_overflow(bytes, n, &bytes) || bytes > INT64_MAX)
      return ds_fail(err, DS_ERR_FORMAT, "%s: tensor \"%s\": dimension %d is no possible size",
                     where, t->name, t->rank);
    t->shape[t->rank++] = (int64_t)n;
  }
  t->bytes = (size_t)bytes;
  return DS_OK;
}

static ds_status read_tensor(const cJSON *info, const char *where, const unsigned char *data,
                             size_t size, ds_safetensor *t, ds_error *err) {
  if (!cJSON_IsObject(info))
    return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" in the header must be an object, not %s", where,
                   info->string, ds_json_type(info));
  *t = (ds_safetensor){.name = info->string};
  DS_TRY(read_type(info, where, t, err));
  const cJSON *offsets = member(info, "data_offsets");
  uint64_t begin, end;
  if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
      !get_count(offsets->child, &begin) || !get_count(offsets->child->next, &end) || begin > end)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: tensor \"%s\" needs \"data_offsets\": [begin, end] with begin <= end",
                   where, t->name);
  if (end > size)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: tensor \"%s\" ends at byte %llu of the data, but the file has only %zu; is "
                   "the download complete?",
                   where, t->name, (unsigned long long)end, size);
  if (end - begin != t->bytes)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: tensor \"%s\": dtype and shape make %zu bytes, data_offsets %llu", where,
                   t->name, t->bytes, (unsigned long long)(end - begin));
  t->data = data + begin;
  return DS_OK;
}

static ds_status check_metadata(const cJSON *metadata, const char *where, ds_error *err) {
  bool ok = cJSON_IsObject(metadata);
  const cJSON *item;
  cJSON_ArrayForEach(item, metadata) ok = ok && cJSON_IsString(item);
  if (ok) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"__metadata__\" must be an object of strings", where);
}

static int by_place(const void *a, const void *b) {
  const ds_safetensor *x = a, *y = b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const ds_safetensor *)a)->name, ((const ds_safetensor *)b)->name);
}

/* The tensors must cover the data one after the other. Leaves them in that order. */
static ds_status check_cover(ds_safetensor *t, size_t count, const unsigned char *data, size_t size,
                             const char *where, ds_error *err) {
  if (count) qsort(t, count, sizeof *t, by_place);
  const unsigned char *at = data;
  for (size_t i = 0; i < count; i++) {
    if (t[i].data != at)
      return ds_fail(err, DS_ERR_FORMAT, "%s: tensor \"%s\" %s", where, t[i].name,
                     t[i].data < at ? "overlaps another" : "leaves a hole in the data before it");
    at += t[i].bytes;
  }
  if (at != data + size)
    return ds_fail(err, DS_ERR_FORMAT, "%s: %zu bytes after the last tensor belong to none", where,
                   size - (size_t)(at - data));
  return DS_OK;
}

/* Reads one file's header and adds its tensors. */
static ds_status add_tensors(ds_safetensors *s, shard *file, const unsigned char *bytes,
                             size_t size, const char *where, ds_error *err) {
  uint64_t header = 0;
  if (size < 8)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: %zu bytes are too few for a safetensors file; is the download complete?",
                   where, size);
  for (int i = 7; i >= 0; i--) header = header << 8 | bytes[i];
  if (header > HEADER_MAX || header > size - 8)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: a header of %llu bytes doesn't fit (the file has %zu); this is no "
                   "safetensors file, or only the beginning of one",
                   where, (unsigned long long)header, size);
  DS_TRY(ds_json_parse((const char *)bytes + 8, (size_t)header, 0, where, &file->header, err));
  if (!cJSON_IsObject(file->header))
    return ds_fail(err, DS_ERR_FORMAT, "%s: the header must be an object, not %s", where,
                   ds_json_type(file->header));
  const unsigned char *data = bytes + 8 + header;
  size_t data_size = size - 8 - (size_t)header, first = s->count;
  const cJSON *item;
  cJSON_ArrayForEach(item, file->header) {
    if (strcmp(item->string, "__metadata__") == 0) {
      DS_TRY(check_metadata(item, where, err));
      continue;
    }
    DS_TRY(ds_reserve(&s->tensors, &s->capacity, s->count + 1, sizeof *s->tensors, where, err));
    DS_TRY(read_tensor(item, where, data, data_size, &s->tensors[s->count], err));
    s->count++;
  }
  ds_safetensor *added = s->tensors ? s->tensors + first : NULL;
  return check_cover(added, s->count - first, data, data_size, where, err);
}

static ds_status add_shard(ds_safetensors *s, const char *file, shard **out, ds_error *err) {
  DS_TRY(ds_reserve(&s->shards, &s->shard_capacity, s->n_shards + 1, sizeof *s->shards,
                    "safetensors", err));
  *out = &s->shards[s->n_shards];
  memset(*out, 0, sizeof **out);
  (*out)->file = strdup(file);
  if (!(*out)->file) return ds_fail_memory(err, file);
  s->n_shards++;
  return DS_OK;
}

static ds_status add_file(ds_safetensors *s, const char *file, const char *path, ds_error *err) {
  shard *added;
  DS_TRY(add_shard(s, file, &added, err));
  DS_TRY(ds_file_map(path, &added->map, err));
  return add_tensors(s, added, added->map.data, added->map.size, path, err);
}

static ds_status sort_names(ds_safetensors *s, const char *where, ds_error *err) {
  if (s->count) qsort(s->tensors, s->count, sizeof *s->tensors, by_name);
  for (size_t i = 1; i < s->count; i++)
    if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
      return ds_fail(err, DS_ERR_FORMAT, "%s: tensor \"%s\" stands in two shards", where,
                     s->tensors[i].name);
  return DS_OK;
}

static shard *find_shard(ds_safetensors *s, const char *file) {
  for (size_t i = 0; i < s->n_shards; i++)
    if (strcmp(s->shards[i].file, file) == 0) return &s->shards[i];
  return NULL;
}

/* Opens every file that the weight map names, once. */
static ds_status add_mapped(ds_safetensors *s, const cJSON *map, const char *index, ds_error *err) {
  const char *slash = strrchr(index, '/');
  int folder = slash ? (int)(slash + 1 - index) : 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, map) {
    const char *file = cJSON_IsString(item) ? item->valuestring : "";
    if (!file[0] || file[0] == '.' || strchr(file, '/'))
      return ds_fail(err, DS_ERR_FORMAT,
                     "%s: tensor \"%s\" must name a file in the same folder, not \"%s\"", index,
                     item->string, file);
    if (find_shard(s, file)) continue;
    char *path = ds_format("%.*s%s", folder, index, file);
    if (!path) return ds_fail_memory(err, index);
    ds_status status = add_file(s, file, path, err);
    if (status != DS_OK) ds_fail_prefix(err, status, "%s", index);
    free(path);
    DS_TRY(status);
  }
  return DS_OK;
}

static ds_status open_index(ds_safetensors *s, const char *path, ds_error *err) {
  cJSON *root;
  DS_TRY(ds_json_load(path, HEADER_MAX, 0, &root, err));
  const cJSON *map = member(root, "weight_map"), *item;
  ds_status status = DS_OK;
  if (!cJSON_IsObject(map) || !map->child)
    status =
        ds_fail(err, DS_ERR_FORMAT, "%s: \"weight_map\" must name the file of each tensor", path);
  if (status == DS_OK) status = add_mapped(s, map, path, err);
  if (status == DS_OK) status = sort_names(s, path, err);
  if (status == DS_OK) cJSON_ArrayForEach(item, map) {
      const shard *file = find_shard(s, item->valuestring);
      if (status == DS_OK && (!member(file->header, item->string)))
        status = ds_fail(err, DS_ERR_FORMAT, "%s: tensor \"%s\" is not in %s", path, item->string,
                         item->valuestring);
    }
  cJSON_Delete(root);
  return status;
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

ds_status ds_safetensors_open(const char *path, ds_safetensors **out, ds_error *err) {
  *out = NULL;
  ds_safetensors *s = calloc(1, sizeof *s);
  if (!s) return ds_fail_memory(err, path);
  ds_status status;
  if (ends_with(path, ".index.json")) {
    status = open_index(s, path, err);
  } else {
    status = add_file(s, path, path, err);
    if (status == DS_OK) status = sort_names(s, path, err);
  }
  if (status != DS_OK) {
    ds_safetensors_close(s);
    return status;
  }
  *out = s;
  return DS_OK;
}

ds_status ds_safetensors_parse(const void *data, size_t size, const char *name,
                               ds_safetensors **out, ds_error *err) {
  *out = NULL;
  ds_safetensors *s = calloc(1, sizeof *s);
  if (!s) return ds_fail_memory(err, name);
  shard *added;
  ds_status status = add_shard(s, name, &added, err);
  if (status == DS_OK) status = add_tensors(s, added, data, size, name, err);
  if (status == DS_OK) status = sort_names(s, name, err);
  if (status != DS_OK) {
    ds_safetensors_close(s);
    return status;
  }
  *out = s;
  return DS_OK;
}

void ds_safetensors_close(ds_safetensors *s) {
  if (!s) return;
  for (size_t i = 0; i < s->n_shards; i++) {
    cJSON_Delete(s->shards[i].header);
    ds_file_unmap(&s->shards[i].map);
    free(s->shards[i].file);
  }
  free(s->shards);
  free(s->tensors);
  free(s);
}

size_t ds_safetensors_count(const ds_safetensors *s) {
  return s->count;
}
const ds_safetensor *ds_safetensors_at(const ds_safetensors *s, size_t index) {
  return &s->tensors[index];
}

const ds_safetensor *ds_safetensors_find(const ds_safetensors *s, const char *name) {
  ds_safetensor key = {.name = name};
  return s->count ? bsearch(&key, s->tensors, s->count, sizeof key, by_name) : NULL;
}

const char *ds_safetensors_metadata(const ds_safetensors *s, const char *key) {
  const cJSON *value = member(member(s->shards[0].header, "__metadata__"), key);
  return value ? value->valuestring : NULL;
}

ds_status ds_safetensor_read_f32(const ds_safetensor *t, float *out, ds_error *err) {
  size_t size = ds_dtype_size(t->dtype);
  uint64_t part[512]; /* aligned for every dtype, which the file's bytes need not be */
  for (size_t at = 0; at < t->bytes; at += sizeof part) {
    size_t bytes = t->bytes - at < sizeof part ? t->bytes - at : sizeof part;
    memcpy(part, t->data + at, bytes);
    if (!size || !ds_convert_to_f32(out + at / size, part, t->dtype, bytes / size))
      return ds_fail(err, DS_ERR_UNSUPPORTED, "tensor \"%s\" of dtype %s can't be read as numbers",
                     t->name, t->type);
  }
  return DS_OK;
}
