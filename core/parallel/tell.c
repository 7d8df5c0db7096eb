#include "parallel/tell.h"

ds_status ds_tell_all(ds_world *w, int root, void *bytes, size_t n, ds_error *err) {
  if (!w->group || n == 0) return DS_OK;
  ds_backend *b = w->backend;
  void *there;
  DS_TRY(ds_backend_alloc(b, n, &there, err));
  ds_status status = w->rank == root ? ds_backend_upload(b, there, bytes, n, err) : DS_OK;
  if (status == DS_OK)
    status = ds_group_broadcast(w->group, NULL, there, (int64_t)n, DS_I8, root, err);
  if (status == DS_OK)
    status =
        w->rank == root ? ds_backend_sync(b, err) : ds_backend_download(b, bytes, there, n, err);
  if (status == DS_OK || w->told) {
    ds_backend_free(b, there, n); /* a second failure is a refusal: nothing uses it */
  } else {
    w->told = there;
    w->told_bytes = n;
  }
  return status;
}

ds_status ds_tell_first(ds_world *w, bool speaks, void *bytes, size_t n, int *rank, ds_error *err) {
  *rank = speaks ? 0 : -1;
  if (!w->group) return DS_OK;
  /* The largest is the lowest rank's; ranks are whole numbers of f32 up to 2^24. */
  float most = speaks ? (float)(w->size - w->rank) : 0;
  DS_TRY(ds_backend_upload(w->backend, w->flag, &most, sizeof most, err));
  DS_TRY(ds_world_allreduce(w, w->flag, 1, DS_REDUCE_MAX, err));
  DS_TRY(ds_backend_download(w->backend, &most, w->flag, sizeof most, err));
  *rank = most > 0 ? w->size - (int)most : -1;
  return *rank >= 0 ? ds_tell_all(w, *rank, bytes, n, err) : DS_OK;
}
