#include "ops/tape.h"
#include "ops/vocab.h"

/* Packed weights pay from this many rows on; fewer are a matrix-vector product, bound by reading
 * the weights. */
enum { PACKED_MIN_ROWS = 9 };

static ds_status gemm(ds_ctx *ctx, uint32_t flags, int64_t m, int64_t n, int64_t k, const void *a,
                      int64_t lda, int32_t a_type, const void *b, int64_t ldb, int32_t b_type,
                      const ds_tensor *c, int64_t ldc, bool accumulate, ds_error *err) {
  ds_gemm g = {.size = sizeof g,
               .flags = flags,
               .m = m,
               .n = n,
               .k = k,
               .lda = lda,
               .ldb = ldb,
               .ldc = ldc,
               .batch = 1,
               .dtype_a = a_type,
               .dtype_b = b_type,
               .dtype_c = c->dtype,
               .alpha = 1,
               .beta = accumulate ? 1 : 0,
               .a = a,
               .b = b,
               .c = c->data};
  return ds_backend_gemm(ctx->backend, &g, err);
}

/* dY[R,N]; its rows may be longer than N (ds_vocab_padded). */
typedef struct output_grad {
  const ds_tensor *t;
  int64_t rows, ld;
} output_grad;

/* dX[R,K] = dY[R,N] W[N,K] */
static ds_status linear_dx(ds_ctx *ctx, ds_value *x, ds_value *w, const output_grad *dy,
                           ds_error *err) {
  if (!x->needs_grad) return DS_OK;
  int64_t n = w->t.shape[0], k = w->t.shape[1], r, c, ld;
  ds_grad dx;
  DS_TRY(ds_grad_open(ctx, x, x->t.dtype, DS_LAYOUT_ROWS, &dx, err));
  ds_tensor_as_rows(&dx.t, &r, &c, &ld);
  DS_TRY(gemm(ctx, 0, dy->rows, k, n, dy->t->data, dy->ld, dy->t->dtype, w->t.data, k, w->t.dtype,
              &dx.t, ld, dx.accumulate, err));
  return ds_grad_close(ctx, &dx, err);
}

/* dW[N,K] += dY^T[N,R] X[R,K], in f32 for a parameter */
static ds_status linear_dw(ds_ctx *ctx, ds_value *x, ds_value *w, const output_grad *dy,
                           ds_error *err) {
  if (!w->needs_grad) return DS_OK;
  int64_t n = w->t.shape[0], k = w->t.shape[1], r, c, ldx, ld;
  ds_grad dw;
  int32_t dtype = w->param >= 0 ? DS_F32 : w->t.dtype;
  DS_TRY(ds_grad_open(ctx, w, dtype, DS_LAYOUT_ROWS, &dw, err));
  ds_tensor_as_rows(&x->t, &r, &c, &ldx);
  ds_tensor_as_rows(&dw.t, &r, &c, &ld);
  DS_TRY(gemm(ctx, DS_GEMM_TRANS_A, n, k, dy->rows, dy->t->data, dy->ld, dy->t->dtype, x->t.data,
              ldx, x->t.dtype, &dw.t, ld, dw.accumulate, err));
  return ds_grad_close(ctx, &dw, err);
}

/* db[N] += the sum of dY's rows */
static ds_status linear_db(ds_ctx *ctx, ds_value *b, const output_grad *dy, ds_error *err) {
  int64_t n = b->t.shape[0];
  ds_grad db;
  DS_TRY(ds_grad_open(ctx, b, DS_F32, DS_LAYOUT_CONTIGUOUS, &db, err));
  if (dy->ld == n) {
    DS_TRY(ds_run_raw(ctx, DS_OP_REDUCE_ROWS, (const ds_tensor *[]){dy->t}, 1,
                      (const ds_tensor *[]){&db.t}, 1, db.accumulate, NULL, 0, err));
    return ds_grad_close(ctx, &db, err);
  }
  ds_value *sum = ds_value_new(ctx, DS_F32, 1, &dy->ld);
  if (!sum) return ds_ctx_status(ctx, err);
  DS_TRY(ds_run_raw(ctx, DS_OP_REDUCE_ROWS, (const ds_tensor *[]){dy->t}, 1,
                    (const ds_tensor *[]){&sum->t}, 1, 0, NULL, 0, err));
  ds_tensor part = ds_tensor_make(sum->t.data, DS_F32, 1, &n);
  DS_TRY(ds_run_raw(ctx, DS_OP_COPY, (const ds_tensor *[]){&part}, 1, (const ds_tensor *[]){&db.t},
                    1, db.accumulate, NULL, 0, err));
  return ds_grad_close(ctx, &db, err);
}

