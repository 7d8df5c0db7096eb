/* ctx.h - the execution context's private side: what engines do with it around a model's forward.
 *
 * A ds_ctx belongs to one engine: one backend, one arena for a step's values, in training a tape.
 * The life of a training step: ds_ctx_begin(), the model's forward (ops run and are recorded),
 * ds_ctx_backward(). Between begins nothing a model made stays valid. From the second step of the
 * same shapes on, neither host nor device memory is allocated.
 */
#ifndef DS_OPS_CTX_H
#define DS_OPS_CTX_H

#include "backend/arena.h"
#include "ds.h"

/* Where a parameter lives. The engine owns the memory of value and grad, and the array of slots;
 * zero the rest. */
typedef struct ds_param_slot {
  ds_tensor value; /* compute dtype, contiguous */
  void *grad;      /* f32, as many elements; NULL = no gradient wanted (frozen, inference) */
  bool has_grad;   /* grad holds something: the next backward adds to it; otherwise it overwrites */
  void *packed;    /* the context's: the value packed as constant B of a GEMM, or NULL */
  size_t packed_bytes;
  bool pack_tried;
} ds_param_slot;

/* What an engine does about parameters that aren't always where the slots say: it is asked as the
 * work is given. NULL members: nothing is to be done. */
typedef struct ds_param_hooks {
  void *self;
  /* The next op reads these parameters: their slots' value.data is to be right for it, in the order
   * of the backend's stream. Until now it may be any address that isn't NULL. */
  ds_status (*need)(void *self, const int *params, int n, ds_error *err);
  /* The next op writes to this parameter's gradient: its slot's grad is to be right. Until now it may
   * be any address that isn't NULL. */
  ds_status (*grad)(void *self, int param, ds_error *err);
  /* Nothing that is on the tape adds to this parameter's gradient any more. */
  ds_status (*done)(void *self, int param, ds_error *err);
} ds_param_hooks;

/* dtype of activations: DS_F32, DS_BF16 or DS_F16. The backend stays the caller's. */
DS_MUST_USE ds_status ds_ctx_create(ds_backend *b, int32_t dtype, ds_ctx **out, ds_error *err);
void ds_ctx_destroy(ds_ctx *ctx);
/* slots: one per parameter index; stays the caller's and must stay valid. */
void ds_ctx_bind_params(ds_ctx *ctx, ds_param_slot *slots, int n);
/* hooks: copied. All NULL: none, as it is at first. */
void ds_ctx_bind_hooks(ds_ctx *ctx, const ds_param_hooks *hooks);
void ds_ctx_set_training(ds_ctx *ctx, bool training);
/* Promises that parameter values don't change: a weight is then packed once, at its first product
 * with many rows, where the backend says that pays. Packed copies are freed with the context (while
 * the slots are still there). */
void ds_ctx_set_constant_weights(ds_ctx *ctx, bool constant);
/* Frees the packed copies; they are made anew at the next use. After a stream died they may be half
 * written. */
void ds_ctx_drop_packed(ds_ctx *ctx);
ds_backend *ds_ctx_backend(ds_ctx *ctx);

/* Drops every value, the tape and the sticky failure; all scratch is free again. */
DS_MUST_USE ds_status ds_ctx_begin(ds_ctx *ctx, ds_error *err);
/* Walks the tape backwards from loss (f32[1]), with d(loss) = scale: parameter gradients land in
 * the slots. Values other than loss are gone afterwards. Fails with DS_ERR_STATE when nothing was
 * recorded. */
DS_MUST_USE ds_status ds_ctx_backward(ds_ctx *ctx, ds_value *loss, double scale, ds_error *err);

/* The same from any value, whose gradient the caller has written to what ds_ctx_gradient gave: for
 * a pipeline stage. */
DS_MUST_USE ds_status ds_ctx_backward_from(ds_ctx *ctx, ds_value *v, ds_error *err);
/* Where d(v) goes: memory of v's shape and dtype, contiguous, for the caller to write all of it
 * before any backward. v must be contiguous and need a gradient (ds_ctx_needs_gradient), else
 * DS_ERR_STATE. */
DS_MUST_USE ds_status ds_ctx_gradient(ds_ctx *ctx, ds_value *v, ds_tensor *out, ds_error *err);
bool ds_ctx_needs_gradient(const ds_value *v);

/* Room that ds_record_begin needs for what the work since the last begin took from the host. */
size_t ds_ctx_input_bytes(const ds_ctx *ctx);
/* n elements of host data as ds_input takes it (f32, which may become bf16 or f16, or i32) to device memory;
 * and the range of ids. */
DS_MUST_USE ds_status ds_input_write(ds_ctx *ctx, void *dst, int32_t dtype, const void *host,
                                     size_t n, ds_error *err);
void ds_input_range(const int32_t *ids, size_t n, int32_t *least, int32_t *most); /* n > 0 */

/* Device memory for engines' own long-lived values: wraps without copying, no gradient. The value
 * lives until the next begin; the memory is the caller's. */
ds_value *ds_ctx_wrap(ds_ctx *ctx, const ds_tensor *t);
/* The same with a gradient: contiguous memory that an earlier pipeline stage's values are in. After
 * the backward ds_ctx_leaf_gradient gives d(v), valid until the next begin; NULL where nothing
 * depended on it. */
ds_value *ds_ctx_wrap_leaf(ds_ctx *ctx, const ds_tensor *t);
const ds_tensor *ds_ctx_leaf_gradient(const ds_value *v);

#endif
