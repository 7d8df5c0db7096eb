/* backend.h - one opened device of one plugin, with the reference behind it: what engines compute
 * on.
 *
 * A ds_backend has one stream; work is given in order, and may run later (see ds_abi.h). Whatever
 * the plugin lacks - an op, a product's form, quantization - runs on the built-in reference: on the
 * plugin's memory where the host can reach it, else through copies (stage.h says how much host
 * memory they take). A device without copy or fill is served through the host. Such fallbacks are
 * counted by kind, and allowed, warned of (once a kind) or refused by policy. Comm has none: a
 * world of one needs no collectives, and several ranks need the plugin's.
 *
 * Failures of the device read "NAME:DEVICE, stream N: CALL: what the plugin says", where CALL is
 * the one that failed or at which the failure of earlier work was noticed: the plugin's words name
 * the work. One thread at a time; different backends are independent.
 */
#ifndef DS_BACKEND_BACKEND_H
#define DS_BACKEND_BACKEND_H

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "ds.h"

typedef struct ds_backend ds_backend;

typedef enum ds_fallback_policy {
  DS_FALLBACK_ALLOW = 0,
  DS_FALLBACK_WARN = 1,
  DS_FALLBACK_ERROR = 2
} ds_fallback_policy;

/* Whether engines record the work of a step and launch it (record.h). */
typedef enum ds_graph_mode {
  DS_GRAPH_AUTO = 0, /* where they can, with models of core */
  DS_GRAPH_ON = 1,   /* else it is an error; with a host app's model too, which then does the same
                        work for the same shapes */
  DS_GRAPH_OFF = 2
} ds_graph_mode;

/* The config's "backend" section:
 *   "backend": "cpu"  |  ["cuda", "cpu"]  |  "auto"  |
 *   "backend": {"name": (as before) = "auto", "device": N, "plugin_path": "dir[:dir]" or [dirs],
 *               "options": {...}, "fallback": "allow" | "warn" | "error" = "warn",
 *               "graph": "auto" | true | false = "auto", "probe_timeout": 10, "trace": FILE,
 *               "comm_timeout": 1800}
 * device: left out, it is 0; but where a launcher started several ranks and the plugin has several
 * devices, each rank has that of its number on its host (local rank). probe_timeout: seconds that a
 * plugin may take to load when it is tried in a child process first
 * (probe.h); 0 loads it without that. trace: where a training engine writes a timeline of its work
 * (ds_engine_save_trace in ds.h; DS_TRACE in the environment does the same). memory_limit: an allocation of device
 * memory beyond it fails as if there were no more. comm_timeout: seconds that ranks wait for one
 * another, at the start and in each collective; left out, the environment's DEEPSPEED_TIMEOUT (whole
 * minutes, as in DeepSpeed) or half an hour. The environment overrides: DS_BACKEND (a name, or names with
 * commas), DS_PLUGIN_PATH (dir[:dir]); both are ignored in a set-uid program. */
typedef struct ds_backend_config {
  char **names; /* in order of preference; "auto" = by priority */
  int n_names;
  int device;         /* -1: not given */
  char **plugin_path; /* searched before the built-in folders */
  int n_plugin_path;
  char *options; /* JSON object for the plugin, or NULL */
  ds_fallback_policy fallback;
  ds_graph_mode graph;
  double probe_timeout; /* seconds; 0: the usual limit, negative: no probe */
  double comm_timeout;  /* seconds; 0: not given */
  size_t memory_limit;  /* bytes of device memory that may be held at once; 0: what there is */
  /* Not in the section. */
  bool host_only;     /* only a device whose memory is the host's */
  const char *except; /* not this plugin; the caller's, or NULL */
  char *trace;        /* a path, or NULL */
} ds_backend_config;

/* section NULL = defaults. Every mistake in the section is named. out is finished on failure. */
DS_MUST_USE ds_status ds_backend_config_parse(const cJSON *section, ds_backend_config *out,
                                              ds_error *err);
void ds_backend_config_finish(ds_backend_config *config);

/* Finds, loads, negotiates and opens by preference. The failure lists every candidate with its
 * reason. */
DS_MUST_USE ds_status ds_backend_open(const ds_backend_config *config, const ds_logger *logger,
                                      ds_backend **out, ds_error *err);
