/* ops_elementwise.c - what is computed place by place, and what moves elements. */
#include <math.h>
#include <string.h>

#include "kernels/elementwise.h"
#include "kernels/move.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "ops.h"

#define X      c->shape->x
#define N      gpu_size(c->shape, 'N')
#define IN(i)  gpu_in_data(c, i)
#define OUT(i) gpu_out_data(c, i)

/* ---------------------------------------------------------------- arithmetic */

GPU_CHECK(gpu_check_activation) {
  (void)shape;
  if (op->n_attr < 1)
    return gpu_fail(err, DS_ERR_INVALID, "%s: attribute 0 (kind) is missing", op_name);
  const int64_t kind = op->attr[0].i;
  if (kind >= DS_ACTIVATION_GELU_TANH && kind <= DS_ACTIVATION_SIGMOID) return DS_OK;
  return gpu_fail(err, DS_ERR_UNSUPPORTED, "%s: there is no activation of kind %lld", op_name,
                  (long long)kind);
}

GPU_RUN(gpu_run_activation) {
  return gpu_activate(c->stream, X, (int)c->op->attr[0].i, IN(0), OUT(0), N);
}
GPU_RUN(gpu_run_activation_backward) {
  return gpu_activate_backward(c->stream, X, (int)c->op->attr[0].i, IN(0), IN(1), OUT(0), N,
                               gpu_adds(c, 0));
}
GPU_RUN(gpu_run_add) {
  return gpu_add(c->stream, X, IN(0), IN(1), OUT(0), N);
}
GPU_RUN(gpu_run_mul) {
  return gpu_mul(c->stream, X, IN(0), IN(1), OUT(0), N, gpu_adds(c, 0));
}
GPU_RUN(gpu_run_scale) {
  return gpu_scale(c->stream, X, (float)gpu_attr_f(c->op, 0, 1), IN(0), OUT(0), N, gpu_adds(c, 0));
}
GPU_RUN(gpu_run_mean_backward) {
  return gpu_mean_backward(c->stream, X, IN(0), OUT(0), N, gpu_adds(c, 0));
}

/* Only rows of rank 2 have a step of their own. */
static gpu_rows rows_of(const gpu_call *c, const ds_tensor *t) {
  return (gpu_rows){t->data, t->rank == 2 ? t->stride[0] : gpu_size(c->shape, 'F')};
}

GPU_RUN(gpu_run_swiglu) {
  return gpu_swiglu(c->stream, X, rows_of(c, c->op->in[0]), rows_of(c, c->op->in[1]), OUT(0),
                    gpu_size(c->shape, 'R'), gpu_size(c->shape, 'F'));
}
GPU_RUN(gpu_run_swiglu_backward) {
  return gpu_swiglu_backward(c->stream, X, IN(0), rows_of(c, c->op->in[1]),
                             rows_of(c, c->op->in[2]), rows_of(c, c->op->out[0]),
                             rows_of(c, c->op->out[1]), gpu_size(c->shape, 'R'),
                             gpu_size(c->shape, 'F'), gpu_adds(c, 0), gpu_adds(c, 1));
}

/* ---------------------------------------------------------------- rope */

/* The launchers of rope and append_rows count a position's elements in 31 bits. */
static ds_status check_heads(const char *name, const gpu_shape *shape, char heads, ds_error *err) {
  if (gpu_size(shape, 'D') * gpu_size(shape, heads) <= INT32_MAX) return DS_OK;
  return gpu_fail(err, DS_ERR_UNSUPPORTED, "%s: %lld heads of %lld are more than is offered here",
                  name, (long long)gpu_size(shape, heads), (long long)gpu_size(shape, 'D'));
}

GPU_CHECK(gpu_check_rope) {
  const int64_t pairs = gpu_size(shape, 'P'), dim = gpu_size(shape, 'D');
  if (pairs > dim / 2)
    return gpu_fail(err, DS_ERR_INVALID, "%s: %lld frequencies don't fit into heads of %lld",
                    op_name, (long long)pairs, (long long)dim);
  for (uint32_t i = 0; i < 2; i++)
    if (gpu_attr_i(op, i, 0) != 0 && gpu_attr_i(op, i, 0) != 1)
      return gpu_fail(err, DS_ERR_UNSUPPORTED, "%s: attribute %u is %lld; 0 and 1 are known",
                      op_name, (unsigned)i, (long long)gpu_attr_i(op, i, 0));
  return check_heads(op_name, shape, 'H', err);
}

