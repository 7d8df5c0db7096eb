/* staging.c - the ring of pinned memory behind upload. */
#include "staging.h"

#include <stdlib.h>

enum { ALIGN = 64 };

struct gpu_ring {
  char *memory;
  gpuEvent_t left[GPU_RING_SLOTS]; /* recorded when a slot was full */
  int slot;
  size_t used;  /* of the slot */
  bool wrapped; /* every slot was left once */
};

void gpu_ring_destroy(gpu_ring *ring) {
  if (ring == NULL) return;
  for (int i = 0; i < GPU_RING_SLOTS; i++)
    if (ring->left[i] != NULL) (void)gpuEventDestroy(ring->left[i]);
  if (ring->memory != NULL) (void)gpuHostFree(ring->memory);
  free(ring);
}

static ds_status make(gpu_ring **out, ds_error *err) {
  gpu_ring *ring = calloc(1, sizeof *ring);
  if (ring == NULL) return gpu_fail(err, DS_ERR_MEMORY, "upload: no memory for a staging ring");
  void *memory = NULL;
  gpuError_t code = gpuHostMalloc(&memory, GPU_RING_SLOTS * (size_t)GPU_RING_SLOT_BYTES);
  if (code == gpuSuccess) ring->memory = memory;
  for (int i = 0; i < GPU_RING_SLOTS && code == gpuSuccess; i++)
    code = gpuEventCreate(&ring->left[i]);
  if (code == gpuSuccess)
    *out = ring;
  else
    gpu_ring_destroy(ring);
  return gpu_check(code, "upload: pinned memory for staging", err);
}

/* Leaves the slot and waits until the work that used the next one is done. */
static gpuError_t turn(gpu_ring *ring, gpuStream_t handle) {
  gpuError_t code = gpuEventRecord(ring->left[ring->slot], handle);
  if (code != gpuSuccess) return code;
  ring->slot = (ring->slot + 1) % GPU_RING_SLOTS;
  ring->used = 0;
  if (ring->slot == 0) ring->wrapped = true;
  return ring->wrapped ? gpuEventSynchronize(ring->left[ring->slot]) : gpuSuccess;
}

ds_status gpu_ring_take(ds_stream *s, size_t bytes, void **out, ds_error *err) {
  if (s->ring == NULL) {
    const ds_status st = make(&s->ring, err);
    if (st != DS_OK) return st;
  }
  gpu_ring *ring = s->ring;
  if (bytes > GPU_RING_SLOT_BYTES - ring->used) {
    const gpuError_t code = turn(ring, s->handle);
    if (code != gpuSuccess) return gpu_given(s, code, "upload", err);
  }
  *out = ring->memory + (size_t)ring->slot * GPU_RING_SLOT_BYTES + ring->used;
  ring->used += (bytes + ALIGN - 1) / ALIGN * ALIGN; /* a slot is a multiple of it */
  return DS_OK;
}
