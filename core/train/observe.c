/* observe.c - the trace of an engine: begun, gathered by rank 0, written. */
#include "train/observe.h"

#include "base/file.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 16 }; /* bytes that go from one rank to another at once */

/* ---- one file for all ranks: each sends pieces to rank 0, before each its length, at last 0 */

typedef struct carrier {
  ds_engine *e;
  char *memory; /* device memory: the length, and from 64 on a piece */
} carrier;

static ds_status send_bytes(const carrier *c, char *to, const void *data, int64_t bytes,
                            ds_error *err) {
  DS_TRY(ds_backend_upload(c->e->backend, to, data, (size_t)bytes, err));
  return ds_group_send(c->e->world.group, NULL, to, bytes, DS_U8, 0, err);
}

static ds_status send_piece(void *ctx, const void *data, size_t bytes, ds_error *err) {
  const carrier *c = ctx;
  const char *at = data;
  do {
    int64_t n = (int64_t)(bytes < PIECE ? bytes : PIECE);
    DS_TRY(send_bytes(c, c->memory, &n, sizeof n, err));
    if (n > 0) DS_TRY(send_bytes(c, c->memory + 64, at, n, err));
    at += n;
    bytes -= (size_t)n;
  } while (bytes > 0);
  return ds_backend_sync(c->e->backend, err); /* data is the caller's again */
}

static ds_status receive(const carrier *c, char *from, int peer, void *data, int64_t bytes,
                         ds_error *err) {
  DS_TRY(ds_group_recv(c->e->world.group, NULL, from, bytes, DS_U8, peer, err));
  return ds_backend_download(c->e->backend, data, from, (size_t)bytes, err);
}

static ds_status put_file(void *ctx, const void *data, size_t bytes, ds_error *err) {
  return ds_writer_write(ctx, data, bytes, err);
}

/* The part of `peer`. What can't be written is received all the same: *written says so. */
static ds_status receive_part(const carrier *c, int peer, ds_writer *w, char *piece,
                              ds_status *written, ds_error *failure, ds_error *err) {
  int64_t n;
  if (*written == DS_OK) *written = put_file(w, ds_trace_comma, strlen(ds_trace_comma), failure);
  for (;;) {
    DS_TRY(receive(c, c->memory, peer, &n, sizeof n, err));
    if (n == 0) return DS_OK;
    if (n < 0 || n > PIECE)
      return ds_fail(err, DS_ERR_INTERNAL, "rank %d sent a piece of %lld bytes", peer,
                     (long long)n);
    DS_TRY(receive(c, c->memory + 64, peer, piece, n, err));
    if (*written == DS_OK) *written = put_file(w, piece, (size_t)n, failure);
  }
}

/* What rank 0 does. A failure to write is told in *written and *failure: the others send to the
 * end. */
static ds_status gather(const carrier *c, ds_writer *w, char *piece, ds_status *written,
                        ds_error *failure, ds_error *err) {
  *written = put_file(w, ds_trace_head, strlen(ds_trace_head), failure);
  if (*written == DS_OK) *written = ds_trace_print(c->e->observe->trace, 0, put_file, w, failure);
  for (int i = 1; i < c->e->world.size; i++)
    DS_TRY(receive_part(c, i, w, piece, written, failure, err));
  if (*written == DS_OK) *written = put_file(w, ds_trace_tail, strlen(ds_trace_tail), failure);
  return DS_OK;
}

static ds_status collect(ds_engine *e, carrier *c, ds_error *err) {
  static const char what[] = "writing the trace";
  ds_writer w = {0};
  ds_error failure = {DS_OK, ""};
  char *piece = e->world.rank == 0 ? malloc(PIECE) : NULL;
  ds_status written = DS_OK, status = DS_OK;
  if (e->world.rank == 0) {
    if (!piece) written = ds_fail_memory(&failure, "a trace");
    if (piece) written = ds_writer_open(&w, e->observe->path, &failure);
  }
  bool opened = written == DS_OK && e->world.rank == 0;
  status = ds_world_agree(&e->world, written, what, err);
  if (status == DS_OK && e->world.rank == 0)
    status = gather(c, &w, piece, &written, &failure, err);
  else if (status == DS_OK) {
    status = ds_trace_print(e->observe->trace, e->world.rank, send_piece, c, err);
    if (status == DS_OK) status = send_piece(c, "", 0, err);
  }
  if (opened && status == DS_OK && written == DS_OK)
    written = ds_writer_commit(&w, &failure);
  else if (opened)
    ds_writer_abort(&w);
  free(piece);
  if (status == DS_OK) status = ds_world_agree(&e->world, written, what, err);
  if (written != DS_OK) return ds_fail(err, written, "%s: %s", what, failure.message);
  return status;
}

