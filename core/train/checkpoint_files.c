#include "train/checkpoint_files.h"

#include "base/file.h"
#include "base/str.h"
#include "train/checkpoint_ranks.h"

#include <stdlib.h>
#include <string.h>

/* The tensor of a state's part: "exp_avg.NAME", new. */
static char *state_name(const ds_engine *e, int state, int param) {
  return ds_format("%s.%s", e->optimizer->vtable->state_names[state],
                   ds_params_name(e->params, param));
}

/* ---- writing */

static ds_status declare_states(ds_engine *e, ds_safetensors_writer *w, bool *has, ds_error *err) {
  for (int s = 0; s < ds_engine_n_states(e); s++)
    for (int i = 0; i < e->n_params; i++) {
      if (e->group_of[i] < 0) continue;
      int64_t shape[DS_MAX_RANK];
      int32_t rank = ds_params_shape(e->params, i, shape);
      char *name = state_name(e, s, i);
      ds_status status = name ? ds_safetensors_writer_add(w, name, DS_F32, rank, shape, err)
                              : ds_fail_memory(err, "a checkpoint");
      free(name);
      if (status != DS_OK) return status;
      has[s * e->n_params + i] = true;
    }
  return DS_OK;
}

static ds_status plan_optimizer(ds_checkpoint_plan *p, ds_engine *e, const char *path,
                                ds_error *err) {
  ds_safetensors_writer *w = NULL;
  bool *has = calloc((size_t)ds_engine_n_states(e) * (size_t)e->n_params, sizeof *has);
  ds_status status =
      has ? ds_safetensors_writer_create(path, &w, err) : ds_fail_memory(err, "a checkpoint");
  if (status == DS_OK) status = declare_states(e, w, has, err);
  if (status == DS_OK)
    status = ds_tensor_file_plan(&p->files[p->n_files++], path, w, p->pieces.states, e->n_params, 1,
                                 ds_engine_n_states(e), has, DS_F32, e->world.size, err);
  ds_safetensors_writer_destroy(w);
  free(has);
  return status;
}

ds_status ds_checkpoint_plan_model(ds_checkpoint_plan *p, ds_engine *e, const char *path,
                                   bool bits16, ds_error *err) {
  DS_TRY(ds_engine_pieces_init(&p->pieces, e, err));
  int32_t dtype = bits16 ? DS_BF16 : DS_F32;
  ds_safetensors_writer *w = NULL;
  ds_status status = ds_safetensors_writer_create(path, &w, err);
  if (status == DS_OK) status = ds_model_declare_weights(e->params, dtype, w, err);
  if (status == DS_OK)
    status = ds_tensor_file_plan(&p->files[p->n_files++], path, w, p->pieces.masters, e->n_params,
                                 0, 1, NULL, dtype, e->world.size, err);
  ds_safetensors_writer_destroy(w);
  return status;
}

ds_status ds_checkpoint_plan_init(ds_checkpoint_plan *p, ds_engine *e, const char *folder,
                                  ds_error *err) {
  char *model = ds_path_join(folder, "model.safetensors");
  char *optimizer = ds_path_join(folder, "optimizer.safetensors");
  ds_status status = model && optimizer ? DS_OK : ds_fail_memory(err, "a checkpoint");
  if (status == DS_OK) status = ds_checkpoint_plan_model(p, e, model, false, err);
  if (status == DS_OK && ds_engine_n_states(e) > 0) status = plan_optimizer(p, e, optimizer, err);
  free(model);
  free(optimizer);
  return status;
}

void ds_checkpoint_plan_finish(ds_checkpoint_plan *p) {
  for (int i = 0; i < p->n_files; i++) ds_tensor_file_finish(&p->files[i]);
  ds_engine_pieces_finish(&p->pieces);
  memset(p, 0, sizeof *p);
}

ds_status ds_checkpoint_plan_create(const ds_checkpoint_plan *p, ds_error *err) {
  for (int i = 0; i < p->n_files; i++) DS_TRY(ds_tensor_file_create(&p->files[i], err));
  return DS_OK;
}

ds_status ds_checkpoint_plan_write(const ds_checkpoint_plan *p, uint64_t *elements, ds_error *err) {
  const ds_stored *stored[2] = {p->pieces.masters, p->pieces.states};
  for (int i = 0; i < p->n_files; i++)
    DS_TRY(ds_tensor_file_write(&p->files[i], &p->pieces.pieces, stored[i], elements, err));
  return DS_OK;
}

