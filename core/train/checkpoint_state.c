#include "train/checkpoint_state.h"

#include "base/file.h"
#include "base/json.h"
#include "base/str.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_NAME "dscore checkpoint"
enum { FORMAT_VERSION = 1, STATE_LIMIT = 256 << 20 };

/* ---- writing */

static bool add_u64(cJSON *object, const char *key, uint64_t value) {
  char text[24]; /* as text: JSON numbers are doubles */
  snprintf(text, sizeof text, "%" PRIu64, value);
  return cJSON_AddStringToObject(object, key, text) != NULL;
}

static bool add_counters(const ds_engine *e, cJSON *root) {
  return cJSON_AddNumberToObject(root, "global_steps", (double)e->global_steps) &&
         cJSON_AddNumberToObject(root, "global_samples", (double)e->global_samples) &&
         cJSON_AddNumberToObject(root, "micro_steps", (double)e->micro_steps) &&
         cJSON_AddNumberToObject(root, "skipped_steps", (double)e->skipped_steps) &&
         (!isfinite(e->grad_norm) || cJSON_AddNumberToObject(root, "grad_norm", e->grad_norm)) &&
         add_u64(root, "seed", e->seed) &&
         cJSON_AddNumberToObject(root, "world_size", e->world.size) &&
         cJSON_AddNumberToObject(root, "train_batch_size", (double)e->config.batch.train);
}

static bool add_optimizer(const ds_engine *e, cJSON *root) {
  if (!e->optimizer) return true;
  cJSON *o = cJSON_AddObjectToObject(root, "optimizer");
  if (!o || !cJSON_AddStringToObject(o, "name", e->optimizer->vtable->name)) return false;
  cJSON *lr = cJSON_AddArrayToObject(o, "lr");
  for (int i = 0; lr && i < e->optimizer->n_groups; i++) {
    cJSON *item = cJSON_CreateNumber(e->optimizer->groups[i].lr);
    if (!item || !cJSON_AddItemToArray(lr, item)) {
      cJSON_Delete(item);
      return false;
    }
  }
  const char *schedule = e->scheduler ? e->scheduler->vtable->name : NULL;
  return lr && (!schedule || cJSON_AddStringToObject(root, "scheduler", schedule));
}

static bool add_scaler(const ds_engine *e, cJSON *root) {
  const ds_loss_scaler *s = &e->scaler;
  if (!ds_loss_scaler_dynamic(s)) return true;
  cJSON *o = cJSON_AddObjectToObject(root, "loss_scaler");
  return o && cJSON_AddNumberToObject(o, "scale", s->scale) &&
         cJSON_AddNumberToObject(o, "step", (double)s->step) &&
         cJSON_AddNumberToObject(o, "overflow", (double)s->overflow) &&
         cJSON_AddNumberToObject(o, "left", (double)s->left);
}

static bool add_loader(const ds_engine *e, cJSON *root) {
  if (!e->loader) return true;
  ds_dataloader_state s;
  ds_dataloader_get_state(e->loader, &s);
  cJSON *l = cJSON_AddObjectToObject(root, "loader");
  return l && cJSON_AddNumberToObject(l, "epoch", (double)s.epoch) &&
         cJSON_AddNumberToObject(l, "consumed", (double)s.consumed) &&
         cJSON_AddNumberToObject(l, "length", (double)s.length) && add_u64(l, "seed", s.seed);
}

ds_status ds_checkpoint_state_write(const ds_engine *e, const char *folder,
                                    const char *client_state, ds_error *err) {
  cJSON *root = cJSON_CreateObject();
  bool good = root && cJSON_AddStringToObject(root, "format", FORMAT_NAME) &&
              cJSON_AddNumberToObject(root, "version", FORMAT_VERSION) && add_counters(e, root) &&
              add_optimizer(e, root) && add_scaler(e, root) && add_loader(e, root) &&
              (!client_state || cJSON_AddStringToObject(root, "client_state", client_state));
  cJSON *config = good ? cJSON_Duplicate(e->config.root, 1) : NULL;
  if (!config || !cJSON_AddItemToObject(root, "config", config)) {
    cJSON_Delete(config);
    good = false;
  }
  char *text = good ? cJSON_Print(root) : NULL;
  char *path = ds_path_join(folder, "engine.json");
  ds_status status = text && path ? ds_file_write(path, text, strlen(text), err)
                                  : ds_fail_memory(err, "a checkpoint");
  free(path);
  cJSON_free(text);
  cJSON_Delete(root);
  return status;
}

/* ---- reading */

static ds_status get_u64(const cJSON *object, const char *key, uint64_t *out, const char *name,
                         ds_error *err) {
  const char *text;
  char *end;
  DS_TRY(ds_json_string(object, key, "", &text, name, err));
  *out = strtoull(text, &end, 10);
  if (text[0] && !*end) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"%s\" must be a whole number in quotes", name, key);
}

static ds_status get_counters(ds_checkpoint_state *s, const cJSON *root, const char *name,
                              ds_error *err) {
  const int64_t most = (int64_t)1 << 53;
  DS_TRY(ds_json_int(root, "global_steps", -1, 0, most, &s->global_steps, name, err));
  DS_TRY(ds_json_int(root, "global_samples", -1, 0, most, &s->global_samples, name, err));
  DS_TRY(ds_json_int(root, "micro_steps", -1, 0, most, &s->micro_steps, name, err));
  DS_TRY(ds_json_int(root, "skipped_steps", -1, 0, most, &s->skipped_steps, name, err));
  DS_TRY(ds_json_number(root, "grad_norm", NAN, &s->grad_norm, name, err));
  if (s->global_steps < 0 || s->global_samples < 0 || s->micro_steps < 0 || s->skipped_steps < 0 ||
      s->skipped_steps > s->global_steps)
    return ds_fail(err, DS_ERR_FORMAT, "%s: the counters are not a training run's", name);
  return get_u64(root, "seed", &s->seed, name, err);
}

