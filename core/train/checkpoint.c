/* Saving and loading: everything is written before it gets its name, and proven before the engine
 * is touched.
 *
 * Ranks go through both in phases. Each does its part of a phase, then all agree on how it went: that is
 * also where they wait for each other, and whoever failed takes the others along. Rank 0 makes the
 * folder and gives it its name.
 */
#include "base/checkpoint_folder.h"
#include "base/checkpoint_manifest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "train/checkpoint_files.h"
#include "train/checkpoint_ranks.h"
#include "train/checkpoint_state.h"
#include "train/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- tags of ranks */

static const char *tag_validation(const ds_engine *e) {
  const cJSON *section = cJSON_GetObjectItemCaseSensitive(e->config.root, "checkpoint");
  const cJSON *mode = cJSON_GetObjectItemCaseSensitive(section, "tag_validation");
  return cJSON_IsString(mode) ? mode->valuestring : "WARN";
}

/* Rank 0's tag counts; what others were given may be a mistake. Collective. */
static ds_status compare_tags(ds_engine *e, const char *tag, ds_error *err) {
  const char *mode = tag_validation(e);
  bool same;
  DS_TRY(ds_ranks_same(&e->world, tag, &same, err));
  if (same || strcasecmp(mode, "IGNORE") == 0) return DS_OK;
  if (strcasecmp(mode, "FAIL") == 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "checkpoint.tag_validation: ranks were given different tags; rank %d has \"%s\"",
                   e->world.rank, tag ? tag : "(none)");
  ds_log(&e->logger, DS_LOG_WARN,
         "checkpoint: ranks were given different tags; rank %d has \"%s\", rank 0's counts",
         e->world.rank, tag ? tag : "(none)");
  return DS_OK;
}

/* ---- saving */

typedef struct saving {
  ds_engine *e;
  const char *dir, *client_state;
  char *tag, *folder;
  ds_checkpoint_plan plan;
} saving;

static ds_status agree(ds_engine *e, ds_status mine, ds_error *err) {
  return ds_world_agree(&e->world, mine, "saving the checkpoint", err);
}

static ds_status check_client_state(const char *text, ds_error *err) {
  if (!text) return DS_OK;
  cJSON *tree;
  ds_status status = ds_json_parse(text, strlen(text), 0, "client_state", &tree, err);
  if (status == DS_OK) cJSON_Delete(tree);
  return status;
}

static ds_status check(saving *s, const char *tag, ds_error *err) {
  ds_engine *e = s->e;
  if (!s->dir || !s->dir[0])
    return ds_fail(err, DS_ERR_INVALID, "ds_engine_save_checkpoint: no folder given");
  if (e->micro_in_step > 0 || e->backward_done)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_save_checkpoint: only between steps: gradients of %lld of %lld micro "
                   "batches would be lost",
                   (long long)(e->micro_in_step + e->backward_done),
                   (long long)e->config.batch.accumulation);
  DS_TRY(ds_engine_check(e, "ds_engine_save_checkpoint", err));
  DS_TRY(check_client_state(s->client_state, err));
  s->tag = tag ? strdup(tag) : ds_format("global_step%lld", (long long)e->global_steps);
  return s->tag ? DS_OK : ds_fail_memory(err, "a checkpoint's tag");
}

/* Rank 0 makes the folder; all see it, by the name that rank 0 says. Collective. */
static ds_status meet(saving *s, ds_error *err) {
  ds_engine *e = s->e;
  char text[DS_RANKS_TEXT] = "";
  ds_status status = DS_OK;
  if (e->world.rank == 0) {
    status = ds_checkpoint_folder_begin(s->dir, s->tag, &s->folder, err);
    if (status == DS_OK) snprintf(text, sizeof text, "%s\n%s", s->tag, strrchr(s->folder, '/') + 1);
  }
  ds_error other;
  ds_status told = ds_tell_all(&e->world, 0, text, sizeof text, status == DS_OK ? err : &other);
  if (status == DS_OK) status = told;
  char *name = strchr(text, '\n');
  if (status != DS_OK || e->world.rank == 0 || !name) return status;
  *name++ = '\0';
  free(s->tag);
  s->tag = strdup(text);
  s->folder = ds_path_join(s->dir, name);
  if (!s->tag || !s->folder) return ds_fail_memory(err, "a checkpoint's path");
  return ds_shared_file_wait(s->folder, err);
}

