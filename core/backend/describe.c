#include "backend/describe.h"

#include <stdarg.h>
#include <stdio.h>

#include "backend/backend.h"

static const struct {
  const char *name;
  uint32_t bits;
} dtypes[] = {{"f32", 32}, {"bf16", 16}, {"f16", 16}, {"f64", 64},   {"i32", 32},  {"i64", 64},
              {"i8", 8},   {"u8", 8},    {"i4", 4},   {"f8e4m3", 8}, {"f8e5m2", 8}};

#define N_DTYPES ((int32_t)(sizeof dtypes / sizeof *dtypes))

static const char *dtype_name(int32_t dtype) {
  return dtype >= 0 && dtype < N_DTYPES ? dtypes[dtype].name : "?";
}

uint32_t ds_describe_bits(int32_t dtype) {
  return dtype >= 0 && dtype < N_DTYPES ? dtypes[dtype].bits : 0;
}

const char *ds_op_name(uint32_t id) {
  switch (id) {
#define DS_OP(number, upper, lower, n_in, n_out, n_attr)                                           \
  case number:                                                                                     \
    return #lower;
#include "ds_ops.def"
#undef DS_OP
    default: return "unknown";
  }
}

/* Appends to a fixed buffer; what doesn't fit is cut. */
static void add(char *buf, size_t size, size_t *used, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void add(char *buf, size_t size, size_t *used, const char *fmt, ...) {
  if (*used + 1 >= size) return;
  va_list args;
  va_start(args, fmt);
  int n = vsnprintf(buf + *used, size - *used, fmt, args);
  va_end(args);
  if (n > 0) *used = *used + (size_t)n < size ? *used + (size_t)n : size - 1;
}

static void add_tensors(char *buf, size_t size, size_t *used, const char *title,
                        const ds_tensor *const *list, uint32_t count) {
  add(buf, size, used, "%s%s", *used ? " " : "", title);
  for (uint32_t i = 0; i < count; i++) {
    const ds_tensor *t = list[i];
    if (!t) {
      add(buf, size, used, " -");
      continue;
    }
    add(buf, size, used, " %s[", dtype_name(t->dtype));
    for (int32_t d = 0; d < t->rank && d < DS_MAX_RANK; d++) {
      add(buf, size, used, "%s%lld", d ? "," : "", (long long)t->shape[d]);
    }
    add(buf, size, used, "]");
  }
}

const char *ds_describe_op(const ds_op *op, char *buf, size_t size) {
  size_t used = 0;
  buf[0] = '\0';
  add_tensors(buf, size, &used, "in", op->in, op->n_in);
  add_tensors(buf, size, &used, "out", op->out, op->n_out);
  return buf;
}

const char *ds_describe_gemm(const ds_gemm *g, char *buf, size_t size) {
  size_t used = 0;
  bool ta = (g->flags & DS_GEMM_TRANS_A) != 0, tb = (g->flags & DS_GEMM_TRANS_B) != 0;
  buf[0] = '\0';
  add(buf, size, &used, "%s[%lld,%lld]%s . %s%s[%lld,%lld]%s -> %s[%lld,%lld]",
      dtype_name(g->dtype_a), (long long)(ta ? g->k : g->m), (long long)(ta ? g->m : g->k),
      ta ? "^T" : "", g->flags & DS_GEMM_PACKED_B ? "packed " : "", dtype_name(g->dtype_b),
      (long long)(tb ? g->n : g->k), (long long)(tb ? g->k : g->n), tb ? "^T" : "",
      dtype_name(g->dtype_c), (long long)g->m, (long long)g->n);
  if (g->bias) add(buf, size, &used, " + %s bias", dtype_name(g->dtype_bias));
  if (g->epilogue) add(buf, size, &used, ", epilogue %d", (int)g->epilogue);
  if (g->batch != 1) add(buf, size, &used, ", batch %lld", (long long)g->batch);
  if (g->flags & DS_GEMM_SCALES) add(buf, size, &used, ", scaled");
  return buf;
}

const char *ds_describe_quant(const ds_quant *q, const ds_quant_gemm *g, char *buf, size_t size) {
  size_t used = 0;
  const char *dtype = dtype_name(q->dtype);
  buf[0] = '\0';
  if (g) add(buf, size, &used, "%s[%lld,%lld] . ", dtype, (long long)g->m, (long long)q->cols);
  add(buf, size, &used, "%s[%lld,%lld]", dtype_name(q->qtype), (long long)q->rows,
      (long long)q->cols);
  if (q->flags & DS_QUANT_PER_TENSOR)
    add(buf, size, &used, " per tensor");
  else
    add(buf, size, &used, " group %lld", (long long)q->group);
  if (q->flags & DS_QUANT_ASYMMETRIC) add(buf, size, &used, " asymmetric");
  if (g && (g->flags & DS_QUANT_GEMM_DYNAMIC)) add(buf, size, &used, " dynamic");
  add(buf, size, &used, " of %s", dtype);
  return buf;
}

bool ds_describe_range(const ds_tensor *t, uintptr_t *lo, uintptr_t *hi) {
  uint32_t bits = ds_describe_bits(t->dtype);
  *lo = *hi = (uintptr_t)t->data;
  if (bits == 0 || t->rank < 0 || t->rank > DS_MAX_RANK) return false;
  int64_t first = 0, last = 0; /* lowest and highest element offset */
  bool empty = false;
  for (int32_t i = 0; i < t->rank; i++) {
    int64_t reach;
    if (t->shape[i] < 0) return false;
    if (t->shape[i] == 0) empty = true;
    if (empty) continue;
    if (__builtin_mul_overflow(t->shape[i] - 1, t->stride[i], &reach)) return false;
    int64_t *end = reach < 0 ? &first : &last;
    if (__builtin_add_overflow(*end, reach, end)) return false;
  }
  if (empty) return true;
  if (last > INT64_MAX / 64 - 1 || first < -(INT64_MAX / 64)) return false;
  int64_t below = (-first * (int64_t)bits + 7) / 8, above = ((last + 1) * (int64_t)bits + 7) / 8;
  if ((uintptr_t)below > *lo || (uintptr_t)above > UINTPTR_MAX - *hi) return false;
  *lo -= (uintptr_t)below;
  *hi += (uintptr_t)above;
  return true;
}
