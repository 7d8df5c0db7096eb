/* device.c - an opened device: memory, transfers, and how its failures read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend_impl.h"
#include "backend/record.h"
#include "backend/reference/reference.h"
#include "backend/span.h"
#include "base/str.h"

static const char *skip(const char *text, const char *word) {
  size_t n = strlen(word);
  if (strncmp(text, word, n) != 0 || text[n] != ':') return text;
  text += n + 1;
  return text + strspn(text, " ");
}

static ds_status wrap(const ds_backend *b, const char *stream, const char *what,
                      const ds_error *from, ds_status status, ds_error *err) {
  char said[DS_ERROR_MESSAGE_MAX]; /* a plugin may have left out the end */
  snprintf(said, sizeof said, "%.*s", (int)sizeof said - 1, from->message);
  const char *message = said[0] ? said : ds_status_name(status);
  message = skip(skip(skip(message, b->label), b->plugin->name), what);
  return ds_fail(err, status, "%s%s: %s: %s", b->label, stream, what, message);
}

/* The others say that what was asked for is wrong or not offered, on whichever stream. */
static bool is_of_device(ds_status status) {
  return status == DS_ERR_DEVICE || status == DS_ERR_TIMEOUT || status == DS_ERR_ABORTED ||
         status == DS_ERR_INTERNAL;
}

ds_status ds_device_wrap(const ds_backend *b, const char *what, const ds_error *from,
                         ds_status status, ds_error *err) {
  char stream[32] = "";
  if (is_of_device(status)) snprintf(stream, sizeof stream, ", stream %d", b->stream_number);
  return wrap(b, stream, what, from, status, err);
}

ds_status ds_backend_wrap(const ds_backend *b, const char *what, const ds_error *from,
                          ds_status status, ds_error *err) {
  return status == DS_OK ? DS_OK : ds_device_wrap(b, what, from, status, err);
}

static ds_status open_reference(ds_backend *b, ds_error *err) {
  const ds_plugin *reference = ds_reference_plugin();
  if (strcmp(b->plugin->name, reference->name) == 0) return DS_OK;
  b->reference = reference;
  DS_TRY(reference->device->open(0, NULL, &b->reference_device, err));
  return reference->device->stream_create(b->reference_device, &b->reference_stream, err);
}

/* The device that the config names, or where it names none, this rank's own. */
static ds_status choose_device(const ds_plugin *p, int given, int32_t count, int *out,
                               bool *rankless, ds_error *err) {
  ds_comm_world w = {.size = sizeof w, .world_size = 1};
  *out = given < 0 ? 0 : given;
  if (given >= 0 || count < 2 || !p->comm) return DS_OK;
  DS_TRY(p->comm->world(&w, err));
  if (w.world_size == 1) return DS_OK;
  *out = w.local_rank;
  if (w.local_rank < count) return DS_OK;
  *rankless = true;
  return ds_fail(err, DS_ERR_NOT_FOUND,
                 "no device for local rank %d: there are %d, one for each rank of this host; start "
                 "fewer ranks here, or set \"device\" in the config's \"backend\"",
                 (int)w.local_rank, (int)count);
}

/* How many devices there are, and which is opened. */
static ds_status check_count(const ds_plugin *p, int given, int32_t *count, int *wanted,
                             bool *rankless, ds_error *err) {
  const char *reason = NULL;
  DS_TRY(p->device->count(count, &reason, err));
  if (*count <= 0) {
    return ds_fail(err, DS_ERR_NOT_FOUND, "no device: %s",
                   reason && *reason ? reason : "the plugin gives no reason");
  }
  DS_TRY(choose_device(p, given, *count, wanted, rankless, err));
  if (*wanted >= *count) {
    return ds_fail(err, DS_ERR_NOT_FOUND,
                   "no device %d: the last is device %d; set \"device\" in the config's "
                   "\"backend\"",
                   *wanted, (int)*count - 1);
  }
  return DS_OK;
}

