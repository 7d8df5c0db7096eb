/* work.c - the gemm, quant and ops tables: the reference's arithmetic, run late. */
#include "strict.h"

#include "backend/backend.h"
#include "backend/reference/reference.h"
#include "tensor/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_status out_of_memory(ds_error *err) {
  return strict_fail(err, DS_ERR_MEMORY, "strict: out of host memory");
}

static ds_status not_offered(const char *what, ds_error *err) {
  return strict_fail(err, DS_ERR_UNSUPPORTED, "strict: %s: switched off by \"tables\"", what);
}

/* A caller of another version, which is refused and is no rule broken. */
static ds_status too_small(const char *what, uint32_t size, ds_error *err) {
  return strict_fail(err, DS_ERR_INVALID, "strict: %s: a size of %u is too small", what, size);
}

/* ---- ops */

static int ops_supports(ds_device *d, const ds_op *op) {
  return d->options.ops && op->size >= sizeof *op && ds_reference_plugin()->ops->supports(NULL, op);
}

/* Always some, so that every op meets the rules of workspaces. */
static size_t ops_workspace(ds_device *d, const ds_op *op) {
  if (!ops_supports(d, op)) return 0;
  return ds_reference_plugin()->ops->workspace(NULL, op) + (size_t)op->id * 64;
}

static ds_status run_op(strict_task *t, ds_device *d, ds_error *err) {
  for (uint32_t i = 0; i < t->u.op.op.n_in + t->u.op.op.n_out; i++)
    t->u.op.tensors[i].data = strict_host_address(d, t->u.op.tensors[i].data);
  t->u.op.op.workspace = strict_host_address(d, t->u.op.op.workspace);
  return ds_reference_plugin()->ops->run(NULL, &t->u.op.op, err);
}

/* The description is the caller's only until run returns. */
static void keep_op(strict_task *t, const ds_op *op) {
  t->u.op.op = *op;
  for (uint32_t i = 0; i < op->n_in + op->n_out; i++) {
    const ds_tensor *x = i < op->n_in ? op->in[i] : op->out[i - op->n_in];
    t->u.op.list[i] = x ? &t->u.op.tensors[i] : NULL;
    if (x) t->u.op.tensors[i] = *x;
  }
  for (uint32_t i = 0; i < op->n_attr; i++) t->u.op.attr[i] = op->attr[i];
  t->u.op.op.in = t->u.op.list;
  t->u.op.op.out = t->u.op.list + op->n_in;
  t->u.op.op.attr = t->u.op.attr;
}

/* Outputs of which parts may stay as they are. */
static uint32_t keeps(const ds_op *op) {
  return op->id == DS_OP_APPEND_ROWS || op->id == DS_OP_ADAMW_SCHEDULED ? ~0u : 0;
}

static ds_status give_op(ds_stream *s, const ds_op *op, ds_error *err) {
  const ds_ops_table *reference = ds_reference_plugin()->ops;
  ds_device *d = s->device;
  if (op->size < sizeof *op) return too_small("ds_op", op->size, err);
  if (!reference->supports(NULL, op)) return reference->run(NULL, op, err); /* says why */
  strict_task *t = strict_task_new(ds_op_name(op->id), run_op);
  if (!t) return out_of_memory(err);
  keep_op(t, op);
  t->is_op = true;
  strict_name_tensors(t, op->in, op->n_in, op->out, op->n_out, keeps(op) | op->accumulate);
  size_t needed = ops_workspace(d, op);
  if (needed > 0 && (!op->workspace || op->workspace_size < needed))
    t->broken = "has too small a workspace";
  strict_name_range(t, op->workspace, op->workspace_size, true, true);
  return strict_submit(s, t, err);
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  ds_status status = strict_enter(s, ds_op_name(op->id), err);
  if (status != DS_OK) return status;
  status = s->device->options.ops ? give_op(s, op, err) : not_offered(ds_op_name(op->id), err);
  strict_leave(s);
  return status;
}

/* ---- gemm. A packed B is its stored rows, one after the other. */

static ds_gemm plain(const ds_gemm *g) {
  ds_gemm p = {.size = 0};
  memcpy(&p, g, g->size < sizeof p ? g->size : sizeof p);
  p.flags &= ~(uint32_t)DS_GEMM_PACKED_B;
  if (g->flags & DS_GEMM_PACKED_B) p.ldb = g->flags & DS_GEMM_TRANS_B ? g->k : g->n;
  return p;
}

static int gemm_supports(ds_device *d, const ds_gemm *g) {
  if (!d->options.gemm || !DS_HAS(g, c)) return 0;
  ds_gemm p = plain(g);
  return ds_reference_plugin()->gemm->supports(NULL, &p);
}

static ds_tensor matrix(const ds_gemm *g, const void *data, int32_t dtype, int64_t rows,
                        int64_t cols, int64_t ld, int64_t stride) {
  return (ds_tensor){.data = (void *)(uintptr_t)data,
                     .dtype = dtype,
                     .rank = 3,
                     .shape = {g->batch, rows, cols},
                     .stride = {stride, ld, 1}};
}

