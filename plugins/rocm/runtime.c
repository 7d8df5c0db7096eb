/* runtime.c - what plugins/gpu/runtime.h asks for beyond HIP's own functions. */
#include "runtime.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

gpuError_t gpu_device_name(int index, char *out, size_t size) {
  return hipDeviceGetName(out, (int)size, index);
}

static int attribute(hipDeviceAttribute_t which, int index) {
  int value = 0;
  return hipDeviceGetAttribute(&value, which, index) == hipSuccess ? value : 0;
}

int gpu_device_wave(int index) {
  return attribute(hipDeviceAttributeWarpSize, index);
}

/* AMD's have a name, "gfx90a:sramecc+:xnack-", in hexadecimal; NVIDIA's a version. */
int gpu_device_arch(int index) {
  hipDeviceProp_t p;
  if (hipGetDeviceProperties(&p, index) == hipSuccess && p.gcnArchName[0] == 'g')
    return (int)strtol(p.gcnArchName + strlen("gfx"), NULL, 16);
  return attribute(hipDeviceAttributeComputeCapabilityMajor, index) * 100 +
         attribute(hipDeviceAttributeComputeCapabilityMinor, index) * 10;
}

gpuError_t gpu_pool_create(gpuMemPool_t *out, int index) {
  const hipMemPoolProps props = {.allocType = hipMemAllocationTypePinned,
                                 .location = {hipMemLocationTypeDevice, .id = index}};
  uint64_t keep = UINT64_MAX;
  *out = NULL;
  if (attribute(hipDeviceAttributeMemoryPoolsSupported, index) == 0) return hipErrorNotSupported;
  hipError_t code = hipMemPoolCreate(out, &props);
  if (code == hipSuccess)
    code = hipMemPoolSetAttribute(*out, hipMemPoolAttrReleaseThreshold, &keep);
  return code;
}

gpuError_t gpu_pool_share(gpuMemPool_t pool, int index) {
  const hipMemAccessDesc access = {.location = {hipMemLocationTypeDevice, .id = index},
                                   .flags = hipMemAccessFlagsProtReadWrite};
  return hipMemPoolSetAccess(pool, &access, 1);
}