static ds_status read_info(ds_backend *b, ds_error *err) {
  ds_device_info info;
  memset(&info, 0, sizeof info);
  info.size = sizeof info;
  DS_TRY(b->plugin->device->info(b->device, &info, err));
  info.name[sizeof info.name - 1] = '\0';
  b->flags = info.flags;
  snprintf(b->device_name, sizeof b->device_name, "%s", info.name);
  return DS_OK;
}

ds_status ds_device_open(const ds_loaded *l, const ds_backend_config *config,
                         const ds_logger *logger, ds_backend **out, bool *rankless, ds_error *err) {
  DS_BLANK_ERROR(e);
  ds_status status;
  int32_t count = 0;
  int index = 0;
  *out = NULL;
  *rankless = false;
  ds_backend *b = calloc(1, sizeof *b);
  if (!b) return ds_fail_memory(err, "a backend");
  b->plugin = ds_loaded_plugin(l);
  if (logger) b->logger = *logger;
  b->fallback = config->fallback;
  b->graph = config->graph;
  b->memory_limit = config->memory_limit;
  b->opened_at_ticks = ds_backend_ticks();
  b->opened_nanoseconds = ds_backend_nanoseconds();
  ds_loader_listen(&b->listener, l, &b->logger);
  status = check_count(b->plugin, config->device, &count, &index, rankless, &e);
  if (status != DS_OK) goto out;
  b->label =
      count > 1 ? ds_format("%s:%d", b->plugin->name, index) : ds_format("%s", b->plugin->name);
  if (!b->label) {
    status = ds_fail_memory(&e, "a backend");
    goto out;
  }
  status = b->plugin->device->open(index, config->options, &b->device, &e);
  if (status != DS_OK) {
    b->device = NULL;
    goto out;
  }
  status = b->plugin->device->stream_create(b->device, &b->stream, &e);
  if (status != DS_OK) {
    b->stream = NULL;
    goto out;
  }
  status = read_info(b, &e);
  if (status == DS_OK) status = open_reference(b, &e);
out:
  if (status != DS_OK) {
    ds_fail(err, status, "%s",
            e.message[0] ? skip(e.message, b->plugin->name) : ds_status_name(status));
    ds_backend_close(b);
    return status;
  }
  *out = b;
  return DS_OK;
}

void ds_backend_close(ds_backend *b) {
  if (!b) return;
  const ds_device_table *t = b->plugin->device;
  if (b->stream) {
    ds_status ignored = t->stream_sync(b->stream, NULL); /* nobody is left to be told */
    (void)ignored;
    ds_span_stop(b);
    ds_record_drop(b);
    if (b->workspace) t->free(b->device, b->workspace);
    t->stream_destroy(b->stream);
  }
  if (b->device) t->close(b->device);
  if (b->reference_stream) b->reference->device->stream_destroy(b->reference_stream);
  if (b->reference_device) b->reference->device->close(b->reference_device);
  ds_loader_unlisten(&b->listener);
  free(b->staging);
  free(b->label);
  free(b);
}

const char *ds_backend_name(const ds_backend *b) {
  return b->plugin->name;
}

const char *ds_backend_device(const ds_backend *b) {
  return b->device_name;
}

bool ds_backend_host_accessible(const ds_backend *b) {
  return (b->flags & DS_DEVICE_HOST_ACCESSIBLE) != 0;
}

const ds_plugin *ds_backend_plugin(const ds_backend *b) {
  return b->plugin;
}

ds_device *ds_backend_raw_device(ds_backend *b) {
  return b->device;
}

ds_stream *ds_backend_raw_stream(ds_backend *b) {
  return b->stream;
}

