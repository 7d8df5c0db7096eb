/* runtime.c - what plugins/gpu/runtime.h asks for beyond the CUDA runtime's own functions. */
#include "runtime.h"

#include <stdint.h>
#include <stdio.h>

gpuError_t gpu_device_name(int index, char *out, size_t size) {
  struct cudaDeviceProp p;
  const cudaError_t code = cudaGetDeviceProperties(&p, index);
  if (code == cudaSuccess) snprintf(out, size, "%.*s", (int)sizeof p.name, p.name);
  return code;
}

static int attribute(enum cudaDeviceAttr which, int index) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, which, index) == cudaSuccess ? value : 0;
}

int gpu_device_wave(int index) {
  return attribute(cudaDevAttrWarpSize, index);
}

int gpu_device_arch(int index) {
  return attribute(cudaDevAttrComputeCapabilityMajor, index) * 100 +
         attribute(cudaDevAttrComputeCapabilityMinor, index) * 10;
}

gpuError_t gpu_pool_create(gpuMemPool_t *out, int index) {
  const struct cudaMemPoolProps props = {.allocType = cudaMemAllocationTypePinned,
                                         .location = {cudaMemLocationTypeDevice, .id = index}};
  uint64_t keep = UINT64_MAX;
  *out = NULL;
  cudaError_t code = cudaMemPoolCreate(out, &props);
  if (code == cudaSuccess)
    code = cudaMemPoolSetAttribute(*out, cudaMemPoolAttrReleaseThreshold, &keep);
  return code;
}

gpuError_t gpu_pool_share(gpuMemPool_t pool, int index) {
  const struct cudaMemAccessDesc access = {.location = {cudaMemLocationTypeDevice, .id = index},
                                           .flags = cudaMemAccessFlagsProtReadWrite};
  return cudaMemPoolSetAccess(pool, &access, 1);
}