static ds_tensor matrix_b(const ds_gemm *g) {
  bool tb = (g->flags & DS_GEMM_TRANS_B) != 0;
  return matrix(g, g->b, g->dtype_b, tb ? g->n : g->k, tb ? g->k : g->n, g->ldb, g->stride_b);
}

static ds_status run_gemm(strict_task *t, ds_device *d, ds_error *err) {
  ds_gemm *g = &t->u.gemm;
  g->a = strict_host_address(d, g->a);
  g->b = strict_host_address(d, g->b);
  g->c = strict_host_address(d, g->c);
  g->bias = strict_host_address(d, g->bias);
  g->scale_a = strict_host_address(d, g->scale_a);
  g->scale_b = strict_host_address(d, g->scale_b);
  return ds_reference_plugin()->gemm->run(NULL, g, err);
}

static ds_status give_gemm(ds_stream *s, const ds_gemm *g, ds_error *err) {
  if (!DS_HAS(g, c)) return too_small("ds_gemm", g->size, err);
  ds_gemm p = plain(g);
  const ds_gemm_table *reference = ds_reference_plugin()->gemm;
  if (!reference->supports(NULL, &p)) return reference->run(NULL, &p, err);
  strict_task *t = strict_task_new("gemm", run_gemm);
  if (!t) return out_of_memory(err);
  t->u.gemm = p;
  if (p.m > 0 && p.n > 0 && p.batch > 0) {
    bool ta = (p.flags & DS_GEMM_TRANS_A) != 0;
    const ds_tensor a =
        matrix(&p, p.a, p.dtype_a, ta ? p.k : p.m, ta ? p.m : p.k, p.lda, p.stride_a);
    const ds_tensor b = matrix_b(&p), c = matrix(&p, p.c, p.dtype_c, p.m, p.n, p.ldc, p.stride_c);
    const ds_tensor bias = ds_tensor_make((void *)(uintptr_t)p.bias, p.dtype_bias, 1, &p.n);
    const ds_tensor *in[] = {&a, &b, p.bias ? &bias : NULL}, *out[] = {&c};
    strict_name_tensors(t, in, 3, out, 1, p.beta != 0);
    if (p.flags & DS_GEMM_SCALES) {
      strict_name_range(t, p.scale_a, sizeof *p.scale_a, false, false);
      strict_name_range(t, p.scale_b, sizeof *p.scale_b, false, false);
    }
  }
  return strict_submit(s, t, err);
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  ds_status status = strict_enter(s, "gemm", err);
  if (status != DS_OK) return status;
  status = s->device->options.gemm ? give_gemm(s, g, err) : not_offered("gemm", err);
  strict_leave(s);
  return status;
}

static size_t gemm_pack_size(ds_device *d, const ds_gemm *g) {
  if (!gemm_supports(d, g) || g->batch != 1) return 0;
  return (size_t)(g->n * g->k) * ds_dtype_size(g->dtype_b);
}

static ds_status run_pack(strict_task *t, ds_device *d, ds_error *err) {
  const ds_gemm *g = &t->u.gemm;
  (void)err;
  bool tb = (g->flags & DS_GEMM_TRANS_B) != 0;
  size_t element = ds_dtype_size(g->dtype_b), row = (size_t)(tb ? g->k : g->n) * element;
  char *to = strict_host_address(d, g->c);
  const char *from = strict_host_address(d, g->b);
  for (int64_t i = 0; i < (tb ? g->n : g->k); i++)
    memcpy(to + (size_t)i * row, from + (size_t)(i * g->ldb) * element, row);
  return DS_OK;
}

static ds_status gemm_pack_b(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err) {
  ds_status status = strict_enter(s, "pack_b", err);
  if (status != DS_OK) return status;
  strict_task *t = strict_task_new("pack_b", run_pack);
  if (t) {
    const ds_tensor b = matrix_b(g), *in[] = {&b};
    t->u.gemm = plain(g);
    t->u.gemm.ldb = g->ldb;
    t->u.gemm.c = packed;
    strict_name_tensors(t, in, 1, NULL, 0, 0);
    strict_name_range(t, packed, gemm_pack_size(s->device, g), true, true);
    status = strict_submit(s, t, err);
  } else {
    status = out_of_memory(err);
  }
  strict_leave(s);
  return status;
}

/* ---- quant */

static int quant_supports(ds_device *d, const ds_quant *q, const ds_quant_gemm *g) {
  return d->options.gemm && q->size >= sizeof *q && (!g || g->size >= sizeof *g) &&
         ds_reference_plugin()->quant->supports(NULL, q, g);
}

static void to_host(strict_task *t, ds_device *d) {
  ds_quant *q = &t->u.quant.q;
  q->values = strict_host_address(d, q->values);
  q->scales = strict_host_address(d, q->scales);
  q->zeros = strict_host_address(d, q->zeros);
  t->u.quant.x = strict_host_address(d, t->u.quant.x);
}

