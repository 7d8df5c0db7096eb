/* memory.c - device memory, at once and in the order of a stream, and pinned host memory. */
#include "device.h"

/* How the device said no to `bytes`. */
static ds_status refused(ds_device *dev, gpuError_t code, size_t bytes, const char *what,
                         ds_error *err) {
  size_t left = 0, total = 0;
  if (code == gpuSuccess) return DS_OK;
  (void)gpuGetLastError();
  if (code != gpuErrorMemoryAllocation && bytes <= dev->memory_total)
    return gpu_check(code, what, err);
  (void)gpuMemGetInfo(&left, &total);
  (void)gpuGetLastError();
  return gpu_fail(err, DS_ERR_MEMORY,
                  "%s: no room for %zu bytes; %s has %zu MiB free of %zu MiB; a smaller batch or "
                  "model, or several cards, need less",
                  what, bytes, dev->name, left >> 20, total >> 20);
}

ds_status gpu_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  if (bytes == 0) return gpu_fail(err, DS_ERR_INVALID, "alloc of 0 bytes; ask for at least one");
  const ds_status st = gpu_use(dev, err);
  if (st != DS_OK) return st;
  if (bytes > dev->memory_total) return refused(dev, gpuErrorMemoryAllocation, bytes, "alloc", err);
  gpuError_t code = gpuMalloc(out, bytes);
  if (code == gpuErrorMemoryAllocation && dev->pool != NULL) { /* it may keep what it freed */
    (void)gpuGetLastError();
    (void)gpuMemPoolTrimTo(dev->pool, 0);
    code = gpuMalloc(out, bytes);
  }
  return refused(dev, code, bytes, "alloc", err);
}

void gpu_free(ds_device *dev, void *p) {
  if (p == NULL || gpu_use(dev, NULL) != DS_OK) return;
  (void)gpuFree(p);
  (void)gpuGetLastError(); /* of a lost device: its memory went with it */
}

ds_status gpu_host_alloc(ds_device *dev, size_t bytes, void **out, ds_error *err) {
  if (bytes == 0)
    return gpu_fail(err, DS_ERR_INVALID, "host_alloc of 0 bytes; ask for at least one");
  const ds_status st = gpu_use(dev, err);
  if (st != DS_OK) return st;
  if (bytes > SIZE_MAX / 4) /* not every driver checks its roundings */
    return gpu_fail(err, DS_ERR_MEMORY, "host_alloc: no memory for %zu bytes", bytes);
  const gpuError_t code = gpuHostMalloc(out, bytes);
  if (code != gpuErrorMemoryAllocation) return gpu_check(code, "host_alloc", err);
  (void)gpuGetLastError();
  return gpu_fail(err, DS_ERR_MEMORY,
                  "host_alloc: %zu bytes of host memory can't be pinned; free some, or raise the "
                  "limit on locked memory (ulimit -l)",
                  bytes);
}

void gpu_host_free(ds_device *dev, void *p) {
  if (p == NULL || gpu_use(dev, NULL) != DS_OK) return;
  (void)gpuHostFree(p);
  (void)gpuGetLastError();
}

ds_status gpu_stream_alloc(ds_stream *s, size_t bytes, void **out, ds_error *err) {
  const ds_status st = gpu_ready_unrecorded(s, "stream_alloc", err);
  if (st != DS_OK) return st;
  if (s->dev->pool == NULL || bytes == 0 || bytes > s->dev->memory_total)
    return gpu_alloc(s->dev, bytes, out, err);
  const gpuError_t code = gpuMallocFromPoolAsync(out, bytes, s->dev->pool, s->handle);
  if (code == gpuErrorMemoryAllocation) return refused(s->dev, code, bytes, "stream_alloc", err);
  return gpu_given(s, code, "stream_alloc", err);
}

ds_status gpu_stream_free(ds_stream *s, void *p, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "stream_free", err);
  if (st != DS_OK || p == NULL) return st;
  if (s->dev->pool != NULL && gpuFreeAsync(p, s->handle) == gpuSuccess)
    return gpu_given(s, gpuSuccess, "stream_free", err);
  (void)gpuGetLastError(); /* the runtime takes only memory of its pools: free it when s is done */
  st = gpu_stream_sync(s, err);
  return st == DS_OK ? gpu_check(gpuFree(p), "stream_free", err) : st;
}
