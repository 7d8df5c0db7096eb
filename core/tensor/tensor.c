#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

ds_tensor ds_tensor_make(void *data, int32_t dtype, int32_t rank, const int64_t *shape) {
  ds_tensor t = {.data = data, .dtype = dtype, .rank = rank};
  int64_t stride = 1;
  for (int32_t i = rank - 1; i >= 0; i--) {
    t.shape[i] = shape[i];
    t.stride[i] = stride;
    stride *= shape[i];
  }
  return t;
}

int64_t ds_tensor_numel(const ds_tensor *t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t->rank; i++) n *= t->shape[i];
  return n;
}

size_t ds_tensor_bytes(const ds_tensor *t) {
  return (size_t)ds_tensor_numel(t) * ds_dtype_size(t->dtype);
}

bool ds_tensor_is_contiguous(const ds_tensor *t) {
  int64_t stride = 1;
  for (int32_t i = t->rank - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->stride[i] != stride) return false;
    stride *= t->shape[i];
  }
  return true;
}

bool ds_tensor_same_shape(const ds_tensor *a, const ds_tensor *b) {
  return a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

bool ds_tensor_as_rows(const ds_tensor *t, int64_t *rows, int64_t *cols, int64_t *ld) {
  if (t->rank < 1) return false;
  int32_t last = t->rank - 1;
  if (t->shape[last] > 1 && t->stride[last] != 1) return false;
  *cols = t->shape[last];
  *rows = 1;
  *ld = t->shape[last];
  bool first = true;
  int64_t expected = 0; /* the stride at which the next outer dimension goes on without a seam */
  for (int32_t i = last - 1; i >= 0; i--) {
    if (t->shape[i] != 1) {
      if (!first && t->stride[i] != expected) return false;
      if (first) *ld = t->stride[i];
      first = false;
      expected = t->stride[i] * t->shape[i];
    }
    *rows *= t->shape[i];
  }
  return true;
}

bool ds_tensor_reshape(const ds_tensor *t, int32_t rank, const int64_t *shape, ds_tensor *out) {
  ds_tensor y = ds_tensor_make(t->data, t->dtype, rank, shape);
  if (ds_tensor_numel(&y) != ds_tensor_numel(t)) return false;
  if (ds_tensor_is_contiguous(t) || ds_tensor_numel(t) == 0) {
    *out = y;
    return true;
  }
  /* Walk both shapes from the inside, matching runs of old dimensions that are seamless. */
  int32_t i = t->rank - 1, j = rank - 1;
  while (i >= 0 || j >= 0) {
    int64_t have = i >= 0 ? t->shape[i] : 1, want = j >= 0 ? y.shape[j] : 1;
    int64_t stride = i >= 0 ? t->stride[i] : 1;
    int32_t j0 = j;
    i--, j--;
    while (have != want) {
      if (have < want) {
        if (i < 0) return false;
        if (t->shape[i] != 1 && t->stride[i] != stride * have) return false;
        have *= t->shape[i--];
      } else {
        if (j < 0) return false;
        want *= y.shape[j--];
      }
    }
    for (int32_t d = j0; d > j; d--) {
      y.stride[d] = stride;
      stride *= y.shape[d];
    }
  }
  *out = y;
  return true;
}

const char *ds_tensor_describe(const ds_tensor *t, char *buf, size_t size) {
  size_t at = 0;
  if (size) buf[0] = '\0';
  for (int32_t i = 0; i <= t->rank && at < size; i++) {
    int n = i == t->rank
                ? snprintf(buf + at, size - at, "%s]", t->rank ? "" : "[")
                : snprintf(buf + at, size - at, "%s%lld", i ? "," : "[", (long long)t->shape[i]);
    at += n > 0 ? (size_t)n : 0;
  }
  return buf;
}
