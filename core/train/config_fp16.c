/* config_fp16.c - "fp16" as the rules of the loss scale. */
#include "train/config.h"

#include <math.h>

static double number(const cJSON *section, const char *key) {
  return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(section, key));
}

static bool on(const cJSON *section, const char *key) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(section, key));
}

void ds_config_read_fp16(ds_config *c, ds_schema_errors *errors) {
  const cJSON *f = cJSON_GetObjectItemCaseSensitive(c->root, "fp16");
  c->fp16 = on(f, "enabled");
  if (!c->fp16) return;
  ds_loss_scaler_rules *r = &c->loss_scale;
  *r = (ds_loss_scaler_rules){.fixed = number(f, "loss_scale"),
                              .initial_power = (int)number(f, "initial_scale_power"),
                              .window = (int64_t)number(f, "loss_scale_window"),
                              .hysteresis = (int64_t)number(f, "hysteresis"),
                              .consecutive = on(f, "consecutive_hysteresis"),
                              .least = number(f, "min_loss_scale")};
  if (c->bf16) ds_schema_error(errors, "fp16.enabled and bf16.enabled: can't both be true");
  if (r->fixed > 0) return;
  if (!(r->least > 0)) ds_schema_error(errors, "fp16.min_loss_scale: must be above 0");
  if (r->least > ldexp(1, r->initial_power))
    ds_schema_error(errors,
                    "fp16.min_loss_scale: is %g, above 2^initial_scale_power = %g, with which the "
                    "scale begins",
                    r->least, ldexp(1, r->initial_power));
}
