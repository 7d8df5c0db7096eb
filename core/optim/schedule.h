/* schedule.h - learning-rate schedules: the host app's, and DeepSpeed's five.
 *
 * A schedule answers for the optimizer update `update` (0, 1, ...). DeepSpeed's schedules count
 * scheduler steps, of which there is one after each update: update u runs at the value of
 * i = u - 1, and update 0 at the schedule's starting value. Pure arithmetic.
 */
#ifndef DS_OPTIM_SCHEDULE_H
#define DS_OPTIM_SCHEDULE_H

#include "base/status.h"
#include "ds.h"

struct ds_lr_scheduler {
  const ds_lr_scheduler_vtable *vtable;
  void *self;
  /* Adam's betas for an update, or NULL: this schedule leaves them alone. */
  void (*betas)(void *self, int64_t update, double *beta1, double *beta2);
};

typedef enum ds_warmup_type { DS_WARMUP_LOG = 0, DS_WARMUP_LINEAR = 1 } ds_warmup_type;

/* WarmupLR, WarmupDecayLR: rates. WarmupCosineLR: min and floor are ratios of the group's base
 * rate. num_steps below 2 counts as 2; total_num_steps is not used by WarmupLR. */
typedef struct ds_warmup {
  double min_lr, max_lr;
  int64_t num_steps, total_num_steps;
  ds_warmup_type type;
} ds_warmup;
typedef struct ds_warmup_cosine {
  double warmup_min_ratio, cos_min_ratio;
  int64_t num_steps, total_num_steps;
  ds_warmup_type type;
} ds_warmup_cosine;
typedef struct ds_range_test {
  double min_lr, step_rate;
  int64_t step_size;
  bool staircase;
} ds_range_test;
/* stair counts and decay_step_size 0 = off. */
typedef struct ds_one_cycle {
  double min_lr, max_lr, decay_lr_rate;
  int64_t first_size, second_size, first_stairs, second_stairs, decay_step_size;
  bool cycle_momentum;
  double min_mom, max_mom, decay_mom_rate;
} ds_one_cycle;

DS_MUST_USE ds_status ds_schedule_warmup(const ds_warmup *s, ds_lr_scheduler **out, ds_error *err);
DS_MUST_USE ds_status ds_schedule_warmup_decay(const ds_warmup *s, ds_lr_scheduler **out,
                                               ds_error *err);
DS_MUST_USE ds_status ds_schedule_warmup_cosine(const ds_warmup_cosine *s, ds_lr_scheduler **out,
                                                ds_error *err);
DS_MUST_USE ds_status ds_schedule_range_test(const ds_range_test *s, ds_lr_scheduler **out,
                                             ds_error *err);
DS_MUST_USE ds_status ds_schedule_one_cycle(const ds_one_cycle *s, ds_lr_scheduler **out,
                                            ds_error *err);

/* The rate for an update, given the group's base rate. */
double ds_schedule_lr(const ds_lr_scheduler *s, int64_t update, double base_lr);

#endif
