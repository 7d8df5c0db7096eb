/* loss_scaler.h - what the loss is multiplied by in fp16, so that small gradients don't vanish in it.
 *
 * Dynamic scaling as DeepSpeed's DynamicLossScaler (fp16/loss_scaler.py): a step whose gradients
 * overflow is left out, and from the second in need on (hysteresis) the scale is halved, never
 * below its least; when the scale has been good for `window` steps it is doubled. A fixed scale never
 * changes. Pure arithmetic: the same decisions in give the same scales on every rank.
 */
#ifndef DS_OPTIM_LOSS_SCALER_H
#define DS_OPTIM_LOSS_SCALER_H

#include <stdbool.h>
#include <stdint.h>

/* The scale never grows beyond: it is an f32 where it meets the loss. (Ours; there it may.) */
#define DS_LOSS_SCALE_MAX 0x1p126

typedef struct ds_loss_scaler_rules {
  double fixed;       /* fp16.loss_scale; 0: dynamic */
  int initial_power;  /* fp16.initial_scale_power: begins at 2^this */
  int64_t window;     /* fp16.loss_scale_window, from 1 */
  int64_t hysteresis; /* fp16.hysteresis, from 1: overflows until the scale is halved */
  bool consecutive; /* fp16.consecutive_hysteresis: a good step makes up for overflows before it */
  double least;     /* fp16.min_loss_scale, above 0 */
} ds_loss_scaler_rules;

/* Rules and state. The state is what a checkpoint keeps. */
typedef struct ds_loss_scaler {
  ds_loss_scaler_rules rules;
  double scale;
  int64_t step;     /* steps told so far */
  int64_t overflow; /* the last that overflowed, from 0; -1: none */
  int64_t left;     /* overflows until the scale is halved */
} ds_loss_scaler;

/* Without fp16: a fixed scale of 1. */
ds_loss_scaler ds_loss_scaler_off(void);
ds_loss_scaler ds_loss_scaler_begin(const ds_loss_scaler_rules *rules);
bool ds_loss_scaler_dynamic(const ds_loss_scaler *s);

/* After each step. False: it overflowed at the least scale, so there is nowhere to go; the scaler
 * is as before then. */
bool ds_loss_scaler_update(ds_loss_scaler *s, bool overflow);

#endif
