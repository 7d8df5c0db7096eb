/* optimizer.c - one step of Adam or AdamW over flat buffers, with what changes from step to step as
 * attributes or in memory; and the factor that clips gradients.
 *
 * Kingma & Ba, "Adam: a method for stochastic optimization", 2015; Loshchilov & Hutter, "Decoupled
 * weight decay regularization", 2019; the same arithmetic as torch.optim.AdamW.
 */
#include <math.h>
#include <stdbool.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"
#include "base/status.h"

enum {
  LR,
  BETA1,
  BETA2,
  EPS,
  WEIGHT_DECAY,
  GRAD_SCALE,
  CORRECTION1,
  CORRECTION2,
  DECOUPLED,
  ATTRS
};

static ds_status adamw_check(const ds_reference_args *a, ds_error *err) {
  static const char *const names[ATTRS] = {"lr",          "beta1",        "beta2",
                                           "eps",         "weight_decay", "grad_scale",
                                           "correction1", "correction2",  "decoupled"};
  if (a->op->n_attr < ATTRS) {
    return ds_fail(err, DS_ERR_INVALID, "adamw: attribute %u (%s) is missing; it has no default",
                   (unsigned)a->op->n_attr, names[a->op->n_attr]);
  }
  for (uint32_t i = CORRECTION1; i <= CORRECTION2; i++) {
    double v = ds_reference_attr_f(a, i, 0);
    if (v > 0) continue;
    return ds_fail(err, DS_ERR_INVALID, "adamw: %s is %g, must be positive (steps count from 1)",
                   names[i], v);
  }
  return DS_OK;
}

static ds_status check_in_place(const ds_reference_args *a, ds_error *err) {
  static const char *const names[] = {"p", "m", "v"};
  for (uint32_t i = 0; i < 3; i++) {
    if (ds_reference_out(a, i)->data == ds_reference_in(a, i + 1)->data) continue;
    return ds_fail(err, DS_ERR_INVALID, "%s: output \"%s\" must be the input \"%s\" itself",
                   a->name, names[i], names[i]);
  }
  return DS_OK;
}

/* at: as adamw's attributes. */
static void update(const ds_reference_args *a, const double at[ATTRS]) {
  const float *g = ds_reference_in(a, 0)->data;
  float *p = ds_reference_out(a, 0)->data;
  float *m = ds_reference_out(a, 1)->data, *v = ds_reference_out(a, 2)->data;
  const ds_tensor *p16 = ds_reference_out(a, 3);
  int64_t n = ds_reference_dim(a, 'N');
  for (int64_t i = 0; i < n; i++) {
    double grad = (double)g[i] * at[GRAD_SCALE], step = 0;
    if (at[DECOUPLED] != 0) {
      step = at[WEIGHT_DECAY] * (double)p[i];
    } else {
      grad += at[WEIGHT_DECAY] * (double)p[i];
    }
    m[i] = (float)(at[BETA1] * (double)m[i] + (1 - at[BETA1]) * grad);
    v[i] = (float)(at[BETA2] * (double)v[i] + (1 - at[BETA2]) * grad * grad);
    step += (double)m[i] / at[CORRECTION1] / (sqrt((double)v[i] / at[CORRECTION2]) + at[EPS]);
    p[i] = (float)((double)p[i] - at[LR] * step);
    if (p16) ds_element_put(p16, i, (double)p[i], 0);
  }
}

static ds_status adamw_run(const ds_reference_args *a, ds_error *err) {
  double at[ATTRS];
  DS_TRY(check_in_place(a, err));
  for (uint32_t i = 0; i < ATTRS; i++) at[i] = ds_reference_attr_f(a, i, 0);
  update(a, at);
  return DS_OK;
}

/* ---------------------------------------------------------------- from memory */

enum { FIXED_BETA1, FIXED_BETA2, FIXED_EPS, FIXED_WEIGHT_DECAY, FIXED_DECOUPLED, FIXED_ATTRS };

static ds_status adamw_scheduled_check(const ds_reference_args *a, ds_error *err) {
  static const char *const names[FIXED_ATTRS] = {"beta1", "beta2", "eps", "weight_decay",
                                                 "decoupled"};
  if (a->op->n_attr < FIXED_ATTRS) {
    return ds_fail(err, DS_ERR_INVALID,
                   "adamw_scheduled: attribute %u (%s) is missing; it has no default",
                   (unsigned)a->op->n_attr, names[a->op->n_attr]);
  }
  if (ds_reference_dim(a, 'S') == 3) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID,
                 "adamw_scheduled: \"schedule\" has %lld elements, must have 3: lr, correction1, "
                 "correction2",
                 (long long)ds_reference_dim(a, 'S'));
}

