/* gpu_runtime.h - plugins/gpu/runtime.h for HIP. */
#ifndef DS_GPU_RUNTIME_HIP_H
#define DS_GPU_RUNTIME_HIP_H

#include <hip/hip_runtime_api.h>
#include <stddef.h>

#ifdef __HIP_PLATFORM_NVIDIA__
#define GPU_PLUGIN_NAME        "rocm_nvidia"
#define GPU_PLUGIN_DESCRIPTION "the rocm plugin's code on NVIDIA cards, to test it there"
#define GPU_PLUGIN_NEEDS       "the NVIDIA driver"
#define GPU_PLUGIN_PRIORITY    200
#define GPU_COLLECTIVES        "libnccl.so.2"
#else
#define GPU_PLUGIN_NAME        "rocm"
#define GPU_PLUGIN_DESCRIPTION "AMD cards: own kernels, rocBLAS, RCCL"
#define GPU_PLUGIN_NEEDS                                                                           \
  "libamdhip64 and the amdgpu driver (and librocblas, librccl where they are)"
#define GPU_PLUGIN_PRIORITY 290
#define GPU_COLLECTIVES     "librccl.so.1"
#endif

/* clang-format off */
#define gpuError_t                         hipError_t
#define gpuSuccess                         hipSuccess
#define gpuErrorNotReady                   hipErrorNotReady
#define gpuErrorMemoryAllocation           hipErrorOutOfMemory
#define gpuErrorNoDevice                   hipErrorNoDevice
#define gpuErrorInsufficientDriver         hipErrorInsufficientDriver
#define gpuErrorPeerAccessAlreadyEnabled   hipErrorPeerAccessAlreadyEnabled
#define gpuGetErrorName                    hipGetErrorName
#define gpuGetErrorString                  hipGetErrorString
#define gpuGetLastError                    hipGetLastError
#define gpuPeekAtLastError                 hipPeekAtLastError
#define gpuGetDeviceCount                  hipGetDeviceCount
#define gpuSetDevice                       hipSetDevice
#define gpuGetDevice                       hipGetDevice
#define gpuMemGetInfo                      hipMemGetInfo
#define gpuDriverGetVersion                hipDriverGetVersion
#define gpuDeviceGetAttribute              hipDeviceGetAttribute
#define gpuAttributeMultiprocessors        hipDeviceAttributeMultiprocessorCount
#define gpuAttributeSharedPerBlock         hipDeviceAttributeMaxSharedMemoryPerBlock
#define gpuDeviceGetPCIBusId               hipDeviceGetPCIBusId
#define gpuDeviceCanAccessPeer             hipDeviceCanAccessPeer
#define gpuDeviceEnablePeerAccess          hipDeviceEnablePeerAccess
#define gpuMalloc                          hipMalloc
#define gpuFree                            hipFree
#define gpuMemPool_t                       hipMemPool_t
#define gpuMallocFromPoolAsync             hipMallocFromPoolAsync
#define gpuMemPoolTrimTo                   hipMemPoolTrimTo
#define gpuMemPoolDestroy                  hipMemPoolDestroy
#define gpuFreeAsync                       hipFreeAsync
#define gpuMemcpyAsync                     hipMemcpyAsync
#define gpuMemcpyPeerAsync                 hipMemcpyPeerAsync
#define gpuMemsetAsync                     hipMemsetAsync
#define gpuMemcpyKind                      hipMemcpyKind
#define gpuMemcpyHostToDevice              hipMemcpyHostToDevice
#define gpuMemcpyDeviceToHost              hipMemcpyDeviceToHost
#define gpuMemcpyDeviceToDevice            hipMemcpyDeviceToDevice
#define gpuMemcpyDefault                   hipMemcpyDefault
#define gpuStream_t                        hipStream_t
#define gpuStreamDestroy                   hipStreamDestroy
#define gpuStreamSynchronize               hipStreamSynchronize
#define gpuStreamQuery                     hipStreamQuery
#define gpuLaunchHostFunc                  hipLaunchHostFunc
#define gpuEvent_t                         hipEvent_t
#define gpuEventDestroy                    hipEventDestroy
#define gpuEventRecord                     hipEventRecord
#define gpuEventQuery                      hipEventQuery
#define gpuEventSynchronize                hipEventSynchronize
#define gpuGraph_t                         hipGraph_t
#define gpuGraphExec_t                     hipGraphExec_t
#define gpuStreamEndCapture                hipStreamEndCapture
#define gpuGraphLaunch                     hipGraphLaunch
#define gpuGraphDestroy                    hipGraphDestroy
#define gpuGraphExecDestroy                hipGraphExecDestroy
/* clang-format on */
#define gpuErrorStubLibrary              (-1) /* HIP has none */
#define gpuHostMalloc(p, bytes)          hipHostMalloc((p), (bytes), hipHostMallocPortable)
#define gpuHostFree                      hipHostFree
#define gpuStreamCreate(s)               hipStreamCreateWithFlags((s), hipStreamNonBlocking)
#define gpuStreamWaitEvent(s, e)         hipStreamWaitEvent((s), (e), 0)
#define gpuEventCreate(e)                hipEventCreateWithFlags((e), hipEventDisableTiming)
#define gpuStreamBeginCapture(s)         hipStreamBeginCapture((s), hipStreamCaptureModeRelaxed)
#define gpuGraphInstantiate(exec, graph) hipGraphInstantiate((exec), (graph), NULL, NULL, 0)

#ifdef __cplusplus
extern "C" {
#endif
/* runtime.c; what each does stands in plugins/gpu/runtime.h. */
gpuError_t gpu_device_name(int index, char *out, size_t size);
int gpu_device_wave(int index);
int gpu_device_arch(int index);
gpuError_t gpu_pool_create(gpuMemPool_t *out, int index);
gpuError_t gpu_pool_share(gpuMemPool_t pool, int index);
const char *gpu_no_device_reason(gpuError_t code);
#ifdef __cplusplus
}
#endif

#endif