ds_status ds_checkpoint_plan_turn(const ds_checkpoint_plan *p, const ds_engine *e, ds_error *err) {
  for (int i = 0; i < p->n_files; i++)
    DS_TRY(ds_tensor_file_turn(&p->files[i], e->world.rank, e->world.size, err));
  return DS_OK;
}

void ds_checkpoint_plan_clean(const ds_checkpoint_plan *p) {
  for (int i = 0; i < p->n_files; i++) ds_tensor_file_clean(&p->files[i]);
}

ds_status ds_checkpoint_plan_count(const ds_checkpoint_plan *p, ds_engine *e, uint64_t elements,
                                   ds_error *err) {
  uint64_t want = 0;
  for (int i = 0; i < p->n_files; i++) want += ds_tensor_file_elements(&p->files[i]);
  DS_TRY(ds_ranks_sum(&e->world, &elements, err));
  if (elements == want) return DS_OK;
  return ds_fail(err, DS_ERR_STATE, "the ranks together wrote %llu of %llu numbers",
                 (unsigned long long)elements, (unsigned long long)want);
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
                              int param, bool stored_t, const char *file, const ds_safetensor **out,
                              ds_error *err) {
  const ds_safetensor *t = ds_safetensors_find(s, name);
  if (!t)
    return ds_fail(err, DS_ERR_FORMAT, "checkpoint: %s has no \"%s\"; it is of another model", file,
                   name);
  int64_t shape[DS_MAX_RANK];
  int32_t rank = ds_params_shape(e->params, param, shape);
  bool same = t->dtype == DS_F32 && t->rank == rank;
  for (int32_t i = 0; i < rank && same; i++)
    same = t->shape[i] == shape[stored_t ? rank - 1 - i : i];
  *out = t;
  if (same) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT,
                 "checkpoint: \"%s\" in %s has another shape or type than the model's", name, file);
}

static ds_status check_model(ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  for (int i = 0; i < e->n_params; i++)
    DS_TRY(check_tensor(e, f->model, ds_params_name(e->params, i), i,
                        ds_params_transposed(e->params, i), "model.safetensors", &f->tensors[i],
                        err));
  if (ds_safetensors_count(f->model) == (size_t)e->n_params) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT,
                 "checkpoint: model.safetensors has %zu tensors and the model has %d parameters",
                 ds_safetensors_count(f->model), e->n_params);
}

static ds_status check_optimizer(ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  size_t wanted = 0;
  for (int s = 0; s < ds_engine_n_states(e); s++)
    for (int i = 0; i < e->n_params; i++) {
      if (e->group_of[i] < 0) continue;
      char *name = state_name(e, s, i);
      if (!name) return ds_fail_memory(err, "a checkpoint");
      ds_status status = check_tensor(e, f->optimizer, name, i, false, "optimizer.safetensors",
                                      &f->tensors[(s + 1) * e->n_params + i], err);
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
  DS_TRY(ds_engine_pieces_init(&f->pieces, e, err));
  f->room = malloc((size_t)ds_pieces_room(&f->pieces.pieces) * sizeof *f->room);
  f->tensors =
      calloc((size_t)(1 + ds_engine_n_states(e)) * (size_t)e->n_params, sizeof *f->tensors);
  if (!f->room || !f->tensors) return ds_fail_memory(err, "a checkpoint");
  DS_TRY(open_file(folder, "model.safetensors", &f->model, err));
  DS_TRY(check_model(f, e, err));
  if (ds_engine_n_states(e) == 0) return DS_OK;
  DS_TRY(open_file(folder, "optimizer.safetensors", &f->optimizer, err));
  return check_optimizer(f, e, err);
}

/* ---- reading */

ds_status ds_checkpoint_files_read(ds_checkpoint_files *f, ds_engine *e, ds_error *err) {
  const ds_engine_pieces *p = &f->pieces;
  for (int k = 0; k <= ds_engine_n_states(e); k++)
    DS_TRY(ds_pieces_load(&p->pieces, k, k == 0 ? p->masters : p->states,
                          f->tensors + (size_t)k * (size_t)e->n_params, f->room, err));
  return DS_OK;
}

void ds_checkpoint_files_finish(ds_checkpoint_files *f) {
  ds_engine_pieces_finish(&f->pieces);
  ds_safetensors_close(f->model);
  ds_safetensors_close(f->optimizer);
  free(f->tensors);
  free(f->room);
  memset(f, 0, sizeof *f);
}
