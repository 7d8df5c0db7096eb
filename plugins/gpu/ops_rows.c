/* ops_rows.c - what is computed over rows: norms, softmax, losses, rows by id, sampling. */
#include <math.h>

#include "kernels/move.h"
#include "kernels/norm.h"
#include "kernels/rows.h"
#include "kernels/sample.h"
#include "kernels/scatter.h"
#include "ops.h"

#define X          c->shape->x
#define SIZE(name) gpu_size(c->shape, name)
#define IN(i)      gpu_in_data(c, i)
#define OUT(i)     gpu_out_data(c, i)

/* Kernels count rows and columns in 31 bits. */
static ds_status check_count(const char *name, const gpu_shape *shape, const char *letters,
                             ds_error *err) {
  for (; *letters; letters++)
    if (gpu_size(shape, *letters) > INT32_MAX - 65535)
      return gpu_fail(err, DS_ERR_UNSUPPORTED, "%s: %c = %lld is more than is offered here", name,
                      *letters, (long long)gpu_size(shape, *letters));
  return DS_OK;
}

GPU_CHECK(gpu_check_rows) {
  (void)op;
  return check_count(op_name, shape, "RCV", err);
}

/* Rows may be any number, where a launch takes as many as it can count. */
GPU_CHECK(gpu_check_row) {
  (void)op;
  return check_count(op_name, shape, "CF", err);
}

/* ---------------------------------------------------------------- rows by id */

GPU_RUN(gpu_run_embedding) {
  return gpu_take_rows(c->stream, X, IN(0), IN(1), OUT(0), SIZE('R'), SIZE('V'), SIZE('C'));
}
GPU_RUN(gpu_run_gather_rows) {
  return gpu_take_rows(c->stream, X, IN(1), IN(0), OUT(0), SIZE('K'), SIZE('R'), SIZE('C'));
}

GPU_CHECK(gpu_check_embedding_backward) {
  (void)op;
  if (gpu_size(shape, 'C') <= 1 << 20) return check_count(op_name, shape, "RV", err);
  return gpu_fail(err, DS_ERR_UNSUPPORTED, "%s: rows of %lld are more than is offered here",
                  op_name, (long long)gpu_size(shape, 'C'));
}
GPU_SCRATCH(gpu_scratch_embedding_backward) {
  (void)dev;
  (void)op;
  return gpu_scatter_scratch(gpu_size(shape, 'R'), gpu_size(shape, 'V'), gpu_size(shape, 'C'));
}
GPU_RUN(gpu_run_embedding_backward) {
  return gpu_scatter_rows(c->stream, X, IN(0), IN(1), OUT(0), SIZE('R'), SIZE('V'), SIZE('C'),
                          gpu_adds(c, 0), c->scratch);
}

/* ---------------------------------------------------------------- norms */

GPU_RUN(gpu_run_layer_norm) {
  const gpu_norm_args a = {.x = IN(0),
                           .weight = IN(1),
                           .bias = IN(2),
                           .y = OUT(0),
                           .mean = OUT(1),
                           .rstd = OUT(2),
                           .rows = SIZE('R'),
                           .cols = SIZE('C'),
                           .eps = (float)gpu_attr_f(c->op, 0, 1e-5),
                           .layer = true};
  return gpu_norm(c->stream, X, &a);
}
GPU_RUN(gpu_run_rms_norm) {
  const gpu_norm_args a = {.x = IN(0),
                           .weight = IN(1),
                           .y = OUT(0),
                           .rstd = OUT(1),
                           .rows = SIZE('R'),
                           .cols = SIZE('C'),
                           .eps = (float)gpu_attr_f(c->op, 0, 1e-6)};
  return gpu_norm(c->stream, X, &a);
}

static size_t column_bytes(const ds_device *dev, const gpu_shape *shape, size_t sums) {
  return sums * sizeof(float) *
         gpu_column_parts(gpu_size(shape, 'R'), gpu_size(shape, 'C'), dev->multiprocessors);
}
GPU_SCRATCH(gpu_scratch_norm_backward) {
  return column_bytes(dev, shape, gpu_out(op, 2) ? 2 : 1);
}
GPU_SCRATCH(gpu_scratch_reduce_rows) {
  (void)op;
  return column_bytes(dev, shape, 1);
}

