#include "optim/clip.h"

#include "ops/tape.h"

#include <math.h>
#include <string.h>

ds_status ds_clip_norm(ds_ctx *ctx, const float *x, int64_t n, void *sum, double *norm,
                       ds_error *err) {
  *norm = NAN;
  void *address;
  memcpy(&address, &x, sizeof address);
  ds_tensor in = ds_tensor_make(address, DS_F32, 1, &n);
  ds_tensor out = ds_tensor_make(sum, DS_F64, 1, (int64_t[]){1});
  DS_TRY(ds_run_raw(ctx, DS_OP_SUM_SQUARES, (const ds_tensor *[]){&in}, 1,
                    (const ds_tensor *[]){&out}, 1, 0, NULL, 0, err));
  double squares;
  DS_TRY(ds_backend_download(ds_ctx_backend(ctx), &squares, sum, sizeof squares, err));
  *norm = sqrt(squares);
  return DS_OK;
}

double ds_clip_factor(double norm, double clip) {
  if (!(clip > 0) || !isfinite(norm)) return 1;
  double c = (norm + 1e-6) / clip;
  return c > 1 ? 1 / c : 1;
}
