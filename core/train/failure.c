/* What a failed device does to an engine: parameters that may be half updated are not used, read or
 * saved until a checkpoint has been loaded over them. */
#include "base/str.h"
#include "train/engine.h"

#include <stdlib.h>
#include <string.h>

/* What to do, for people. */
static char *cure(const ds_engine *e) {
  if (e->lost)
    return ds_format("the device is lost: destroy the engine%s%s%s%s",
                     e->saved_dir ? "; the last checkpoint is \"" : "",
                     e->saved_dir ? e->saved_dir : "", e->saved_dir ? "\", tag " : "",
                     e->saved_dir ? e->saved_tag : "");
  if (e->saved_dir)
    return ds_format("load the last checkpoint: ds_engine_load_checkpoint, dir \"%s\", tag %s",
                     e->saved_dir, e->saved_tag);
  return ds_format("load a checkpoint, or begin anew: this engine has saved and loaded none");
}

ds_status ds_engine_check(const ds_engine *e, const char *who, ds_error *err) {
  if (e->failure.status == DS_OK) return DS_OK;
  char *advice = cure(e);
  ds_fail(err, DS_ERR_STATE, "%s: %.600s; %s", who, e->failure.message, advice ? advice : "");
  free(advice);
  return DS_ERR_STATE;
}

/* The parameters are undefined from here on. */
static void spoil(ds_engine *e, ds_status status, const ds_error *from) {
  /* Work runs late: unless amid an update, it may be the last step's that failed. */
  bool sure = e->halfway || e->global_steps == 0;
  ds_fail(&e->failure, status, "parameters may be half updated since step %lld%s failed (%.500s)",
          (long long)e->global_steps + 1, sure ? "" : " or the one before", from->message);
  e->halfway = false;
  ds_engine_drop_gradients(e);
  ds_ctx_fail(e->ctx, DS_ERR_STATE, "%s", e->failure.message); /* its values are undefined too */
}

ds_status ds_engine_settle(ds_engine *e, ds_status status, const ds_error *from, ds_error *err) {
  if (status == DS_OK) return DS_OK;
  ds_fail(err, status, "%s", from->message);
  if (e->failure.status != DS_OK) return status; /* a function within has said all of this */
  bool died;
  /* At once: the message then says whether there is a device left to load a checkpoint on. */
  e->lost = ds_backend_recover(e->backend, &died, NULL) != DS_OK;
  if (!died && !e->halfway) return status;
  spoil(e, status, from);
  char *advice = cure(e);
  ds_fail(err, status, "%.600s; parameters may be half updated: %s", from->message,
          advice ? advice : "");
  free(advice);
  return status;
}

void ds_engine_remember(ds_engine *e, const char *dir, const char *tag) {
  char *d = strdup(dir), *t = strdup(tag);
  free(e->saved_dir);
  free(e->saved_tag);
  bool both = d && t; /* without memory, it is not known: it only serves a message */
  e->saved_dir = both ? d : NULL;
  e->saved_tag = both ? t : NULL;
  if (both) return;
  free(d);
  free(t);
}
