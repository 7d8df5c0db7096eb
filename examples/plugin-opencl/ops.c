/* ops.c - every op of ds_ops.def in f32: its signature, its scratch, its launches.
 *
 * What isn't f32, attention heads wider than MOST_HEAD, and on devices without f64 the sums over
 * everything, are not offered; core falls back. */
#include <math.h>

#include "opencl.h"

/* In the order of ds_ops.def; signature.c says how to read them. */
static const char *const signatures[] = {
    [DS_OP_EMBEDDING] = "iR VC | RC",
    [DS_OP_EMBEDDING_BACKWARD] = "iR RC | VC+",
    [DS_OP_LAYER_NORM] = "RC C C? | RC R? R?",
    [DS_OP_LAYER_NORM_BACKWARD] = "RC RC C R R | RC+ C+ C?+",
    [DS_OP_RMS_NORM] = "RC C | RC R?",
    [DS_OP_RMS_NORM_BACKWARD] = "RC RC C R | RC+ C+",
    [DS_OP_ACTIVATION] = "N | N",
    [DS_OP_ACTIVATION_BACKWARD] = "N N | N+",
    [DS_OP_SWIGLU] = "~RF ~RF | RF",
    [DS_OP_SWIGLU_BACKWARD] = "RF ~RF ~RF | ~RF+ ~RF+",
    [DS_OP_ROPE] = "~BTHD iBT P | ~BTHD+",
    [DS_OP_ATTENTION] = "~BTHD ~BSGD ~BSGD iB? | ~BTHD BHT?",
    [DS_OP_ATTENTION_BACKWARD] = "~BTHD ~BTHD ~BSGD ~BSGD ~BTHD BHT iB? | ~BTHD+ ~BSGD+ ~BSGD+",
    [DS_OP_CROSS_ENTROPY] = "RV iR | 1 R 1",
    [DS_OP_CROSS_ENTROPY_BACKWARD] = "1 RV iR R 1 | RV",
    [DS_OP_ADD] = "N N | N",
    [DS_OP_MUL] = "N N | N+",
    [DS_OP_SCALE] = "N | N+",
    [DS_OP_REDUCE_ROWS] = "RC | C+",
    [DS_OP_COPY] = "* | *+",
    [DS_OP_FILL] = "| N",
    [DS_OP_SUM_SQUARES] = "N | d1+",
    [DS_OP_ADAMW] = "N N N N | N N N",
    [DS_OP_SOFTMAX] = "RC | RC",
    [DS_OP_ARGMAX] = "RC | iR",
    [DS_OP_GATHER_ROWS] = "RC iK | KC",
    [DS_OP_MEAN] = "N | 1",
    [DS_OP_MEAN_BACKWARD] = "1 | N+",
};

static int64_t size_of(const sizes *z, char letter) {
  return z->of[letter - 'A'];
}
static int64_t attr_i(const ds_op *op, uint32_t i, int64_t missing) {
  return i < op->n_attr ? op->attr[i].i : missing;
}
static double attr_f(const ds_op *op, uint32_t i, double missing) {
  return i < op->n_attr ? op->attr[i].f : missing;
}
static int64_t adds(const ds_op *op, uint32_t output) {
  return op->accumulate >> output & 1;
}

/* ---------------------------------------------------------------- what is offered */

static bool copy_fits(const ds_tensor *x, const ds_tensor *y) {
  if (x->rank != y->rank) return false;
  for (int32_t d = 0; d < x->rank; d++)
    if (x->shape[d] != y->shape[d]) return false;
  return true;
}

