#include "train/stretch.h"

#include "base/str.h"
#include "tensor/tensor.h"

#include <stdlib.h>
#include <string.h>

/* Of each token; the model checks no more than its stretch. */
static ds_status check_positions(ds_engine *e, int64_t length, ds_error *err) {
  ds_model_info info = {.size = sizeof info};
  if (ds_model_get_info(e->model, &info, NULL) != DS_OK || length <= info.max_positions)
    return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "%lld tokens are more than the model's %lld positions",
                 (long long)length, (long long)info.max_positions);
}

static ds_status cut(ds_engine *e, int index, const ds_host_tensor *from, ds_host_tensor *to,
                     ds_error *err) {
  const ds_axis *axis = &e->topology.sequence;
  ds_stretch *s = e->stretch;
  int64_t rows = from->shape[0], length = from->shape[1];
  if (length % axis->size != 0)
    return ds_fail(err, DS_ERR_INVALID,
                   "sequence_parallel_size %d doesn't divide the %lld tokens of a sequence (tensor "
                   "%d of the batch)",
                   axis->size, (long long)length, index);
  size_t token = ds_dtype_size(from->dtype);
  for (int32_t d = 2; d < from->rank; d++) token *= (size_t)from->shape[d];
  size_t whole = token * (size_t)length, part = whole / (size_t)axis->size;
  DS_TRY(ds_reserve(&s->data[index], &s->capacity[index], part * (size_t)rows, 1,
                    "a part of the batch", err));
  for (int64_t b = 0; b < rows && part > 0; b++)
    memcpy(s->data[index] + (size_t)b * part,
           (const char *)from->data + (size_t)b * whole + (size_t)axis->rank * part, part);
  to->shape[1] = length / axis->size;
  to->data = s->data[index];
  return DS_OK;
}

ds_status ds_stretch_cut(ds_engine *e, const ds_batch *batch, ds_batch *out, ds_error *err) {
  *out = *batch;
  if (e->topology.sequence.size == 1) return DS_OK;
  if (!e->stretch) e->stretch = calloc(1, sizeof *e->stretch);
  if (!e->stretch) return ds_fail_memory(err, "a part of the batch");
  for (int i = 0; i < batch->n; i++) {
    const ds_host_tensor *t = &batch->tensors[i];
    if (t->rank < 2) continue;
    if (i == 0) DS_TRY(check_positions(e, t->shape[1], err));
    DS_TRY(cut(e, i, t, &out->tensors[i], err));
  }
  return DS_OK;
}

double ds_stretch_share(const ds_engine *e) {
  return e->config.sum_gradients ? e->topology.sequence.size : 1;
}

void ds_stretch_finish(ds_stretch *s) {
  for (int i = 0; s && i < DS_MAX_BATCH_TENSORS; i++) free(s->data[i]);
  free(s);
}
