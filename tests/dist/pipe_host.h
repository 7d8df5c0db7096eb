/* pipe_host.h - a model of a host app's own that says what blocks it is of: a residual network over
 * tiny.h's samples, with a matrix that blocks 1 and 3 share. */
#ifndef DS_TEST_PIPE_HOST_H
#define DS_TEST_PIPE_HOST_H

#include "unit/train/tiny.h"

enum { HOST_BLOCKS = 5, HOST_SHARED = 2 * HOST_BLOCKS, HOST_OUT };

typedef struct host {
  bool forgetful; /* the last block doesn't look at what comes in */
} host;

static inline ds_status host_declare(void *self, ds_params *p, ds_error *err) {
  (void)self, (void)err;
  const int64_t square[] = {TINY_IN, TINY_IN}, out[] = {TINY_OUT, TINY_IN};
  for (int i = 0; i < HOST_BLOCKS; i++) {
    char name[32];
    snprintf(name, sizeof name, "block.%d.w", i);
    ds_params_add(p, name, 2, square, DS_INIT_NORMAL, 0.4);
    snprintf(name, sizeof name, "block.%d.b", i);
    ds_params_add(p, name, 1, square, DS_INIT_UNIFORM, 0.1);
  }
  ds_params_add(p, "shared", 2, square, DS_INIT_NORMAL, 0.4);
  ds_params_add(p, "out", 2, out, DS_INIT_NORMAL, 0.4);
  return DS_OK;
}

static inline ds_value *host_block(ds_ctx *ctx, int i, ds_value *x) {
  ds_value *y = ds_linear_activation(ctx, x, ds_param(ctx, 2 * i), ds_param(ctx, 2 * i + 1),
                                     DS_ACTIVATION_GELU_TANH);
  if (i == 1 || i == 3) y = ds_linear(ctx, y, ds_param(ctx, HOST_SHARED), NULL);
  return ds_add(ctx, x, y);
}

static inline ds_value *host_forward_blocks(void *self, ds_ctx *ctx, int first, int last,
                                            ds_value *x, ds_value *const *inputs, int n_inputs) {
  const host *h = self;
  (void)n_inputs;
  if (first == 0) x = inputs[0];
  for (int i = first; i < last; i++)
    x = host_block(ctx, i, h->forgetful && i == HOST_BLOCKS - 1 ? inputs[0] : x);
  if (last < HOST_BLOCKS) return x;
  ds_value *y = ds_linear(ctx, x, ds_param(ctx, HOST_OUT), NULL);
  ds_value *d = ds_add(ctx, y, ds_scale(ctx, inputs[1], -1));
  return ds_mean(ctx, ds_mul(ctx, d, d));
}

static inline ds_value *host_forward(void *self, ds_ctx *ctx, ds_value *const *inputs, int n) {
  return host_forward_blocks(self, ctx, 0, HOST_BLOCKS, NULL, inputs, n);
}

static inline int host_n_blocks(void *self) {
  (void)self;
  return HOST_BLOCKS;
}

static inline int host_param_blocks(void *self, int index, int at[DS_PARAM_BLOCKS]) {
  (void)self;
  at[0] = index == HOST_SHARED ? 1 : index == HOST_OUT ? HOST_BLOCKS - 1 : index / 2;
  at[1] = 3;
  return index == HOST_SHARED ? 2 : 1;
}

static inline ds_status host_hidden_shape(void *self, const ds_batch *batch, int32_t *rank,
                                          int64_t *shape, ds_error *err) {
  (void)self, (void)err;
  *rank = 2;
  shape[0] = batch->tensors[0].shape[0];
  shape[1] = TINY_IN;
  return DS_OK;
}

static const ds_model_vtable host_vtable = {.size = sizeof(ds_model_vtable),
                                            .name = "host",
                                            .declare = host_declare,
                                            .forward = host_forward,
                                            .n_blocks = host_n_blocks,
                                            .param_blocks = host_param_blocks,
                                            .hidden_shape = host_hidden_shape,
                                            .forward_blocks = host_forward_blocks};

#endif
