#include "optim/optimizer.h"

#include <math.h>
#include <stdlib.h>

/* The vtable up to and with `update`; destroy came last and may be absent. */
#define VTABLE_MIN offsetof(ds_optimizer_vtable, destroy)

static ds_status check_vtable(const ds_optimizer_vtable *v, ds_error *err) {
  if (!v || v->size < VTABLE_MIN || !v->update)
    return ds_fail(err, DS_ERR_INVALID,
                   "optimizer: the vtable needs size = sizeof(ds_optimizer_vtable) and update");
  if (v->n_states < 0 || v->n_states > 4)
    return ds_fail(err, DS_ERR_INVALID, "optimizer: n_states must be from 0 to 4, not %d",
                   v->n_states);
  if (v->n_states > 0 && !v->state_names)
    return ds_fail(err, DS_ERR_INVALID, "optimizer: %d states need state_names", v->n_states);
  for (int i = 0; i < v->n_states; i++)
    if (!v->state_names[i] || !v->state_names[i][0])
      return ds_fail(err, DS_ERR_INVALID, "optimizer: state %d has no name", i);
  return DS_OK;
}

ds_status ds_optimizer_create(const ds_optimizer_vtable *vtable, void *self, double lr,
                              ds_optimizer **out, ds_error *err) {
  *out = NULL;
  DS_TRY(check_vtable(vtable, err));
  if (!(lr >= 0) || isinf(lr))
    return ds_fail(err, DS_ERR_INVALID, "optimizer: lr must be a number >= 0, not %g", lr);
  ds_optimizer *o = calloc(1, sizeof *o);
  ds_optimizer_group *group = calloc(1, sizeof *group);
  if (!o || !group) {
    free(o);
    free(group);
    return ds_fail_memory(err, "an optimizer");
  }
  o->vtable = vtable;
  o->self = self;
  o->defaults.lr = o->defaults.base_lr = lr;
  *group = o->defaults;
  o->groups = group;
  o->n_groups = 1;
  *out = o;
  return DS_OK;
}

void ds_optimizer_destroy(ds_optimizer *o) {
  if (!o) return;
  if (o->vtable->size > VTABLE_MIN && o->vtable->destroy) o->vtable->destroy(o->self);
  free(o->groups);
  free(o);
}

int ds_optimizer_groups(const ds_optimizer *o) {
  return o->n_groups;
}

double ds_optimizer_lr(const ds_optimizer *o, int group) {
  return group >= 0 && group < o->n_groups ? o->groups[group].lr : NAN;
}

void ds_optimizer_set_lr(ds_optimizer *o, int group, double lr) {
  if (group >= 0 && group < o->n_groups) o->groups[group].lr = lr;
}

bool ds_optimizer_is_set(double override) {
  return !isnan(override) && override >= 0;
}

static void override_with(double *option, double value) {
  if (ds_optimizer_is_set(value)) *option = value;
}

static ds_status fill_group(const ds_optimizer *o, const ds_param_group *g, int index,
                            ds_optimizer_group *out, ds_error *err) {
  *out = o->defaults;
  override_with(&out->lr, g->lr);
  out->base_lr = out->lr;
  bool any = ds_optimizer_is_set(g->beta1) || ds_optimizer_is_set(g->beta2) ||
             ds_optimizer_is_set(g->eps) || ds_optimizer_is_set(g->weight_decay);
  if (any && !o->has_options)
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "model_parameters: group %d sets betas, eps or weight_decay, which the host "
                   "app's own optimizer must keep by itself (by slice->group); only lr can be set",
                   index);
  override_with(&out->beta1, g->beta1);
  override_with(&out->beta2, g->beta2);
  override_with(&out->eps, g->eps);
  override_with(&out->weight_decay, g->weight_decay);
  if (out->beta1 >= 1 || out->beta2 >= 1)
    return ds_fail(err, DS_ERR_INVALID,
                   "model_parameters: betas of group %d must be below 1, not %g and %g", index,
                   out->beta1, out->beta2);
  return DS_OK;
}

ds_status ds_optimizer_bind(ds_optimizer *o, const ds_param_group *groups, int n, ds_error *err) {
  if (o->bound)
    return ds_fail(err, DS_ERR_STATE,
                   "the optimizer belongs to another engine; make one for each engine");
  int count = n > 0 ? n : 1;
  ds_optimizer_group *filled = calloc((size_t)count, sizeof *filled);
  if (!filled) return ds_fail_memory(err, "parameter groups");
  filled[0] = o->defaults;
  for (int i = 0; i < n; i++) {
    ds_status status = fill_group(o, &groups[i], i, &filled[i], err);
    if (status != DS_OK) {
      free(filled);
      return status;
    }
  }
  free(o->groups);
  o->groups = filled;
  o->n_groups = count;
  o->bound = true;
  return DS_OK;
}

void ds_optimizer_unbind(ds_optimizer *o) {
  if (!o) return;
  o->groups[0] = o->defaults;
  o->n_groups = 1;
  o->bound = false;
}
