/* update.h - the update's slices, and room for those that come from a file. For core/zero/. */
#ifndef DS_ZERO_UPDATE_H
#define DS_ZERO_UPDATE_H

#include "zero/zero.h"

/* z->disk is there. */
DS_MUST_USE ds_status ds_zero_stages_init(ds_zero *z, ds_error *err);
void ds_zero_stages_finish(ds_zero *z);
/* Weights are made anew from masters that are offloaded. */
DS_MUST_USE ds_status ds_zero_offload_settle(ds_zero *z, ds_error *err);

/* offload.c: what was put into z->host_weights goes to the device, where weights are kept there. */
DS_MUST_USE ds_status ds_zero_publish(ds_zero *z, int unit, int64_t at, int64_t n, ds_error *err);
DS_MUST_USE ds_status ds_zero_fetch_own(ds_zero *z, int unit, void *to, ds_error *err);

#endif
