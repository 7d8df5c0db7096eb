/* rope_scaling.h - rotary frequencies as transformers computes them from a config. */
#ifndef DS_MODEL_ROPE_SCALING_H
#define DS_MODEL_ROPE_SCALING_H

#include "base/json.h"

/* Frequencies of `pairs` pairs from "rope_theta" and "rope_scaling" (linear, llama3; the newer
 * "rope_parameters" holds both). Any other kind of scaling is DS_ERR_UNSUPPORTED. */
DS_MUST_USE ds_status ds_rope_scaling_read(const cJSON *config, int64_t pairs, float *inv_freq,
                                           const char *name, ds_error *err);

#endif
