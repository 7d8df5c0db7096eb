/* mask.c - another plugin with something hidden, to see what core does without it.
 *
 * DS_TEST_MASK_PLUGIN is the path of the plugin's file. DS_TEST_MASK_HIDE says what it shall lack,
 * with commas between:
 *   op:NAME                          one op of ds_ops.def
 *   ops gemm quant comm              a whole table
 *   copy fill events pack workspace  optional functions; without `workspace` the ops that need
 *                                    scratch memory can't be run, so they are refused
 *   gemm:f32.bf16.f32                products of these dtypes of A, B and C
 *   gemm:trans_a gemm:trans_b gemm:epilogue gemm:add    products with that
 */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ds_abi.h"

DS_PLUGIN_NOTE("mask", "0.1.0", -1, "a plugin to hide parts of");

enum { OPS_MAX = 256, WORDS_MAX = 32 };

static struct {
  char text[512], *words[WORDS_MAX];
  int n_words, n_used;
  bool op[OPS_MAX]; /* by id */
  const char *dtypes;
  uint32_t gemm_flags;
  bool epilogue, add, scratch;
  const ds_plugin *inner;
  ds_device *opened; /* the last; ops_run is not told */
  ds_plugin plugin;
  ds_device_table device;
  ds_gemm_table gemm;
  ds_ops_table ops;
} mask;

static ds_status fail(ds_error *err, ds_status status, const char *what, const char *name) {
  if (err) {
    err->status = status;
    snprintf(err->message, sizeof err->message, "%s%s", what, name);
  }
  return status;
}

/* Whether a word stands in the list. */
static bool hidden(const char *word) {
  for (int i = 0; i < mask.n_words; i++) {
    if (strcmp(mask.words[i], word) != 0) continue;
    mask.n_used++;
    return true;
  }
  return false;
}

static bool split(const char *list) {
  snprintf(mask.text, sizeof mask.text, "%s", list);
  char *rest = mask.text;
  for (char *word; (word = strtok_r(rest, ",", &rest));) {
    if (mask.n_words == WORDS_MAX) return false;
    mask.words[mask.n_words++] = word;
  }
  return strlen(list) < sizeof mask.text;
}

/* ---- tables in front of the plugin's */

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  ds_status status = mask.inner->device->open(index, options, out, err);
  if (status == DS_OK) mask.opened = *out;
  return status;
}

static bool op_hidden(ds_device *d, const ds_op *op) {
  const ds_ops_table *ops = mask.inner->ops;
  return (op->id < OPS_MAX && mask.op[op->id]) ||
         (mask.scratch && ops->workspace && ops->workspace(d, op) > 0);
}

static int ops_supports(ds_device *d, const ds_op *op) {
  return !op_hidden(d, op) && mask.inner->ops->supports(d, op);
}

static size_t ops_workspace(ds_device *d, const ds_op *op) {
  return op_hidden(d, op) ? 0 : mask.inner->ops->workspace(d, op);
}

static ds_status ops_run(ds_stream *s, const ds_op *op, ds_error *err) {
  if (op_hidden(mask.opened, op)) return fail(err, DS_ERR_UNSUPPORTED, "mask: hidden", "");
  return mask.inner->ops->run(s, op, err);
}

static bool gemm_hidden(const ds_gemm *g) {
  static const char *const names[] = {"f32", "bf16", "f16"};
  char dtypes[40] = "";
  if (g->dtype_a <= DS_F16 && g->dtype_b <= DS_F16 && g->dtype_c <= DS_F16)
    snprintf(dtypes, sizeof dtypes, "gemm:%s.%s.%s", names[g->dtype_a], names[g->dtype_b],
             names[g->dtype_c]);
  return (mask.dtypes && strcmp(dtypes, mask.dtypes) == 0) || (g->flags & mask.gemm_flags) ||
         (mask.epilogue && g->epilogue != DS_EPILOGUE_NONE) || (mask.add && g->beta != 0);
}

static int gemm_supports(ds_device *d, const ds_gemm *g) {
  return !gemm_hidden(g) && mask.inner->gemm->supports(d, g);
}

static ds_status gemm_run(ds_stream *s, const ds_gemm *g, ds_error *err) {
  if (gemm_hidden(g)) return fail(err, DS_ERR_UNSUPPORTED, "mask: hidden", "");
  return mask.inner->gemm->run(s, g, err);
}

