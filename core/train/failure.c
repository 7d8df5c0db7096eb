/* What a failure does to an engine. Of the device: parameters that may be half updated are not used,
 * read or saved until a checkpoint has been loaded over them. Of a collective, or of the device where
 * there are other ranks: this one is out of step with them for good. */
#include "base/str.h"
#include "parallel/peers.h"
#include "train/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What to do, for people. */
static char *cure(const ds_engine *e) {
  const char *dir = e->saved_dir, *tag = e->saved_tag;
  if (e->parted && dir)
    return ds_format("this rank is cut off from the others: end all ranks and start them anew from "
                     "the last checkpoint, dir \"%s\", tag %s",
                     dir, tag);
  if (e->parted)
    return ds_format(
        "this rank is cut off from the others: end all ranks and start them anew (this "
        "engine has saved and loaded no checkpoint)");
  if (e->lost && dir)
    return ds_format(
        "the device is lost: destroy the engine; the last checkpoint is \"%s\", tag %s", dir, tag);
  if (e->lost) return ds_format("the device is lost: destroy the engine");
  if (dir)
    return ds_format("load the last checkpoint: ds_engine_load_checkpoint, dir \"%s\", tag %s", dir,
                     tag);
  return ds_format("load a checkpoint, or begin anew: this engine has saved and loaded none");
}

ds_status ds_engine_check(const ds_engine *e, const char *who, ds_error *err) {
  if (e->failure.status == DS_OK) return DS_OK;
  char *advice = cure(e);
  ds_fail(err, DS_ERR_STATE, "%s: %.600s; %s", who, e->failure.message, advice ? advice : "");
  free(advice);
  return DS_ERR_STATE;
}

/* The parameters are undefined from here on, or of no use. */
static void spoil(ds_engine *e, ds_status status, const ds_error *from, bool undefined) {
  /* Work runs late: unless amid an update, it may be the last step's that failed. */
  bool sure = e->halfway || e->parted || e->global_steps == 0;
  ds_fail(&e->failure, status, "%s since step %lld%s failed (%.500s)",
          undefined ? "parameters may be half updated" : "the ranks are parted",
          (long long)e->global_steps + 1, sure ? "" : " or the one before", from->message);
  e->halfway = false;
  ds_engine_drop_gradients(e);
  ds_ctx_fail(e->ctx, DS_ERR_STATE, "%s", e->failure.message); /* its values are undefined too */
}

/* "step 7: what happened; which processes are gone; what to do". */
static void tell(const ds_engine *e, ds_status status, const ds_error *from, ds_error *err) {
  char *advice = cure(e), step[32] = "", gone[256] = "";
  if (e->parted) {
    snprintf(step, sizeof step, "step %lld: ", (long long)e->global_steps + 1);
    ds_peers_describe(&e->world, from->message, gone, sizeof gone);
  }
  ds_fail(err, status, "%s%.500s%s%s; %s%s", step, from->message, gone[0] ? "; " : "", gone,
          e->parted ? "" : "parameters may be half updated: ", advice ? advice : "");
  free(advice);
}

/* Whether this rank can't catch up with the others any more: it skipped collectives. */
static bool is_parted(const ds_engine *e, ds_status status, bool died) {
  return e->world.group && (died || status == DS_ERR_TIMEOUT || status == DS_ERR_ABORTED);
}

ds_status ds_engine_recover(ds_engine *e, bool *died, ds_error *err) {
  ds_status status = ds_backend_recover(e->backend, died, err);
  *died = *died || ds_side_died(e->tensor_side) || (e->zero && ds_zero_died(e->zero));
  return status;
}

ds_status ds_engine_settle(ds_engine *e, ds_status status, const ds_error *from, ds_error *err) {
  if (status == DS_OK) return DS_OK;
  ds_fail(err, status, "%s", from->message);
  if (e->failure.status != DS_OK) return status; /* a function within has said all of this */
  bool died;
  /* At once: the message then says whether there is a device left to load a checkpoint on. */
  e->lost = ds_engine_recover(e, &died, NULL) != DS_OK;
  e->parted = e->parted || is_parted(e, status, died);
  if (!died && !e->halfway && !e->parted) return status;
  if (e->parted) ds_group_abort_all(e->backend); /* destroy, too, waits for nobody then */
  spoil(e, status, from, died || e->halfway);
  tell(e, status, from, err);
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
