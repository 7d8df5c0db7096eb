/* dispatch.c - an op or a product goes to the plugin, and to the reference when the plugin hasn't
 * it. */
#include <stdio.h>

#include "backend/backend_impl.h"
#include "backend/describe.h"
#include "backend/stage.h"

enum { TENSORS_MAX = DS_STAGE_MAX };

static ds_status run_plugin_gemm(ds_backend *b, const ds_gemm *g, ds_error *e) {
  int64_t begin = ds_backend_ticks();
  ds_status status = b->plugin->gemm->run(b->stream, g, e);
  b->ticks += ds_backend_ticks() - begin;
  return status;
}

static ds_status grow_workspace(ds_backend *b, size_t bytes, ds_error *err) {
  ds_backend_free(b, b->workspace, b->workspace_size);
  b->workspace = NULL;
  b->workspace_size = 0;
  DS_TRY(ds_backend_alloc(b, bytes, &b->workspace, err));
  b->workspace_size = bytes;
  return DS_OK;
}

static ds_status run_plugin_op(ds_backend *b, const ds_op *op, ds_error *e) {
  const ds_ops_table *ops = b->plugin->ops;
  ds_op call = *op;
  int64_t begin = ds_backend_ticks();
  if (ops->workspace) {
    size_t bytes = ops->workspace(b->device, op);
    if (bytes > b->workspace_size) DS_TRY(grow_workspace(b, bytes, e));
    call.workspace = b->workspace;
    call.workspace_size = b->workspace_size;
  }
  ds_status status = ops->run(b->stream, &call, e);
  b->ticks += ds_backend_ticks() - begin;
  return status;
}

/* Whether the reference may stand in: by policy, counted, warned of once an op. `why` holds what
 * the plugin said. */
static ds_status allow_fallback(ds_backend *b, uint32_t id, const char *name, const char *what,
                                const ds_error *why, ds_error *err) {
  const char *said = why->message[0] ? why->message : "the plugin does not offer it";
  if (!b->reference || b->fallback == DS_FALLBACK_ERROR) {
    return ds_fail(err, DS_ERR_UNSUPPORTED, "%s: %s (%s): %s%s", b->label, name, what, said,
                   b->reference ? "; set \"fallback\": \"warn\" in the config's \"backend\" to run "
                                  "it on the reference, or choose a backend that has it"
                                : "");
  }
  b->counters.fallback_ops++;
  if (b->fallback == DS_FALLBACK_WARN && id < DS_BACKEND_OPS_MAX && !b->warned[id]) {
    b->warned[id] = 1;
    ds_log(&b->logger, DS_LOG_WARN,
           "%s: %s (%s) runs on the reference, which is slow: %s; \"fallback\": \"allow\" in the "
           "config's \"backend\" silences this",
           b->label, name, what, said);
  }
  return DS_OK;
}