static ds_status save(ds_engine *e, ds_error *err) {
  const size_t bytes = 64 + PIECE;
  carrier c = {.e = e};
  void *memory;
  if (e->world.size == 1) return ds_trace_write(e->observe->trace, 0, e->observe->path, err);
  DS_TRY(ds_backend_alloc(e->backend, bytes, &memory, err));
  c.memory = memory;
  ds_status status = collect(e, &c, err);
  ds_backend_free(e->backend, memory, bytes);
  return status;
}

static void tell_dropped(ds_engine *e) {
  uint64_t kept, dropped;
  ds_trace_count(e->observe->trace, &kept, &dropped);
  if (dropped)
    ds_log(&e->logger, DS_LOG_WARN,
           "trace: %llu spans of rank %d were left out; it holds %llu, at most %d",
           (unsigned long long)dropped, e->observe->rank, (unsigned long long)kept, DS_TRACE_SPANS);
}

ds_status ds_engine_save_trace(ds_engine *e, ds_error *err) {
  uint64_t dropped;
  if (!e->observe || !e->observe->trace)
    return ds_fail(err, DS_ERR_STATE,
                   "ds_engine_save_trace: nothing is traced; name a file in the config's "
                   "\"backend\": {\"trace\": FILE}");
  DS_TRY(ds_engine_check(e, "ds_engine_save_trace", err));
  ds_error inner = {DS_OK, ""};
  ds_status status = ds_backend_sync(e->backend, &inner);
  ds_span_drain(e->backend);
  ds_span_pause(e->backend, true);
  if (status == DS_OK) status = save(e, &inner);
  ds_span_pause(e->backend, false);
  if (status == DS_OK) {
    ds_trace_count(e->observe->trace, &e->observe->saved, &dropped);
    tell_dropped(e);
  }
  return ds_engine_settle(e, status, &inner, err);
}

/* ---- begin and end */

static ds_status find_path(const ds_engine *e, char **out, ds_error *err) {
  const char *path = secure_getenv("DS_TRACE");
  if (!path || !path[0]) path = e->config.backend.trace;
  *out = NULL;
  if (!path) return DS_OK;
  *out = strdup(path);
  return *out ? DS_OK : ds_fail_memory(err, "the trace's path");
}

ds_status ds_observe_init(ds_engine *e, ds_error *err) {
  char *path;
  ds_comms_log *comms = NULL;
  DS_TRY(find_path(e, &path, err));
  ds_status status = ds_comms_logger_create(e, &comms, err);
  ds_observe *o = NULL;
  if (status == DS_OK && (path || comms)) {
    e->observe = o = calloc(1, sizeof *o);
    if (!o) status = ds_fail_memory(err, "a trace");
  }
  if (!o) {
    free(path);
    ds_comms_log_destroy(comms);
    return status;
  }
  o->rank = e->world.rank;
  o->ranks = e->world.size;
  o->path = path;
  o->comms = comms;
  if (path) DS_TRY(ds_trace_create(DS_TRACE_SPANS, &o->trace, err));
  return ds_span_start(e->backend, o->trace, comms, err);
}

/* "a/trace.rank3.json" for "a/trace.json"; NULL: no memory. */
static char *part_path(const char *path, int rank) {
  const char *name = strrchr(path, '/'), *end;
  end = strrchr(name ? name : path, '.');
  if (!end) end = path + strlen(path);
  return ds_format("%.*s.rank%d%s", (int)(end - path), path, rank, end);
}

/* Others may be gone: each rank for itself. */
static void save_part(ds_engine *e) {
  ds_error err = {DS_ERR_MEMORY, "out of memory"};
  const ds_observe *o = e->observe;
  uint64_t kept, dropped;
  ds_trace_count(o->trace, &kept, &dropped);
  if (kept == o->saved) return;
  char *path = o->ranks == 1 ? strdup(o->path) : part_path(o->path, o->rank);
  ds_status status = path ? ds_trace_write(o->trace, o->rank, path, &err) : DS_ERR_MEMORY;
  if (status != DS_OK)
    ds_log(&e->logger, DS_LOG_ERROR, "the trace is lost: %s", err.message);
  else if (o->ranks > 1)
    ds_log(&e->logger, DS_LOG_WARN,
           "the trace was not saved by all ranks together: that of rank %d is in %s", o->rank,
           path);
  tell_dropped(e);
  free(path);
}

void ds_observe_finish(ds_engine *e) {
  ds_observe *o = e->observe;
  if (!o) return;
  if (e->backend) ds_span_stop(e->backend);
  if (o->trace) save_part(e);
  ds_trace_destroy(o->trace);
  ds_comms_log_destroy(o->comms);
  free(o->path);
  free(o);
  e->observe = NULL;
}
