/* Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019): one fused backend op a slice. */
#include "ops/tape.h"
#include "optim/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct adam {
  const ds_optimizer *owner; /* whose groups hold the options */
  bool decoupled;
} adam;

/* What changes from step to step is rounded to f32: one op has it as attributes, the other in memory,
 * and both give the same bits. */
static void adam_schedule(void *self, int group, double lr, int64_t step, float out[3]) {
  const adam *a = self;
  const ds_optimizer_group *g = &a->owner->groups[group];
  out[0] = (float)lr;
  out[1] = (float)(1 - pow(g->beta1, (double)step));
  out[2] = (float)(1 - pow(g->beta2, (double)step));
}

typedef struct buffers {
  ds_tensor g, p, m, v, p16;
} buffers;

static buffers buffers_of(const ds_optimizer_slice *slice) {
  const int64_t n = slice->count;
  return (buffers){.g = ds_tensor_make((void *)(uintptr_t)slice->grad, DS_F32, 1, &n),
                   .p = ds_tensor_make(slice->param, DS_F32, 1, &n),
                   .m = ds_tensor_make(slice->state[0], DS_F32, 1, &n),
                   .v = ds_tensor_make(slice->state[1], DS_F32, 1, &n),
                   .p16 = ds_tensor_make(slice->param16, DS_BF16, 1, &n)};
}

static ds_status adam_update(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice, double lr,
                             double grad_scale, int64_t step, ds_error *err) {
  const adam *a = self;
  const ds_optimizer_group *g = &a->owner->groups[slice->group];
  buffers b = buffers_of(slice);
  float now[3];
  adam_schedule(self, slice->group, lr, step, now);
  const ds_attr attr[9] = {
      {.f = (double)now[0]}, {.f = g->beta1},        {.f = g->beta2},
      {.f = g->eps},         {.f = g->weight_decay}, {.f = (double)(float)grad_scale},
      {.f = (double)now[1]}, {.f = (double)now[2]},  {.f = a->decoupled ? 1 : 0},
  };
  return ds_run_raw(ctx, DS_OP_ADAMW, (const ds_tensor *[]){&b.g, &b.p, &b.m, &b.v}, 4,
                    (const ds_tensor *[]){&b.p, &b.m, &b.v, slice->param16 ? &b.p16 : NULL}, 4, 0,
                    attr, 9, err);
}

/* Gives the op to the backend, or asks whether it has it. */
static ds_status scheduled(const adam *a, ds_ctx *ctx, const ds_optimizer_slice *slice,
                           const ds_tensor *schedule, const ds_tensor *factor, bool *offered,
                           ds_error *err) {
  const ds_optimizer_group *g = &a->owner->groups[slice->group];
  buffers b = buffers_of(slice);
  const ds_attr attr[5] = {{.f = g->beta1},
                           {.f = g->beta2},
                           {.f = g->eps},
                           {.f = g->weight_decay},
                           {.f = a->decoupled ? 1 : 0}};
  const ds_op op = {.size = sizeof op,
                    .id = DS_OP_ADAMW_SCHEDULED,
                    .n_in = 6,
                    .n_out = 4,
                    .n_attr = 5,
                    .in = (const ds_tensor *[]){&b.g, &b.p, &b.m, &b.v, schedule, factor},
                    .out = (const ds_tensor *[]){&b.p, &b.m, &b.v, slice->param16 ? &b.p16 : NULL},
                    .attr = attr};
  if (!offered) return ds_backend_op(ds_ctx_backend(ctx), &op, err);
  *offered = ds_backend_offers(ds_ctx_backend(ctx), &op);
  return DS_OK;
}

static ds_status adam_update_scheduled(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice,
                                       const ds_tensor *schedule, const ds_tensor *factor,
                                       ds_error *err) {
  return scheduled(self, ctx, slice, schedule, factor, NULL, err);
}

static bool adam_offers(void *self, ds_ctx *ctx, const ds_optimizer_slice *slice,
                        const ds_tensor *schedule, const ds_tensor *factor) {
  bool offered;
  return scheduled(self, ctx, slice, schedule, factor, &offered, NULL) == DS_OK && offered;
}

static const ds_optimizer_scheduled adam_scheduled = {adam_schedule, adam_offers,
                                                      adam_update_scheduled};
static const char *const adam_states[] = {"exp_avg", "exp_avg_sq"};
static const ds_optimizer_vtable adam_vtable = {
    sizeof(ds_optimizer_vtable), "Adam", 2, adam_states, adam_update, free};
static const ds_optimizer_vtable adamw_vtable = {
    sizeof(ds_optimizer_vtable), "AdamW", 2, adam_states, adam_update, free};

static ds_status check(const char *name, double x, double below, ds_error *err) {
  if (x >= 0 && x < below) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "Adam: %s must be a number >= 0%s, not %g", name,
                 below == 1 ? " and below 1" : "", x);
}

ds_status ds_optimizer_adam(double lr, double beta1, double beta2, double eps, double weight_decay,
                            bool decoupled, ds_optimizer **out, ds_error *err) {
  *out = NULL;
  DS_TRY(check("lr", lr, INFINITY, err));
  DS_TRY(check("beta1", beta1, 1, err));
  DS_TRY(check("beta2", beta2, 1, err));
  DS_TRY(check("eps", eps, INFINITY, err));
  DS_TRY(check("weight_decay", weight_decay, INFINITY, err));
  adam *a = malloc(sizeof *a);
  if (!a) return ds_fail_memory(err, "an optimizer");
  ds_status status = ds_optimizer_create(decoupled ? &adamw_vtable : &adam_vtable, a, lr, out, err);
  if (status != DS_OK) {
    free(a);
    return status;
  }
  ds_optimizer *o = *out;
  *a = (adam){o, decoupled};
  o->has_options = true;
  o->scheduled = &adam_scheduled;
  o->defaults = (ds_optimizer_group){lr, lr, beta1, beta2, eps, weight_decay};
  o->groups[0] = o->defaults;
  return DS_OK;
}
