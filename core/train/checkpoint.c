/* Saving and loading: everything is written before it gets its name, and proven before the engine
 * is touched. */
#include "base/json.h"
#include "base/str.h"
#include "train/checkpoint_files.h"
#include "base/checkpoint_folder.h"
#include "train/checkpoint_state.h"

#include <stdlib.h>
#include <string.h>

/* ---- saving */

static ds_status check_client_state(const char *text, ds_error *err) {
  if (!text) return DS_OK;
  cJSON *tree;
  ds_status status = ds_json_parse(text, strlen(text), 0, "client_state", &tree, err);
  if (status == DS_OK) cJSON_Delete(tree);
  return status;
}

static ds_status save(ds_engine *e, const char *dir, const char *tag, const char *client_state,
                      ds_error *err) {
  char *folder;
  DS_TRY(ds_checkpoint_folder_begin(dir, tag, &folder, err));
  ds_status status = ds_checkpoint_files_write(e, folder, err);
  if (status == DS_OK) status = ds_checkpoint_state_write(e, folder, client_state, err);
  if (status == DS_OK) status = ds_checkpoint_folder_commit(dir, tag, folder, err);
  if (status != DS_OK) {
    ds_checkpoint_folder_abort(folder);
    ds_fail_prefix(err, status, "checkpoint \"%s\" was not saved", tag);
  }
  free(folder);
  return status;
}

ds_status ds_engine_save_checkpoint(ds_engine *e, const char *dir, const char *tag,
                                    const char *client_state, ds_error *err) {
  if (!dir || !dir[0])
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_save_checkpoint: no folder given");
  if (e->micro_in_step > 0 || e->backward_done)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_save_checkpoint: only between steps: gradients of %lld of %lld micro "
                   "batches would be lost",
                   (long long)(e->micro_in_step + e->backward_done),
                   (long long)e->config.batch.accumulation);
  DS_TRY(ds_engine_check(e, "ds_engine_save_checkpoint", err));
  DS_TRY(check_client_state(client_state, err));
  char *name = tag ? strdup(tag) : ds_format("global_step%lld", (long long)e->global_steps);
  if (!name) return ds_fail_memory(err, "a checkpoint's tag");
  ds_error inner = {DS_OK, ""};
  ds_status status = e->world.rank == 0 ? save(e, dir, name, client_state, &inner) : DS_OK;
  status = ds_world_agree(&e->world, status, "saving the checkpoint", &inner);
  if (status == DS_OK) ds_engine_remember(e, dir, name);
  free(name);
  return ds_engine_settle(e, status, &inner, err);
}

/* ---- loading */

typedef struct loading {
  char *tag;
  ds_checkpoint_files files;
  ds_checkpoint_state state;
} loading;

static ds_status prepare(loading *l, ds_engine *e, const char *dir, const char *tag,
                         ds_error *err) {
  char *path;
  DS_TRY(ds_checkpoint_folder_find(dir, tag, &path, &l->tag, err));
  ds_status status = ds_checkpoint_folder_verify(path, err);
  if (status == DS_OK) status = ds_checkpoint_state_read(&l->state, e, path, err);
  if (status == DS_OK) status = ds_checkpoint_files_open(&l->files, e, path, err);
  free(path);
  return status;
}

static void adopt(ds_engine *e, const ds_checkpoint_state *s) {
  e->global_steps = s->global_steps;
  e->global_samples = s->global_samples;
  e->micro_steps = s->micro_steps;
  e->skipped_steps = s->skipped_steps;
  e->grad_norm = s->grad_norm;
  e->seed = s->seed;
  e->applied = false;
  ds_engine_drop_gradients(e);
  ds_engine_apply_schedule(e);
  for (int i = 0; i < s->n_groups; i++) e->optimizer->groups[i].lr = s->lr[i];
}

static ds_status apply(loading *l, ds_engine *e, ds_error *err) {
  /* The loader first: it can refuse, and then nothing has changed. */
  if (e->loader && l->state.has_loader)
    DS_TRY(ds_dataloader_set_state(e->loader, &l->state.loader, err));
  else if (e->loader)
    ds_log(&e->logger, DS_LOG_WARN,
           "the checkpoint was saved without training_data: the data loader starts anew");
  e->halfway = true;
  /* What a checkpoint doesn't hold - padding, gradients - may be as undefined as the rest. */
  if (e->failure.status != DS_OK) DS_TRY(ds_flat_clear(&e->flat, err));
  DS_TRY(ds_checkpoint_files_read(&l->files, e, err));
  DS_TRY(ds_backend_sync(e->backend, err));
  e->halfway = false;
  e->failure.status = DS_OK;
  adopt(e, &l->state);
  return DS_OK;
}

static ds_status load(loading *l, ds_engine *e, const char *dir, const char *tag, ds_error *err) {
  ds_status status = prepare(l, e, dir, tag, err);
  DS_TRY(ds_world_agree(&e->world, status, "loading the checkpoint", err));
  status = apply(l, e, err);
  DS_TRY(ds_world_agree(&e->world, status, "loading the checkpoint", err));
  ds_engine_remember(e, dir, l->tag);
  return DS_OK;
}

ds_status ds_engine_load_checkpoint(ds_engine *e, const char *dir, const char *tag,
                                    char **client_state, ds_error *err) {
  if (client_state) *client_state = NULL;
  if (!dir || !dir[0])
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_load_checkpoint: no folder given");
  if (e->parted) return ds_engine_check(e, "ds_engine_load_checkpoint", err); /* it won't help */
  loading l;
  ds_error inner = {DS_OK, ""};
  bool died;
  memset(&l, 0, sizeof l);
  ds_status status = ds_backend_recover(e->backend, &died, &inner);
  if (status != DS_OK) ds_fail_prefix(&inner, status, "loading a checkpoint: the device is lost");
  e->lost = status != DS_OK;
  /* Had the failure not been noticed yet, the parameters are undefined all the same. */
  if (died && e->failure.status == DS_OK)
    ds_fail(&e->failure, DS_ERR_DEVICE,
            "parameters may be half updated: the stream died before a checkpoint was loaded");
  if (status == DS_OK) status = load(&l, e, dir, tag, &inner);
  if (status == DS_OK && client_state) {
    *client_state = l.state.client_state;
    l.state.client_state = NULL;
  }
  ds_checkpoint_files_finish(&l.files);
  ds_checkpoint_state_finish(&l.state);
  free(l.tag);
  return ds_engine_settle(e, status, &inner, err);
}
