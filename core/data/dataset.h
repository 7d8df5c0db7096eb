/* dataset.h - what the data loader asks of a data set (the public part is in ds.h). */
#ifndef DS_DATA_DATASET_H
#define DS_DATA_DATASET_H

#include "ds.h"

#include "base/status.h"

/* Sample `index` of a map-style data set. A sample without tensors, or with one that has no data,
 * an unknown dtype or a bad shape, is DS_ERR_INVALID naming the sample. */
DS_MUST_USE ds_status ds_dataset_get(ds_dataset *d, int64_t index, ds_batch *sample, ds_error *err);
/* The next sample of an iterable one; DS_ERR_END at the end. */
DS_MUST_USE ds_status ds_dataset_next(ds_dataset *d, ds_batch *sample, ds_error *err);
DS_MUST_USE ds_status ds_dataset_rewind(ds_dataset *d, ds_error *err);

/* Elements and bytes of a tensor; 0 when the dtype is unknown or the shape is bad or too large. */
size_t ds_host_tensor_bytes(const ds_host_tensor *t);

#endif
