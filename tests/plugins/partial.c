/* partial.c - an older plugin with smaller tables, which does little: add on its own, scale with a
 * failure, and every product refused. */
#define DEVICES          1
#define NO_DEVICE_REASON NULL
#include "device.h"

DS_PLUGIN_NOTE("partial", "0.0.1", 140, "");

static int ops_supports(ds_device *d, const ds_op *op) {
  (void)d;
  return op->id == DS_OP_ADD;
}

static size_t ops_workspace(ds_device *d, const ds_op *op) {
  (void)d;
  return op->id == DS_OP_ADD ? (size_t)op->in[0]->shape[0] * sizeof(float) : 0;
}

/* By way of the workspace, to see that it is there. */
static ds_status run_add(const ds_op *op, ds_error *err) {
  size_t n = (size_t)op->in[0]->shape[0];
  const float *a = host_address(op->in[0]->data), *b = host_address(op->in[1]->data);
  float *y = host_address(op->out[0]->data);
  if (!op->workspace || op->workspace_size < n * sizeof(float)) {
    return fail(err, DS_ERR_INTERNAL, "add: no workspace");
  }
  float *sum = host_address(op->workspace);
  for (size_t i = 0; i < n; i++) sum[i] = a[i] + b[i];
  memcpy(y, sum, n * sizeof(float));
  return DS_OK;
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  (void)s;
  if (op->id == DS_OP_ADD) return run_add(op, err);
  if (op->id == DS_OP_SCALE) return fail(err, DS_ERR_DEVICE, "partial: scale: the device fell off");
  return fail(err, DS_ERR_UNSUPPORTED, "partial knows only add");
}

static int gemm_supports(ds_device *d, const ds_gemm *g) {
  (void)d;
  (void)g;
  return 0;
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  (void)s;
  (void)g;
  return fail(err, DS_ERR_UNSUPPORTED, "partial multiplies nothing");
}

static size_t gemm_pack_size(ds_device *d, const ds_gemm *g) {
  (void)d;
  (void)g;
  return 64;
}

static ds_status gemm_pack_b(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err) {
  (void)s;
  (void)g;
  (void)packed;
  return fail(err, DS_ERR_INTERNAL, "pack_b for a form that is not supported");
}

/* Sizes of a time when the last fields were not there; what stands beyond them is none of ours. */
static const ds_device_table device =
    TEST_DEVICE_TABLE(offsetof(ds_device_table, event_create), device_copy);
static const ds_gemm_table gemm = {{sizeof(ds_gemm_table), DS_ABI_MAJOR, DS_ABI_MINOR},
                                   gemm_supports,
                                   gemm_run,
                                   gemm_pack_size,
                                   gemm_pack_b};
static const ds_ops_table ops = {
    {sizeof(ds_ops_table), DS_ABI_MAJOR, DS_ABI_MINOR}, ops_supports, ops_workspace, ops_run};

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin = {
      .base = {offsetof(ds_plugin, graph), DS_ABI_MAJOR, DS_ABI_MINOR},
      .name = "partial",
      .version = "0.0.1",
      .description = "an older plugin that does little",
      .device = &device,
      .gemm = &gemm,
      .ops = &ops,
      .graph = (const ds_graph_table *)(uintptr_t)1, /* never looked at */
  };
  (void)host;
  return speaks(host_abi, &plugin.base, err) ? &plugin : NULL;
}
