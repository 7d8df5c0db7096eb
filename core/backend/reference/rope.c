/* rope.c - rotary position embedding; its own inverse by attribute, so also its gradient. */
#include <math.h>

#include "backend/reference/element.h"
#include "backend/reference/op.h"
#include "base/status.h"

static ds_status rope_check(const ds_reference_args *a, ds_error *err) {
  int64_t pairs = ds_reference_dim(a, 'P'), width = ds_reference_dim(a, 'D');
  if (pairs > width / 2) {
    return ds_fail(err, DS_ERR_INVALID,
                   "rope: \"inv_freq\" has %lld pairs, a head of D = %lld has room for %lld",
                   (long long)pairs, (long long)width, (long long)(width / 2));
  }
  for (uint32_t i = 0; i < 2; i++) {
    int64_t v = ds_reference_attr_i(a, i, 0);
    if (v == 0 || v == 1) continue;
    return ds_fail(err, DS_ERR_INVALID, "rope: attribute %u (%s) is %lld, must be 0 or 1",
                   (unsigned)i, i ? "inverse" : "interleaved", (long long)v);
  }
  return DS_OK;
}

/* One head: x and y start at the given elements; a negative position turns it back. */
static void rotate(const ds_reference_args *a, int64_t at_x, int64_t at_y, double position) {
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  const float *inv_freq = ds_reference_in(a, 2)->data;
  int64_t pairs = ds_reference_dim(a, 'P'), width = ds_reference_dim(a, 'D');
  int interleaved = ds_reference_attr_i(a, 0, 0) == 1, accumulate = ds_reference_acc(a, 0);
  for (int64_t p = 0; p < pairs; p++) {
    int64_t i = interleaved ? 2 * p : p, j = interleaved ? 2 * p + 1 : p + pairs;
    double c = cos(position * (double)inv_freq[p]), s = sin(position * (double)inv_freq[p]);
    double u = (double)ds_element_get(x, at_x + i), v = (double)ds_element_get(x, at_x + j);
    ds_element_put(y, at_y + i, u * c - v * s, accumulate);
    ds_element_put(y, at_y + j, v * c + u * s, accumulate);
  }
  for (int64_t i = 2 * pairs; i < width; i++) {
    ds_element_put(y, at_y + i, (double)ds_element_get(x, at_x + i), accumulate);
  }
}

static ds_status rope_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  const ds_tensor *x = ds_reference_in(a, 0), *y = ds_reference_out(a, 0);
  const int32_t *pos = ds_reference_in(a, 1)->data;
  int64_t batch = ds_reference_dim(a, 'B'), time = ds_reference_dim(a, 'T');
  int64_t heads = ds_reference_dim(a, 'H');
  double sign = ds_reference_attr_i(a, 1, 0) == 1 ? -1 : 1;
  for (int64_t b = 0; b < batch; b++) {
    for (int64_t t = 0; t < time; t++) {
      for (int64_t h = 0; h < heads; h++) {
        rotate(a, b * x->stride[0] + t * x->stride[1] + h * x->stride[2],
               b * y->stride[0] + t * y->stride[1] + h * y->stride[2], sign * pos[b * time + t]);
      }
    }
  }
  return DS_OK;
}

const ds_reference_op ds_reference_op_rope = {
    .in = {{"x", "BTHD", DS_REFERENCE_X, DS_REFERENCE_ROWS, 0},
           {"pos", "BT", DS_REFERENCE_I32, 0, 0},
           {"inv_freq", "P", DS_REFERENCE_F32, 0, 0}},
    .out = {{"y", "BTHD", DS_REFERENCE_X,
             DS_REFERENCE_ROWS | DS_REFERENCE_ACC | DS_REFERENCE_ALIAS_OR_ACC, 1u << 0}},
    .check = rope_check,
    .run = rope_run,
};