/* Beyond what the signature says. */
static bool rest_fits(const ds_device *dev, const ds_op *op, const sizes *z) {
  switch (op->id) {
    case DS_OP_ACTIVATION:
    case DS_OP_ACTIVATION_BACKWARD:
      return attr_i(op, 0, 0) >= DS_ACTIVATION_GELU_TANH &&
             attr_i(op, 0, 0) <= DS_ACTIVATION_SIGMOID;
    case DS_OP_ROPE: return 2 * size_of(z, 'P') <= size_of(z, 'D');
    case DS_OP_ATTENTION:
    case DS_OP_ATTENTION_BACKWARD: {
      const int64_t h = size_of(z, 'H'), g = size_of(z, 'G');
      return size_of(z, 'D') <= MOST_HEAD && attr_i(op, 2, 0) >= 0 && (g ? h % g == 0 : h == 0);
    }
    case DS_OP_COPY: return copy_fits(op->in[0], op->out[0]);
    case DS_OP_SUM_SQUARES:
    case DS_OP_MEAN: return dev->f64;
    case DS_OP_ADAMW: return op->n_attr >= 9;
    case DS_OP_ARGMAX: return size_of(z, 'C') > 0 && size_of(z, 'C') <= INT32_MAX;
    default: return true;
  }
}

static bool offered(const ds_device *dev, const ds_op *op, sizes *z) {
  return op->size >= sizeof *op && op->id < sizeof signatures / sizeof *signatures &&
         signatures[op->id] && signature_fits(signatures[op->id], op, z) && rest_fits(dev, op, z);
}

static int ops_supports(ds_device *dev, const ds_op *op) {
  sizes z;
  return offered(dev, op, &z);
}

static size_t ops_workspace(ds_device *dev, const ds_op *op) {
  sizes z;
  switch (op->id) {
    case DS_OP_SUM_SQUARES:
    case DS_OP_MEAN: return PARTS * sizeof(double);
    case DS_OP_CROSS_ENTROPY:
      return offered(dev, op, &z) ? (size_t)size_of(&z, 'R') * sizeof(float) : 0;
    case DS_OP_ATTENTION_BACKWARD:
      if (!offered(dev, op, &z)) return 0;
      return (size_t)(size_of(&z, 'B') * size_of(&z, 'H') * size_of(&z, 'T')) * sizeof(float);
    default: return 0;
  }
}

/* ---------------------------------------------------------------- launches */

/* Each has the op, checked, and its sizes. */
typedef struct call {
  ds_stream *s;
  const ds_op *op;
  const sizes *z;
  ds_error *err;
} call;

#define IN(i)      op_in(c->op, i)
#define OUT(i)     op_out(c->op, i)
#define SIZE(name) size_of(c->z, name)
#define STRIDES(t) L((t)->stride[0]), L((t)->stride[1]), L((t)->stride[2])

static ds_status rows(const call *c, int kernel, int64_t n, const arg *args) {
  return launch(c->s, kernel, one_group_each(n), args, c->err);
}
static ds_status each(const call *c, int kernel, int64_t n, const arg *args) {
  return launch(c->s, kernel, one_item_each(n), args, c->err);
}

static ds_status run_embedding_backward(const call *c) {
  const int64_t v = SIZE('V'), cols = SIZE('C');
  const float zero = 0;
  ds_status st = adds(c->op, 0) ? DS_OK
                                : stream_fill_pattern(c->s, OUT(0)->data, &zero, sizeof zero,
                                                      (size_t)(v * cols) * sizeof zero, c->err);
  if (st != DS_OK) return st;
  return each(c, K_scatter_rows, cols,
              ARGS(T(IN(0)), T(IN(1)), T(OUT(0)), L(SIZE('R')), L(cols), L(v)));
}

/* dx first: nothing forbids dweight's kernel to run beside it, but a queue is in order. */
static ds_status run_norm_backward(const call *c, const ds_tensor *mean, const ds_tensor *rstd) {
  const int64_t r = SIZE('R'), cols = SIZE('C');
  const ds_tensor *dbias = OUT(2);
  ds_status st = rows(
      c, K_norm_dx, r,
      ARGS(T(IN(0)), T(IN(1)), T(IN(2)), T(mean), T(rstd), T(OUT(0)), L(cols), L(adds(c->op, 0))));
  if (st == DS_OK)
    st = each(
        c, K_norm_dw, cols,
        ARGS(T(IN(0)), T(IN(1)), T(mean), T(rstd), T(OUT(1)), L(r), L(cols), L(adds(c->op, 1))));
  if (st == DS_OK && dbias)
    st = each(c, K_column_sums, cols, ARGS(T(IN(0)), T(dbias), L(r), L(cols), L(adds(c->op, 2))));
  return st;
}

