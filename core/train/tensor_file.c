#include "train/tensor_file.h"

#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

static uint64_t whole_count(const ds_stored *s) {
  uint64_t n = 1;
  for (int i = 0; i < s->rank; i++) n *= (uint64_t)s->whole[i];
  return n;
}

ds_status ds_tensor_file_plan(ds_tensor_file *f, const char *path, const ds_safetensors_writer *w,
                              const ds_stored *stored, int n_params, int first_kind, int n_kinds,
                              const bool *has, int32_t dtype, ds_error *err) {
  *f = (ds_tensor_file){
      .first_kind = first_kind, .n_kinds = n_kinds, .n_params = n_params, .dtype = dtype};
  f->path = strdup(path);
  f->at = calloc((size_t)n_kinds * (size_t)n_params + 1, sizeof *f->at);
  if (!f->path || !f->at) return ds_fail_memory(err, path);
  DS_TRY(ds_safetensors_writer_header(w, &f->head, &f->head_bytes, &f->bytes, err));
  uint64_t at = f->head_bytes;
  for (int i = 0; i < n_kinds * n_params; i++) {
    if (has && !has[i]) continue;
    f->at[i] = at;
    at += whole_count(&stored[i % n_params]) * ds_dtype_size(dtype);
  }
  if (at == f->bytes) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "%s: its tensors have %llu bytes, its header says %llu", path,
                 (unsigned long long)at, (unsigned long long)f->bytes);
}

void ds_tensor_file_finish(ds_tensor_file *f) {
  free(f->path);
  free(f->head);
  free(f->at);
  memset(f, 0, sizeof *f);
}

uint64_t ds_tensor_file_elements(const ds_tensor_file *f) {
  return (f->bytes - f->head_bytes) / ds_dtype_size(f->dtype);
}

ds_status ds_tensor_file_create(const ds_tensor_file *f, ds_error *err) {
  return ds_shared_file_create(f->path, f->bytes, f->head, f->head_bytes, err);
}

ds_status ds_tensor_file_write(const ds_tensor_file *f, const ds_pieces *pieces,
                               const ds_stored *stored, uint64_t *elements, ds_error *err) {
  ds_shared_file file = {0};
  float *room = malloc((size_t)ds_pieces_room(pieces) * sizeof *room);
  ds_status status =
      room ? ds_shared_file_open(&file, f->path, f->bytes, err) : ds_fail_memory(err, f->path);
  for (int k = 0; k < f->n_kinds && status == DS_OK; k++)
    status = ds_pieces_save(pieces, f->first_kind + k, stored, f->at + (size_t)k * f->n_params,
                            f->dtype, room, &file, elements, err);
  if (status == DS_OK) status = ds_shared_file_sync(&file, err);
  ds_shared_file_close(&file);
  free(room);
  return status;
}
