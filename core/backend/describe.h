/* describe.h - ops, products and tensors in words, and the memory that a tensor covers.
 *
 * For messages and for staging; reads descriptors only, never tensor data.
 */
#ifndef DS_BACKEND_DESCRIBE_H
#define DS_BACKEND_DESCRIBE_H

#include <stdbool.h>

#include "ds_abi.h"

/* Bits of an element; 0 when the dtype is unknown. */
uint32_t ds_describe_bits(int32_t dtype);

/* "in f32[4,64] f32[64] out f32[4,64]"; "-" stands for an absent tensor. Returns buf, truncated to
 * size and NUL-terminated. */
const char *ds_describe_op(const ds_op *op, char *buf, size_t size);

/* "f32[64,768] . f32[768,768]^T -> bf16[64,768], batch 2" */
const char *ds_describe_gemm(const ds_gemm *g, char *buf, size_t size);

/* "i4[768,3072] group 64 of bf16"; with a product "bf16[8,3072] . " before it. g may be NULL. */
const char *ds_describe_quant(const ds_quant *q, const ds_quant_gemm *g, char *buf, size_t size);

/* The bytes [*lo, *hi) that the elements of t cover, gaps between strided rows included. Empty (*lo
 * == *hi) when t has no elements. False when the descriptor makes no sense: rank or dtype unknown,
 * a negative size, or more bytes than addresses. */
bool ds_describe_range(const ds_tensor *t, uintptr_t *lo, uintptr_t *hi);

#endif
