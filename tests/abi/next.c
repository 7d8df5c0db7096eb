/* next.c - full.c as a plugin of the next version (next_version.py derives its header).
 *
 * Every table ends with a function that today's core can't know: it is POISON, an address where
 * nothing is. Every descriptor may end with a field that today's core can't fill: it is looked at
 * where DS_HAS says so, which must be exactly when the host speaks the next version, and must then
 * hold what that core puts there.
 */
#include "ds_abi.h"

ds_plugin_query_fn full_query;
#define ds_plugin_query full_query
#include "full.c"
#undef ds_plugin_query

#define POISON ((uintptr_t)0xdead000000000ba5)

static uint16_t agreed; /* the minor, since the query */

/* Whether an appended field is there just when it should be, and holds what it should. */
static int good(int there, uintptr_t value) {
  return agreed < DS_ABI_MINOR ? !there : there && value == POISON;
}

#define APPENDED(d) good(DS_HAS(d, next), DS_HAS(d, next) ? (uintptr_t)(d)->next : 0)

static ds_status next_gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  if (!APPENDED(g)) return fail(err, DS_ERR_INTERNAL, "gemm: the appended field is not as agreed");
  return gemm_run(s, g, err);
}

static int next_ops_supports(ds_device *dev, const ds_op *op) {
  if (op->id != DS_OP_NEXT) return ops_supports(dev, op);
  return op->n_in == 1 && op->n_out == 1 && plain(op->in[0], op->out[0]) &&
         plain(op->out[0], op->out[0]);
}

static ds_status next_ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  if (!APPENDED(op)) return fail(err, DS_ERR_INTERNAL, "op: the appended field is not as agreed");
  if (op->id != DS_OP_NEXT) return ops_run(s, op, err);
  if (!next_ops_supports(s->device, op)) return fail(err, DS_ERR_UNSUPPORTED, "next: not plain");
  for (int64_t i = 0; i < elements(op->out[0]); i++)
    ((float *)op->out[0]->data)[i] = 2 * ((const float *)op->in[0]->data)[i];
  return DS_OK;
}

/* A table with its last function poisoned. */
#define POISONED(type, table)                                                                      \
  static type next_##table;                                                                        \
  next_##table = table;                                                                            \
  next_##table.next = (ds_status(*)(ds_error *))POISON;                                            \
  plugin.table = &next_##table

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin;
  const ds_plugin *today = full_query(host, host_abi, err);
  if (!today) return NULL;
  plugin = *today;
  plugin.next = (ds_status(*)(ds_error *))POISON;
  agreed = plugin.base.minor;
  POISONED(ds_device_table, device);
  POISONED(ds_gemm_table, gemm);
  POISONED(ds_quant_table, quant);
  POISONED(ds_comm_table, comm);
  POISONED(ds_ops_table, ops);
  next_gemm.run = next_gemm_run;
  next_ops.supports = next_ops_supports;
  next_ops.run = next_ops_run;
  if (!APPENDED(host)) {
    fail(err, DS_ERR_INTERNAL, "host: the appended function is not as agreed");
    return NULL;
  }
  return &plugin;
}
