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

/* What the codes mean was seen: 35 with driver version 0 where there is no libcuda.so.1. */
const char *gpu_no_device_reason(gpuError_t code) {
  int version = 0;
  (void)cudaDriverGetVersion(&version);
  (void)cudaGetLastError();
  switch (code) {
    case cudaSuccess:
    case cudaErrorNoDevice:
      return "the NVIDIA driver finds no card that this process may use; nvidia-smi lists what "
             "there is, CUDA_VISIBLE_DEVICES hides cards, and a container needs --gpus all";
    case cudaErrorInsufficientDriver:
      if (version == 0)
        return "no NVIDIA driver: libcuda.so.1 not found; install the driver of your card "
               "(Debian: nvidia-driver), and start a container with --gpus all";
      return "the NVIDIA driver is too old for the CUDA that this plugin was built with; install "
             "a newer driver, or build the plugin with an older CUDA Toolkit";
    case cudaErrorStubLibrary:
      return "the libcuda that is found is the CUDA Toolkit's stub, which is only for linking; "
             "take its folder (lib64/stubs) out of LD_LIBRARY_PATH";
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
      return "the NVIDIA driver's parts are of different versions, or not ready; restart the "
             "machine after a driver's upgrade; cards with NVSwitch need nvidia-fabricmanager";
    default: return "the NVIDIA driver can't be started; nvidia-smi may say why";
  }
}