static gpuError_t norm_backward(const gpu_call *c, const float *mean, const float *rstd) {
  const gpu_norm_backward_args a = {.dy = IN(0),
                                    .x = IN(1),
                                    .weight = IN(2),
                                    .mean = mean,
                                    .rstd = rstd,
                                    .dx = OUT(0),
                                    .dweight = OUT(1),
                                    .dbias = OUT(2),
                                    .parts = c->scratch,
                                    .rows = SIZE('R'),
                                    .cols = SIZE('C'),
                                    .layer = c->op->id == DS_OP_LAYER_NORM_BACKWARD,
                                    .add_dx = gpu_adds(c, 0),
                                    .add_dweight = gpu_adds(c, 1),
                                    .add_dbias = gpu_adds(c, 2)};
  return gpu_norm_backward(c->stream, X, &a, c->dev->multiprocessors);
}
GPU_RUN(gpu_run_layer_norm_backward) {
  return norm_backward(c, IN(3), IN(4));
}
GPU_RUN(gpu_run_rms_norm_backward) {
  return norm_backward(c, NULL, IN(3));
}
GPU_RUN(gpu_run_reduce_rows) {
  return gpu_reduce_rows(c->stream, X, IN(0), OUT(0), SIZE('R'), SIZE('C'), gpu_adds(c, 0),
                         c->scratch, c->dev->multiprocessors);
}

/* ---------------------------------------------------------------- scores */

GPU_RUN(gpu_run_softmax) {
  return gpu_softmax(c->stream, X, IN(0), OUT(0), SIZE('R'), SIZE('C'));
}

GPU_CHECK(gpu_check_argmax) {
  (void)op;
  if (gpu_size(shape, 'C') == 0 && gpu_size(shape, 'R') > 0)
    return gpu_fail(err, DS_ERR_INVALID, "%s: empty rows have no largest element", op_name);
  return check_count(op_name, shape, "RC", err);
}
GPU_RUN(gpu_run_argmax) {
  return gpu_argmax(c->stream, X, IN(0), OUT(0), SIZE('R'), SIZE('C'));
}

GPU_SCRATCH(gpu_scratch_cross_entropy) {
  (void)dev;
  (void)op;
  return (size_t)gpu_size(shape, 'R') * sizeof(float);
}
GPU_RUN(gpu_run_cross_entropy) {
  return gpu_cross_entropy(c->stream, X, IN(0), IN(1), OUT(0), OUT(1), OUT(2), c->scratch,
                           SIZE('R'), SIZE('V'), gpu_attr_i(c->op, 0, -100));
}
GPU_RUN(gpu_run_cross_entropy_backward) {
  return gpu_cross_entropy_backward(c->stream, X, IN(0), IN(1), IN(2), IN(3), IN(4), OUT(0),
                                    SIZE('R'), SIZE('V'), gpu_attr_i(c->op, 0, -100));
}

GPU_CHECK(gpu_check_sample) {
  const double temperature = gpu_attr_f(op, 0, 1), top_p = gpu_attr_f(op, 2, 1);
  const int64_t top_k = gpu_attr_i(op, 1, 0);
  if (!(temperature >= 0) || isinf(temperature))
    return gpu_fail(err, DS_ERR_INVALID, "%s: temperature is %g, must be finite and not negative",
                    op_name, temperature);
  if (top_k < 0)
    return gpu_fail(err, DS_ERR_INVALID, "%s: top_k is %lld, must be 0 (all) or more", op_name,
                    (long long)top_k);
  if (!(top_p > 0 && top_p <= 1))
    return gpu_fail(err, DS_ERR_INVALID, "%s: top_p is %g, must be above 0 and at most 1", op_name,
                    top_p);
  return check_count(op_name, shape, "RV", err);
}
GPU_RUN(gpu_run_sample) {
  const gpu_sample_args a = {.logits = IN(0),
                             .draw = IN(1),
                             .banned = IN(2),
                             .id = OUT(0),
                             .rows = SIZE('R'),
                             .cols = SIZE('V'),
                             .temperature = gpu_attr_f(c->op, 0, 1),
                             .top_k = gpu_attr_i(c->op, 1, 0),
                             .top_p = gpu_attr_f(c->op, 2, 1)};
  return gpu_sample(c->stream, X, &a);
}
