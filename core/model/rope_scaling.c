#include "model/rope_scaling.h"

#include "model/family.h"

#include <math.h>
#include <string.h>

typedef struct scaling {
  enum { NONE, LINEAR, LLAMA3 } kind;
  double theta, factor, low, high, original;
} scaling;

static ds_status read_kind(const cJSON *s, scaling *out, const char *name, ds_error *err) {
  const char *kind;
  DS_TRY(ds_json_string(s, "type", "default", &kind, name, err)); /* the older key */
  DS_TRY(ds_json_string(s, "rope_type", kind, &kind, name, err));
  if (strcmp(kind, "default") == 0) {
    out->kind = NONE;
  } else if (strcmp(kind, "linear") == 0) {
    out->kind = LINEAR;
  } else if (strcmp(kind, "llama3") == 0) {
    out->kind = LLAMA3;
  } else {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: rope scaling of type \"%s\" is not implemented; linear and llama3 are",
                   name, kind);
  }
  return DS_OK;
}

static ds_status read_scaling(const cJSON *config, scaling *out, const char *name, ds_error *err) {
  *out = (scaling){.kind = NONE};
  const cJSON *s = cJSON_GetObjectItemCaseSensitive(config, "rope_parameters");
  if (!s || cJSON_IsNull(s)) s = cJSON_GetObjectItemCaseSensitive(config, "rope_scaling");
  DS_TRY(ds_family_positive(config, "rope_theta", 10000, &out->theta, name, err));
  if (!s || cJSON_IsNull(s)) return DS_OK;
  if (!cJSON_IsObject(s))
    return ds_fail(err, DS_ERR_FORMAT, "%s: \"rope_scaling\" must be an object, not %s", name,
                   ds_json_type(s));
  DS_TRY(ds_family_positive(s, "rope_theta", out->theta, &out->theta, name, err));
  DS_TRY(ds_family_only(s, "partial_rotary_factor", "1", name, err));
  DS_TRY(read_kind(s, out, name, err));
  if (out->kind == NONE) return DS_OK;
  DS_TRY(ds_family_positive(s, "factor", 0, &out->factor, name, err));
  if (out->kind == LINEAR) return DS_OK;
  DS_TRY(ds_family_positive(s, "low_freq_factor", 0, &out->low, name, err));
  DS_TRY(ds_family_positive(s, "high_freq_factor", 0, &out->high, name, err));
  DS_TRY(ds_family_positive(s, "original_max_position_embeddings", 0, &out->original, name, err));
  if (out->high > out->low) return DS_OK;
  return ds_fail(err, DS_ERR_FORMAT,
                 "%s: rope scaling: \"high_freq_factor\" must be greater than \"low_freq_factor\"",
                 name);
}

/* LLaMA 3.1: long waves are stretched, short ones left be, those between blended. */
static double llama3(const scaling *s, double f) {
  double turns = s->original * f / 6.283185307179586; /* in the original context */
  if (turns < s->low) return f / s->factor;
  if (turns > s->high) return f;
  double smooth = (turns - s->low) / (s->high - s->low);
  return (1 - smooth) * f / s->factor + smooth * f;
}

ds_status ds_rope_scaling_read(const cJSON *config, int64_t pairs, float *inv_freq,
                               const char *name, ds_error *err) {
  scaling s;
  DS_TRY(read_scaling(config, &s, name, err));
  for (int64_t i = 0; i < pairs; i++) {
    double f = pow(s.theta, -(double)i / (double)pairs);
    if (s.kind == LINEAR) f /= s.factor;
    if (s.kind == LLAMA3) f = llama3(&s, f);
    inv_freq[i] = (float)f;
  }
  return DS_OK;
}
