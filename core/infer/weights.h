/* weights.h - a model's weights onto the device, in the dtype they are computed in. */
#ifndef DS_INFER_WEIGHTS_H
#define DS_INFER_WEIGHTS_H

#include "infer/engine.h"

/* Declares the parameters and fills e's params, slots and weights. Without any weights to load they
 * are random (and the log says so): the way to measure a model's speed from its config alone. */
DS_MUST_USE ds_status ds_weights_load(ds_inference *e, ds_error *err);

#endif
