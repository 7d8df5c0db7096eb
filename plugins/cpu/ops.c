#include "ops.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "isa.h"
#include "kernels/kernel.h"

/* What ds_ops.def says about each op, as data. A letter of dims is a size: the first tensor that
 * has it sets it, the others must agree. The first letter takes all leading dimensions together,
 * save in FIXED tensors, which have just these. "1" is a single element, "=" the shape of in[0]. */

enum { SHAPE_LETTERS = 26 };

enum type { X, I32, F32, F64, BF16, FLOATS, ANY_FLOAT, FILLABLE };

enum {
  OPT = 1,     /* may be absent */
  FIXED = 2,   /* exactly the dimensions named */
  STRIDED = 4, /* the last dimension contiguous, the others as they come */
  LOOSE = 8    /* any strides */
};

typedef struct tensor_spec {
  const char *name, *dims;
  uint8_t type, flags;
} tensor_spec;

typedef struct op_spec {
  tensor_spec in[7], out[4];
  uint32_t accumulate;
} op_spec;

#define ROWS  (FIXED | STRIDED)
#define HEADS (FIXED | STRIDED)

static const op_spec specs[] = {
    [DS_OP_EMBEDDING] = {{{"ids", "R", I32, 0}, {"table", "VC", X, 0}}, {{"y", "RC", X, 0}}, 0},
    [DS_OP_EMBEDDING_BACKWARD] = {{{"ids", "R", I32, 0}, {"dy", "RC", X, 0}},
                                  {{"dtable", "VC", F32, 0}},
                                  1},
    [DS_OP_LAYER_NORM] = {{{"x", "RC", X, 0}, {"weight", "C", X, 0}, {"bias", "C", X, OPT}},
                          {{"y", "RC", X, 0}, {"mean", "R", F32, OPT}, {"rstd", "R", F32, OPT}},
                          0},
    [DS_OP_LAYER_NORM_BACKWARD] = {{{"dy", "RC", X, 0},
                                    {"x", "RC", X, 0},
                                    {"weight", "C", X, 0},
                                    {"mean", "R", F32, 0},
                                    {"rstd", "R", F32, 0}},
                                   {{"dx", "RC", X, 0},
                                    {"dweight", "C", F32, 0},
                                    {"dbias", "C", F32, OPT}},
                                   7},
    [DS_OP_RMS_NORM] = {{{"x", "RC", X, 0}, {"weight", "C", X, 0}},
                        {{"y", "RC", X, 0}, {"rstd", "R", F32, OPT}},
                        0},
    [DS_OP_RMS_NORM_BACKWARD] =
        {{{"dy", "RC", X, 0}, {"x", "RC", X, 0}, {"weight", "C", X, 0}, {"rstd", "R", F32, 0}},
         {{"dx", "RC", X, 0}, {"dweight", "C", F32, 0}},
         3},
    [DS_OP_ACTIVATION] = {{{"x", "N", X, 0}}, {{"y", "N", X, 0}}, 0},
    [DS_OP_ACTIVATION_BACKWARD] = {{{"dy", "N", X, 0}, {"x", "N", X, 0}}, {{"dx", "N", X, 0}}, 1},
    [DS_OP_SWIGLU] = {{{"gate", "RF", X, ROWS}, {"up", "RF", X, ROWS}}, {{"y", "RF", X, 0}}, 0},
    [DS_OP_SWIGLU_BACKWARD] = {{{"dy", "RF", X, 0}, {"gate", "RF", X, ROWS}, {"up", "RF", X, ROWS}},
                               {{"dgate", "RF", X, ROWS}, {"dup", "RF", X, ROWS}},
                               3},
    [DS_OP_ROPE] = {{{"x", "BTHD", X, HEADS}, {"pos", "BT", I32, 0}, {"inv_freq", "P", F32, 0}},
                    {{"y", "BTHD", X, HEADS}},
                    1},
    [DS_OP_ATTENTION] = {{{"q", "BTHD", X, HEADS},
                          {"k", "BSGD", X, HEADS},
                          {"v", "BSGD", X, HEADS},
                          {"kv_len", "B", I32, OPT}},
                         {{"o", "BTHD", X, HEADS}, {"lse", "BHT", F32, OPT | FIXED}},
                         0},
    [DS_OP_ATTENTION_BACKWARD] = {{{"do", "BTHD", X, HEADS},
                                   {"q", "BTHD", X, HEADS},
                                   {"k", "BSGD", X, HEADS},
                                   {"v", "BSGD", X, HEADS},
                                   {"o", "BTHD", X, HEADS},
                                   {"lse", "BHT", F32, FIXED},
                                   {"kv_len", "B", I32, OPT}},
                                  {{"dq", "BTHD", X, HEADS},
                                   {"dk", "BSGD", X, HEADS},
                                   {"dv", "BSGD", X, HEADS}},
                                  7},
    [DS_OP_CROSS_ENTROPY] = {{{"logits", "RV", X, 0}, {"targets", "R", I32, 0}},
                             {{"loss", "1", F32, 0}, {"lse", "R", F32, 0}, {"count", "1", F32, 0}},
                             0},
    [DS_OP_CROSS_ENTROPY_BACKWARD] = {{{"dloss", "1", F32, 0},
                                       {"logits", "RV", X, 0},
                                       {"targets", "R", I32, 0},
                                       {"lse", "R", F32, 0},
                                       {"count", "1", F32, 0}},
                                      {{"dlogits", "RV", X, 0}},
                                      0},
    [DS_OP_ADD] = {{{"a", "N", X, 0}, {"b", "N", X, 0}}, {{"y", "N", X, 0}}, 0},
    [DS_OP_MUL] = {{{"a", "N", X, 0}, {"b", "N", X, 0}}, {{"y", "N", X, 0}}, 1},
    [DS_OP_SCALE] = {{{"x", "N", X, 0}}, {{"y", "N", X, 0}}, 1},
    [DS_OP_REDUCE_ROWS] = {{{"x", "RC", X, 0}}, {{"y", "C", F32, 0}}, 1},
    [DS_OP_COPY] = {{{"x", "=", ANY_FLOAT, LOOSE}}, {{"y", "=", ANY_FLOAT, LOOSE}}, 1},
    [DS_OP_FILL] = {{{0}}, {{"y", "N", FILLABLE, 0}}, 0},
    [DS_OP_SUM_SQUARES] = {{{"x", "N", FLOATS, 0}}, {{"y", "1", F64, 0}}, 1},
    [DS_OP_ADAMW] =
        {{{"g", "N", F32, 0}, {"p", "N", F32, 0}, {"m", "N", F32, 0}, {"v", "N", F32, 0}},
         {{"p", "N", F32, 0}, {"m", "N", F32, 0}, {"v", "N", F32, 0}, {"p16", "N", BF16, OPT}},
         0},
    [DS_OP_SOFTMAX] = {{{"x", "RC", X, 0}}, {{"y", "RC", X, 0}}, 0},
    [DS_OP_ARGMAX] = {{{"x", "RC", X, 0}}, {{"y", "R", I32, 0}}, 0},
    [DS_OP_GATHER_ROWS] = {{{"x", "RC", X, 0}, {"ids", "K", I32, 0}}, {{"y", "KC", X, 0}}, 0},
    [DS_OP_MEAN] = {{{"x", "N", X, 0}}, {{"y", "1", F32, 0}}, 0},
    [DS_OP_MEAN_BACKWARD] = {{{"dy", "1", F32, 0}}, {{"dx", "N", X, 0}}, 1},
    [DS_OP_APPEND_ROWS] = {{{"x", "BTGD", X, HEADS}, {"at", "B", I32, 0}},
                           {{"y", "BSGD", X, HEADS}},
                           0},
};

