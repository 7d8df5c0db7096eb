/* recorded_impl.h - what is kept of recorded work. Private to recorded*.c. */
#ifndef DS_TRAIN_RECORDED_IMPL_H
#define DS_TRAIN_RECORDED_IMPL_H

#include "backend/record.h"
#include "train/recorded.h"

enum { DS_RECORDED_KINDS = 4 };

/* Micro batches of one kind. */
typedef struct ds_recorded_kind {
  int n;
  ds_host_tensor tensors[DS_MAX_BATCH_TENSORS]; /* without data */
  bool first;
  int64_t accumulation;
  bool *before, *after; /* by parameter: has a gradient */
  /* Of ids that ran as ever, which checked them: the range of such as are known to be good. */
  int32_t least[DS_MAX_BATCH_TENSORS], most[DS_MAX_BATCH_TENSORS];
  bool ran; /* as ever, without a fallback */
  size_t input_bytes;
  ds_recording *recording;
  uint64_t used; /* when, to forget the oldest */
} ds_recorded_kind;

typedef struct ds_recorded {
  bool micro;  /* micro batches may be recorded */
  bool update; /* ds_recorded_update is used */
  bool record_update;
  ds_recorded_kind kinds[DS_RECORDED_KINDS];
  uint64_t clock;
  float *schedule, *host_schedule; /* [groups,3]; device memory, and what goes there */
  /* By whether the loss is known. */
  bool update_ran[2];
  ds_recording *updates[2];
} ds_recorded;

/* Recording has failed. Where it can't be done: an error if it was asked for, else said, and *on is
 * false from now on. A failure of the device is just that. */
ds_status ds_recorded_give_up(ds_engine *e, const char *what, const ds_error *why, bool *on,
                              ds_error *err);
void ds_recorded_forget(ds_engine *e, ds_recorded_kind *k);

#endif
