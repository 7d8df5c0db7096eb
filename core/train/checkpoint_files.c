#include "train/checkpoint_files.h"

#include "base/file.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

ds_status ds_checkpoint_files_source(void *ctx, int index, float *out, ds_error *err) {
  ds_engine *e = ctx;
  return ds_engine_read_param(e, index, out, (size_t)ds_params_numel(e->params, index), err);
}

static int64_t largest(const ds_engine *e) {
  int64_t most = 0;
  for (int i = 0; i < e->n_params; i++)
    if (ds_params_numel(e->params, i) > most) most = ds_params_numel(e->params, i);
  return most;
}

static int n_states(const ds_engine *e) {
  return e->optimizer ? e->optimizer->vtable->n_states : 0;
}

/* The tensor of a state's part: "exp_avg.NAME", new. */
static char *state_name(const ds_engine *e, int state, int param) {
  return ds_format("%s.%s", e->optimizer->vtable->state_names[state],
                   ds_params_name(e->params, param));
}

/* ---- writing */

static ds_status declare_states(ds_engine *e, ds_safetensors_writer *w, ds_error *err) {
  for (int s = 0; s < n_states(e); s++)
    for (int i = 0; i < e->n_params; i++) {
      if (e->group_of[i] < 0) continue;
      int64_t shape[DS_MAX_RANK];
      int32_t rank = ds_params_shape(e->params, i, shape);
      char *name = state_name(e, s, i);
      ds_status status = name ? ds_safetensors_writer_add(w, name, DS_F32, rank, shape, err)
                              : ds_fail_memory(err, "a checkpoint");
      free(name);
      if (status != DS_OK) return status;
    }
  return DS_OK;
}

static ds_status write_states(ds_engine *e, ds_safetensors_writer *w, float *host, ds_error *err) {
  for (int s = 0; s < n_states(e); s++)
    for (int i = 0; i < e->n_params; i++) {
      if (e->group_of[i] < 0) continue;
      size_t bytes = (size_t)ds_params_numel(e->params, i) * sizeof *host;
      DS_TRY(ds_zero_read_all(e->zero, DS_ZERO_STATE + s, i, host, err));
      DS_TRY(ds_safetensors_writer_write(w, host, bytes, err));
    }
  return DS_OK;
}

static ds_status write_optimizer(ds_engine *e, const char *folder, ds_error *err) {
  if (n_states(e) == 0) return DS_OK;
  char *path = ds_path_join(folder, "optimizer.safetensors");
  float *host = malloc((size_t)largest(e) * sizeof *host);
  ds_safetensors_writer *w = NULL;
  ds_status status = path && host ? DS_OK : ds_fail_memory(err, "a checkpoint");
  if (status == DS_OK) status = ds_safetensors_writer_create(path, &w, err);
  if (status == DS_OK) status = declare_states(e, w, err);
  if (status == DS_OK) status = ds_safetensors_writer_begin(w, err);
  if (status == DS_OK) status = write_states(e, w, host, err);
  if (status == DS_OK) status = ds_safetensors_writer_commit(w, err);
  ds_safetensors_writer_destroy(w);
  free(host);
  free(path);
  return status;
}

ds_status ds_checkpoint_files_write(ds_engine *e, const char *folder, ds_error *err) {
  DS_TRY(ds_model_save_weights(e->model, e->params, folder, false, ds_checkpoint_files_source, e,
                               err));
  return write_optimizer(e, folder, err);
}

/* ---- checking */

static ds_status open_file(const char *folder, const char *name, ds_safetensors **out,
                           ds_error *err) {
  char *path = ds_path_join(folder, name);
  if (!path) return ds_fail_memory(err, "a checkpoint");
  ds_status status = ds_safetensors_open(path, out, err);
  free(path);
  return status;
}

/* A tensor of a parameter's shape; a transposed one (as Hugging Face keeps some) where stored_t. */
static ds_status check_tensor(const ds_engine *e, const ds_safetensors *s, const char *name,
                              int param, bool stored_t, const char *file, ds_error *err) {
  const ds_safetensor *t = ds_safetensors_find(s, name);
  if (!t)
    return ds_fail(err, DS_ERR_FORMAT, "checkpoint: %s has no \"%s\"; it is of another model", file,
                   name);
  int64_t shape[DS_MAX_RANK];
  int32_t rank = ds_params_shape(e->params, param, shape);
  bool same = t->dtype == DS_F32 && t->rank == rank;
  for (int32_t i = 0; i < rank && same; i++)
    same = t->shape[i] == shape[stored_t ? rank - 1 - i : i];
  if (same) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT,
                 "checkpoint: \"%s\" in %s has another shape or type than the model's", name, file);
}