static ds_status linear_backward(ds_ctx *ctx, ds_node *node, ds_error *err) {
  ds_value *x = node->in[0], *w = node->in[1], *b = node->in[2];
  output_grad dy = {.t = ds_grad_out(node)};
  int64_t all;
  ds_tensor_as_rows(dy.t, &dy.rows, &all, &dy.ld);
  DS_TRY(linear_dx(ctx, x, w, &dy, err));
  DS_TRY(ds_parallel_added(ctx, x, err));
  DS_TRY(linear_dw(ctx, x, w, &dy, err));
  return b && b->needs_grad ? linear_db(ctx, b, &dy, err) : DS_OK;
}

static bool check_shapes(ds_ctx *ctx, const ds_value *x, const ds_value *w, const ds_value *b) {
  const ds_tensor *xt = &x->t, *wt = &w->t;
  bool ok = xt->rank >= 1 && wt->rank == 2 && xt->shape[xt->rank - 1] == wt->shape[1] &&
            ds_tensor_is_contiguous(wt) && xt->dtype == wt->dtype &&
            (!b || (b->t.rank == 1 && b->t.shape[0] == wt->shape[0] && b->t.dtype == xt->dtype));
  if (ok) return true;
  char xs[96], ws[96], bs[96];
  ds_ctx_fail(ctx, DS_ERR_INVALID,
              "linear: x %s %s, w %s %s, b %s don't match; wanted x [...,K], w [N,K], b [N] of one "
              "dtype",
              ds_tensor_describe(xt, xs, sizeof xs), ds_dtype_name(xt->dtype),
              ds_tensor_describe(wt, ws, sizeof ws), ds_dtype_name(wt->dtype),
              b ? ds_tensor_describe(&b->t, bs, sizeof bs) : "none");
  return false;
}

/* The packed form of a constant weight for a product like g, made at its first use; NULL where
 * there is none. */
static const void *packed_weight(ds_ctx *ctx, const ds_value *w, const ds_gemm *g) {
  if (!ctx->constant_weights || w->param < 0 || g->m < PACKED_MIN_ROWS) return NULL;
  ds_param_slot *slot = &ctx->slots[w->param];
  if (slot->pack_tried) return slot->packed;
  slot->pack_tried = true;
  size_t bytes = ds_backend_pack_size(ctx->backend, g);
  void *p;
  /* Packing only saves time: without memory for it, the plain weight does. */
  if (bytes == 0 || ds_backend_alloc(ctx->backend, bytes, &p, NULL) != DS_OK) return NULL;
  if (ds_backend_pack(ctx->backend, g, p, NULL) != DS_OK) {
    ds_backend_free(ctx->backend, p, bytes);
    return NULL;
  }
  slot->packed = p;
  slot->packed_bytes = bytes;
  return p;
}

/* How a product differs from a plain one. */
typedef struct extras {
  ds_epilogue epilogue;
  bool without_bias; /* another rank adds it; its gradient is here all the same */
  int64_t width;     /* columns of the buffer; 0: N */
} extras;

