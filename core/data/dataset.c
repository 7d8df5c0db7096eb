#include "data/dataset.h"

#include <stdlib.h>
#include <string.h>

struct ds_dataset {
  ds_dataset_vtable vtable;
  void *self;
};

ds_status ds_dataset_create(const ds_dataset_vtable *vtable, void *self, ds_dataset **out,
                            ds_error *err) {
  *out = NULL;
  if (vtable->size < sizeof *vtable)
    return ds_fail(err, DS_ERR_VERSION,
                   "data set: the vtable has size %u, at least %zu is needed; set .size = "
                   "sizeof(ds_dataset_vtable)",
                   vtable->size, sizeof *vtable);
  bool map = vtable->length && vtable->get;
  bool iterable = !vtable->length && vtable->next && vtable->rewind;
  if (!map && !iterable)
    return ds_fail(err, DS_ERR_INVALID,
                   "data set: a map-style one needs length and get; an iterable one next and "
                   "rewind, with length NULL");
  ds_dataset *d = calloc(1, sizeof *d);
  if (!d) return ds_fail_memory(err, "data set");
  memcpy(&d->vtable, vtable, sizeof d->vtable);
  d->self = self;
  *out = d;
  return DS_OK;
}

void ds_dataset_destroy(ds_dataset *d) {
  if (!d) return;
  if (d->vtable.destroy) d->vtable.destroy(d->self);
  free(d);
}

int64_t ds_dataset_length(const ds_dataset *d) {
  if (!d->vtable.length) return -1;
  int64_t n = d->vtable.length(d->self);
  return n < 0 ? 0 : n;
}

size_t ds_host_tensor_bytes(const ds_host_tensor *t) {
  if (t->dtype != DS_I32 && t->dtype != DS_F32) return 0;
  if (t->rank < 0 || t->rank > DS_MAX_RANK) return 0;
  size_t bytes = 4;
  for (int i = 0; i < t->rank; i++) {
    if (t->shape[i] <= 0 || (uint64_t)t->shape[i] > (SIZE_MAX / 2) / bytes) return 0;
    bytes *= (size_t)t->shape[i];
  }
  return bytes;
}

static ds_status check_sample(const ds_batch *sample, ds_error *err) {
  if (sample->n < 1 || sample->n > DS_MAX_BATCH_TENSORS)
    return ds_fail(err, DS_ERR_INVALID, "has %d tensors; 1 to %d are allowed", sample->n,
                   DS_MAX_BATCH_TENSORS);
  for (int i = 0; i < sample->n; i++) {
    const ds_host_tensor *t = &sample->tensors[i];
    if (!t->data || ds_host_tensor_bytes(t) == 0)
      return ds_fail(err, DS_ERR_INVALID,
                     "tensor %d needs data, dtype DS_I32 or DS_F32, a rank of at most %d and a "
                     "shape without zeros",
                     i, DS_MAX_RANK);
  }
  return DS_OK;
}

ds_status ds_dataset_get(ds_dataset *d, int64_t index, ds_batch *sample, ds_error *err) {
  memset(sample, 0, sizeof *sample);
  if (err) err->message[0] = '\0';
  ds_status status = d->vtable.get(d->self, index, sample, err);
  if (status == DS_OK) status = check_sample(sample, err);
  if (status == DS_OK) return DS_OK;
  return ds_fail_prefix(err, status, "data set: sample %lld", (long long)index);
}

ds_status ds_dataset_next(ds_dataset *d, ds_batch *sample, ds_error *err) {
  memset(sample, 0, sizeof *sample);
  if (err) err->message[0] = '\0';
  ds_status status = d->vtable.next(d->self, sample, err);
  if (status == DS_ERR_END) return status;
  if (status == DS_OK) status = check_sample(sample, err);
  return status == DS_OK ? DS_OK : ds_fail_prefix(err, status, "data set: next sample");
}

ds_status ds_dataset_rewind(ds_dataset *d, ds_error *err) {
  if (err) err->message[0] = '\0';
  ds_status status = d->vtable.rewind(d->self, err);
  return status == DS_OK ? DS_OK : ds_fail_prefix(err, status, "data set: rewind");
}
