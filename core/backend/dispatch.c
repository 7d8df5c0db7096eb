/* dispatch.c - an op or a product goes to the plugin, and to the reference when the plugin hasn't
 * it. */
#include <stdio.h>

#include "backend/describe.h"
#include "backend/fallback.h"
#include "backend/stage.h"

enum { TENSORS_MAX = DS_STAGE_MAX };

static uint32_t op_kind(const ds_op *op) {
  return op->id < DS_KIND_OPS_END ? op->id : 0;
}

static ds_status take_workspace(ds_backend *b, size_t bytes, ds_error *err) {
  ds_status status = ds_backend_alloc(b, bytes, &b->workspace, err);
  b->workspace_size = status == DS_OK ? bytes : 0;
  return status;
}

static ds_status grow_workspace(ds_backend *b, size_t bytes, ds_error *err) {
  const size_t before = b->workspace_size;
  if (b->recording)
    return ds_fail(err, DS_ERR_STATE, "%s: more workspace is needed while work is recorded",
                   b->label);
  ds_backend_free(b, b->workspace, before); /* first, so that there are never two */
  ds_status status = take_workspace(b, bytes, err);
  if (status == DS_OK || before == 0) return status;
  /* Work that ran with it needs it again, and can't ask while it is recorded. */
  ds_status ignored = take_workspace(b, before, NULL);
  (void)ignored;
  return status;
}

static ds_status run_plugin_op(ds_backend *b, const ds_op *op, ds_error *e) {
  const ds_ops_table *ops = b->plugin->ops;
  ds_op call = *op;
  if (ops->workspace) {
    size_t bytes = ops->workspace(b->device, op);
    if (bytes > b->workspace_size) DS_TRY(grow_workspace(b, bytes, e));
    call.workspace = b->workspace;
    call.workspace_size = b->workspace_size;
  }
  return ops->run(b->stream, &call, e);
}

static ds_status add_tensors(const ds_backend *b, ds_stage *stage, const ds_tensor *const *list,
                             uint32_t count, bool written, const char *name, ds_error *err) {
  for (uint32_t i = 0; i < count; i++) {
    char what[80];
    if (!list[i]) continue;
    snprintf(what, sizeof what, "%s: tensor %s %u", name, written ? "out" : "in", i);
    DS_TRY(ds_stage_add_tensor(stage, b, list[i], written, what, err));
  }
  return DS_OK;
}

/* The reference on host memory: op's tensors with their addresses translated by the stage. */
static ds_status run_translated(ds_backend *b, const ds_op *op, const ds_stage *stage,
                                size_t scratch, ds_error *e) {
  ds_tensor tensors[TENSORS_MAX];
  const ds_tensor *list[TENSORS_MAX];
  for (uint32_t i = 0; i < op->n_in + op->n_out; i++) {
    const ds_tensor *t = i < op->n_in ? op->in[i] : op->out[i - op->n_in];
    list[i] = NULL;
    if (!t) continue;
    tensors[i] = *t;
    tensors[i].data = ds_stage_host(stage, b, t->data);
    list[i] = &tensors[i];
  }
  ds_op call = *op;
  call.in = list;
  call.out = list + op->n_in;
  call.workspace = scratch ? b->staging + stage->bytes : NULL;
  call.workspace_size = scratch;
  return b->reference->ops->run(b->reference_stream, &call, e);
}

static ds_status fall_back_op(ds_backend *b, const ds_op *op, const char *why, ds_error *err) {
  const ds_ops_table *ops = b->reference ? b->reference->ops : NULL;
  const char *name = ds_op_name(op->id);
  char what[400];
  ds_stage stage = {0};
  DS_BLANK_ERROR(e);
  if (ops && (op->n_in > TENSORS_MAX || op->n_out > TENSORS_MAX - op->n_in ||
              !ops->supports(b->reference_device, op))) {
    /* It says what is wrong before it touches any data. */
    ds_status status = ops->run(b->reference_stream, op, &e);
    return ds_device_wrap(b, name, &e, status, err);
  }
  ds_describe_op(op, what, sizeof what);
  DS_TRY(ds_fallback_allow(b, op_kind(op), what, why, err));
  size_t scratch = ops->workspace ? ops->workspace(b->reference_device, op) : 0;
  DS_TRY(add_tensors(b, &stage, op->in, op->n_in, false, name, err));
  DS_TRY(add_tensors(b, &stage, op->out, op->n_out, true, name, err));
  DS_TRY(ds_stage_in(&stage, b, scratch, err));
  ds_status status = run_translated(b, op, &stage, scratch, &e);
  if (status != DS_OK) return ds_device_wrap(b, name, &e, status, err);
  return ds_stage_out(&stage, b, err);
}

