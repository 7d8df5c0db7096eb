#include "optim/loss_scaler.h"

#include <math.h>

ds_loss_scaler ds_loss_scaler_off(void) {
  return (ds_loss_scaler){.rules = {.fixed = 1}, .scale = 1, .overflow = -1};
}

ds_loss_scaler ds_loss_scaler_begin(const ds_loss_scaler_rules *rules) {
  ds_loss_scaler s = {.rules = *rules, .overflow = -1, .left = rules->hysteresis};
  s.scale = rules->fixed > 0 ? rules->fixed : ldexp(1, rules->initial_power);
  return s;
}

bool ds_loss_scaler_dynamic(const ds_loss_scaler *s) {
  return !(s->rules.fixed > 0);
}

/* False: the scale is the least already. */
static bool overflowed(ds_loss_scaler *s) {
  if (s->rules.hysteresis > 1 && s->left > 1) {
    s->left--;
  } else {
    if (s->scale <= s->rules.least) return false;
    s->scale = fmax(s->scale / 2, s->rules.least);
  }
  s->overflow = s->step;
  return true;
}

static void went_well(ds_loss_scaler *s) {
  bool grows = (s->step - s->overflow) % s->rules.window == 0;
  if (s->rules.consecutive || grows) s->left = s->rules.hysteresis;
  if (grows) s->scale = fmin(s->scale * 2, DS_LOSS_SCALE_MAX);
}

bool ds_loss_scaler_update(ds_loss_scaler *s, bool overflow) {
  if (!ds_loss_scaler_dynamic(s)) return true;
  if (!overflow)
    went_well(s);
  else if (!overflowed(s))
    return false;
  s->step++;
  return true;
}
