/* op.h - how an op of the reference backend is described, checked and written.
 *
 * Every op is one constant, ds_reference_op_<name>, in the file of its family: the signature of its
 * tensors, what it checks beyond that, how much scratch it needs, and its run. ops.c finds it by
 * id. The signature alone makes check.c refuse a wrong shape, dtype, stride, alias or accumulate
 * bit with a message that names op and tensor, so a run function only computes.
 */
#ifndef DS_BACKEND_REFERENCE_OP_H
#define DS_BACKEND_REFERENCE_OP_H

#include "ds_abi.h"

#define DS_REFERENCE_MAX_IN  7
#define DS_REFERENCE_MAX_OUT 4

/* Which element types a tensor may have. */
typedef enum ds_reference_type {
  DS_REFERENCE_X,     /* f32, bf16 or f16, the same for all X of one op */
  DS_REFERENCE_F32,   /* f32 */
  DS_REFERENCE_F64,   /* f64 */
  DS_REFERENCE_I32,   /* i32 */
  DS_REFERENCE_BF16,  /* bf16 */
  DS_REFERENCE_FLOAT, /* f32, bf16 or f16, each tensor its own */
  DS_REFERENCE_PLAIN  /* f32, bf16 or i32 */
} ds_reference_type;

enum {
  DS_REFERENCE_OPTIONAL = 1u << 0,    /* may be absent */
  DS_REFERENCE_STRIDED = 1u << 1,     /* any strides */
  DS_REFERENCE_ROWS = 1u << 2,        /* any strides but in the last dimension */
  DS_REFERENCE_ACC = 1u << 3,         /* an output that takes its accumulate bit */
  DS_REFERENCE_ALIAS_OR_ACC = 1u << 4 /* not both at once */
};

/* dims: one letter a dimension. The first letter, if it is R, K or N, stands for all leading
 * dimensions together; a letter met again must have the size it had; "1" is one element in any
 * shape, "*" any shape at all. */
typedef struct ds_reference_tensor {
  const char *name; /* as in ds_ops.def */
  const char *dims;
  ds_reference_type type;
  uint32_t flags;
  uint32_t alias; /* outputs: bit i set if it may be in[i] */
} ds_reference_tensor;

typedef struct ds_reference_entry ds_reference_entry;

/* A checked op. */
typedef struct ds_reference_args {
  const ds_op *op;
  const ds_reference_entry *entry;
  const char *name;           /* entry->name */
  int32_t x;                  /* the ds_dtype that X is */
  int64_t dim[26];            /* sizes by letter, 'A' first */
  const char *dim_source[26]; /* the tensor that fixed each, NULL while none has */
} ds_reference_args;

typedef struct ds_reference_op {
  ds_reference_tensor in[DS_REFERENCE_MAX_IN];
  ds_reference_tensor out[DS_REFERENCE_MAX_OUT];
  /* What the signature can't say; NULL for nothing. Looks at no data pointer. */
  ds_status (*check)(const ds_reference_args *a, ds_error *err);
  /* Scratch in bytes; NULL for none. */
  size_t (*workspace)(const ds_reference_args *a);
  ds_status (*run)(const ds_reference_args *a, ds_error *err);
} ds_reference_op;

/* An op's line of ds_ops.def with its description. */
struct ds_reference_entry {
  const char *name;
  uint32_t n_in, n_out, n_attr; /* the most it takes */
  const ds_reference_op *op;
};

#define DS_OP(id, upper, lower, n_in, n_out, n_attr)                                               \
  extern const ds_reference_op ds_reference_op_##lower;
#include "ds_ops.def"
#undef DS_OP

/* Fills *a, or says what is wrong with the description. Data pointers are ignored. */
ds_status ds_reference_check(const ds_reference_entry *e, const ds_op *op, ds_reference_args *a,
                             ds_error *err);

/* The rest of what run needs: data where there are elements, no alias but the allowed ones. */
ds_status ds_reference_check_data(const ds_reference_args *a, ds_error *err);

/* NULL when absent. */
static inline const ds_tensor *ds_reference_in(const ds_reference_args *a, uint32_t i) {
  return i < a->op->n_in ? a->op->in[i] : NULL;
}

static inline const ds_tensor *ds_reference_out(const ds_reference_args *a, uint32_t i) {
  return i < a->op->n_out ? a->op->out[i] : NULL;
}

static inline int ds_reference_acc(const ds_reference_args *a, uint32_t out) {
  return (a->op->accumulate >> out) & 1u;
}

static inline int64_t ds_reference_dim(const ds_reference_args *a, char letter) {
  return a->dim[letter - 'A'];
}

static inline double ds_reference_attr_f(const ds_reference_args *a, uint32_t i, double missing) {
  return i < a->op->n_attr ? a->op->attr[i].f : missing;
}

static inline int64_t ds_reference_attr_i(const ds_reference_args *a, uint32_t i, int64_t missing) {
  return i < a->op->n_attr ? a->op->attr[i].i : missing;
}

#endif
