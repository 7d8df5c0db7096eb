#include "optim/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VTABLE_MIN offsetof(ds_lr_scheduler_vtable, destroy)

ds_status ds_lr_scheduler_create(const ds_lr_scheduler_vtable *vtable, void *self,
                                 ds_lr_scheduler **out, ds_error *err) {
  *out = NULL;
  if (!vtable || vtable->size < VTABLE_MIN || !vtable->lr)
    return ds_fail(err, DS_ERR_INVALID,
                   "lr_scheduler: the vtable needs size = sizeof(ds_lr_scheduler_vtable) and lr");
  ds_lr_scheduler *s = calloc(1, sizeof *s);
  if (!s) return ds_fail_memory(err, "a schedule");
  s->vtable = vtable;
  s->self = self;
  *out = s;
  return DS_OK;
}

void ds_lr_scheduler_destroy(ds_lr_scheduler *s) {
  if (!s) return;
  if (s->vtable->size > VTABLE_MIN && s->vtable->destroy) s->vtable->destroy(s->self);
  free(s);
}

double ds_schedule_lr(const ds_lr_scheduler *s, int64_t update, double base_lr) {
  return s->vtable->lr(s->self, update, base_lr);
}

/* ---- warm-up */

static double warmup_gamma(ds_warmup_type type, int64_t i, int64_t steps) {
  if (type == DS_WARMUP_LINEAR) return (double)i / (double)steps;
  return log((double)i + 1) / log((double)steps);
}

static int64_t at_least_2(int64_t steps) {
  return steps < 2 ? 2 : steps;
}

static double warmup_lr(void *self, int64_t update, double base_lr) {
  const ds_warmup *s = self;
  (void)base_lr;
  int64_t i = update - 1, steps = at_least_2(s->num_steps);
  if (i < 0) return s->min_lr;
  double gamma = i < steps ? warmup_gamma(s->type, i, steps) : 1;
  return s->min_lr + (s->max_lr - s->min_lr) * gamma;
}

static double warmup_decay_lr(void *self, int64_t update, double base_lr) {
  const ds_warmup *s = self;
  int64_t i = update - 1, steps = at_least_2(s->num_steps);
  if (i < steps) return warmup_lr(self, update, base_lr);
  double gamma =
      fmax(0, (double)(s->total_num_steps - i) / fmax(1, (double)(s->total_num_steps - steps)));
  return s->min_lr + (s->max_lr - s->min_lr) * gamma;
}

static double warmup_cosine_lr(void *self, int64_t update, double base_lr) {
  const ds_warmup_cosine *s = self;
  int64_t i = update - 1, steps = at_least_2(s->num_steps);
  if (i < 0) return 0;
  if (i < steps)
    return base_lr *
           (s->warmup_min_ratio + (1 - s->warmup_min_ratio) * warmup_gamma(s->type, i, steps));
  double p = fmin(1, (double)(i - steps + 1) / fmax(1, (double)(s->total_num_steps - steps)));
  double ratio = s->cos_min_ratio + (1 - s->cos_min_ratio) * (1 + cos(p * 3.14159265358979324)) / 2;
  return base_lr * fmax(0, ratio);
}

/* ---- LRRangeTest */

static double range_test_lr(void *self, int64_t update, double base_lr) {
  const ds_range_test *s = self;
  (void)base_lr;
  double x = (double)update / (double)s->step_size; /* i + 1 = update */
  if (s->staircase) x = floor(x);
  return s->min_lr * (1 + s->step_rate * x);
}

/* ---- OneCycle */

/* How far up the cycle is (0 to 1), b updates into it. */
static double cycle_height(const ds_one_cycle *s, int64_t b) {
  int64_t total = s->first_size + s->second_size;
  int64_t at = b % total;
  bool up = at <= s->first_size;
  int64_t stairs = up ? s->first_stairs : s->second_stairs;
  double height =
      up ? (double)at / (double)s->first_size : (double)(total - at) / (double)s->second_size;
  if (stairs <= 0) return height;
  /* From integers: a height a hair below a stair must not lose the whole stair. */
  double stair = up ? (double)(at * stairs) / (double)s->first_size
                    : (double)((total - at) * stairs) / (double)s->second_size;
  return floor(stair) / (double)stairs;
}