static ds_status create(saving *s, ds_error *err) {
  DS_TRY(ds_checkpoint_plan_init(&s->plan, s->e, s->folder, err));
  if (s->e->world.rank > 0) return DS_OK;
  DS_TRY(ds_checkpoint_plan_create(&s->plan, err));
  DS_TRY(ds_model_save_config(s->e->model, s->folder, false, err));
  return ds_checkpoint_state_write(s->e, s->folder, s->client_state, err);
}

/* Alone, commit finds the checksums. */
static ds_status sum(saving *s, ds_error *err) {
  const ds_world *w = &s->e->world;
  for (int i = 0; i < s->plan.n_files && w->size > 1; i++)
    DS_TRY(ds_checkpoint_manifest_sum(s->folder, strrchr(s->plan.files[i].path, '/') + 1, w->rank,
                                      w->size, err));
  return DS_OK;
}

static ds_status save(saving *s, const char *tag, ds_error *err) {
  ds_engine *e = s->e;
  uint64_t elements = 0;
  DS_TRY(agree(e, check(s, tag, err), err));
  DS_TRY(compare_tags(e, s->tag, err));
  DS_TRY(agree(e, meet(s, err), err));
  DS_TRY(agree(e, create(s, err), err));
  DS_TRY(agree(e, ds_checkpoint_plan_write(&s->plan, &elements, err), err));
  DS_TRY(ds_checkpoint_plan_count(&s->plan, e, elements, err));
  DS_TRY(agree(e, ds_checkpoint_plan_turn(&s->plan, e, err), err));
  DS_TRY(agree(e, sum(s, err), err));
  ds_status status = DS_OK;
  if (e->world.rank == 0) {
    ds_checkpoint_plan_clean(&s->plan);
    status = ds_checkpoint_folder_commit(s->dir, s->tag, s->folder, err);
    if (status != DS_OK) ds_checkpoint_folder_abort(s->folder);
    free(s->folder); /* it has its name now, or is gone */
    s->folder = NULL;
  }
  return agree(e, status, err);
}

ds_status ds_engine_save_checkpoint(ds_engine *e, const char *dir, const char *tag,
                                    const char *client_state, ds_error *err) {
  saving s = {.e = e, .dir = dir, .client_state = client_state};
  ds_error inner = {DS_OK, ""};
  ds_status status = save(&s, tag, &inner);
  if (status != DS_OK && s.folder) {
    if (e->world.rank == 0) ds_checkpoint_folder_abort(s.folder);
  }
  if (status != DS_OK && s.tag)
    ds_fail_prefix(&inner, status, "checkpoint \"%s\" was not saved", s.tag);
  if (status == DS_OK) ds_engine_remember(e, dir, s.tag);
  ds_checkpoint_plan_finish(&s.plan);
  free(s.folder);
  free(s.tag);
  return ds_engine_settle(e, status, &inner, err);
}

/* ---- loading */

typedef struct loading {
  char *tag;
  ds_checkpoint_files files;
  ds_checkpoint_state state;
} loading;

