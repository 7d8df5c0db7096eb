/* family.h - the built-in model families: what Hugging Face's "model_type" names. */
#ifndef DS_MODEL_FAMILY_H
#define DS_MODEL_FAMILY_H

#include "base/json.h"
#include "ds.h"

typedef struct ds_family {
  const char *model_type;
  const char *architecture; /* the class in transformers, for config.json */
  /* A model's self from its config.json (an object); name begins messages. Keys that change the
   * mathematics in a way that isn't implemented are DS_ERR_UNSUPPORTED; other unknown keys are
   * normal. vtable.destroy frees it. */
  ds_status (*create)(const cJSON *config, const char *name, void **self, ds_error *err);
  const ds_model_vtable *vtable;
} ds_family;

extern const ds_family ds_family_gpt2, ds_family_llama;

/* The family that the config's "model_type" names; unknown ones are DS_ERR_UNSUPPORTED. */
DS_MUST_USE ds_status ds_family_find(const cJSON *config, const char *name, const ds_family **out,
                                     ds_error *err);

/* ---- for families' create() */

/* A dimension that must be there: 1 to limit. */
DS_MUST_USE ds_status ds_family_size(const cJSON *config, const char *key, int64_t limit,
                                     int64_t *out, const char *name, ds_error *err);
/* A token id, or the first of a list of them; -1 when absent or null. */
DS_MUST_USE ds_status ds_family_token(const cJSON *config, const char *key, int32_t *out,
                                      const char *name, ds_error *err);
/* A finite number > 0. */
DS_MUST_USE ds_status ds_family_positive(const cJSON *config, const char *key, double fallback,
                                         double *out, const char *name, ds_error *err);
/* A key whose other values change the mathematics: it must be absent, null, or equal to the one
 * implemented value (a JSON literal: "true", "1", "\"silu\""). */
DS_MUST_USE ds_status ds_family_only(const cJSON *config, const char *key, const char *literal,
                                     const char *name, ds_error *err);
/* The config as text, with the architecture filled in; NULL when out of memory. */
char *ds_family_config_text(const cJSON *config, const ds_family *family);

#endif
