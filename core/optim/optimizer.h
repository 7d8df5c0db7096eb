/* optimizer.h - an optimizer and its parameter groups, as the training engine sees them.
 *
 * An optimizer is a vtable (built in: Adam; or the host app's) plus one ds_optimizer_group per
 * parameter group. Group options of the built-in optimizers stand in the groups; a host-written
 * optimizer gets the learning rate handed in and keeps other options to itself, so overriding them
 * in a ds_param_group is an error there. One engine uses an optimizer at a time: bind, unbind.
 */
#ifndef DS_OPTIM_OPTIMIZER_H
#define DS_OPTIM_OPTIMIZER_H

#include "base/status.h"
#include "ds.h"

typedef struct ds_optimizer_group {
  double lr;      /* of the next update */
  double base_lr; /* what schedules start from */
  double beta1, beta2, eps, weight_decay;
} ds_optimizer_group;

/* An update whose changing numbers lie in device memory, so that it can be recorded. */
typedef struct ds_optimizer_scheduled {
  /* What the group's slices go by at this step (from 1), for the host to upload. */
  void (*schedule)(void *self, int group, double lr, int64_t step, float out[3]);
  /* schedule f32[3], factor f32[1]: device memory. offers: whether the backend has the op. */
  bool (*offers)(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice,
                 const ds_tensor *schedule, const ds_tensor *factor);
  ds_status (*update)(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice,
                      const ds_tensor *schedule, const ds_tensor *factor, ds_error *err);
} ds_optimizer_scheduled;

struct ds_optimizer {
  const ds_optimizer_vtable *vtable;
  void *self;
  bool has_options; /* betas, eps and weight_decay of the groups mean something */
  const ds_optimizer_scheduled *scheduled; /* NULL: it has none */
  bool bound;
  ds_optimizer_group defaults;
  ds_optimizer_group *groups; /* one until bound */
  int n_groups;
};

/* Gives the optimizer its groups: `groups` as in ds_initialize_args (n = 0: one group of defaults).
 * Checks the overrides. DS_ERR_STATE when an engine has it already. */
DS_MUST_USE ds_status ds_optimizer_bind(ds_optimizer *o, const ds_param_group *groups, int n,
                                        ds_error *err);
/* Back to one group of defaults. NULL is allowed. */
void ds_optimizer_unbind(ds_optimizer *o);

/* A NaN or negative number is an unset override. */
bool ds_optimizer_is_set(double override);

#endif
