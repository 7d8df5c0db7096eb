/* device.c - the device table: finding, opening and describing devices. */
#include "blas.h"
#include "device.h"
#include "kernels/elementwise.h"

#include <stdlib.h>
#include <string.h>

/* How many there are, and the runtime's answer, which may be an error that means none. */
static int count_devices(gpuError_t *code) {
  int n = 0; /* on failure the runtime leaves it alone */
  *code = gpuGetDeviceCount(&n);
  (void)gpuGetLastError();
  return *code == gpuSuccess && n > 0 ? n : 0;
}

static ds_status count(int32_t *count_out, const char **reason_out, ds_error *err) {
  gpuError_t code;
  (void)err;
  *count_out = count_devices(&code);
  if (reason_out != NULL) *reason_out = *count_out > 0 ? NULL : gpu_no_device_reason(code);
  return DS_OK;
}

static void drop_pool(ds_device *dev) {
  if (dev->pool != NULL) (void)gpuMemPoolDestroy(dev->pool);
  dev->pool = NULL;
}

/* Whether this card runs the plugin's kernels: one that they weren't compiled for says so at a launch. */
static ds_status try_kernel(ds_device *dev, ds_error *err) {
  gpuStream_t s = NULL;
  void *p = NULL;
  ds_status st = gpu_check(gpuStreamCreate(&s), "a first stream", err);
  if (st != DS_OK) return st;
  st = gpu_check(gpuMalloc(&p, 64), "a first allocation", err);
  gpuError_t code = gpuSuccess;
  if (st == DS_OK) code = gpu_fill_elements(s, 4, 0, p, 16);
  if (code == gpuSuccess) code = gpuStreamSynchronize(s);
  if (code != gpuSuccess)
    st = gpu_fail(err, DS_ERR_DEVICE,
                  "the plugin's kernels don't run on %s: %s (%s); build the plugin for its "
                  "architecture (meson's options gpu_arch_cuda and gpu_arch_rocm)",
                  dev->name, gpuGetErrorName(code), gpuGetErrorString(code));
  (void)gpuFree(p);
  (void)gpuStreamDestroy(s);
  (void)gpuGetLastError();
  return st;
}

static ds_status describe(ds_device *dev, ds_error *err) {
  size_t left;
  int shared = 0;
  ds_status st = gpu_use(dev, err); /* the device starts here */
  if (st == DS_OK)
    st = gpu_check(gpu_device_name(dev->index, dev->name, sizeof dev->name), "its name", err);
  if (st == DS_OK)
    st = gpu_check(gpuDeviceGetPCIBusId(dev->bus, (int)sizeof dev->bus, dev->index),
                   "its PCI address", err);
  if (st == DS_OK)
    st = gpu_check(
        gpuDeviceGetAttribute(&dev->multiprocessors, gpuAttributeMultiprocessors, dev->index),
        "its multiprocessors", err);
  if (st == DS_OK)
    st = gpu_check(gpuDeviceGetAttribute(&shared, gpuAttributeSharedPerBlock, dev->index),
                   "its shared memory", err);
  if (st == DS_OK) st = gpu_check(gpuMemGetInfo(&left, &dev->memory_total), "its memory", err);
  if (st != DS_OK) return st;
  dev->shared_per_block = (size_t)shared;
  dev->wave = gpu_device_wave(dev->index);
  dev->arch = gpu_device_arch(dev->index);
  if (gpu_pool_create(&dev->pool, dev->index) != gpuSuccess) drop_pool(dev);
  (void)gpuGetLastError();
  return try_kernel(dev, err);
}

static void device_close(ds_device *dev) {
  if (dev == NULL) return;
  while (dev->streams != NULL) gpu_stream_destroy(dev->streams);
  (void)gpu_use(dev, NULL); /* of a lost device the host's part is left to free */
  if (dev->blas != NULL) gpu_blas_close(dev->blas);
  drop_pool(dev);
  (void)gpuGetLastError();
  pthread_mutex_destroy(&dev->lock);
  free(dev);
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  gpuError_t code;
  const int n = count_devices(&code);
  if (n == 0) return gpu_fail(err, DS_ERR_NOT_FOUND, "%s", gpu_no_device_reason(code));
  if (index < 0 || index >= n)
    return gpu_fail(err, DS_ERR_NOT_FOUND, "there is no device %d; there are %d, counted from 0",
                    index, n);
  ds_device *dev = calloc(1, sizeof *dev);
  if (dev == NULL) return gpu_fail(err, DS_ERR_MEMORY, "no memory for a device");
  pthread_mutex_init(&dev->lock, NULL);
  dev->index = index;
  ds_status st = gpu_options_parse(options, dev, err);
  if (st == DS_OK) st = describe(dev, err);
  if (st == DS_OK)
    *out = dev;
  else
    device_close(dev);
  return st;
}

static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  ds_device_info full = {.threads = dev->multiprocessors};
  size_t left = 0, total = 0;
  if (info->size < sizeof info->size)
    return gpu_fail(err, DS_ERR_INVALID, "device info: set size before the call");
  ds_status st = gpu_use(dev, err);
  if (st == DS_OK) st = gpu_check(gpuMemGetInfo(&left, &total), "device info", err);
  if (st != DS_OK) return st;
  memcpy(full.name, dev->name, sizeof full.name);
  full.memory_total = total;
  full.memory_free = left;
  full.size = info->size < sizeof full ? info->size : (uint32_t)sizeof full;
  memcpy(info, &full, full.size);
  return DS_OK;
}

const ds_device_table gpu_device_table = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = gpu_alloc,
    .free = gpu_free,
    .stream_create = gpu_stream_create,
    .stream_destroy = gpu_stream_destroy,
    .stream_sync = gpu_stream_sync,
    .upload = gpu_upload,
    .download = gpu_download,
    .copy = gpu_copy,
    .fill = gpu_fill,
    .event_create = gpu_event_create,
    .event_destroy = gpu_event_destroy,
    .event_record = gpu_event_record,
    .event_wait = gpu_event_wait,
    .event_sync = gpu_event_sync,
    .host_alloc = gpu_host_alloc,
    .host_free = gpu_host_free,
    .upload_async = gpu_upload_async,
    .download_async = gpu_download_async,
    .stream_alloc = gpu_stream_alloc,
    .stream_free = gpu_stream_free,
    .peer_copy = gpu_peer_copy,
};