/* After the plugin did not run it; `said` is what it said. */
static ds_status make_good_op(ds_backend *b, const ds_op *op, ds_status status,
                              const ds_error *said, ds_error *err) {
  if (status != DS_ERR_UNSUPPORTED) {
    return ds_device_wrap(b, ds_op_name(op->id), said, status, err);
  }
  return fall_back_op(
      b, op, b->plugin->ops ? ds_fallback_reason(said) : "the plugin has no ops table", err);
}

bool ds_backend_offers(const ds_backend *b, const ds_op *op) {
  return b->plugin->ops && b->plugin->ops->supports(b->device, op) != 0;
}

ds_status ds_backend_op(ds_backend *b, const ds_op *op, ds_error *err) {
  ds_kind_counter *k = &b->kinds[op_kind(op)];
  DS_BLANK_ERROR(e); /* not the caller's: an UNSUPPORTED that is made good leaves no trace */
  int64_t begin = ds_backend_ticks();
  ds_status status = b->plugin->ops ? run_plugin_op(b, op, &e) : DS_ERR_UNSUPPORTED;
  if (status != DS_OK) status = make_good_op(b, op, status, &e, err);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return status;
}

/* One of a product's matrices, `rows` stored rows of `cols` elements. */
static ds_status add_matrix(const ds_backend *b, ds_stage *stage, const ds_gemm *g, char name,
                            const void *data, int32_t dtype, int64_t rows, int64_t cols, int64_t ld,
                            int64_t stride, ds_error *err) {
  ds_tensor t = {.data = (void *)(uintptr_t)data,
                 .dtype = dtype,
                 .rank = 3,
                 .shape = {g->batch, rows, cols},
                 .stride = {stride, ld, 1}};
  const char what[] = {'g', 'e', 'm', 'm', ':', ' ', name, '\0'};
  return ds_stage_add_tensor(stage, b, &t, name == 'C', what, err);
}

/* NULL where there is none. */
static const float *scale_a(const ds_gemm *g) {
  return g->flags & DS_GEMM_SCALES ? g->scale_a : NULL;
}

static const float *scale_b(const ds_gemm *g) {
  return g->flags & DS_GEMM_SCALES ? g->scale_b : NULL;
}

static ds_status add_scale(const ds_backend *b, ds_stage *stage, const float *scale,
                           const char *what, ds_error *err) {
  const ds_tensor t = {.data = (void *)(uintptr_t)scale, .dtype = DS_F32};
  return scale ? ds_stage_add_tensor(stage, b, &t, false, what, err) : DS_OK;
}

static ds_status stage_gemm(const ds_backend *b, ds_stage *stage, const ds_gemm *g, ds_error *err) {
  bool ta = (g->flags & DS_GEMM_TRANS_A) != 0, tb = (g->flags & DS_GEMM_TRANS_B) != 0;
  if (g->m == 0 || g->n == 0 || g->batch == 0) return DS_OK; /* nothing is read, a may be NULL */
  DS_TRY(add_matrix(b, stage, g, 'A', g->a, g->dtype_a, ta ? g->k : g->m, ta ? g->m : g->k, g->lda,
                    g->stride_a, err));
  DS_TRY(add_matrix(b, stage, g, 'B', g->b, g->dtype_b, tb ? g->n : g->k, tb ? g->k : g->n, g->ldb,
                    g->stride_b, err));
  if (g->bias) {
    ds_tensor bias = {.data = (void *)(uintptr_t)g->bias,
                      .dtype = g->dtype_bias,
                      .rank = 1,
                      .shape = {g->n},
                      .stride = {1}};
    DS_TRY(ds_stage_add_tensor(stage, b, &bias, false, "gemm: bias", err));
  }
  DS_TRY(add_scale(b, stage, scale_a(g), "gemm: scale_a", err));
  DS_TRY(add_scale(b, stage, scale_b(g), "gemm: scale_b", err));
  return add_matrix(b, stage, g, 'C', g->c, g->dtype_c, g->m, g->n, g->ldc, g->stride_c, err);
}

