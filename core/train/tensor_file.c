#include "train/tensor_file.h"

#include "base/file.h"
#include "base/str.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t whole_count(const ds_stored *s) {
  uint64_t n = 1;
  for (int i = 0; i < s->rank; i++) n *= (uint64_t)s->whole[i];
  return n;
}

/* ---- planning */

static ds_status place(ds_tensor_file *f, const ds_stored *stored, const bool *has, ds_error *err) {
  uint64_t at = f->head_bytes;
  for (int i = 0; i < f->n_kinds * f->n_params; i++) {
    if (has && !has[i]) continue;
    f->at[i] = at;
    at += whole_count(&stored[i % f->n_params]) * ds_dtype_size(f->dtype);
  }
  if (at == f->bytes) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "%s: its tensors have %llu bytes, its header says %llu",
                 f->path, (unsigned long long)at, (unsigned long long)f->bytes);
}

/* Moves parameters from `at` to the scratch file. */
static void plan_turns(ds_tensor_file *f, const ds_stored *stored, int ranks) {
  uint64_t end = DS_TURN_BEGIN;
  for (int i = 0; i < f->n_params; i++) {
    f->plain[i] = stored[i];
    f->plain[i].transposed = false;
    if (f->at[i] == 0 || !ds_turn_wanted(&stored[i], ranks)) continue;
    f->turns[f->n_turns++] = (ds_turn){stored[i].whole[0], stored[i].whole[1], end, f->at[i]};
    f->scratch_at[i] = end;
    f->at[i] = 0;
    end += whole_count(&stored[i]) * sizeof(float);
  }
  f->scratch_bytes = f->n_turns > 0 ? end : 0;
}

/* The name begins with a dot: a checkpoint's manifest passes it by. */
static char *scratch_path(const char *path) {
  const char *name = strrchr(path, '/');
  int folder = name ? (int)(name + 1 - path) : 0;
  return ds_format("%.*s.turn-%s", folder, path, path + folder);
}

ds_status ds_tensor_file_plan(ds_tensor_file *f, const char *path, const ds_safetensors_writer *w,
                              const ds_stored *stored, int n_params, int first_kind, int n_kinds,
                              const bool *has, int32_t dtype, int ranks, ds_error *err) {
  size_t n = (size_t)n_params + 1;
  *f = (ds_tensor_file){
      .first_kind = first_kind, .n_kinds = n_kinds, .n_params = n_params, .dtype = dtype};
  f->path = strdup(path);
  f->scratch = scratch_path(path);
  f->at = calloc((size_t)n_kinds * n, sizeof *f->at);
  f->scratch_at = calloc(n, sizeof *f->scratch_at);
  f->plain = calloc(n, sizeof *f->plain);
  f->turns = calloc(n, sizeof *f->turns);
  if (!f->path || !f->scratch || !f->at || !f->scratch_at || !f->plain || !f->turns)
    return ds_fail_memory(err, path);
  DS_TRY(ds_safetensors_writer_header(w, &f->head, &f->head_bytes, &f->bytes, err));
  DS_TRY(place(f, stored, has, err));
  if (n_kinds == 1) plan_turns(f, stored, ranks); /* states are stored as they are */
  return DS_OK;
}

void ds_tensor_file_finish(ds_tensor_file *f) {
  free(f->path);
  free(f->head);
  free(f->at);
  free(f->scratch);
  free(f->scratch_at);
  free(f->plain);
  free(f->turns);
  memset(f, 0, sizeof *f);
}

uint64_t ds_tensor_file_elements(const ds_tensor_file *f) {
  return (f->bytes - f->head_bytes) / ds_dtype_size(f->dtype);
}

/* ---- writing */

ds_status ds_tensor_file_create(const ds_tensor_file *f, ds_error *err) {
  DS_TRY(ds_shared_file_create(f->path, f->bytes, f->head, f->head_bytes, err));
  return f->scratch_bytes ? ds_shared_file_create(f->scratch, f->scratch_bytes, "", 0, err) : DS_OK;
}

static ds_status write_file(const ds_tensor_file *f, const ds_pieces *pieces,
                            const ds_stored *stored, float *room, uint64_t *elements,
                            ds_error *err) {
  ds_shared_file file = {0};
  ds_status status = ds_shared_file_open(&file, f->path, f->bytes, err);
  for (int k = 0; k < f->n_kinds && status == DS_OK; k++)
    status =
        ds_pieces_save(pieces, f->first_kind + k, stored, f->at + (size_t)k * (size_t)f->n_params,
                       f->dtype, room, &file, elements, err);
  if (status == DS_OK) status = ds_shared_file_sync(&file, err);
  ds_shared_file_close(&file);
  return status;
}

static ds_status write_scratch(const ds_tensor_file *f, const ds_pieces *pieces, float *room,
                               uint64_t *elements, ds_error *err) {
  ds_shared_file file = {0};
  ds_status status = ds_shared_file_open(&file, f->scratch, f->scratch_bytes, err);
  if (status == DS_OK)
    status = ds_pieces_save(pieces, f->first_kind, f->plain, f->scratch_at, DS_F32, room, &file,
                            elements, err);
  if (status == DS_OK) status = ds_shared_file_sync(&file, err);
  ds_shared_file_close(&file);
  return status;
}

ds_status ds_tensor_file_write(const ds_tensor_file *f, const ds_pieces *pieces,
                               const ds_stored *stored, uint64_t *elements, ds_error *err) {
  float *room = malloc((size_t)ds_pieces_room(pieces) * sizeof *room);
  ds_status status =
      room ? write_file(f, pieces, stored, room, elements, err) : ds_fail_memory(err, f->path);
  if (status == DS_OK && f->scratch_bytes) status = write_scratch(f, pieces, room, elements, err);
  free(room);
  return status;
}

ds_status ds_tensor_file_turn(const ds_tensor_file *f, int rank, int ranks, ds_error *err) {
  if (!f->scratch_bytes) return DS_OK;
  ds_shared_file file = {0};
  ds_file scratch = {0};
  ds_status status = ds_file_map(f->scratch, &scratch, err);
  if (status == DS_OK && scratch.size != f->scratch_bytes)
    status = ds_fail(err, DS_ERR_FORMAT, "%s has %zu bytes and should have %llu", f->scratch,
                     scratch.size, (unsigned long long)f->scratch_bytes);
  if (status == DS_OK) status = ds_shared_file_open(&file, f->path, f->bytes, err);
  if (status == DS_OK)
    status = ds_turn_run(f->turns, f->n_turns, scratch.data, &file, f->dtype, rank, ranks, err);
  if (status == DS_OK) status = ds_shared_file_sync(&file, err);
  ds_shared_file_close(&file);
  ds_file_unmap(&scratch);
  return status;
}

void ds_tensor_file_clean(const ds_tensor_file *f) {
  if (f->scratch_bytes) unlink(f->scratch);
}
