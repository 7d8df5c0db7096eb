/* device.c - the device table: the one table that every plugin has. */
#include "plugin.h"

#include <string.h>

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  (void)err;
  /* An accelerator asks its driver. Zero is no error: *reason_out then says why ("no Acme card
   * found; is the acme kernel module loaded?"), and core goes on to the next plugin. */
  *count_out = 1;
  if (reason_out) *reason_out = NULL;
  return DS_OK;
}

/* options is the JSON object under "options" in the config. With options of your own, parse it (a
 * small parser, or a library); what you don't know must be named, never ignored. */
static int is_empty_object(const char *options) {
  static const char space[] = " \t\r\n";
  const char *p = options + strspn(options, space);
  if (*p++ != '{') return 0;
  p += strspn(p, space);
  return *p++ == '}' && p[strspn(p, space)] == '\0';
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (index != 0) return fail(err, DS_ERR_NOT_FOUND, "no device %d; the only one is 0", index);
  if (options && !is_empty_object(options))
    return fail(err, DS_ERR_INVALID, "this plugin has no options; given: %.300s", options);
  /* An accelerator makes its context and compiles or loads its kernels here: opening may take
   * seconds, a step must not. A device is opened once for each engine; they share nothing. */
  ds_device *dev = plugin_host->alloc(plugin_host->ctx, sizeof *dev);
  if (!dev) return fail(err, DS_ERR_MEMORY, "no memory for a device");
  dev->index = index;
  *out = dev;
  return DS_OK;
}

static void device_close(ds_device *dev) {
  plugin_host->free(plugin_host->ctx, dev); /* takes NULL, as close must */
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  (void)dev;
  /* These two flags are what host memory and one thread can say. An accelerator says neither: core
   * then never reads an address itself, and waits before it reuses memory. */
  ds_device_info full = {.flags = DS_DEVICE_HOST_ACCESSIBLE | DS_DEVICE_SYNCHRONOUS,
                         .name = "host memory, 1 thread",
                         .threads = 1};
  if (info->size < sizeof info->size) return fail(err, DS_ERR_INVALID, "info: size is not set");
  full.size = info->size < sizeof full ? info->size : (uint32_t)sizeof full; /* an older core's */
  memcpy(info, &full, full.size);
  return DS_OK;
}

/* Device memory. Core asks for few, large pieces and divides them itself; it names memory by
 * address and adds to addresses. Where a driver gives handles, reserve address space and look the
 * handle up (examples/plugin-opencl does). */
static ds_status device_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  (void)dev;
  if (bytes == 0) return fail(err, DS_ERR_INVALID, "alloc of 0 bytes");
  void *p = bytes > PTRDIFF_MAX ? NULL : plugin_host->alloc(plugin_host->ctx, bytes);
  if (!p) return fail(err, DS_ERR_MEMORY, "no memory for %zu bytes", bytes);
  *out = p;
  return DS_OK;
}

static void device_free(ds_device *dev, void *p) {
  (void)dev;
  plugin_host->free(plugin_host->ctx, p); /* core has waited for all work that uses it */
}

/* A stream is an in-order queue. An accelerator puts work into it and returns at once. */
static ds_status stream_create(ds_device *dev, ds_stream **out, ds_error *err) {
  ds_stream *s = plugin_host->alloc(plugin_host->ctx, sizeof *s);
  if (!s) return fail(err, DS_ERR_MEMORY, "no memory for a stream");
  s->device = dev;
  *out = s;
  return DS_OK;
}

static void stream_destroy(ds_stream *s) {
  plugin_host->free(plugin_host->ctx, s); /* an accelerator waits for the queue's work first */
}

/* Here everything is done already. An accelerator waits for the queue, and tells what failed since:
 * it keeps the first failure in the ds_stream, and from then on every call on that stream returns
 * it. A stream that failed once never works again. */
static ds_status stream_sync(ds_stream *s, ds_error *err) {
  (void)s;
  (void)err;
  return DS_OK;
}

/* upload, download and copy, which are the same in host memory. For an accelerator: upload may
 * return before the copy is done only if it took the bytes to memory of its own; download waits for
 * all work on the stream; copy is work like any other. */
static ds_status copy_bytes(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  (void)s;
  (void)err;
  if (bytes > 0) memcpy(dst, src, bytes);
  return DS_OK;
}

/* What may be left out is copy, fill (here), and the five event functions together: core then goes
 * through the host and waits with stream_sync. */
const ds_device_table device_table = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = device_alloc,
    .free = device_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = copy_bytes,
    .download = copy_bytes,
    .copy = copy_bytes,
};
