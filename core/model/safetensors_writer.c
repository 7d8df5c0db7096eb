#include "base/file.h"
#include "base/json.h"
#include "model/safetensors.h"
#include "model/safetensors_types.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

struct ds_safetensors_writer {
  char *path;
  cJSON *header;
  uint64_t declared, written; /* bytes of data */
  bool open;
  ds_writer file;
};

ds_status ds_safetensors_writer_create(const char *path, ds_safetensors_writer **out,
                                       ds_error *err) {
  *out = NULL;
  ds_safetensors_writer *w = calloc(1, sizeof *w);
  if (!w) return ds_fail_memory(err, path);
  w->path = strdup(path);
  w->header = cJSON_CreateObject();
  if (!w->path || !w->header) {
    ds_safetensors_writer_destroy(w);
    return ds_fail_memory(err, path);
  }
  *out = w;
  return DS_OK;
}

void ds_safetensors_writer_destroy(ds_safetensors_writer *w) {
  if (!w) return;
  if (w->open) ds_writer_abort(&w->file);
  cJSON_Delete(w->header);
  free(w->path);
  free(w);
}

static ds_status check_declaring(const ds_safetensors_writer *w, ds_error *err) {
  if (!w->open) return DS_OK;
  return ds_fail(err, DS_ERR_STATE, "%s: the header is written already", w->path);
}

ds_status ds_safetensors_writer_metadata(ds_safetensors_writer *w, const char *key,
                                         const char *value, ds_error *err) {
  DS_TRY(check_declaring(w, err));
  cJSON *metadata = cJSON_GetObjectItemCaseSensitive(w->header, "__metadata__");
  if (!metadata) metadata = cJSON_AddObjectToObject(w->header, "__metadata__");
  if (cJSON_GetObjectItemCaseSensitive(metadata, key))
    return ds_fail(err, DS_ERR_INVALID, "%s: metadata \"%s\" is there already", w->path, key);
  if (!cJSON_AddStringToObject(metadata, key, value)) return ds_fail_memory(err, w->path);
  return DS_OK;
}

static bool append_number(cJSON *array, double value) {
  cJSON *item = cJSON_CreateNumber(value);
  if (item && cJSON_AddItemToArray(array, item)) return true;
  cJSON_Delete(item);
  return false;
}

/* {"dtype", "shape", "data_offsets"}, or false when out of memory. */
static bool describe(cJSON *header, const char *name, const char *type, const ds_tensor *t,
                     uint64_t begin, uint64_t end) {
  cJSON *info = cJSON_AddObjectToObject(header, name);
  bool ok = info && cJSON_AddStringToObject(info, "dtype", type);
  cJSON *shape = ok ? cJSON_AddArrayToObject(info, "shape") : NULL;
  ok = shape != NULL;
  for (int32_t i = 0; ok && i < t->rank; i++) ok = append_number(shape, (double)t->shape[i]);
  cJSON *offsets = ok ? cJSON_AddArrayToObject(info, "data_offsets") : NULL;
  return offsets && append_number(offsets, (double)begin) && append_number(offsets, (double)end);
}

ds_status ds_safetensors_writer_add(ds_safetensors_writer *w, const char *name, int32_t dtype,
                                    int32_t rank, const int64_t *shape, ds_error *err) {
  DS_TRY(check_declaring(w, err));
  const char *type = ds_safetensors_type_name(dtype);
  uint64_t bytes = ds_dtype_size(dtype);
  bool ok = type && rank >= 0 && rank <= DS_MAX_RANK;
  for (int32_t i = 0; ok && i < rank; i++)
    ok = shape[i] >= 0 && !__builtin_mul_overflow(bytes, (uint64_t)shape[i], &bytes);
  if (!ok || bytes > ((uint64_t)1 << 53) - w->declared)
    return ds_fail(err, DS_ERR_INVALID, "%s: tensor \"%s\": dtype %s of rank %d can't be stored",
                   w->path, name, ds_dtype_name(dtype), rank);
  if (strcmp(name, "__metadata__") == 0 || cJSON_GetObjectItemCaseSensitive(w->header, name))
    return ds_fail(err, DS_ERR_INVALID, "%s: tensor \"%s\" is there already", w->path, name);
  ds_tensor t = ds_tensor_make(NULL, dtype, rank, shape);
  if (!describe(w->header, name, type, &t, w->declared, w->declared + bytes))
    return ds_fail_memory(err, w->path);
  w->declared += bytes;
  return DS_OK;
}

ds_status ds_safetensors_writer_header(const ds_safetensors_writer *w, char **out, size_t *bytes,
                                       uint64_t *total, ds_error *err) {
  *out = NULL;
  char *text = cJSON_PrintUnformatted(w->header);
  if (!text) return ds_fail_memory(err, w->path);
  /* Spaces bring the data to a multiple of 8, so that readers can map it. */
  size_t length = strlen(text), padded = length + (8 - length % 8) % 8;
  char *head = malloc(8 + padded);
  if (head) {
    for (int i = 0; i < 8; i++) head[i] = (char)((uint64_t)padded >> 8 * i);
    memcpy(head + 8, text, length);
    memset(head + 8 + length, ' ', padded - length);
  }
  cJSON_free(text);
  if (!head) return ds_fail_memory(err, w->path);
  *out = head;
  *bytes = 8 + padded;
  *total = *bytes + w->declared;
  return DS_OK;
}

ds_status ds_safetensors_writer_begin(ds_safetensors_writer *w, ds_error *err) {
  DS_TRY(check_declaring(w, err));
  char *head;
  size_t bytes;
  uint64_t total;
  DS_TRY(ds_safetensors_writer_header(w, &head, &bytes, &total, err));
  ds_status status = ds_writer_open(&w->file, w->path, err);
  w->open = status == DS_OK;
  if (status == DS_OK) status = ds_writer_write(&w->file, head, bytes, err);
  free(head);
  return status;
}

ds_status ds_safetensors_writer_write(ds_safetensors_writer *w, const void *data, size_t bytes,
                                      ds_error *err) {
  if (!w->open) return ds_fail(err, DS_ERR_STATE, "%s: begin the file first", w->path);
  if (bytes > w->declared - w->written)
    return ds_fail(err, DS_ERR_INVALID, "%s: more data than its tensors have", w->path);
  w->written += bytes;
  return ds_writer_write(&w->file, data, bytes, err);
}

ds_status ds_safetensors_writer_commit(ds_safetensors_writer *w, ds_error *err) {
  if (!w->open) return ds_fail(err, DS_ERR_STATE, "%s: begin the file first", w->path);
  if (w->written != w->declared)
    return ds_fail(err, DS_ERR_INVALID, "%s: only %llu of %llu bytes of data were written", w->path,
                   (unsigned long long)w->written, (unsigned long long)w->declared);
  w->open = false;
  return ds_writer_commit(&w->file, err);
}