static ds_status run_swiglu(const call *c) {
  const int64_t n = SIZE('R') * SIZE('F');
  if (c->op->id == DS_OP_SWIGLU)
    return each(c, K_swiglu, n,
                ARGS(T(IN(0)), T(IN(1)), T(OUT(0)), L(n), L(SIZE('F')), L(IN(0)->stride[0]),
                     L(IN(1)->stride[0])));
  return each(c, K_swiglu_dx, n,
              ARGS(T(IN(0)), T(IN(1)), T(IN(2)), T(OUT(0)), T(OUT(1)), L(n), L(SIZE('F')),
                   L(IN(1)->stride[0]), L(IN(2)->stride[0]), L(OUT(0)->stride[0]),
                   L(OUT(1)->stride[0]), L(adds(c->op, 0)), L(adds(c->op, 1))));
}

static ds_status run_rope(const call *c) {
  const ds_tensor *x = IN(0), *y = OUT(0);
  const int64_t n = SIZE('B') * SIZE('T') * SIZE('H');
  return each(c, K_rope, n,
              ARGS(T(x), T(IN(1)), T(IN(2)), T(y), L(n), L(SIZE('T')), L(SIZE('H')), L(SIZE('D')),
                   L(SIZE('P')), STRIDES(x), STRIDES(y), L(attr_i(c->op, 0, 0)),
                   L(attr_i(c->op, 1, 0)), L(adds(c->op, 0))));
}

#define HEAD_ARGS                                                                                  \
  L(SIZE('T')), L(SIZE('S')), L(SIZE('H')), L(SIZE('G')), L(SIZE('D')),                            \
      F(attr_f(c->op, 0, 1 / sqrt((double)SIZE('D')))), L(attr_i(c->op, 1, 1)),                    \
      L(attr_i(c->op, 2, 0))

static ds_status run_attention(const call *c) {
  const ds_tensor *q = IN(0), *k = IN(1), *v = IN(2), *o = OUT(0);
  return rows(c, K_attention, SIZE('B') * SIZE('H') * SIZE('T'),
              ARGS(T(q), T(k), T(v), T(IN(3)), T(o), T(OUT(1)), STRIDES(q), STRIDES(k), STRIDES(v),
                   STRIDES(o), HEAD_ARGS));
}

static ds_status run_attention_backward(const call *c) {
  const ds_tensor *dout = IN(0), *q = IN(1), *k = IN(2), *v = IN(3), *o = IN(4), *lse = IN(5),
                  *kv_len = IN(6), *dq = OUT(0), *dk = OUT(1), *dv = OUT(2);
  const void *delta = c->op->workspace;
  const int64_t queries = SIZE('B') * SIZE('H') * SIZE('T');
  ds_status st = each(c, K_attention_delta, queries,
                      ARGS(T(dout), T(o), P(delta), STRIDES(dout), STRIDES(o), L(queries),
                           L(SIZE('T')), L(SIZE('H')), L(SIZE('D'))));
  if (st == DS_OK)
    st = rows(c, K_attention_dq, queries,
              ARGS(T(dout), T(q), T(k), T(v), T(lse), P(delta), T(kv_len), T(dq), STRIDES(dout),
                   STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(dq), HEAD_ARGS, L(adds(c->op, 0))));
  if (st == DS_OK)
    st = rows(c, K_attention_dkv, SIZE('B') * SIZE('G') * SIZE('S'),
              ARGS(T(dout), T(q), T(k), T(v), T(lse), P(delta), T(kv_len), T(dk), T(dv),
                   STRIDES(dout), STRIDES(q), STRIDES(k), STRIDES(v), STRIDES(dk), STRIDES(dv),
                   HEAD_ARGS, L(adds(c->op, 1)), L(adds(c->op, 2))));
  return st;
}

