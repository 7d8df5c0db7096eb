/* recorded.h - the work of a training step, recorded once and then launched (backend/record.h).
 *
 * Two pieces: a micro batch (forward, backward, the sum of losses), one recording for each kind of it
 * - shapes, and which gradients it adds to - and the update, whose changing numbers lie in device
 * memory. What ranks do together stays between them. A piece runs once as ever before it is
 * recorded. Used by itself where the backend offers it; what can't be recorded runs as ever, unless
 * the config's "graph" is true: then it is an error.
 */
#ifndef DS_TRAIN_RECORDED_H
#define DS_TRAIN_RECORDED_H

#include "train/engine.h"

/* Finds out what can be recorded. DS_ERR_UNSUPPORTED, saying what is missing, where "graph" is true. */
DS_MUST_USE ds_status ds_recorded_init(ds_engine *e, ds_error *err);
void ds_recorded_finish(ds_engine *e);

/* A micro batch of train_batch, recorded or not. */
DS_MUST_USE ds_status ds_recorded_micro(ds_engine *e, const ds_batch *batch, bool first,
                                        ds_error *err);

/* Whether ds_recorded_update is to be used. */
bool ds_recorded_updates(const ds_engine *e);
/* The norm of the gradients, the factor that clips them, and the update, which the device leaves out
 * where norm or loss are no numbers and the config checks that: *sound says so. Sets grad_norm. loss:
 * read from loss_sum; NULL: not known. Waits once. */
DS_MUST_USE ds_status ds_recorded_update(ds_engine *e, float *loss, bool *sound, ds_error *err);

#endif
