/* How an optimizer written in host code gets at a slice: in place where the device's memory is the
 * host's too, else through copies. */
#include "ds.h"
#include "ops/tape.h"

#include <stdlib.h>

static ds_status write_param16(ds_ctx *ctx, const ds_optimizer_slice *s, ds_error *err) {
  if (!s->param16) return DS_OK;
  ds_tensor p = ds_tensor_make(s->param, DS_F32, 1, &s->count);
  ds_tensor p16 = ds_tensor_make(s->param16, DS_BF16, 1, &s->count);
  return ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&p}, 1, (const ds_tensor *[]){&p16}, 1,
                    0, NULL, 0, err);
}

/* host holds count floats each of param, grad and the states. */
static ds_status through_copies(ds_backend *b, const ds_optimizer_slice *s, float *host,
                                void (*fn)(void *, float *, const float *, float *const *, int64_t),
                                void *arg, ds_error *err) {
  const size_t n = (size_t)s->count, bytes = n * sizeof(float);
  float *state[4] = {NULL};
  size_t used = 2;
  DS_TRY(ds_backend_download(b, host, s->param, bytes, err));
  DS_TRY(ds_backend_download(b, host + n, s->grad, bytes, err));
  for (int i = 0; i < 4; i++) {
    if (!s->state[i]) continue;
    state[i] = host + n * used++;
    DS_TRY(ds_backend_download(b, state[i], s->state[i], bytes, err));
  }
  fn(arg, host, host + n, state, s->count);
  DS_TRY(ds_backend_upload(b, s->param, host, bytes, err));
  for (int i = 0; i < 4; i++)
    if (state[i]) DS_TRY(ds_backend_upload(b, s->state[i], state[i], bytes, err));
  return DS_OK;
}

ds_status ds_slice_update(ds_ctx *ctx, const ds_optimizer_slice *slice,
                          void (*fn)(void *arg, float *param, const float *grad,
                                     float *const *state, int64_t count),
                          void *arg, ds_error *err) {
  if (!ctx || !slice || !fn || slice->count < 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "ds_slice_update: a context, a slice and a function needed");
  if (slice->count == 0) return DS_OK;
  ds_backend *b = ds_ctx_backend(ctx);
  if (ds_backend_host_accessible(b)) {
    DS_TRY(ds_backend_sync(b, err));
    fn(arg, slice->param, slice->grad, slice->state, slice->count);
    return write_param16(ctx, slice, err);
  }
  size_t arrays = 2;
  for (int i = 0; i < 4; i++) arrays += slice->state[i] != NULL;
  if ((size_t)slice->count > SIZE_MAX / sizeof(float) / arrays)
    return ds_fail_memory(err, "ds_slice_update");
  float *host = malloc((size_t)slice->count * arrays * sizeof *host);
  if (!host) return ds_fail_memory(err, "ds_slice_update");
  ds_status status = through_copies(b, slice, host, fn, arg, err);
  free(host);
  return status == DS_OK ? write_param16(ctx, slice, err) : status;
}