static ds_status run_cross_entropy(const call *c) {
  const int64_t r = SIZE('R'), ignore = attr_i(c->op, 0, -100);
  const void *losses = c->op->workspace;
  const ds_status st =
      rows(c, K_cross_entropy_rows, r,
           ARGS(T(IN(0)), T(IN(1)), T(OUT(1)), P(losses), L(SIZE('V')), L(ignore)));
  if (st != DS_OK) return st;
  return rows(c, K_cross_entropy_sum, 1,
              ARGS(P(losses), T(IN(1)), T(OUT(0)), T(OUT(2)), L(r), L(ignore)));
}

static ds_status run_copy(const call *c) {
  const ds_tensor *x = IN(0), *y = OUT(0);
  int64_t n[4] = {1, 1, 1, 1}, sx[4] = {0}, sy[4] = {0};
  for (int32_t d = 0, to = 4 - x->rank; d < x->rank; d++, to++) {
    n[to] = x->shape[d];
    sx[to] = x->stride[d];
    sy[to] = y->stride[d];
  }
  return each(c, K_copy_strided, elements(x),
              ARGS(T(x), T(y), L(elements(x)), L(n[1]), L(n[2]), L(n[3]), L(sx[0]), L(sx[1]),
                   L(sx[2]), L(sx[3]), L(sy[0]), L(sy[1]), L(sy[2]), L(sy[3]), L(adds(c->op, 0))));
}

static ds_status run_fill(const call *c) {
  const float value = (float)attr_f(c->op, 0, 0);
  return stream_fill_pattern(c->s, OUT(0)->data, &value, sizeof value,
                             (size_t)SIZE('N') * sizeof value, c->err);
}

static ds_status run_adamw(const call *c) {
  const ds_attr *a = c->op->attr;
  const int64_t n = SIZE('N');
  return each(c, K_adamw, n,
              ARGS(T(IN(0)), T(IN(1)), T(IN(2)), T(IN(3)), L(n), F(a[0].f), F(a[1].f),
                   F(1 - a[1].f), F(a[2].f), F(1 - a[2].f), F(a[3].f), F(a[4].f), F(a[5].f),
                   F(a[6].f), F(a[7].f), L(a[8].f != 0)));
}

static ds_status run_sum(const call *c) {
  const int64_t n = SIZE('N');
  const void *parts = c->op->workspace;
  const bool squares = c->op->id == DS_OP_SUM_SQUARES;
  const ds_status st = rows(c, K_partial_sums, PARTS, ARGS(T(IN(0)), P(parts), L(n), L(squares)));
  if (st != DS_OK) return st;
  if (squares) return rows(c, K_sum_squares_end, 1, ARGS(P(parts), T(OUT(0)), L(adds(c->op, 0))));
  return rows(c, K_mean_end, 1, ARGS(P(parts), T(OUT(0)), L(n)));
}

static ds_status run_norm(const call *c) {
  const bool layer = c->op->id == DS_OP_LAYER_NORM;
  return rows(c, K_norm, SIZE('R'),
              ARGS(T(IN(0)), T(IN(1)), T(layer ? IN(2) : NULL), T(OUT(0)), T(layer ? OUT(1) : NULL),
                   T(OUT(layer ? 2 : 1)), L(SIZE('C')), F(attr_f(c->op, 0, layer ? 1e-5 : 1e-6)),
                   L(layer)));
}