static ds_status add_tensors(const ds_backend *b, ds_stage *stage, const ds_tensor *const *list,
                             uint32_t count, bool written, const char *name, ds_error *err) {
  for (uint32_t i = 0; i < count; i++) {
    uintptr_t lo, hi;
    if (!list[i]) continue;
    bool good = ds_describe_range(list[i], &lo, &hi) && (lo == hi || list[i]->data);
    if (!good || !ds_stage_add(stage, lo, hi, written)) {
      return ds_fail(err, DS_ERR_INVALID,
                     "%s: %s: tensor %s %u has no data or an impossible extent", b->label, name,
                     written ? "out" : "in", i);
    }
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
  int64_t begin = ds_backend_ticks();
  ds_status status = b->reference->ops->run(b->reference_stream, &call, e);
  b->ticks += ds_backend_ticks() - begin;
  return status;
}

static ds_status fall_back_op(ds_backend *b, const ds_op *op, const ds_error *why, ds_error *err) {
  const ds_ops_table *ops = b->reference ? b->reference->ops : NULL;
  const char *name = ds_op_name(op->id);
  char what[400];
  ds_stage stage = {0};
  ds_error e;
  ds_describe_op(op, what, sizeof what);
  DS_TRY(allow_fallback(b, op->id, name, what, why, err));
  if (op->n_in > TENSORS_MAX || op->n_out > TENSORS_MAX - op->n_in ||
      !ops->supports(b->reference_device, op)) {
    /* It says what is wrong before it touches any data. */
    ds_status status = ops->run(b->reference_stream, op, &e);
    return ds_device_wrap(b, name, &e, status, err);
  }
  size_t scratch = ops->workspace ? ops->workspace(b->reference_device, op) : 0;
  if (!ds_backend_host_accessible(b)) {
    DS_TRY(add_tensors(b, &stage, op->in, op->n_in, false, name, err));
    DS_TRY(add_tensors(b, &stage, op->out, op->n_out, true, name, err));
  }
  DS_TRY(ds_backend_sync(b, err));
  DS_TRY(ds_stage_in(&stage, b, scratch, err));
  ds_status status = run_translated(b, op, &stage, scratch, &e);
  if (status != DS_OK) return ds_device_wrap(b, name, &e, status, err);
  return ds_stage_out(&stage, b, err);
}

ds_status ds_backend_op(ds_backend *b, const ds_op *op, ds_error *err) {
  ds_error e; /* not the caller's: an UNSUPPORTED that the reference makes good leaves no trace */
  e.message[0] = '\0';
  b->counters.ops++;
  if (b->plugin->ops) {
    ds_status status = run_plugin_op(b, op, &e);
    if (status == DS_OK) return DS_OK;
    if (status != DS_ERR_UNSUPPORTED) return ds_device_wrap(b, ds_op_name(op->id), &e, status, err);
  }
  return fall_back_op(b, op, &e, err);
}

/* One of a product's matrices, `rows` stored rows of `cols` elements. */
static ds_status add_matrix(const ds_backend *b, ds_stage *stage, const ds_gemm *g,
                            const void *data, int32_t dtype, int64_t rows, int64_t cols, int64_t ld,
                            int64_t stride, bool written, ds_error *err) {
  ds_tensor t = {.data = (void *)(uintptr_t)data,
                 .dtype = dtype,
                 .rank = 3,
                 .shape = {g->batch, rows, cols},
                 .stride = {stride, ld, 1}};
  const ds_tensor *list[] = {&t};
  return add_tensors(b, stage, list, 1, written, "gemm", err);
}

static ds_status stage_gemm(const ds_backend *b, ds_stage *stage, const ds_gemm *g, ds_error *err) {
  bool ta = (g->flags & DS_GEMM_TRANS_A) != 0, tb = (g->flags & DS_GEMM_TRANS_B) != 0;
  if (g->m == 0 || g->n == 0 || g->batch == 0) return DS_OK; /* nothing is read, a may be NULL */
  DS_TRY(add_matrix(b, stage, g, g->a, g->dtype_a, ta ? g->k : g->m, ta ? g->m : g->k, g->lda,
                    g->stride_a, false, err));
  DS_TRY(add_matrix(b, stage, g, g->b, g->dtype_b, tb ? g->n : g->k, tb ? g->k : g->n, g->ldb,
                    g->stride_b, false, err));
  if (g->bias) {
    DS_TRY(add_matrix(b, stage, g, g->bias, g->dtype_bias, 1, g->n, 0, 0, false, err));
  }
  return add_matrix(b, stage, g, g->c, g->dtype_c, g->m, g->n, g->ldc, g->stride_c, true, err);
}

static ds_status fall_back_gemm(ds_backend *b, const ds_gemm *g, const ds_error *why,
                                ds_error *err) {
  const ds_gemm_table *gemm = b->reference ? b->reference->gemm : NULL;
  char what[200];
  ds_stage stage = {0};
  ds_error e;
  ds_describe_gemm(g, what, sizeof what);
  if (g->flags & DS_GEMM_PACKED_B) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: gemm (%s): %s; a packed B can't be handed to the reference, give the plain "
                   "one",
                   b->label, what, why->message[0] ? why->message : "the plugin does not offer it");
  }
  DS_TRY(allow_fallback(b, DS_OP_NONE, "gemm", what, why, err));
  ds_gemm call = *g;
  if (!ds_backend_host_accessible(b) && gemm->supports(b->reference_device, g)) {
    DS_TRY(stage_gemm(b, &stage, g, err));
  }
  DS_TRY(ds_backend_sync(b, err));
  DS_TRY(ds_stage_in(&stage, b, 0, err));
  call.a = ds_stage_host(&stage, b, g->a);
  call.b = ds_stage_host(&stage, b, g->b);
  call.bias = ds_stage_host(&stage, b, g->bias);
  call.c = ds_stage_host(&stage, b, g->c);
  int64_t begin = ds_backend_ticks();
  ds_status status = gemm->run(b->reference_stream, &call, &e);
  b->ticks += ds_backend_ticks() - begin;
  if (status != DS_OK) return ds_device_wrap(b, "gemm", &e, status, err);
  return ds_stage_out(&stage, b, err);
}

ds_status ds_backend_gemm(ds_backend *b, const ds_gemm *g, ds_error *err) {
  ds_error e;
  e.message[0] = '\0';
  b->counters.gemms++;
  if (b->plugin->gemm) {
    ds_status status = run_plugin_gemm(b, g, &e);
    if (status == DS_OK) return DS_OK;
    if (status != DS_ERR_UNSUPPORTED) return ds_device_wrap(b, "gemm", &e, status, err);
  }
  return fall_back_gemm(b, g, &e, err);
}

size_t ds_backend_pack_size(ds_backend *b, const ds_gemm *g) {
  const ds_gemm_table *t = b->plugin->gemm;
  /* A form that would fall back must stay unpacked. */
  if (!t || !t->pack_size || !t->supports(b->device, g)) return 0;
  return t->pack_size(b->device, g);
}

ds_status ds_backend_pack(ds_backend *b, const ds_gemm *g, void *packed, ds_error *err) {
  const ds_gemm_table *t = b->plugin->gemm;
  ds_error e;
  e.message[0] = '\0';
  if (!t || !t->pack_b) {
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: pack: the plugin packs nothing; ask ds_backend_pack_size first", b->label);
  }
  int64_t begin = ds_backend_ticks();
  ds_status status = t->pack_b(b->stream, g, packed, &e);
  b->ticks += ds_backend_ticks() - begin;
  return status == DS_OK ? DS_OK : ds_device_wrap(b, "pack", &e, status, err);
}
