/* signature.h - ds_ops.def's tensors as text, so that every op is checked by the same few lines.
 *
 * A signature lists the inputs, then '|' and the outputs, separated by spaces. A tensor is
 *   RC      contiguous. A letter is a size; met again, it must be the same. R, K or N in front take all leading
 *           dimensions together; other letters are one dimension each
 *   ~BTHD   exactly these dimensions, of which only the last need be contiguous; ~RF of another rank is as RF
 *   *       any shape and strides up to rank 4
 *   1       as many elements, in any shape
 * and of type X (f32 or bf16, all X of an op alike), or with a letter in front: f f32, d f64, h bf16, i i32, a any of f32,
 * bf16, f16 by itself, p any of f32, bf16, i32. Behind may stand ? may be absent, + may be added to. */
#ifndef DS_GPU_SIGNATURE_H
#define DS_GPU_SIGNATURE_H

#include "gpu.h"

/* What a checked op has. */
typedef struct gpu_shape {
  int32_t x;      /* the ds_dtype that X is, DS_F32 where there is none */
  int64_t of[26]; /* sizes by letter, 'A' first; -1: not in this op */
} gpu_shape;

static inline int64_t gpu_size(const gpu_shape *shape, char letter) {
  return shape->of[letter - 'A'];
}
/* NULL when absent. */
static inline const ds_tensor *gpu_in(const ds_op *op, uint32_t i) {
  return i < op->n_in ? op->in[i] : NULL;
}
static inline const ds_tensor *gpu_out(const ds_op *op, uint32_t i) {
  return i < op->n_out ? op->out[i] : NULL;
}
int64_t gpu_elements(const ds_tensor *t);

/* Whether op has the tensors that the signature says; data pointers are ignored. name: for the message. */
ds_status gpu_signature_check(const char *name, const char *signature, const ds_op *op,
                              gpu_shape *shape, ds_error *err);
/* That all of a checked op's tensors with elements have data. */
ds_status gpu_signature_data(const char *name, const ds_op *op, ds_error *err);

#endif
