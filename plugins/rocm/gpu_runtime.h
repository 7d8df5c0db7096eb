/* gpu_runtime.h - plugins/gpu/runtime.h for HIP. */
#ifndef DS_GPU_RUNTIME_HIP_H
#define DS_GPU_RUNTIME_HIP_H

#include <hip/hip_runtime_api.h>

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
#define gpuDeviceGetPCIBusId               hipDeviceGetPCIBusId
#define gpuDeviceCanAccessPeer             hipDeviceCanAccessPeer
#define gpuDeviceEnablePeerAccess          hipDeviceEnablePeerAccess
#define gpuMalloc                          hipMalloc
#define gpuFree                            hipFree
#define gpuMallocAsync                     hipMallocAsync
#define gpuFreeAsync                       hipFreeAsync
#define gpuMemcpyAsync                     hipMemcpyAsync
#define gpuMemcpyPeerAsync                 hipMemcpyPeerAsync
#define gpuMemsetAsync                     hipMemsetAsync
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
#define gpuErrorStubLibrary                (-1) /* HIP has none */
#define gpuHostMalloc(p, bytes)            hipHostMalloc((p), (bytes), hipHostMallocPortable)
#define gpuHostFree                        hipHostFree
#define gpuStreamCreate(s)                 hipStreamCreateWithFlags((s), hipStreamNonBlocking)
#define gpuStreamWaitEvent(s, e)           hipStreamWaitEvent((s), (e), 0)
#define gpuEventCreate(e)                  hipEventCreateWithFlags((e), hipEventDisableTiming)
#define gpuStreamBeginCapture(s)           hipStreamBeginCapture((s), hipStreamCaptureModeThreadLocal)
#define gpuGraphInstantiate(exec, graph)   hipGraphInstantiate((exec), (graph), NULL, NULL, 0)

#endif
