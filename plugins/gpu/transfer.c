/* transfer.c - moving bytes: between host and device, within a device, between two. */
#include "device.h"
#include "staging.h"

#include <string.h>

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

ds_status gpu_upload(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "upload", err);
  for (size_t at = 0; at < bytes && st == DS_OK; at += GPU_RING_SLOT_BYTES) {
    const size_t piece = least(bytes - at, GPU_RING_SLOT_BYTES);
    void *staged;
    st = gpu_ring_take(s, piece, &staged, err);
    if (st != DS_OK) break;
    memcpy(staged, (const char *)src + at, piece);
    const gpuError_t code =
        gpuMemcpyAsync((char *)dst + at, staged, piece, gpuMemcpyHostToDevice, s->handle);
    st = gpu_given(s, code, "upload", err);
  }
  return st;
}

/* Through the runtime's own staging, which is as good as any where the caller waits anyway. */
ds_status gpu_download(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  ds_status st = gpu_ready_unrecorded(s, "download", err);
  if (st != DS_OK) return st;
  if (bytes > 0)
    st = gpu_given(s, gpuMemcpyAsync(dst, src, bytes, gpuMemcpyDeviceToHost, s->handle), "download",
                   err);
  return st == DS_OK ? gpu_stream_sync(s, err) : st;
}

/* What the runtime does in one asynchronous call. */
static ds_status move(ds_stream *s, void *dst, const void *src, size_t bytes, gpuMemcpyKind kind,
                      const char *what, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK && bytes > 0)
    st = gpu_given(s, gpuMemcpyAsync(dst, src, bytes, kind, s->handle), what, err);
  return gpu_done(s, st, err);
}

ds_status gpu_upload_async(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  return move(s, dst, src, bytes, gpuMemcpyHostToDevice, "upload_async", err);
}

ds_status gpu_download_async(ds_stream *s, void *dst, const void *src, size_t bytes,
                             ds_error *err) {
  return move(s, dst, src, bytes, gpuMemcpyDeviceToHost, "download_async", err);
}

ds_status gpu_copy(ds_stream *s, void *dst, const void *src, size_t bytes, ds_error *err) {
  return move(s, dst, src, bytes, gpuMemcpyDeviceToDevice, "copy", err);
}

ds_status gpu_fill(ds_stream *s, void *dst, uint8_t byte, size_t bytes, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st == DS_OK && bytes > 0)
    st = gpu_given(s, gpuMemsetAsync(dst, byte, bytes, s->handle), "fill", err);
  return gpu_done(s, st, err);
}

/* Lets `dev` reach the memory of `other` directly, where the hardware can; if not, or if it did before, nothing.
 * Current is `dev` afterwards. */
static void open_way(ds_device *dev, ds_device *other) {
  int can = 0;
  const uint64_t bit = other->index < 64 ? (uint64_t)1 << other->index : 0;
  pthread_mutex_lock(&dev->lock);
  const bool known = (dev->peers & bit) != 0;
  dev->peers |= bit;
  pthread_mutex_unlock(&dev->lock);
  if (known || gpu_use(dev, NULL) != DS_OK) return;
  if (gpuDeviceCanAccessPeer(&can, dev->index, other->index) == gpuSuccess && can) {
    (void)gpuDeviceEnablePeerAccess(other->index, 0);
    if (other->pool != NULL) (void)gpu_pool_share(other->pool, dev->index);
  }
  (void)gpuGetLastError(); /* enabled by somebody else of this process: as good */
}

ds_status gpu_peer_copy(ds_stream *s, ds_device *to, void *dst, ds_device *from, const void *src,
                        size_t bytes, ds_error *err) {
  ds_status st = gpu_ready(s, err);
  if (st != DS_OK) return st;
  if (s->dev != to && s->dev != from)
    return gpu_fail(err, DS_ERR_INVALID,
                    "peer_copy from %s to %s on a stream of %s: take one of either", from->name,
                    to->name, s->dev->name);
  if (bytes == 0) return DS_OK;
  if (to->index == from->index) return gpu_copy(s, dst, src, bytes, err);
  if (s->recording)
    return gpu_fail(err, DS_ERR_UNSUPPORTED,
                    "peer_copy: a copy between two cards can't be recorded in a graph");
  open_way(to, from);
  open_way(from, to);
  st = gpu_use(s->dev, err);
  if (st != DS_OK) return st;
  return gpu_given(s, gpuMemcpyPeerAsync(dst, to->index, src, from->index, bytes, s->handle),
                   "peer_copy", err);
}
