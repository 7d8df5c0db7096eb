/* short.c - tables of any size, flush against memory that can't be read.
 *
 * The tables are those of tests/abi/full.c, made complete. The environment's DS_TEST_SHORT, as
 * "gemm 24", says which of them (or "plugin") has that many bytes, and says so itself. Whoever
 * reads further crashes. What full.c doesn't know is filled up with addresses where nothing is; a
 * size that no memory could have is said by a table that ends with its last field.
 */
#include "ds_abi.h"

ds_plugin_query_fn full_query;
#define ds_plugin_query full_query
#include "../abi/full.c"
#undef ds_plugin_query

#include <sys/mman.h>
#include <unistd.h>

enum { SIZE_MOST = 1 << 20 };
#define NOWHERE ((uintptr_t)0xdead000000000ba5)

struct ds_event {
  int recorded;
};

static ds_status event_create(ds_device *dev, ds_event **out, ds_error *err) {
  (void)dev;
  *out = calloc(1, sizeof **out);
  return *out ? DS_OK : fail(err, DS_ERR_MEMORY, "out of memory");
}

static void event_destroy(ds_event *e) {
  free(e);
}

static ds_status event_record(ds_event *e, ds_stream *s, ds_error *err) {
  (void)s;
  (void)err;
  e->recorded = 1;
  return DS_OK;
}

static ds_status event_sync(ds_event *e, ds_error *err) {
  (void)e;
  (void)err;
  return DS_OK; /* work is done when its call returns */
}

static size_t pack_size(ds_device *dev, const ds_gemm *g) {
  (void)dev;
  (void)g;
  return 0; /* never pays */
}

static ds_status pack_b(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err) {
  (void)s;
  (void)g;
  (void)packed;
  return fail(err, DS_ERR_UNSUPPORTED, "nothing is packed");
}

static size_t workspace(ds_device *dev, const ds_op *op) {
  (void)dev;
  (void)op;
  return 0;
}

static ds_status graph_begin(ds_stream *s, ds_error *err) {
  (void)s;
  return fail(err, DS_ERR_UNSUPPORTED, "nothing is captured");
}

static ds_status graph_end(ds_stream *s, ds_graph **out, ds_error *err) {
  (void)out;
  return graph_begin(s, err);
}

static ds_status graph_launch(ds_stream *s, ds_graph *g, ds_error *err) {
  (void)g;
  return graph_begin(s, err);
}

static void graph_destroy(ds_graph *g) {
  (void)g;
}

static const ds_graph_table graph = {.base = {sizeof(ds_graph_table), DS_ABI_MAJOR, DS_ABI_MINOR},
                                     .begin = graph_begin,
                                     .end = graph_end,
                                     .launch = graph_launch,
                                     .destroy = graph_destroy};

/* A table that says it has `told` bytes and ends where its memory does; NULL without memory. */
static const void *flush(const void *table, size_t whole, unsigned long long told) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t bytes = told > SIZE_MOST ? whole : told < sizeof(ds_table) ? sizeof(ds_table) : told;
  size_t room = (bytes + page - 1) / page * page;
  char *memory =
      mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0) return NULL;
  /* A table is aligned: an odd size leaves a few bytes behind it. */
  char *at = memory + (room - bytes) / sizeof(void *) * sizeof(void *);
  bytes = (size_t)(memory + room - at);
  uintptr_t nowhere = NOWHERE;
  uint32_t said = (uint32_t)told;
  memcpy(at, table, bytes < whole ? bytes : whole);
  for (size_t i = sizeof(ds_table); i + sizeof nowhere <= bytes; i += sizeof nowhere) {
    static const uintptr_t none;
    if (i >= whole || memcmp(at + i, &none, sizeof none) == 0)
      memcpy(at + i, &nowhere, sizeof nowhere);
  }
  memcpy(at, &said, sizeof said);
  return at;
}

#define MAYBE(member, table)                                                                       \
  plugin.member = strcmp(which, #member) == 0 ? flush(&table, sizeof table, told) : &table

const ds_plugin *ds_plugin_query(const ds_host *host, ds_version_range host_abi, ds_error *err) {
  static ds_plugin plugin;
  static ds_device_table whole_device;
  static ds_gemm_table whole_gemm;
  static ds_ops_table whole_ops;
  char which[16] = "";
  unsigned long long told = 0;
  const char *text = getenv("DS_TEST_SHORT");
  const ds_plugin *full = full_query(host, host_abi, err);
  if (!full) return NULL;
  if (!text || sscanf(text, "%15s %llu", which, &told) != 2) {
    fail(err, DS_ERR_NOT_FOUND, "DS_TEST_SHORT is not set, as \"gemm 24\"");
    return NULL;
  }
  plugin = *full;
  whole_device = device;
  whole_device.event_create = event_create;
  whole_device.event_destroy = event_destroy;
  whole_device.event_record = event_record;
  whole_device.event_wait = event_record;
  whole_device.event_sync = event_sync;
  whole_gemm = gemm;
  whole_gemm.pack_size = pack_size;
  whole_gemm.pack_b = pack_b;
  whole_ops = ops;
  whole_ops.workspace = workspace;
  MAYBE(device, whole_device);
  MAYBE(gemm, whole_gemm);
  MAYBE(quant, quant);
  MAYBE(comm, comm);
  MAYBE(ops, whole_ops);
  MAYBE(graph, graph);
  return strcmp(which, "plugin") == 0 ? flush(&plugin, sizeof plugin, told) : &plugin;
}