static ds_status fall_back_gemm(ds_backend *b, const ds_gemm *g, const char *why, ds_error *err) {
  const ds_gemm_table *gemm = b->reference ? b->reference->gemm : NULL;
  char what[200];
  ds_stage stage = {0};
  DS_BLANK_ERROR(e);
  ds_describe_gemm(g, what, sizeof what);
  if (g->flags & DS_GEMM_PACKED_B) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: gemm (%s): %s; a packed B can't be handed to the reference, give the plain "
                   "one",
                   b->label, what, why);
  }
  if (gemm && !gemm->supports(b->reference_device, g)) {
    ds_status status = gemm->run(b->reference_stream, g, &e); /* says what is wrong, no more */
    return ds_device_wrap(b, "gemm", &e, status, err);
  }
  DS_TRY(ds_fallback_allow(b, DS_KIND_GEMM, what, why, err));
  DS_TRY(stage_gemm(b, &stage, g, err));
  DS_TRY(ds_stage_in(&stage, b, 0, err));
  ds_gemm call = *g;
  call.a = ds_stage_host(&stage, b, g->a);
  call.b = ds_stage_host(&stage, b, g->b);
  call.bias = ds_stage_host(&stage, b, g->bias);
  call.c = ds_stage_host(&stage, b, g->c);
  call.scale_a = ds_stage_host(&stage, b, scale_a(g));
  call.scale_b = ds_stage_host(&stage, b, scale_b(g));
  ds_status status = gemm->run(b->reference_stream, &call, &e);
  if (status != DS_OK) return ds_device_wrap(b, "gemm", &e, status, err);
  return ds_stage_out(&stage, b, err);
}

static ds_status make_good_gemm(ds_backend *b, const ds_gemm *g, ds_status status,
                                const ds_error *said, ds_error *err) {
  if (status != DS_ERR_UNSUPPORTED) return ds_device_wrap(b, "gemm", said, status, err);
  return fall_back_gemm(
      b, g, b->plugin->gemm ? ds_fallback_reason(said) : "the plugin has no gemm table", err);
}

ds_status ds_backend_gemm(ds_backend *b, const ds_gemm *g, ds_error *err) {
  ds_kind_counter *k = &b->kinds[DS_KIND_GEMM];
  DS_BLANK_ERROR(e);
  int64_t begin = ds_backend_ticks();
  ds_status status = b->plugin->gemm ? b->plugin->gemm->run(b->stream, g, &e) : DS_ERR_UNSUPPORTED;
  if (status != DS_OK) status = make_good_gemm(b, g, status, &e, err);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return status;
}

size_t ds_backend_pack_size(ds_backend *b, const ds_gemm *g) {
  const ds_gemm_table *t = b->plugin->gemm;
  /* A form that would fall back must stay unpacked. */
  if (!t || !t->pack_size || !t->supports(b->device, g)) return 0;
  return t->pack_size(b->device, g);
}

ds_status ds_backend_pack(ds_backend *b, const ds_gemm *g, void *packed, ds_error *err) {
  const ds_gemm_table *t = b->plugin->gemm;
  ds_kind_counter *k = &b->kinds[DS_KIND_PACK];
  const char *name = ds_kind_name(DS_KIND_PACK);
  DS_BLANK_ERROR(e);
  if (!t || !t->pack_b) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: %s: the plugin packs nothing; ask ds_backend_pack_size first", b->label,
                   name);
  }
  int64_t begin = ds_backend_ticks();
  ds_status status = t->pack_b(b->stream, g, packed, &e);
  k->calls++;
  k->ticks += ds_backend_ticks() - begin;
  return status == DS_OK ? DS_OK : ds_device_wrap(b, name, &e, status, err);
}