static ds_status run(const call *c) {
  const ds_op *op = c->op;
  const int64_t n = SIZE('N'), r = SIZE('R'), cols = SIZE('C');
  switch (op->id) {
    case DS_OP_EMBEDDING:
      return each(c, K_take_rows, r * cols,
                  ARGS(T(IN(0)), T(IN(1)), T(OUT(0)), L(r * cols), L(cols), L(SIZE('V'))));
    case DS_OP_EMBEDDING_BACKWARD: return run_embedding_backward(c);
    case DS_OP_LAYER_NORM:
    case DS_OP_RMS_NORM: return run_norm(c);
    case DS_OP_LAYER_NORM_BACKWARD: return run_norm_backward(c, IN(3), IN(4));
    case DS_OP_RMS_NORM_BACKWARD: return run_norm_backward(c, NULL, IN(3));
    case DS_OP_ACTIVATION:
      return each(c, K_activation, n, ARGS(T(IN(0)), T(OUT(0)), L(n), L(attr_i(op, 0, 0))));
    case DS_OP_ACTIVATION_BACKWARD:
      return each(c, K_activation_dx, n,
                  ARGS(T(IN(0)), T(IN(1)), T(OUT(0)), L(n), L(attr_i(op, 0, 0)), L(adds(op, 0))));
    case DS_OP_SWIGLU:
    case DS_OP_SWIGLU_BACKWARD: return run_swiglu(c);
    case DS_OP_ROPE: return run_rope(c);
    case DS_OP_ATTENTION: return run_attention(c);
    case DS_OP_ATTENTION_BACKWARD: return run_attention_backward(c);
    case DS_OP_CROSS_ENTROPY: return run_cross_entropy(c);
    case DS_OP_CROSS_ENTROPY_BACKWARD:
      return each(c, K_cross_entropy_dx, r * SIZE('V'),
                  ARGS(T(IN(0)), T(IN(1)), T(IN(2)), T(IN(3)), T(IN(4)), T(OUT(0)),
                       L(r * SIZE('V')), L(SIZE('V')), L(attr_i(op, 0, -100))));
    case DS_OP_ADD: return each(c, K_add, n, ARGS(T(IN(0)), T(IN(1)), T(OUT(0)), L(n)));
    case DS_OP_MUL:
      return each(c, K_mul, n, ARGS(T(IN(0)), T(IN(1)), T(OUT(0)), L(n), L(adds(op, 0))));
    case DS_OP_SCALE:
      return each(c, K_scale, n,
                  ARGS(T(IN(0)), T(OUT(0)), L(n), F(attr_f(op, 0, 1)), L(adds(op, 0))));
    case DS_OP_REDUCE_ROWS:
      return each(c, K_column_sums, cols, ARGS(T(IN(0)), T(OUT(0)), L(r), L(cols), L(adds(op, 0))));
    case DS_OP_COPY: return run_copy(c);
    case DS_OP_FILL: return run_fill(c);
    case DS_OP_SUM_SQUARES:
    case DS_OP_MEAN: return run_sum(c);
    case DS_OP_ADAMW: return run_adamw(c);
    case DS_OP_SOFTMAX: return rows(c, K_softmax, r, ARGS(T(IN(0)), T(OUT(0)), L(cols)));
    case DS_OP_ARGMAX: return rows(c, K_argmax, r, ARGS(T(IN(0)), T(OUT(0)), L(cols)));
    case DS_OP_GATHER_ROWS:
      return each(c, K_take_rows, SIZE('K') * cols,
                  ARGS(T(IN(1)), T(IN(0)), T(OUT(0)), L(SIZE('K') * cols), L(cols), L(r)));
    default: /* mean_backward, the last that `offered` lets through */
      return each(c, K_mean_dx, n, ARGS(T(IN(0)), T(OUT(0)), L(n), L(adds(op, 0))));
  }
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  sizes z;
  if (!offered(s->dev, op, &z))
    return fail(err, DS_ERR_UNSUPPORTED, "op %u is not offered with these tensors", op->id);
  const size_t scratch = ops_workspace(s->dev, op);
  if (scratch > (op->workspace ? op->workspace_size : 0))
    return fail(err, DS_ERR_INVALID, "op %u needs a workspace of %zu bytes", op->id, scratch);
  const call c = {s, op, &z, err};
  return run(&c);
}

const ds_ops_table opencl_ops = {
    .base = {sizeof(ds_ops_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .supports = ops_supports,
    .workspace = ops_workspace,
    .run = ops_run,
};
