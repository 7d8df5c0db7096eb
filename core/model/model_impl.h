/* model_impl.h - what model.c and model_weights.c share: a model's insides. */
#ifndef DS_MODEL_MODEL_IMPL_H
#define DS_MODEL_MODEL_IMPL_H

#include "model/model.h"
#include "model/safetensors.h"

struct ds_model {
  ds_model_vtable functions; /* a copy; what an older host app's vtable lacks is NULL */
  void *self;
  bool built_in;           /* one of core's families */
  char *folder;            /* or NULL */
  ds_safetensors *weights; /* or NULL */
  int32_t weights_dtype;
};

/* Opens the folder's weights, if it has any, and checks that they are those of the model's
 * parameters: all there, of the declared shapes, and nothing else. */
DS_MUST_USE ds_status ds_model_open_weights(ds_model *m, ds_error *err);

#endif
