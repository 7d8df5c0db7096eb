/* ops.c - the table of all ops and the tolerances they are held to.
 *
 * An output may differ from the float64 value by the rounding of its own dtype, plus
 *   tol * mag      what computing in f32 costs; mag is the sum of magnitudes of the terms, so that
 *                  cancellation is not held against a kernel, and tol is a small multiple of
 *                  2^-24 = 6e-8 that grows with the length of sums and the use of exp and tanh
 *   tol_x * mag_x  with activations in 16 bits, for intermediates that may be so as well
 *                  (2^-9 = 2e-3 is one such rounding)
 * The inputs of the reference are the values after rounding to their dtype.
 */
#include "harness.h"

#include <stdio.h>

/* clang-format off */
#define ROW(upper, lower, variants, tol, tol_x)                                                    \
  {DS_OP_##upper, #lower, variants, make_##lower, ref64_op_##lower, tol, tol_x, NULL}
const op_spec ops_table[] = {
  /*  op, lower case, dtypes                           tol    tol_x   reason of tol */
  ROW(EMBEDDING, embedding, 3,                          0,     0), /* moves bits: exact */
  ROW(EMBEDDING_BACKWARD, embedding_backward, 3,        2e-6,  0), /* up to 400 terms in f32 */
  ROW(LAYER_NORM, layer_norm, 3,                        1e-6,  0), /* two sums over C, a root */
  ROW(LAYER_NORM_BACKWARD, layer_norm_backward, 3,      2e-6,  0), /* sums over C and R */
  ROW(RMS_NORM, rms_norm, 3,                            1e-6,  0), /* one sum over C, a root */
  ROW(RMS_NORM_BACKWARD, rms_norm_backward, 3,          2e-6,  0), /* sums over C and R */
  ROW(ACTIVATION, activation, 3,                        1e-6,  0), /* exp by polynomial */
  ROW(ACTIVATION_BACKWARD, activation_backward, 3,      2e-6,  0), /* exp, then products */
  ROW(SWIGLU, swiglu, 3,                                1e-6,  0), /* exp by polynomial */
  ROW(SWIGLU_BACKWARD, swiglu_backward, 3,              2e-6,  0), /* exp, then products */
  ROW(ROPE, rope, 3,                                    5e-7,  0), /* the angle is f32 */
  ROW(ATTENTION, attention, 3,                          2e-6,  8e-3), /* p in bf16 before p v */
  ROW(ATTENTION_BACKWARD, attention_backward, 3,        4e-6,  8e-3), /* p, ds and o in bf16 */
  ROW(CROSS_ENTROPY, cross_entropy, 3,                  1e-6,  0), /* log-sum-exp in f32 */
  ROW(CROSS_ENTROPY_BACKWARD, cross_entropy_backward, 3, 1e-6,  0), /* one exp */
  ROW(ADD, add, 3,                                      1e-7,  0), /* one rounding */
  ROW(MUL, mul, 3,                                      1e-7,  0), /* two roundings with acc */
  ROW(SCALE, scale, 3,                                  2e-7,  0), /* the factor rounds too */
  ROW(REDUCE_ROWS, reduce_rows, 3,                      2e-6,  0), /* up to 400 terms in f32 */
  ROW(COPY, copy, 9,                                    1e-7,  0), /* exact but for acc */
  ROW(FILL, fill, 3,                                    0,     0), /* exact */
  ROW(SUM_SQUARES, sum_squares, 2,                      1e-6,  0), /* f32 partial sums */
  ROW(ADAMW, adamw, 1,                                  1e-6,  0), /* a dozen roundings, a root */
  ROW(SOFTMAX, softmax, 3,                              1e-6,  0), /* exp, a sum */
  ROW(ARGMAX, argmax, 3,                                0,     0), /* an index: exact */
  ROW(GATHER_ROWS, gather_rows, 3,                      0,     0), /* moves bits: exact */
  ROW(MEAN, mean, 3,                                    2e-6,  0), /* 34000 terms in f32 */
  ROW(MEAN_BACKWARD, mean_backward, 3,                  2e-7,  0), /* one division */
  ROW(APPEND_ROWS, append_rows, 3,                      0,     0), /* moves bits: exact */
  ROW(CLIP_FACTOR, clip_factor, 1,                      2e-7,  0), /* a root, a division */
  ROW(ADAMW_SCHEDULED, adamw_scheduled, 1,              1e-6,  0), /* as adamw */
  ROW(SAMPLE, sample, 3,                                0,     0), /* an index, chosen with room */
};
/* clang-format on */
const int ops_count = sizeof ops_table / sizeof *ops_table;

const op_spec *ops_find(uint32_t id) {
  for (int i = 0; i < ops_count; i++)
    if (ops_table[i].id == id) return &ops_table[i];
  return NULL;
}

void ops_variant_name(const op_spec *spec, int variant, char *text, size_t room) {
  static const char *const types[] = {"f32", "bf16", "f16"};
  static const char *const fill[] = {"f32", "bf16", "i32"};
  if (spec->id == DS_OP_COPY)
    snprintf(text, room, "%s>%s", types[variant / 3], types[variant % 3]);
  else if (spec->id == DS_OP_FILL)
    snprintf(text, room, "%s", fill[variant]);
  else
    snprintf(text, room, "%s", types[variant]);
}