/* Which file a path is, so that ranks can tell whether they see the same one: "" = can't say. */
static void identify(const char *folder, char *out, size_t size) {
  struct stat st;
  char *path = ds_path_join(folder, "manifest");
  out[0] = '\0';
  if (path && stat(path, &st) == 0)
    snprintf(out, size, "%llu %lld %lld.%09ld", (unsigned long long)st.st_ino,
             (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
  free(path);
}

/* Rank 0 says which checkpoint. *shared: it is the very folder that rank 0 sees, not a copy.
 * Collective. */
static ds_status find(loading *l, ds_engine *e, const char *dir, const char *tag, char **path,
                      bool *shared, ds_error *err) {
  char text[DS_RANKS_TEXT] = "", here[96];
  ds_status status = DS_OK;
  *path = NULL;
  *shared = true;
  if (e->world.rank == 0) {
    status = ds_checkpoint_folder_find(dir, tag, path, &l->tag, err);
    if (status == DS_OK) identify(*path, here, sizeof here);
    if (status == DS_OK) snprintf(text, sizeof text, "%s\n%s", l->tag, here);
  }
  ds_error other;
  ds_status told = ds_tell_all(&e->world, 0, text, sizeof text, status == DS_OK ? err : &other);
  if (status == DS_OK) status = told;
  if (status != DS_OK || e->world.rank == 0) return status;
  char *there = strchr(text, '\n');
  if (!there) return ds_fail(err, DS_ERR_NOT_FOUND, "rank 0 has found no checkpoint in %s", dir);
  *there++ = '\0';
  DS_TRY(ds_checkpoint_folder_find(dir, text, path, &l->tag, err));
  identify(*path, here, sizeof here);
  *shared = here[0] && strcmp(here, there) == 0;
  return DS_OK;
}

/* Ranks that see one folder share the work of proving it; a copy is proven by who has it. */
static ds_status prepare(loading *l, ds_engine *e, const char *path, bool shared, ds_error *err) {
  const ds_world *w = &e->world;
  DS_TRY(ds_checkpoint_manifest_verify(path, shared ? w->rank : 0, shared ? w->size : 1, err));
  DS_TRY(ds_checkpoint_state_read(&l->state, e, path, err));
  return ds_checkpoint_files_open(&l->files, e, path, err);
}

static void adopt(ds_engine *e, const ds_checkpoint_state *s) {
  e->global_steps = s->global_steps;
  e->global_samples = s->global_samples;
  e->micro_steps = s->micro_steps;
  e->skipped_steps = s->skipped_steps;
  e->grad_norm = s->grad_norm;
  if (s->has_scaler) e->scaler = s->scaler;
  e->seed = s->seed;
  e->applied = false;
  ds_engine_drop_gradients(e);
  ds_engine_apply_schedule(e);
  for (int i = 0; i < s->n_groups; i++) e->optimizer->groups[i].lr = s->lr[i];
}

/* The loader first: it can refuse, and then nothing has changed. */
static ds_status set_loader(loading *l, ds_engine *e, ds_error *err) {
  if (e->loader && l->state.has_loader)
    return ds_dataloader_set_state(e->loader, &l->state.loader, err);
  if (e->loader)
    ds_log(&e->logger, DS_LOG_WARN,
           "the checkpoint was saved without training_data: the data loader starts anew");
  return DS_OK;
}

static ds_status apply(loading *l, ds_engine *e, ds_error *err) {
  DS_TRY(ds_world_agree(&e->world, set_loader(l, e, err), "loading the checkpoint", err));
  e->halfway = true;
  /* What a checkpoint doesn't hold - padding, gradients - may be as undefined as the rest. */
  bool broken = e->failure.status != DS_OK;
  ds_status status = broken ? ds_zero_clear(e->zero, err) : DS_OK;
  if (status == DS_OK && broken) status = ds_parts_revive(e, err);
  if (status == DS_OK) status = ds_checkpoint_files_read(&l->files, e, err);
  DS_TRY(ds_world_agree(&e->world, status, "loading the checkpoint", err));
  DS_TRY(ds_zero_settle(e->zero, err));
  DS_TRY(ds_backend_sync(e->backend, err));
  e->halfway = false;
  e->failure.status = DS_OK;
  adopt(e, &l->state);
  return DS_OK;
}

static ds_status load(loading *l, ds_engine *e, const char *dir, const char *tag, ds_error *err) {
  char *path;
  bool shared;
  DS_TRY(compare_tags(e, tag, err));
  ds_status status = find(l, e, dir, tag, &path, &shared, err);
  if (status == DS_OK) status = prepare(l, e, path, shared, err);
  free(path);
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
  ds_status status = ds_engine_recover(e, &died, &inner);
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
