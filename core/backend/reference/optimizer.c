/* optimizer.c - one step of Adam or AdamW over flat buffers.
 *
 * Kingma & Ba, "Adam: a method for stochastic optimization", 2015; Loshchilov & Hutter, "Decoupled
 * weight decay regularization", 2019; the same arithmetic as torch.optim.AdamW.
 */
#include <math.h>

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
    return ds_fail(err, DS_ERR_INVALID, "adamw: output \"%s\" must be the input \"%s\" itself",
                   names[i], names[i]);
  }
  return DS_OK;
}

static ds_status adamw_run(const ds_reference_args *a, ds_error *err) {
  DS_TRY(check_in_place(a, err));
  const float *g = ds_reference_in(a, 0)->data;
  float *p = ds_reference_out(a, 0)->data;
  float *m = ds_reference_out(a, 1)->data, *v = ds_reference_out(a, 2)->data;
  const ds_tensor *p16 = ds_reference_out(a, 3);
  double at[ATTRS];
  for (uint32_t i = 0; i < ATTRS; i++) at[i] = ds_reference_attr_f(a, i, 0);
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
