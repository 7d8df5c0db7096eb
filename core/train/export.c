/* The trained model as a Hugging Face folder: of an engine, by all its ranks, whatever they have of it;
 * and of a checkpoint, without any. The same bytes. */
#include "train/export.h"

#include "base/checkpoint_folder.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "tensor/tensor.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- of an engine */

typedef struct saving {
  ds_engine *e;
  const char *folder;
  bool bits16;
  char *path, *temporary;
  ds_checkpoint_plan plan;
} saving;

static ds_status agree(ds_engine *e, ds_status mine, ds_error *err) {
  return ds_world_agree(&e->world, mine, "saving the model", err);
}

static ds_status check(saving *s, ds_error *err) {
  if (!s->folder || !s->folder[0])
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_save_model: no folder given");
  DS_TRY(ds_engine_check(s->e, "ds_engine_save_model", err));
  s->path = ds_path_join(s->folder, "model.safetensors");
  if (!s->path) return ds_fail_memory(err, s->folder);
  return s->e->world.rank == 0 ? ds_make_folders(s->folder, err) : DS_OK;
}

/* Rank 0 says under what name the file is made. Collective. */
static ds_status meet(saving *s, ds_error *err) {
  char text[DS_RANKS_TEXT] = "";
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  snprintf(text, sizeof text, "tmp.%llx.%ld",
           (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec,
           (long)getpid());
  DS_TRY(ds_tell_all(&s->e->world, 0, text, sizeof text, err));
  s->temporary = ds_format("%s.%s", s->path, text);
  return s->temporary ? DS_OK : ds_fail_memory(err, s->folder);
}

static ds_status create(saving *s, ds_error *err) {
  DS_TRY(ds_checkpoint_plan_model(&s->plan, s->e, s->temporary, s->bits16, err));
  return s->e->world.rank == 0 ? ds_checkpoint_plan_create(&s->plan, err) : DS_OK;
}

static ds_status finish(saving *s, ds_error *err) {
  if (s->e->world.rank > 0) return DS_OK;
  DS_TRY(ds_shared_file_rename(s->temporary, s->path, err));
  return ds_model_save_config(s->e->model, s->folder, s->bits16, err);
}

static ds_status save(saving *s, ds_error *err) {
  ds_engine *e = s->e;
  uint64_t elements = 0;
  DS_TRY(agree(e, check(s, err), err));
  DS_TRY(agree(e, meet(s, err), err));
  DS_TRY(agree(e, create(s, err), err));
  DS_TRY(agree(e, ds_checkpoint_plan_write(&s->plan, &elements, err), err));
  DS_TRY(ds_checkpoint_plan_count(&s->plan, e, elements, err));
  DS_TRY(agree(e, ds_checkpoint_plan_turn(&s->plan, e, err), err));
  return agree(e, finish(s, err), err);
}

ds_status ds_engine_save_model(ds_engine *e, const char *folder, bool bits16, ds_error *err) {
  saving s = {.e = e, .folder = folder, .bits16 = bits16};
  ds_error inner = {DS_OK, ""};
  ds_status status = save(&s, &inner);
  if (e->world.rank == 0) ds_checkpoint_plan_clean(&s.plan);
  if (status != DS_OK && s.temporary && e->world.rank == 0) unlink(s.temporary);
  ds_checkpoint_plan_finish(&s.plan);
  free(s.temporary);
  free(s.path);
  return ds_engine_settle(e, status, &inner, err);
}

/* ---- of a checkpoint */

static int by_place(const void *a, const void *b) {
  const ds_safetensor *const *x = a, *const *y = b;
  if ((*x)->data != (*y)->data) return (*x)->data < (*y)->data ? -1 : 1;
  return strcmp((*x)->name, (*y)->name);
}

/* The tensors in the file's order; new. */
static const ds_safetensor **in_order(const ds_safetensors *s) {
  size_t n = ds_safetensors_count(s);
  const ds_safetensor **out = malloc((n + 1) * sizeof *out);
  for (size_t i = 0; out && i < n; i++) out[i] = ds_safetensors_at(s, i);
  if (out) qsort(out, n, sizeof *out, by_place);
  return out;
}

/* In blocks, so that a tensor of any size needs little memory. */
static ds_status copy_tensor(ds_safetensors_writer *w, const ds_safetensor *t, int32_t dtype,
                             ds_error *err) {
  enum { BLOCK = 1024 };
  float values[BLOCK];
  uint64_t stored[BLOCK]; /* room for any float */
  size_t size = ds_dtype_size(DS_F32);
  for (size_t at = 0; at < t->bytes; at += sizeof values) {
    size_t bytes = t->bytes - at < sizeof values ? t->bytes - at : sizeof values;
    memcpy(values, t->data + at, bytes);
    ds_convert_from_f32(stored, dtype, values, bytes / size);
    DS_TRY(ds_safetensors_writer_write(w, stored, bytes / size * ds_dtype_size(dtype), err));
  }
  return DS_OK;
}

static ds_status copy_tensors(const ds_safetensors *from, ds_safetensors_writer *w, int32_t dtype,
                              ds_error *err) {
  size_t n = ds_safetensors_count(from);
  const ds_safetensor **tensors = in_order(from);
  ds_status status = tensors ? ds_safetensors_writer_metadata(w, "format", "pt", err)
                             : ds_fail_memory(err, "an export");
  for (size_t i = 0; i < n && status == DS_OK; i++) {
    const ds_safetensor *t = tensors[i];
    if (t->dtype != DS_F32)
      status = ds_fail(err, DS_ERR_FORMAT, "tensor \"%s\" is %s; a checkpoint's are F32", t->name,
                       t->type);
    if (status == DS_OK)
      status = ds_safetensors_writer_add(w, t->name, dtype, t->rank, t->shape, err);
  }
  if (status == DS_OK) status = ds_safetensors_writer_begin(w, err);
  for (size_t i = 0; i < n && status == DS_OK; i++) status = copy_tensor(w, tensors[i], dtype, err);
  if (status == DS_OK) status = ds_safetensors_writer_commit(w, err);
  free(tensors);
  return status;
}

static ds_status export_weights(const char *from, const char *to, bool bits16, ds_error *err) {
  ds_safetensors *file = NULL;
  ds_safetensors_writer *w = NULL;
  char *in = ds_path_join(from, "model.safetensors"), *out = ds_path_join(to, "model.safetensors");
  ds_status status = in && out ? DS_OK : ds_fail_memory(err, "an export");
  if (status == DS_OK) status = ds_safetensors_open(in, &file, err);
  if (status == DS_OK) status = ds_safetensors_writer_create(out, &w, err);
  if (status == DS_OK) status = copy_tensors(file, w, bits16 ? DS_BF16 : DS_F32, err);
  ds_safetensors_writer_destroy(w);
  ds_safetensors_close(file);
  free(in);
  free(out);
  return status;
}

/* A model of the host app's own need not have one. */
static ds_status export_config(const char *from, const char *to, bool bits16, ds_error *err) {
  enum { LIMIT = 16 << 20 };
  char *in = ds_path_join(from, "config.json"), *out = ds_path_join(to, "config.json");
  char *text = NULL;
  ds_status status = in && out ? DS_OK : ds_fail_memory(err, "an export");
  if (status == DS_OK && ds_file_exists(in)) {
    status = ds_file_read(in, LIMIT, &text, NULL, err);
    if (status == DS_OK) status = ds_model_stamp_config(text, out, bits16, err);
  }
  free(text);
  free(in);
  free(out);
  return status;
}

/* dir/manifest is there: dir is one checkpoint. */
static ds_status is_checkpoint(const char *dir, bool *out, ds_error *err) {
  char *manifest = ds_path_join(dir, "manifest");
  if (!manifest) return ds_fail_memory(err, "an export");
  *out = ds_file_exists(manifest);
  free(manifest);
  return DS_OK;
}

static ds_status find(const char *dir, const char *tag, char **out, ds_error *err) {
  bool itself = false;
  if (!tag) DS_TRY(is_checkpoint(dir, &itself, err));
  if (!itself) return ds_checkpoint_folder_find(dir, tag, out, NULL, err);
  *out = strdup(dir);
  return *out ? DS_OK : ds_fail_memory(err, "an export");
}

ds_status ds_export_checkpoint(const char *dir, const char *tag, const char *to, bool bits16,
                               ds_error *err) {
  bool taken = false;
  char *from;
  DS_TRY(is_checkpoint(to, &taken, err));
  if (taken)
    return ds_fail(err, DS_ERR_INVALID, "%s is a checkpoint: an export would damage it", to);
  DS_TRY(find(dir, tag, &from, err));
  ds_status status = ds_checkpoint_folder_verify(from, err);
  if (status == DS_OK) status = ds_make_folders(to, err);
  if (status == DS_OK) status = export_weights(from, to, bits16, err);
  if (status == DS_OK) status = export_config(from, to, bits16, err);
  free(from);
  return status;
}