static ds_status adamw_scheduled_run(const ds_reference_args *a, ds_error *err) {
  DS_TRY(check_in_place(a, err));
  const float *schedule = ds_reference_in(a, 4)->data, *factor = ds_reference_in(a, 5)->data;
  if (isnan(*factor)) return DS_OK; /* the step is skipped */
  const double at[ATTRS] = {[LR] = (double)schedule[0],
                            [CORRECTION1] = (double)schedule[1],
                            [CORRECTION2] = (double)schedule[2],
                            [GRAD_SCALE] = (double)*factor,
                            [BETA1] = ds_reference_attr_f(a, FIXED_BETA1, 0),
                            [BETA2] = ds_reference_attr_f(a, FIXED_BETA2, 0),
                            [EPS] = ds_reference_attr_f(a, FIXED_EPS, 0),
                            [WEIGHT_DECAY] = ds_reference_attr_f(a, FIXED_WEIGHT_DECAY, 0),
                            [DECOUPLED] = ds_reference_attr_f(a, FIXED_DECOUPLED, 0)};
  update(a, at);
  return DS_OK;
}

static ds_status clip_factor_check(const ds_reference_args *a, ds_error *err) {
  double most = ds_reference_attr_f(a, 0, 0);
  int64_t check = ds_reference_attr_i(a, 1, 1);
  if (!(most >= 0)) {
    return ds_fail(err, DS_ERR_INVALID,
                   "clip_factor: attribute 0 (max_norm) is %g, must be 0 (off) or more", most);
  }
  if (check == 0 || check == 1) return DS_OK;
  return ds_fail(err, DS_ERR_INVALID, "clip_factor: attribute 1 (check) is %lld, must be 0 or 1",
                 (long long)check);
}

static ds_status clip_factor_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const double *squares = ds_reference_in(a, 0)->data;
  const ds_tensor *loss = ds_reference_in(a, 1);
  float *factor = ds_reference_out(a, 0)->data;
  double norm = sqrt(*squares), most = ds_reference_attr_f(a, 0, 0), excess = 1;
  if (most > 0 && isfinite(norm)) excess = fmax(1, (norm + 1e-6) / most);
  *factor = (float)(1 / excess);
  bool good = isfinite(norm) && (!loss || isfinite(ds_element_get(loss, 0)));
  if (ds_reference_attr_i(a, 1, 1) == 1 && !good) *factor = NAN;
  return DS_OK;
}

const ds_reference_op ds_reference_op_adamw = {
    .in = {{"g", "N", DS_REFERENCE_F32, 0, 0},
           {"p", "N", DS_REFERENCE_F32, 0, 0},
           {"m", "N", DS_REFERENCE_F32, 0, 0},
           {"v", "N", DS_REFERENCE_F32, 0, 0}},
    .out = {{"p", "N", DS_REFERENCE_F32, 0, 1u << 1},
            {"m", "N", DS_REFERENCE_F32, 0, 1u << 2},
            {"v", "N", DS_REFERENCE_F32, 0, 1u << 3},
            {"p16", "N", DS_REFERENCE_BF16, DS_REFERENCE_OPTIONAL, 0}},
    .check = adamw_check,
    .run = adamw_run,
};

const ds_reference_op ds_reference_op_adamw_scheduled = {
    .in = {{"g", "N", DS_REFERENCE_F32, 0, 0},
           {"p", "N", DS_REFERENCE_F32, 0, 0},
           {"m", "N", DS_REFERENCE_F32, 0, 0},
           {"v", "N", DS_REFERENCE_F32, 0, 0},
           {"schedule", "S", DS_REFERENCE_F32, 0, 0},
           {"factor", "1", DS_REFERENCE_F32, 0, 0}},
    .out = {{"p", "N", DS_REFERENCE_F32, 0, 1u << 1},
            {"m", "N", DS_REFERENCE_F32, 0, 1u << 2},
            {"v", "N", DS_REFERENCE_F32, 0, 1u << 3},
            {"p16", "N", DS_REFERENCE_BF16, DS_REFERENCE_OPTIONAL, 0}},
    .check = adamw_scheduled_check,
    .run = adamw_scheduled_run,
};

const ds_reference_op ds_reference_op_clip_factor = {
    .in = {{"squares", "1", DS_REFERENCE_F64, 0, 0},
           {"loss", "1", DS_REFERENCE_F32, DS_REFERENCE_OPTIONAL, 0}},
    .out = {{"factor", "1", DS_REFERENCE_F32, 0, 0}},
    .check = clip_factor_check,
    .run = clip_factor_run,
};