ds_status ds_backend_recover(ds_backend *b, bool *died, ds_error *err) {
  const ds_device_table *t = b->plugin->device;
  DS_BLANK_ERROR(e);
  ds_stream *fresh = NULL;
  ds_record_cancel(b); /* what is recorded is none of what died */
  bool dead = t->stream_sync(b->stream, NULL) != DS_OK;
  if (died) *died = dead;
  if (!dead) return DS_OK;
  ds_record_drop(b);
  ds_status status = t->stream_create(b->device, &fresh, &e);
  /* The dead stream stays where there is no other: its calls go on to say why it died. */
  if (status != DS_OK) return wrap(b, "", "stream_create", &e, status, err);
  t->stream_destroy(b->stream);
  b->stream = fresh;
  b->stream_number++;
  return DS_OK;
}

ds_status ds_backend_alloc(ds_backend *b, size_t bytes, void **out, ds_error *err) {
  DS_BLANK_ERROR(e);
  *out = NULL;
  if (b->recording)
    return ds_fail(err, DS_ERR_STATE, "%s: alloc of %zu bytes while work is recorded", b->label,
                   bytes);
  if (b->memory_limit &&
      (b->bytes_held > b->memory_limit || bytes > b->memory_limit - b->bytes_held))
    return ds_fail(err, DS_ERR_MEMORY,
                   "%s: alloc of %zu bytes: %llu of the %llu that \"memory_limit\" in the config's "
                   "\"backend\" allows are held",
                   b->label, bytes, (unsigned long long)b->bytes_held,
                   (unsigned long long)b->memory_limit);
  /* Every allocation has an address of its own, so that callers need no special case. */
  ds_status status = b->plugin->device->alloc(b->device, bytes ? bytes : 1, out, &e);
  b->allocs++;
  if (status != DS_OK) {
    char what[48];
    *out = NULL;
    snprintf(what, sizeof what, "alloc of %zu bytes", bytes);
    return wrap(b, "", what, &e, status, err);
  }
  b->bytes_held += bytes;
  return DS_OK;
}

void ds_backend_free(ds_backend *b, void *p, size_t bytes) {
  if (!p) return;
  ds_record_drop(b); /* recorded work may name it */
  /* Work on p may be under way. Its failure is told by the next call that waits. */
  if (!(b->flags & DS_DEVICE_SYNCHRONOUS)) {
    ds_status ignored = b->plugin->device->stream_sync(b->stream, NULL);
    (void)ignored;
  }
  b->plugin->device->free(b->device, p);
  b->bytes_held -= bytes;
}

/* Runs a call of the device table, counted and timed, its failure wrapped. */
#define DEVICE_CALL(b, kind, call, err)                                                            \
  do {                                                                                             \
    DS_BLANK_ERROR(e);                                                                             \
    int64_t begin = ds_backend_ticks();                                                            \
    ds_status status = (call);                                                                     \
    (b)->kinds[kind].calls++;                                                                      \
    (b)->kinds[kind].ticks += ds_backend_ticks() - begin;                                          \
    return status == DS_OK ? DS_OK : ds_device_wrap((b), ds_kind_name(kind), &e, status, (err));   \
  } while (0)

ds_status ds_backend_upload(ds_backend *b, void *dst, const void *src, size_t bytes,
                            ds_error *err) {
  if (bytes == 0) return DS_OK;
  DEVICE_CALL(b, DS_KIND_UPLOAD, b->plugin->device->upload(b->stream, dst, src, bytes, &e), err);
}

ds_status ds_backend_download(ds_backend *b, void *dst, const void *src, size_t bytes,
                              ds_error *err) {
  if (bytes == 0) return ds_backend_sync(b, err);
  DEVICE_CALL(b, DS_KIND_DOWNLOAD, b->plugin->device->download(b->stream, dst, src, bytes, &e),
              err);
}

ds_status ds_backend_sync(ds_backend *b, ds_error *err) {
  DEVICE_CALL(b, DS_KIND_SYNC, b->plugin->device->stream_sync(b->stream, &e), err);
}
