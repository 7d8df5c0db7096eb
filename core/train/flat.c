#include "train/flat.h"

#include "ops/tape.h"

#include <string.h>

static ds_status make(ds_flat *f, size_t element, void *out, ds_error *err) {
  void *p;
  size_t bytes = (size_t)f->count * element;
  DS_TRY(ds_backend_alloc(f->backend, bytes, &p, err));
  memcpy(out, &p, sizeof p);
  return DS_OK;
}

ds_status ds_flat_init(ds_flat *out, ds_backend *b, int64_t count, bool bf16, int n_states,
                       ds_error *err) {
  *out = (ds_flat){.backend = b, .count = count};
  ds_status status = make(out, sizeof(float), &out->master, err);
  if (status == DS_OK) status = make(out, sizeof(float), &out->grad, err);
  if (status == DS_OK && bf16) status = make(out, sizeof(uint16_t), &out->compute, err);
  for (int i = 0; i < n_states && status == DS_OK; i++)
    status = make(out, sizeof(float), &out->state[i], err);
  if (status == DS_OK) status = ds_flat_clear(out, err);
  if (status != DS_OK) {
    ds_flat_finish(out);
    return ds_fail_prefix(err, status, "memory for %lld parameters", (long long)count);
  }
  return DS_OK;
}

ds_status ds_flat_clear(ds_flat *f, ds_error *err) {
  size_t bytes = (size_t)f->count * sizeof(float);
  DS_TRY(ds_backend_fill(f->backend, f->master, 0, bytes, err));
  DS_TRY(ds_backend_fill(f->backend, f->grad, 0, bytes, err));
  if (f->compute) DS_TRY(ds_backend_fill(f->backend, f->compute, 0, bytes / 2, err));
  for (int i = 0; i < 4; i++)
    if (f->state[i]) DS_TRY(ds_backend_fill(f->backend, f->state[i], 0, bytes, err));
  return DS_OK;
}

void ds_flat_finish(ds_flat *f) {
  size_t bytes = (size_t)f->count * sizeof(float);
  if (f->master) ds_backend_free(f->backend, f->master, bytes);
  if (f->grad) ds_backend_free(f->backend, f->grad, bytes);
  if (f->compute) ds_backend_free(f->backend, f->compute, bytes / 2);
  for (int i = 0; i < 4; i++)
    if (f->state[i]) ds_backend_free(f->backend, f->state[i], bytes);
  memset(f, 0, sizeof *f);
}

ds_status ds_flat_refresh(ds_flat *f, ds_ctx *ctx, int64_t begin, int64_t n, ds_error *err) {
  if (!f->compute) return DS_OK;
  ds_tensor from = ds_tensor_make(f->master + begin, DS_F32, 1, &n);
  ds_tensor to = ds_tensor_make(f->compute + begin, DS_BF16, 1, &n);
  return ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&from}, 1, (const ds_tensor *[]){&to}, 1,
                    0, NULL, 0, err);
}
