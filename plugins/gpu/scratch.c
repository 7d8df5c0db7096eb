/* scratch.c - device memory of a stream for work that needs some, by use. */
#include "device.h"
#include "scratch.h"

#include <stdlib.h>

struct gpu_block {
  gpu_block *before; /* of a recording: smaller ones that its work uses too */
  void *memory;
  size_t bytes;
};

void gpu_block_free(gpu_block *b) {
  while (b != NULL) {
    gpu_block *before = b->before;
    (void)gpuFree(b->memory);
    free(b);
    b = before;
  }
}

static ds_status make(ds_device *dev, size_t bytes, gpu_block **out, ds_error *err) {
  gpu_block *b = calloc(1, sizeof *b);
  if (b == NULL) return gpu_fail(err, DS_ERR_MEMORY, "no memory for scratch");
  const ds_status st = gpu_alloc(dev, bytes, &b->memory, err);
  if (st != DS_OK) {
    free(b);
    return st;
  }
  b->bytes = bytes;
  *out = b;
  return DS_OK;
}

ds_status gpu_scratch(ds_stream *s, enum gpu_scratch_use use, size_t bytes, void **out,
                      ds_error *err) {
  gpu_block **at = s->recording ? &s->record_scratch[use] : &s->scratch[use];
  if (*at == NULL || (*at)->bytes < bytes) {
    gpu_block *b = NULL;
    ds_status st = DS_OK;
    if (!s->recording && *at != NULL) {
      st = gpu_given(s, gpuStreamSynchronize(s->handle), "waiting to grow scratch", err);
      if (st != DS_OK) return st;
      gpu_block_free(*at);
      *at = NULL;
    }
    st = make(s->dev, bytes, &b, err);
    if (st != DS_OK) return st;
    b->before = *at; /* a recording keeps what it named */
    *at = b;
  }
  *out = (*at)->memory;
  return DS_OK;
}