typedef struct op_size {
  uint32_t n_in, n_out;
  const char *name;
} op_size;

static const op_size sizes[] = {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) [id] = {n_in, n_out, #lower},
#include "ds_ops.def"
#undef DS_OP
};

enum { OP_COUNT = sizeof sizes / sizeof sizes[0], SPEC_COUNT = sizeof specs / sizeof specs[0] };

/* An op that was appended to ds_ops.def and has no kernel here yet: core falls back. */
static int has_spec(uint32_t id) {
  return id < SPEC_COUNT && specs[id].out[0].name;
}

/* The check of one op as it goes along. The first complaint stays. */
typedef struct check {
  const ds_op *op;
  const char *name;
  ds_status status;
  char *message; /* NULL: nobody wants it */
  int32_t x_dtype;
  int64_t size[SHAPE_LETTERS]; /* -1: not set yet */
} check;

static int refuse(check *c, ds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Returns 0, so that checks can say `return refuse(...)`. */
static int refuse(check *c, ds_status status, const char *format, ...) {
  if (c->status != DS_OK) return 0;
  c->status = status;
  if (!c->message) return 0;
  int n = snprintf(c->message, DS_ERROR_MESSAGE_MAX, "cpu %s: ", c->name);
  va_list args;
  va_start(args, format);
  vsnprintf(c->message + n, (size_t)(DS_ERROR_MESSAGE_MAX - n), format, args);
  va_end(args);
  return 0;
}

static int64_t size_of(const check *c, char letter) {
  return c->size[letter - 'A'];
}

static const ds_tensor *tensor_at(const ds_op *op, int out, uint32_t i) {
  return out ? ds_cpu_out(op, i) : ds_cpu_in(op, i);
}

static int check_dtype(check *c, const tensor_spec *s, int32_t dtype) {
  const char *allowed = "f32 and bf16";
  int fits = 0;
  switch (s->type) {
    case X:
      fits = dtype == DS_F32 || dtype == DS_BF16;
      if (fits && c->x_dtype >= 0 && dtype != c->x_dtype)
        return refuse(c, DS_ERR_UNSUPPORTED, "%s is %s where the tensors before it are %s", s->name,
                      ds_cpu_dtype_name(dtype), ds_cpu_dtype_name(c->x_dtype));
      c->x_dtype = dtype;
      break;
    case I32: fits = dtype == DS_I32, allowed = "i32"; break;
    case F32: fits = dtype == DS_F32, allowed = "f32"; break;
    case F64: fits = dtype == DS_F64, allowed = "f64"; break;
    case BF16: fits = dtype == DS_BF16, allowed = "bf16"; break;
    case FLOATS: fits = dtype == DS_F32 || dtype == DS_BF16; break;
    case ANY_FLOAT:
      fits = dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_F16;
      allowed = "f32, bf16 and f16";
      break;
    default:
      fits = dtype == DS_F32 || dtype == DS_BF16 || dtype == DS_I32;
      allowed = "f32, bf16 and i32";
      break;
  }
  if (fits) return 1;
  return refuse(c, DS_ERR_UNSUPPORTED, "%s is %s; supported: %s", s->name, ds_cpu_dtype_name(dtype),
                allowed);
}

static int check_size(check *c, const tensor_spec *s, char letter, int64_t size) {
  int64_t *known = &c->size[letter - 'A'];
  if (*known < 0) *known = size;
  if (*known == size) return 1;
  return refuse(c, DS_ERR_INVALID, "%s[%s] has %c = %lld where the tensors before it have %lld",
                s->name, s->dims, letter, (long long)size, (long long)*known);
}

static int check_shape(check *c, const tensor_spec *s, const ds_tensor *t) {
  const int32_t letters = (int32_t)strlen(s->dims);
  if (t->rank < 0 || t->rank > DS_MAX_RANK)
    return refuse(c, DS_ERR_INVALID, "%s has rank %d; ranks go from 0 to %d", s->name, t->rank,
                  DS_MAX_RANK);
  for (int32_t d = 0; d < t->rank; d++)
    if (t->shape[d] < 0)
      return refuse(c, DS_ERR_INVALID, "%s has a negative size in dimension %d", s->name, d);
  if (s->dims[0] == '=') return 1;
  if (s->dims[0] == '1')
    return ds_cpu_numel(t) == 1 || refuse(c, DS_ERR_INVALID, "%s has %lld elements instead of 1",
                                          s->name, (long long)ds_cpu_numel(t));
  const int flat = !(s->flags & FIXED);
  if (flat ? t->rank < letters - 1 : t->rank != letters)
    return refuse(c, DS_ERR_INVALID, "%s has rank %d instead of [%s]", s->name, t->rank, s->dims);
  int64_t leading = 1;
  for (int32_t d = 0; d <= t->rank - letters; d++) leading *= t->shape[d];
  if (!check_size(c, s, s->dims[0], leading)) return 0;
  for (int32_t i = 1; i < letters; i++)
    if (!check_size(c, s, s->dims[i], t->shape[t->rank - letters + i])) return 0;
  return 1;
}

static int check_strides(check *c, const tensor_spec *s, const ds_tensor *t) {
  if (s->flags & LOOSE || ds_cpu_numel(t) == 0) return 1;
  int64_t expected = 1;
  for (int32_t d = t->rank - 1; d >= 0; d--) {
    if (t->shape[d] != 1 && t->stride[d] != expected)
      return refuse(c, DS_ERR_INVALID, "%s must be contiguous%s: dimension %d has stride %lld",
                    s->name, s->flags & STRIDED ? " in its last dimension" : "", d,
                    (long long)t->stride[d]);
    if (s->flags & STRIDED) return 1;
    expected *= t->shape[d];
  }
  return 1;
}

static int check_tensors(check *c, const tensor_spec *specs_, uint32_t count, int out) {
  for (uint32_t i = 0; i < count; i++) {
    const tensor_spec *s = &specs_[i];
    const ds_tensor *t = tensor_at(c->op, out, i);
    if (!t) {
      if (s->flags & OPT) continue;
      return refuse(c, DS_ERR_INVALID, "%s is missing", s->name);
    }
    if (!check_dtype(c, s, t->dtype) || !check_shape(c, s, t) || !check_strides(c, s, t)) return 0;
  }
  return 1;
}

static int same_shape(const ds_tensor *a, const ds_tensor *b) {
  if (a->rank != b->rank) return 0;
  for (int32_t d = 0; d < a->rank; d++)
    if (a->shape[d] != b->shape[d]) return 0;
  return 1;
}

/* What the table can't say. */
static int check_rest(check *c) {
  const ds_op *op = c->op;
  switch (op->id) {
    case DS_OP_ACTIVATION:
    case DS_OP_ACTIVATION_BACKWARD: {
      const int64_t kind = ds_cpu_attr_i(op, 0, 0);
      return (kind >= DS_ACTIVATION_GELU_TANH && kind <= DS_ACTIVATION_SIGMOID) ||
             refuse(c, DS_ERR_UNSUPPORTED, "unknown activation %lld", (long long)kind);
    }
    case DS_OP_ROPE:
      return 2 * size_of(c, 'P') <= size_of(c, 'D') ||
             refuse(c, DS_ERR_INVALID, "%lld frequencies need a head of twice that; it has %lld",
                    (long long)size_of(c, 'P'), (long long)size_of(c, 'D'));
    case DS_OP_ATTENTION:
    case DS_OP_ATTENTION_BACKWARD: {
      const int64_t h = size_of(c, 'H'), g = size_of(c, 'G');
      if (g == 0 ? h != 0 : h % g != 0)
        return refuse(c, DS_ERR_INVALID, "%lld query heads over %lld key/value heads", (long long)h,
                      (long long)g);
      if (ds_cpu_attr_i(op, 2, 0) < 0) return refuse(c, DS_ERR_INVALID, "the window is negative");
      return 1;
    }
    case DS_OP_COPY:
      if (!same_shape(op->in[0], op->out[0]))
        return refuse(c, DS_ERR_INVALID, "x and y have different shapes");
      return op->in[0]->rank <= 4 ||
             refuse(c, DS_ERR_UNSUPPORTED, "rank %d; at most 4", op->in[0]->rank);
    default: return 1;
  }
}

/* DS_OK, or why not, in message (of DS_ERROR_MESSAGE_MAX bytes) unless that is NULL. */
static ds_status check_op(const ds_op *op, char *message) {
  check c = {.op = op, .name = "op", .status = DS_OK, .message = message, .x_dtype = -1};
  if (!DS_HAS(op, workspace_size)) {
    refuse(&c, DS_ERR_INVALID, "size is %u, which is no ds_op; set it to sizeof(ds_op)", op->size);
    return c.status;
  }
  if (op->id == 0 || op->id >= OP_COUNT || !sizes[op->id].name) {
    refuse(&c, DS_ERR_UNSUPPORTED, "no op has the id %u", op->id);
    return c.status;
  }
  c.name = sizes[op->id].name;
  if (!has_spec(op->id)) {
    refuse(&c, DS_ERR_UNSUPPORTED, "it has no kernel here yet");
    return c.status;
  }
  memset(c.size, -1, sizeof c.size);
  const op_spec *s = &specs[op->id];
  if (op->accumulate & ~s->accumulate)
    refuse(&c, DS_ERR_INVALID, "output %d can't accumulate",
           __builtin_ctz(op->accumulate & ~s->accumulate));
  else if (check_tensors(&c, s->in, sizes[op->id].n_in, 0) &&
           check_tensors(&c, s->out, sizes[op->id].n_out, 1))
    check_rest(&c);
  return c.status;
}

static int ops_supports(ds_device *dev, const ds_op *op) {
  (void)dev;
  return check_op(op, NULL) == DS_OK;
}

/* Most ops need none, and this is asked before each: only the others' shapes are looked at. */
static bool needs_workspace(uint32_t id) {
  switch (id) {
    case DS_OP_LAYER_NORM_BACKWARD:
    case DS_OP_RMS_NORM_BACKWARD:
    case DS_OP_ATTENTION:
    case DS_OP_ATTENTION_BACKWARD:
    case DS_OP_CROSS_ENTROPY:
    case DS_OP_SUM_SQUARES:
    case DS_OP_MEAN: return true;
    default: return false;
  }
}

static int64_t attention_floats(const ds_op *op, int threads) {
  const ds_tensor *q = op->in[0], *k = op->in[1];
  const int64_t time = q->shape[1], heads = q->shape[2], groups = k->shape[2];
  const int64_t pad = ds_cpu_attention_pad(q->shape[3]);
  if (time > DS_CPU_FEW_QUERIES) return threads * ds_cpu_attention_scratch(pad);
  return q->shape[0] * ds_cpu_attention_chunks(q->shape[0], k->shape[1], threads) *
         ds_cpu_attention_decode_scratch(heads, groups > 0 ? heads / groups : 1, time, pad);
}

static size_t ops_workspace(ds_device *dev, const ds_op *op) {
  if (!needs_workspace(op->id) || check_op(op, NULL) != DS_OK) return 0;
  const int64_t threads = dev->threads;
  int64_t bytes = 0;
  switch (op->id) {
    case DS_OP_LAYER_NORM_BACKWARD:
    case DS_OP_RMS_NORM_BACKWARD: /* [threads][2][C] f32 */
      bytes = threads * 2 * ds_cpu_numel(op->in[2]) * 4;
      break;
    case DS_OP_ATTENTION: bytes = attention_floats(op, dev->threads) * 4; break;
    case DS_OP_ATTENTION_BACKWARD: {
      const int64_t keys =
          (op->in[2]->shape[1] + DS_CPU_TILE_K - 1) / DS_CPU_TILE_K * DS_CPU_TILE_K;
      const int64_t pad = ds_cpu_attention_pad(op->in[1]->shape[3]);
      bytes = threads * ds_cpu_attention_back_scratch(pad, keys) * 4;
      break;
    }
    case DS_OP_CROSS_ENTROPY: bytes = ds_cpu_numel(op->in[1]) * 8; break; /* f64 a row */
    case DS_OP_SUM_SQUARES:
    case DS_OP_MEAN: /* f64 a block */
      bytes = (ds_cpu_numel(op->in[0]) + DS_CPU_SUM_BLOCK - 1) / DS_CPU_SUM_BLOCK * 8;
      break;
    default: break;
  }
  return bytes == 0 ? 0 : (size_t)bytes + 64; /* kernels align what they get */
}

/* Pointers: there where there are elements, and the same where the op works in place. */
static ds_status check_data(ds_device *dev, const ds_op *op, ds_error *err) {
  const op_size *n = &sizes[op->id];
  for (int out = 0; out < 2; out++)
    for (uint32_t i = 0; i < (out ? n->n_out : n->n_in); i++) {
      const ds_tensor *t = tensor_at(op, out, i);
      if (t && !t->data && ds_cpu_numel(t) > 0)
        return ds_cpu_fail(err, DS_ERR_INVALID, "cpu %s: %s has no data", n->name,
                           (out ? specs[op->id].out : specs[op->id].in)[i].name);
    }
  if (op->id == DS_OP_ADAMW)
    for (int i = 0; i < 3; i++)
      if (op->out[i]->data != op->in[i + 1]->data)
        return ds_cpu_fail(err, DS_ERR_INVALID, "cpu adamw: %s must be updated in place",
                           specs[op->id].out[i].name);
  const size_t need = ops_workspace(dev, op);
  if (need > 0 && (!op->workspace || op->workspace_size < need))
    return ds_cpu_fail(err, DS_ERR_INVALID,
                       "cpu %s: a workspace of %zu bytes is needed and %zu were given", n->name,
                       need, op->workspace ? op->workspace_size : 0);
  return DS_OK;
}

static ds_cpu_kernel *const *kernels_of(int isa) {
  switch (isa) {
#ifdef DS_CPU_HAVE_AVX512_BF16
    case DS_ISA_AVX512_BF16: return ds_cpu_kernels_avx512_bf16;
#endif
#ifdef DS_CPU_HAVE_AVX512
    case DS_ISA_AVX512: return ds_cpu_kernels_avx512;
#endif
#ifdef DS_CPU_HAVE_AVX2
    case DS_ISA_AVX2: return ds_cpu_kernels_avx2;
#endif
    default: return ds_cpu_kernels_base;
  }
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_status status = ds_cpu_ready(s, err);
  if (status != DS_OK) return status;
  status = check_op(op, err ? err->message : NULL);
  if (status != DS_OK) {
    if (err) err->status = status;
    return status;
  }
  status = check_data(s->dev, op, err);
  if (status != DS_OK) return status;
  kernels_of(s->dev->isa)[op->id](op, s->dev->threads);
  return DS_OK;
}

const ds_ops_table ds_cpu_ops_table = {
    .base = {sizeof(ds_ops_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = ops_supports,
    .workspace = ops_workspace,
    .run = ops_run,
};