static size_t gemm_pack_size(ds_device *d, const ds_gemm *g) {
  return gemm_hidden(g) ? 0 : mask.inner->gemm->pack_size(d, g);
}

static ds_status gemm_pack_b(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err) {
  return mask.inner->gemm->pack_b(s, g, packed, err);
}

/* ---- setting up */

static void mask_device(void) {
  ds_device_table *t = &mask.device;
  size_t size = mask.inner->device->base.size;
  memcpy(t, mask.inner->device, size < sizeof *t ? size : sizeof *t);
  t->base.size = sizeof *t;
  t->open = device_open;
  if (hidden("copy")) t->copy = NULL;
  if (hidden("fill")) t->fill = NULL;
  if (hidden("events")) {
    t->event_create = NULL;
    t->event_destroy = NULL;
    t->event_record = t->event_wait = NULL;
    t->event_sync = NULL;
  }
  mask.plugin.device = t;
}

static void mask_ops(void) {
  const ds_ops_table *inner = mask.inner->ops;
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) mask.op[id] = hidden("op:" #lower);
#include "ds_ops.def"
#undef DS_OP
  mask.scratch = hidden("workspace");
  mask.ops = (ds_ops_table){{sizeof mask.ops, DS_ABI_MAJOR, DS_ABI_MINOR},
                            ops_supports,
                            inner && inner->workspace && !mask.scratch ? ops_workspace : NULL,
                            ops_run};
  mask.plugin.ops = hidden("ops") || !inner ? NULL : &mask.ops;
}

static void mask_gemm(void) {
  const ds_gemm_table *inner = mask.inner->gemm;
  bool pack = inner && inner->pack_b && !hidden("pack");
  for (int i = 0; i < mask.n_words; i++) {
    if (strncmp(mask.words[i], "gemm:", 5) != 0 || !strchr(mask.words[i], '.')) continue;
    mask.dtypes = mask.words[i];
    mask.n_used++;
  }
  if (hidden("gemm:trans_a")) mask.gemm_flags |= DS_GEMM_TRANS_A;
  if (hidden("gemm:trans_b")) mask.gemm_flags |= DS_GEMM_TRANS_B;
  mask.epilogue = hidden("gemm:epilogue");
  mask.add = hidden("gemm:add");
  mask.gemm = (ds_gemm_table){{sizeof mask.gemm, DS_ABI_MAJOR, DS_ABI_MINOR},
                              gemm_supports,
                              gemm_run,
                              pack ? gemm_pack_size : NULL,
                              pack ? gemm_pack_b : NULL};
  mask.plugin.gemm = hidden("gemm") || !inner ? NULL : &mask.gemm;
}

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  const char *path = getenv("DS_TEST_MASK_PLUGIN"), *list = getenv("DS_TEST_MASK_HIDE");
  ds_plugin_query_fn *query = NULL;
  if (!path) {
    fail(err, DS_ERR_NOT_FOUND, "DS_TEST_MASK_PLUGIN is not set", "");
    return NULL;
  }
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *symbol = library ? dlsym(library, "ds_plugin_query") : NULL;
  memcpy(&query, &symbol, sizeof query);
  if (!query) {
    fail(err, DS_ERR_NOT_FOUND, "DS_TEST_MASK_PLUGIN is no plugin: ", path);
    return NULL;
  }
  mask.inner = query(host, host_abi, err);
  if (!mask.inner) return NULL;
  if (!split(list ? list : "")) {
    fail(err, DS_ERR_INVALID, "DS_TEST_MASK_HIDE is too long", "");
    return NULL;
  }
  mask.plugin = (ds_plugin){.base = {sizeof mask.plugin, DS_ABI_MAJOR, DS_ABI_MINOR},
                            .name = "mask",
                            .version = "0.1.0",
                            .description = "another plugin with something hidden"};
  mask_device();
  mask_ops();
  mask_gemm();
  mask.plugin.quant = hidden("quant") ? NULL : mask.inner->quant;
  mask.plugin.comm = hidden("comm") ? NULL : mask.inner->comm;
  if (mask.n_used != mask.n_words) {
    fail(err, DS_ERR_INVALID, "DS_TEST_MASK_HIDE has a word that means nothing: ", list);
    return NULL;
  }
  return &mask.plugin;
}
