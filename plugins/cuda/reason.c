/* reason.c - why there is no NVIDIA card, and the cure. Also of the rocm plugin on HIP's NVIDIA platform. */
#include "runtime.h"

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