/* Decay intervals passed after update i; 0 before the cycle's end or without decay. */
static double decay_intervals(const ds_one_cycle *s, int64_t i) {
  int64_t d = i - (s->first_size + s->second_size) + 1;
  return s->decay_step_size > 0 ? (double)d / (double)s->decay_step_size : 0;
}

static double one_cycle_lr(void *self, int64_t update, double base_lr) {
  const ds_one_cycle *s = self;
  (void)base_lr;
  int64_t i = update - 1;
  if (i < s->first_size + s->second_size)
    return s->min_lr + (s->max_lr - s->min_lr) * cycle_height(s, update);
  return s->min_lr / (1 + s->decay_lr_rate * decay_intervals(s, i));
}

static void one_cycle_betas(void *self, int64_t update, double *beta1, double *beta2) {
  const ds_one_cycle *s = self;
  int64_t i = update - 1;
  *beta2 = 0.99; /* DeepSpeed's, whatever the optimizer's own */
  if (i < 0)
    *beta1 = s->min_mom;
  else if (i < s->first_size + s->second_size)
    *beta1 = s->max_mom - (s->max_mom - s->min_mom) * cycle_height(s, update);
  else
    *beta1 = s->max_mom * (1 + s->decay_mom_rate * decay_intervals(s, i));
}

/* ---- making them */

#define VTABLE(NAME, FN)                                                                           \
  static const ds_lr_scheduler_vtable FN##_vtable = {sizeof(ds_lr_scheduler_vtable), NAME, FN, free}
VTABLE("WarmupLR", warmup_lr);
VTABLE("WarmupDecayLR", warmup_decay_lr);
VTABLE("WarmupCosineLR", warmup_cosine_lr);
VTABLE("LRRangeTest", range_test_lr);
VTABLE("OneCycle", one_cycle_lr);

static ds_status make(const ds_lr_scheduler_vtable *vtable, const void *params, size_t size,
                      ds_lr_scheduler **out, ds_error *err) {
  *out = NULL;
  void *self = malloc(size);
  if (!self) return ds_fail_memory(err, "a schedule");
  memcpy(self, params, size);
  ds_status status = ds_lr_scheduler_create(vtable, self, out, err);
  if (status != DS_OK) free(self);
  return status;
}

ds_status ds_schedule_warmup(const ds_warmup *s, ds_lr_scheduler **out, ds_error *err) {
  return make(&warmup_lr_vtable, s, sizeof *s, out, err);
}

ds_status ds_schedule_warmup_decay(const ds_warmup *s, ds_lr_scheduler **out, ds_error *err) {
  return make(&warmup_decay_lr_vtable, s, sizeof *s, out, err);
}

ds_status ds_schedule_warmup_cosine(const ds_warmup_cosine *s, ds_lr_scheduler **out,
                                    ds_error *err) {
  return make(&warmup_cosine_lr_vtable, s, sizeof *s, out, err);
}

ds_status ds_schedule_range_test(const ds_range_test *s, ds_lr_scheduler **out, ds_error *err) {
  *out = NULL;
  if (s->step_size < 1)
    return ds_fail(err, DS_ERR_INVALID, "LRRangeTest: the step size must be positive, not %lld",
                   (long long)s->step_size);
  return make(&range_test_lr_vtable, s, sizeof *s, out, err);
}

ds_status ds_schedule_one_cycle(const ds_one_cycle *s, ds_lr_scheduler **out, ds_error *err) {
  *out = NULL;
  if (s->first_size < 1 || s->second_size < 1)
    return ds_fail(err, DS_ERR_INVALID,
                   "OneCycle: both phases need at least one step, not %lld "
                   "and %lld",
                   (long long)s->first_size, (long long)s->second_size);
  DS_TRY(make(&one_cycle_lr_vtable, s, sizeof *s, out, err));
  if (s->cycle_momentum) (*out)->betas = one_cycle_betas;
  return DS_OK;
}
