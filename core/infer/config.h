/* config.h - the inference engine's config: DeepSpeed's keys, keyword arguments merged over them.
 */
#ifndef DS_INFER_CONFIG_H
#define DS_INFER_CONFIG_H

#include "backend/backend.h"

typedef struct ds_inference_config {
  int32_t dtype; /* DS_F32 or DS_BF16; -1 = the weights' own */
  int64_t max_out_tokens, min_out_tokens;
  char *checkpoint; /* NULL = none */
  ds_backend_config backend;
} ds_inference_config;

/* config: a path, JSON text or NULL; kwargs: JSON text or NULL. Keyword arguments win, deeply, with
 * the aliases ("tp", "mp_size") made equal first; a warning names the keys they override. All
 * mistakes come in one message. out is finished on failure. */
DS_MUST_USE ds_status ds_inference_config_parse(const char *config, const char *kwargs,
                                                const ds_logger *logger, ds_inference_config *out,
                                                ds_error *err);
void ds_inference_config_finish(ds_inference_config *config);

#endif