GPU_RUN(gpu_run_rope) {
  const ds_tensor *x = c->op->in[0], *y = c->op->out[0];
  gpu_rope_args a = {.x = x->data,
                     .y = y->data,
                     .pos = IN(1),
                     .inv_freq = IN(2),
                     .batch = gpu_size(c->shape, 'B'),
                     .time = gpu_size(c->shape, 'T'),
                     .heads = gpu_size(c->shape, 'H'),
                     .dim = gpu_size(c->shape, 'D'),
                     .pairs = gpu_size(c->shape, 'P'),
                     .interleaved = gpu_attr_i(c->op, 0, 0) == 1,
                     .inverse = gpu_attr_i(c->op, 1, 0) == 1,
                     .add = gpu_adds(c, 0)};
  memcpy(a.x_stride, x->stride, sizeof a.x_stride);
  memcpy(a.y_stride, y->stride, sizeof a.y_stride);
  return gpu_rope(c->stream, X, &a);
}

/* ---------------------------------------------------------------- moves */

GPU_CHECK(gpu_check_copy) {
  (void)shape;
  const ds_tensor *x = op->in[0], *y = op->out[0];
  bool same = x->rank == y->rank;
  for (int32_t d = 0; same && d < x->rank; d++) same = x->shape[d] == y->shape[d];
  return same ? DS_OK : gpu_fail(err, DS_ERR_INVALID, "%s: x and y have different shapes", op_name);
}

GPU_RUN(gpu_run_copy) {
  const ds_tensor *x = c->op->in[0], *y = c->op->out[0];
  gpu_copy_args a = {.x = x->data,
                     .y = y->data,
                     .from = x->dtype,
                     .to = y->dtype,
                     .n = {1, 1, 1, 1},
                     .add = gpu_adds(c, 0)};
  for (int32_t d = 0, to = 4 - x->rank; d < x->rank; d++, to++) {
    a.n[to] = x->shape[d];
    a.x_stride[to] = x->stride[d];
    a.y_stride[to] = y->stride[d];
  }
  return gpu_copy_strided(c->stream, &a);
}

GPU_CHECK(gpu_check_fill) {
  (void)shape;
  const double value = gpu_attr_f(op, 0, 0);
  const bool whole = value >= INT32_MIN && value <= INT32_MAX && value == floor(value);
  if (op->out[0]->dtype != DS_I32 || whole) return DS_OK;
  return gpu_fail(err, DS_ERR_INVALID, "%s: %g is no value of type i32", op_name, value);
}

/* The bits of the nearest f32, or of the bf16 nearest to that, half to even. */
static uint32_t fill_bits(int32_t dtype, double value) {
  const int32_t whole = dtype == DS_I32 ? (int32_t)value : 0;
  const float f = (float)value;
  uint32_t bits;
  if (dtype == DS_I32) return (uint32_t)whole;
  memcpy(&bits, &f, sizeof bits);
  if (dtype == DS_F32) return bits;
  return isnan(f) ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

GPU_RUN(gpu_run_fill) {
  const int32_t dtype = c->op->out[0]->dtype;
  return gpu_fill_elements(c->stream, dtype == DS_BF16 ? 2 : 4,
                           fill_bits(dtype, gpu_attr_f(c->op, 0, 0)), OUT(0), N);
}

GPU_CHECK(gpu_check_append_rows) {
  (void)op;
  return check_heads(op_name, shape, 'G', err);
}
GPU_RUN(gpu_run_append_rows) {
  const ds_tensor *x = c->op->in[0], *y = c->op->out[0];
  gpu_append_args a = {.x = x->data,
                       .y = y->data,
                       .at = IN(1),
                       .batch = gpu_size(c->shape, 'B'),
                       .time = gpu_size(c->shape, 'T'),
                       .keys = gpu_size(c->shape, 'S'),
                       .groups = gpu_size(c->shape, 'G'),
                       .dim = gpu_size(c->shape, 'D')};
  memcpy(a.x_stride, x->stride, sizeof a.x_stride);
  memcpy(a.y_stride, y->stride, sizeof a.y_stride);
  return gpu_append_rows(c->stream, X, &a);
}