static ds_status run_quantize(strict_task *t, ds_device *d, ds_error *err) {
  to_host(t, d);
  return ds_reference_plugin()->quant->quantize(NULL, &t->u.quant.q, t->u.quant.x, err);
}

static ds_status run_dequantize(strict_task *t, ds_device *d, ds_error *err) {
  to_host(t, d);
  return ds_reference_plugin()->quant->dequantize(NULL, &t->u.quant.q, t->u.quant.x, err);
}

static ds_status run_quant_gemm(strict_task *t, ds_device *d, ds_error *err) {
  ds_quant_gemm *g = &t->u.quant.g;
  to_host(t, d);
  g->a = strict_host_address(d, g->a);
  g->bias = strict_host_address(d, g->bias);
  g->c = strict_host_address(d, g->c);
  return ds_reference_plugin()->quant->gemm(NULL, &t->u.quant.q, g, err);
}

/* q's three arrays. */
static void name_quant(strict_task *t, const ds_quant *q, bool write) {
  size_t n = (size_t)(q->rows * q->cols), groups = 1;
  if (!(q->flags & DS_QUANT_PER_TENSOR) && q->group > 0)
    groups = (size_t)(q->rows * (q->cols / q->group));
  strict_name_range(t, q->values, q->qtype == DS_I4 ? n / 2 : n, write, write);
  strict_name_range(t, q->scales, groups * sizeof(float), write, write);
  strict_name_range(t, q->zeros, groups, write, write);
}

static void name_quant_gemm(strict_task *t, const ds_quant *q, const ds_quant_gemm *g) {
  size_t element = ds_dtype_size(q->dtype);
  int64_t rows = g->m - 1;
  name_quant(t, q, false);
  if (g->m < 1) return;
  strict_name_range(t, g->a, (size_t)(rows * g->lda + q->cols) * element, false, false);
  strict_name_range(t, g->bias, (size_t)q->rows * element, false, false);
  strict_name_range(t, g->c, (size_t)(rows * g->ldc + q->rows) * element, true, g->ldc == q->rows);
}

/* g or x; the first call that the reference would refuse is handed to it, to say why. */
static ds_status give_quant(ds_stream *s, const char *name, const ds_quant *q,
                            const ds_quant_gemm *g, const void *x,
                            ds_status (*work)(strict_task *, ds_device *, ds_error *),
                            ds_error *err) {
  if (q->size < sizeof *q) return too_small("ds_quant", q->size, err);
  if (g && g->size < sizeof *g) return too_small("ds_quant_gemm", g->size, err);
  if (!quant_supports(s->device, q, g))
    return strict_fail(err, DS_ERR_UNSUPPORTED, "strict: %s: not in the reference", name);
  strict_task *t = strict_task_new(name, work);
  if (!t) return out_of_memory(err);
  t->u.quant.q = *q;
  if (g) t->u.quant.g = *g;
  t->u.quant.x = (void *)(uintptr_t)x;
  bool writes_x = work == run_dequantize;
  if (g)
    name_quant_gemm(t, q, g);
  else
    name_quant(t, q, !writes_x);
  strict_name_range(t, x, (size_t)(q->rows * q->cols) * ds_dtype_size(q->dtype), writes_x,
                    writes_x);
  return strict_submit(s, t, err);
}

static ds_status quantize(ds_stream *s, const ds_quant *q, const void *x, ds_error *err) {
  ds_status status = strict_enter(s, "quantize", err);
  if (status != DS_OK) return status;
  status = give_quant(s, "quantize", q, NULL, x, run_quantize, err);
  strict_leave(s);
  return status;
}

static ds_status dequantize(ds_stream *s, const ds_quant *q, void *x, ds_error *err) {
  ds_status status = strict_enter(s, "dequantize", err);
  if (status != DS_OK) return status;
  status = give_quant(s, "dequantize", q, NULL, x, run_dequantize, err);
  strict_leave(s);
  return status;
}

static ds_status quant_gemm(ds_stream *s, const ds_quant *q, const ds_quant_gemm *g,
                            ds_error *err) {
  ds_status status = strict_enter(s, "quant gemm", err);
  if (status != DS_OK) return status;
  status = give_quant(s, "quant gemm", q, g, NULL, run_quant_gemm, err);
  strict_leave(s);
  return status;
}

#define TABLE(type)                                                                                \
  { sizeof(type), DS_ABI_MAJOR, DS_ABI_MINOR }

const ds_ops_table strict_ops = {TABLE(ds_ops_table), ops_supports, ops_workspace, ops_run};
const ds_gemm_table strict_gemm = {TABLE(ds_gemm_table), gemm_supports, gemm_run, gemm_pack_size,
                                   gemm_pack_b};
const ds_quant_table strict_quant = {TABLE(ds_quant_table), quant_supports, quantize, dequantize,
                                     quant_gemm};
