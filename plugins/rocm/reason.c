/* reason.c - why there is no AMD card, and the cure. */
#include "runtime.h"

const char *gpu_no_device_reason(gpuError_t code) {
  switch (code) {
    case hipSuccess:
    case hipErrorNoDevice:
      return "no AMD card that this process may use: none is there, the amdgpu driver isn't "
             "loaded, "
             "or /dev/kfd can't be opened (add the user to the groups video and render); rocminfo "
             "lists what there is, HIP_VISIBLE_DEVICES hides cards";
    case hipErrorInsufficientDriver:
      return "the amdgpu driver is too old for the ROCm that this plugin runs with; install a "
             "newer "
             "one";
    default: return "the amdgpu driver can't be started; rocminfo may say why";
  }
}