static ds_status get_optimizer(ds_checkpoint_state *s, const ds_engine *e, const cJSON *root,
                               const char *name, ds_error *err) {
  if (!e->optimizer) return DS_OK;
  const cJSON *o = cJSON_GetObjectItemCaseSensitive(root, "optimizer");
  const char *kind, *want = e->optimizer->vtable->name;
  DS_TRY(ds_json_string(o, "name", "none", &kind, name, err));
  if (strcmp(kind, want) != 0)
    return ds_fail(
        err, DS_ERR_FORMAT,
        "%s: the checkpoint's optimizer is %s, the engine's is %s; they must be the same", name,
        kind, want);
  const cJSON *lr = cJSON_GetObjectItemCaseSensitive(o, "lr"), *item;
  if (cJSON_GetArraySize(lr) != e->optimizer->n_groups)
    return ds_fail(err, DS_ERR_FORMAT,
                   "%s: the checkpoint has %d parameter groups, the engine has %d", name,
                   cJSON_GetArraySize(lr), e->optimizer->n_groups);
  s->lr = calloc((size_t)e->optimizer->n_groups, sizeof *s->lr);
  if (!s->lr) return ds_fail_memory(err, "a checkpoint");
  cJSON_ArrayForEach(item, lr) {
    if (!cJSON_IsNumber(item))
      return ds_fail(err, DS_ERR_FORMAT, "%s: \"lr\" must be numbers", name);
    s->lr[s->n_groups++] = item->valuedouble;
  }
  return DS_OK;
}

/* One that was saved without a dynamic scale leaves the engine's own as it is. */
static ds_status get_scaler(ds_checkpoint_state *s, const ds_engine *e, const cJSON *root,
                            const char *name, ds_error *err) {
  const cJSON *o = cJSON_GetObjectItemCaseSensitive(root, "loss_scaler");
  const int64_t most = (int64_t)1 << 53;
  s->scaler = e->scaler;
  s->has_scaler = o && ds_loss_scaler_dynamic(&e->scaler);
  if (!s->has_scaler) return DS_OK;
  DS_TRY(ds_json_number(o, "scale", 0, &s->scaler.scale, name, err));
  DS_TRY(ds_json_int(o, "step", -1, 0, most, &s->scaler.step, name, err));
  DS_TRY(ds_json_int(o, "overflow", -1, -1, most, &s->scaler.overflow, name, err));
  DS_TRY(ds_json_int(o, "left", 0, 0, most, &s->scaler.left, name, err));
  if (s->scaler.scale > 0 && s->scaler.scale <= DS_LOSS_SCALE_MAX && s->scaler.step >= 0 &&
      s->scaler.overflow < s->scaler.step && s->scaler.left > 0)
    return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT, "%s: \"loss_scaler\" is not a training run's", name);
}

static ds_status get_loader(ds_checkpoint_state *s, const cJSON *root, const char *name,
                            ds_error *err) {
  const cJSON *l = cJSON_GetObjectItemCaseSensitive(root, "loader");
  const int64_t most = (int64_t)1 << 53;
  s->has_loader = l != NULL;
  if (!l) return DS_OK;
  DS_TRY(ds_json_int(l, "epoch", 0, 0, most, &s->loader.epoch, name, err));
  DS_TRY(ds_json_int(l, "consumed", 0, 0, most, &s->loader.consumed, name, err));
  DS_TRY(ds_json_int(l, "length", -1, -1, most, &s->loader.length, name, err));
  return get_u64(l, "seed", &s->loader.seed, name, err);
}

static ds_status get_all(ds_checkpoint_state *s, const ds_engine *e, const cJSON *root,
                         const char *name, ds_error *err) {
  const char *format, *client;
  int64_t version;
  DS_TRY(ds_json_string(root, "format", "", &format, name, err));
  if (strcmp(format, FORMAT_NAME) != 0)
    return ds_fail(err, DS_ERR_FORMAT, "%s: not of a dscore checkpoint", name);
  DS_TRY(ds_json_int(root, "version", 0, 0, 1 << 20, &version, name, err));
  if (version != FORMAT_VERSION)
    return ds_fail(err, DS_ERR_VERSION,
                   "%s: version %lld of the checkpoint format; this library reads version %d", name,
                   (long long)version, FORMAT_VERSION);
  DS_TRY(get_counters(s, root, name, err));
  DS_TRY(get_optimizer(s, e, root, name, err));
  DS_TRY(get_scaler(s, e, root, name, err));
  DS_TRY(get_loader(s, root, name, err));
  DS_TRY(ds_json_string(root, "client_state", NULL, &client, name, err));
  s->client_state = client ? strdup(client) : NULL;
  return client && !s->client_state ? ds_fail_memory(err, "client_state") : DS_OK;
}

ds_status ds_checkpoint_state_read(ds_checkpoint_state *out, const ds_engine *e, const char *folder,
                                   ds_error *err) {
  memset(out, 0, sizeof *out);
  char *path = ds_path_join(folder, "engine.json");
  if (!path) return ds_fail_memory(err, "a checkpoint");
  cJSON *root = NULL;
  ds_status status = ds_json_load(path, STATE_LIMIT, 0, &root, err);
  if (status == DS_OK) status = get_all(out, e, root, path, err);
  cJSON_Delete(root);
  free(path);
  return status;
}

void ds_checkpoint_state_finish(ds_checkpoint_state *s) {
  free(s->lr);
  free(s->client_state);
  memset(s, 0, sizeof *s);
}
