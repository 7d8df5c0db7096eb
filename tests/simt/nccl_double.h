/* nccl_double.h - what the double of NCCL (nccl_double.c) needs of the emulated runtime, which lives inside the plugin:
 * whoever opens the double hands it over. */
#ifndef DS_SIMT_NCCL_DOUBLE_H
#define DS_SIMT_NCCL_DOUBLE_H

#include "gpu_runtime.h"

typedef struct nccl_double_runtime {
  gpuError_t (*launch_host)(gpuStream_t s, void (*run)(void *), void *argument);
  gpuError_t (*event_create)(gpuEvent_t *out);
  gpuError_t (*event_destroy)(gpuEvent_t e);
  gpuError_t (*event_record)(gpuEvent_t e, gpuStream_t s);
  gpuError_t (*event_synchronize)(gpuEvent_t e);
  gpuError_t (*get_device)(int *index);
  gpuError_t (*bus)(char *out, int size, int index);
  gpuError_t (*copy)(void *to, const void *from, size_t bytes); /* from a host function */
} nccl_double_runtime;

typedef void nccl_double_bind_fn(const nccl_double_runtime *runtime);

#endif