static ds_status check_model(const ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  for (int i = 0; i < e->n_params; i++)
    DS_TRY(check_tensor(e, f->model, ds_params_name(e->params, i), i,
                        ds_params_transposed(e->params, i), "model.safetensors", err));
  if (ds_safetensors_count(f->model) == (size_t)e->n_params) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT,
                 "checkpoint: model.safetensors has %zu tensors and the model has %d parameters",
                 ds_safetensors_count(f->model), e->n_params);
}

static ds_status check_optimizer(const ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  size_t wanted = 0;
  for (int s = 0; s < n_states(e); s++)
    for (int i = 0; i < e->n_params; i++) {
      if (e->group_of[i] < 0) continue;
      char *name = state_name(e, s, i);
      if (!name) return ds_fail_memory(err, "a checkpoint");
      ds_status status =
          check_tensor(e, f->optimizer, name, i, false, "optimizer.safetensors", err);
      free(name);
      if (status != DS_OK) return status;
      wanted++;
    }
  if (ds_safetensors_count(f->optimizer) == wanted) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT,
                 "checkpoint: optimizer.safetensors has %zu tensors and the optimizer needs %zu",
                 ds_safetensors_count(f->optimizer), wanted);
}

ds_status ds_checkpoint_files_open(ds_checkpoint_files *f, ds_engine *e, const char *folder,
                                   ds_error *err) {
  f->host = malloc((size_t)largest(e) * 2 * sizeof *f->host);
  if (!f->host) return ds_fail_memory(err, "a checkpoint");
  DS_TRY(open_file(folder, "model.safetensors", &f->model, err));
  DS_TRY(check_model(f, e, err));
  if (n_states(e) == 0) return DS_OK;
  DS_TRY(open_file(folder, "optimizer.safetensors", &f->optimizer, err));
  return check_optimizer(f, e, err);
}

/* ---- reading */

/* [rows, cols] from stored [cols, rows]. */
static void transpose(float *out, const float *in, int64_t rows, int64_t cols) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < cols; c++) out[r * cols + c] = in[c * rows + r];
}

static ds_status write_pieces(ds_engine *e, int kind, int param, const float *all, ds_error *err) {
  for (int i = 0; i < ds_zero_n_pieces(e->zero); i++) {
    const ds_piece *p = ds_zero_piece(e->zero, i);
    if (p->param == param)
      DS_TRY(ds_zero_write(e->zero, kind, i, 0, p->end - p->begin, all + p->begin, err));
  }
  return DS_OK;
}

static ds_status read_masters(ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  for (int i = 0; i < e->n_params; i++) {
    const ds_safetensor *t = ds_safetensors_find(f->model, ds_params_name(e->params, i));
    int64_t numel = ds_params_numel(e->params, i), shape[DS_MAX_RANK];
    float *values = f->host;
    DS_TRY(ds_safetensor_read_f32(t, values, err));
    ds_params_shape(e->params, i, shape);
    if (ds_params_transposed(e->params, i)) {
      values = f->host + numel;
      transpose(values, f->host, shape[0], shape[1]);
    }
    DS_TRY(write_pieces(e, DS_ZERO_MASTER, i, values, err));
  }
  return ds_zero_settle(e->zero, err);
}

static ds_status read_states(ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  for (int s = 0; s < n_states(e); s++)
    for (int i = 0; i < e->n_params; i++) {
      if (e->group_of[i] < 0) continue;
      char *name = state_name(e, s, i);
      if (!name) return ds_fail_memory(err, "a checkpoint");
      const ds_safetensor *t = ds_safetensors_find(f->optimizer, name);
      free(name);
      DS_TRY(ds_safetensor_read_f32(t, f->host, err));
      DS_TRY(write_pieces(e, DS_ZERO_STATE + s, i, f->host, err));
    }
  return DS_OK;
}

ds_status ds_checkpoint_files_read(ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  DS_TRY(read_masters(f, e, err));
  return read_states(f, e, err);
}

void ds_checkpoint_files_finish(ds_checkpoint_files *f) {
  ds_safetensors_close(f->model);
  ds_safetensors_close(f->optimizer);
  free(f->host);
  memset(f, 0, sizeof *f);
}