void ds_backend_close(ds_backend *b);

const char *ds_backend_name(const ds_backend *b);   /* the plugin's */
const char *ds_backend_device(const ds_backend *b); /* the device's */
bool ds_backend_host_accessible(const ds_backend *b);
/* The plugin's tables, for what has typed functions of its own. NULL members where it has none. */
const ds_plugin *ds_backend_plugin(const ds_backend *b);
ds_device *ds_backend_raw_device(ds_backend *b);
ds_stream *ds_backend_raw_stream(ds_backend *b);

/* After a failure: waits for the stream, and where it died (see Failures in ds_abi.h) makes a new
 * one in its place. *died (may be NULL) tells whether it had: what its work was to write is then
 * undefined, all other memory as before. Fails where no new stream can be made: the device is lost,
 * every later call fails, and closing still works. */
DS_MUST_USE ds_status ds_backend_recover(ds_backend *b, bool *died, ds_error *err);
/* How a failure reads that another file got from a table of the plugin, by a call on the stream.
 * Returns status. */
ds_status ds_backend_wrap(const ds_backend *b, const char *what, const ds_error *from,
                          ds_status status, ds_error *err);

DS_MUST_USE ds_status ds_backend_alloc(ds_backend *b, size_t bytes, void **out, ds_error *err);
void ds_backend_free(ds_backend *b, void *p, size_t bytes); /* waits for the stream; NULL allowed */
DS_MUST_USE ds_status ds_backend_upload(ds_backend *b, void *dst, const void *src, size_t bytes,
                                        ds_error *err);
DS_MUST_USE ds_status ds_backend_download(ds_backend *b, void *dst, const void *src, size_t bytes,
                                          ds_error *err); /* waits */
/* By the device, else through the host, which waits. Ranges must not overlap. */
DS_MUST_USE ds_status ds_backend_copy(ds_backend *b, void *dst, const void *src, size_t bytes,
                                      ds_error *err);
DS_MUST_USE ds_status ds_backend_fill(ds_backend *b, void *dst, uint8_t byte, size_t bytes,
                                      ds_error *err);
DS_MUST_USE ds_status ds_backend_sync(ds_backend *b, ds_error *err);

/* Whether the plugin itself takes such an op; data pointers are ignored. */
bool ds_backend_offers(const ds_backend *b, const ds_op *op);
/* op->workspace is supplied here (leave it NULL). */
DS_MUST_USE ds_status ds_backend_op(ds_backend *b, const ds_op *op, ds_error *err);
DS_MUST_USE ds_status ds_backend_gemm(ds_backend *b, const ds_gemm *g, ds_error *err);
/* Packing of constant B: 0 when the plugin has none or it would not pay. */
size_t ds_backend_pack_size(ds_backend *b, const ds_gemm *g);
DS_MUST_USE ds_status ds_backend_pack(ds_backend *b, const ds_gemm *g, void *packed, ds_error *err);

/* The quant table's functions (see ds_abi.h); tensors are device memory. */
DS_MUST_USE ds_status ds_backend_quantize(ds_backend *b, const ds_quant *q, const void *x,
                                          ds_error *err);
DS_MUST_USE ds_status ds_backend_dequantize(ds_backend *b, const ds_quant *q, void *x,
                                            ds_error *err);
DS_MUST_USE ds_status ds_backend_quant_gemm(ds_backend *b, const ds_quant *q,
                                            const ds_quant_gemm *g, ds_error *err);

typedef struct ds_backend_counters {
  uint64_t ops, gemms, quants; /* calls */
  uint64_t fallback_ops;       /* of them, run by the reference */
  uint64_t allocs, bytes_held; /* device memory */
  double seconds;              /* inside plugin and reference calls */
} ds_backend_counters;
ds_backend_counters ds_backend_stats_get(const ds_backend *b);
/* The same for host apps, by the rules that ds.h gives. */
DS_MUST_USE ds_status ds_backend_stats_fill(ds_backend *b, ds_backend_stats *out, ds_error *err);

/* "embedding", ...; "unknown" for an id that isn't in ds_ops.def. */
const char *ds_op_name(uint32_t id);

#endif
