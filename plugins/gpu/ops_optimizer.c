/* ops_optimizer.c - sums over everything, the clipping factor, Adam. */
#include "kernels/optimizer.h"
#include "ops.h"

#define N      gpu_size(c->shape, 'N')
#define IN(i)  gpu_in_data(c, i)
#define OUT(i) gpu_out_data(c, i)

GPU_SCRATCH(gpu_scratch_total) {
  (void)dev;
  (void)op;
  (void)shape;
  return GPU_TOTAL_PARTS * sizeof(double);
}
GPU_RUN(gpu_run_sum_squares) {
  return gpu_sum_squares(c->stream, c->shape->x, IN(0), OUT(0), N, gpu_adds(c, 0), c->scratch);
}
GPU_RUN(gpu_run_mean) {
  return gpu_mean(c->stream, c->shape->x, IN(0), OUT(0), N, c->scratch);
}

GPU_CHECK(gpu_check_clip_factor) {
  (void)shape;
  const double most = gpu_attr_f(op, 0, 0);
  const int64_t check = gpu_attr_i(op, 1, 1);
  if (!(most >= 0))
    return gpu_fail(err, DS_ERR_INVALID, "%s: max_norm is %g, must be 0 (off) or more", op_name,
                    most);
  if (check == 0 || check == 1) return DS_OK;
  return gpu_fail(err, DS_ERR_UNSUPPORTED, "%s: check is %lld; 0 and 1 are known", op_name,
                  (long long)check);
}
GPU_RUN(gpu_run_clip_factor) {
  return gpu_clip_factor(c->stream, IN(0), IN(1), OUT(0), gpu_attr_f(c->op, 0, 0),
                         gpu_attr_i(c->op, 1, 1) == 1);
}

static ds_status check_attrs(const char *name, const ds_op *op, uint32_t count, ds_error *err) {
  if (op->n_attr >= count) return DS_OK;
  return gpu_fail(err, DS_ERR_INVALID, "%s: %u attributes, and all %u are required", name,
                  (unsigned)op->n_attr, (unsigned)count);
}

GPU_CHECK(gpu_check_adamw) {
  (void)shape;
  const ds_status st = check_attrs(op_name, op, 9, err);
  if (st != DS_OK || (op->attr[6].f > 0 && op->attr[7].f > 0)) return st;
  return gpu_fail(err, DS_ERR_INVALID, "%s: a correction isn't positive (steps count from 1)",
                  op_name);
}
GPU_CHECK(gpu_check_adamw_scheduled) {
  (void)shape;
  return check_attrs(op_name, op, 5, err);
}

ds_status gpu_check_in_place(const char *name, const ds_op *op, ds_error *err) {
  for (uint32_t i = 0; i < 3; i++)
    if (op->out[i]->data != op->in[i + 1]->data)
      return gpu_fail(err, DS_ERR_INVALID, "%s: output %u must be input %u itself", name,
                      (unsigned)i, (unsigned)i + 1);
  return DS_OK;
}

/* first: the attribute that is beta1; behind it, after grad_scale and corrections where they are, `decoupled`. */
static gpu_adamw_args adamw_args(const gpu_call *c, uint32_t first, uint32_t decoupled) {
  const ds_attr *attr = c->op->attr;
  return (gpu_adamw_args){.g = IN(0),
                          .p = OUT(0),
                          .m = OUT(1),
                          .v = OUT(2),
                          .p16 = OUT(3),
                          .n = N,
                          .beta1 = attr[first].f,
                          .beta2 = attr[first + 1].f,
                          .eps = attr[first + 2].f,
                          .weight_decay = attr[first + 3].f,
                          .decoupled = attr[decoupled].f != 0};
}
GPU_RUN(gpu_run_adamw) {
  const ds_attr *attr = c->op->attr;
  gpu_adamw_args a = adamw_args(c, 1, 8);
  a.lr = attr[0].f;
  a.grad_scale = attr[5].f;
  a.correction1 = attr[6].f;
  a.correction2 = attr[7].f;
  return gpu_adamw(c->stream, &a);
}
GPU_RUN(gpu_run_adamw_scheduled) {
  gpu_adamw_args a = adamw_args(c, 0, 4);
  a.schedule = IN(4);
  a.factor = IN(5);
  return gpu_adamw(c->stream, &a);
}