static ds_value *product(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b, const extras *e) {
  if (!x) return NULL;
  int64_t rows, k, ldx, ldy = e->width ? e->width : w->t.shape[0];
  if (!ds_tensor_as_rows(&x->t, &rows, &k, &ldx)) {
    x = ds_contiguous(ctx, x);
    if (!x) return NULL;
    ds_tensor_as_rows(&x->t, &rows, &k, &ldx);
  }
  int64_t shape[DS_MAX_RANK];
  for (int32_t i = 0; i < x->t.rank; i++) shape[i] = x->t.shape[i];
  shape[x->t.rank - 1] = ldy;
  ds_value *y = ds_value_new(ctx, x->t.dtype, x->t.rank, shape);
  ds_error err;
  if (!y) return NULL;
  if (ds_need(ctx, (ds_value *[]){x, w, b}, 3, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  ds_gemm g = {.size = sizeof g,
               .flags = DS_GEMM_TRANS_B,
               .m = rows,
               .n = w->t.shape[0],
               .k = k,
               .lda = ldx,
               .ldb = k,
               .ldc = ldy,
               .batch = 1,
               .dtype_a = x->t.dtype,
               .dtype_b = w->t.dtype,
               .dtype_c = y->t.dtype,
               .dtype_bias = x->t.dtype,
               .epilogue = (int32_t)e->epilogue,
               .alpha = 1,
               .a = x->t.data,
               .b = w->t.data,
               .bias = b && !e->without_bias ? b->t.data : NULL,
               .c = y->t.data};
  const void *packed = packed_weight(ctx, w, &g);
  if (packed) {
    g.b = packed;
    g.flags |= DS_GEMM_PACKED_B;
  }
  if (ds_backend_gemm(ctx->backend, &g, &err) != DS_OK) return ds_ctx_take_error(ctx, &err);
  return ds_record(ctx, linear_backward, (ds_value *[]){x, w, b}, 3, &y, 1, NULL, 0);
}

/* ---- tensor parallelism (parallel.h) */

static ds_value *undivided(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b, const extras *e) {
  if (!ds_parallel_check_linear(ctx, x, w)) return NULL;
  ds_value *y = product(ctx, x, w, b, e);
  if (y) y->part = x->part;
  return y;
}

/* The sum of the ranks' products; one of them has the bias. */
static ds_value *row_parallel(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b) {
  const extras e = {.without_bias = ds_group_rank(ctx->tensor.group) > 0};
  return ds_parallel_leave(ctx, product(ctx, x, w, b, &e));
}

/* Logits in a buffer as ds_vocab_loss wants it. */
static ds_value *by_vocabulary(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b,
                               const ds_param_split *split) {
  int64_t width = w->t.shape[0];
  const extras e = {.width = ds_vocab_padded(width)};
  ds_value *y = product(ctx, ds_parallel_enter(ctx, x), w, b, &e);
  if (!y || !ds_vocab_pad(ctx, y, width)) return NULL;
  y->part = DS_PART_VOCAB;
  y->vocab = split;
  return ds_slice_last(ctx, y, 0, width);
}

static ds_value *linear(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b, ds_epilogue epilogue) {
  const ds_param_split *split = ds_parallel_split(ctx, w);
  const extras e = {.epilogue = epilogue};
  if (!split) return undivided(ctx, x, w, b, &e);
  if (!ds_parallel_check_linear(ctx, x, w)) return NULL;
  if (split->split == DS_SPLIT_ROW) return row_parallel(ctx, x, w, b);
  if (split->split == DS_SPLIT_VOCAB) return by_vocabulary(ctx, x, w, b, split);
  ds_value *y = product(ctx, ds_parallel_enter(ctx, x), w, b, &e);
  if (y) y->part = DS_PART_COLUMNS;
  return y;
}

ds_value *ds_linear(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b) {
  if (!x || !w || !check_shapes(ctx, x, w, b)) return NULL;
  return linear(ctx, x, w, b, DS_EPILOGUE_NONE);
}

static bool epilogue_of(ds_activation kind, ds_epilogue *out) {
  switch (kind) {
    case DS_ACTIVATION_GELU_TANH: *out = DS_EPILOGUE_GELU_TANH; return true;
    case DS_ACTIVATION_GELU_ERF: *out = DS_EPILOGUE_GELU_ERF; return true;
    case DS_ACTIVATION_RELU: *out = DS_EPILOGUE_RELU; return true;
    case DS_ACTIVATION_SILU: *out = DS_EPILOGUE_SILU; return true;
    default: return false;
  }
}

/* An activation within the product would come before the ranks' sum, or see columns of nobody. */
static bool may_fuse(const ds_ctx *ctx, const ds_value *w) {
  const ds_param_split *split = ds_parallel_split(ctx, w);
  return !split || split->split == DS_SPLIT_COLUMN;
}

ds_value *ds_linear_activation(ds_ctx *ctx, ds_value *x, ds_value *w, ds_value *b,
                               ds_activation kind) {
  if (!x || !w || !check_shapes(ctx, x, w, b)) return NULL;
  ds_epilogue epilogue;
  /* The gradient needs the value before the activation, so training keeps the two apart. */
  if (!ds_will_record(ctx, (ds_value *[]){x, w, b}, 3) && may_fuse(ctx, w) &&
      epilogue_of(kind, &epilogue))
    return linear(ctx, x, w, b, epilogue);
  return ds_activate(ctx, linear(ctx, x, w, b, DS_EPILOGUE_NONE), kind);
}
