/* tensor.h - arithmetic on ds_tensor descriptors: sizes, strides, views. Touches no data. */
#ifndef DS_TENSOR_TENSOR_H
#define DS_TENSOR_TENSOR_H

#include "base/dtype.h"
#include "base/status.h"

#include <stdbool.h>

/* A contiguous tensor. rank <= DS_MAX_RANK; shape may be NULL for rank 0. */
ds_tensor ds_tensor_make(void *data, int32_t dtype, int32_t rank, const int64_t *shape);
int64_t ds_tensor_numel(const ds_tensor *t);
size_t ds_tensor_bytes(const ds_tensor *t); /* numel * element size */
bool ds_tensor_is_contiguous(const ds_tensor *t);
bool ds_tensor_same_shape(const ds_tensor *a, const ds_tensor *b);
/* Whether all dimensions but the last can be read as one of `rows` with a single stride `ld`, the
 * last being contiguous: how GEMM and row-wise ops see a tensor of any rank. */
bool ds_tensor_as_rows(const ds_tensor *t, int64_t *rows, int64_t *cols, int64_t *ld);
/* The same elements in another shape without moving any; false when strides forbid it or counts
 * differ. */
bool ds_tensor_reshape(const ds_tensor *t, int32_t rank, const int64_t *shape, ds_tensor *out);
/* "[4,64,768]" into buf; returns buf. */
const char *ds_tensor_describe(const ds_tensor *t, char *buf, size_t size);

/* Element conversion on the host. bf16 rounds to nearest even; NaN stays NaN. */
float ds_bf16_to_f32(uint16_t x);
uint16_t ds_f32_to_bf16(float x);
float ds_f16_to_f32(uint16_t x);
uint16_t ds_f32_to_f16(float x);
/* n elements of any of f32 bf16 f16 f64 i32 i64 i8 u8, to f32; false for another dtype. */
bool ds_convert_to_f32(float *dst, const void *src, int32_t dtype, size_t n);
/* n f32 to f32, bf16 or f16; false for another dtype. */
bool ds_convert_from_f32(void *dst, int32_t dtype, const float *src, size_t n);

#endif
