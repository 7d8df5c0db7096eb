/* gpu_runtime.h - plugins/gpu/runtime.h for the CUDA runtime. */
#ifndef DS_GPU_RUNTIME_CUDA_H
#define DS_GPU_RUNTIME_CUDA_H

#include <cuda_runtime_api.h>

/* clang-format off */
#define gpuError_t                         cudaError_t
#define gpuSuccess                         cudaSuccess
#define gpuErrorNotReady                   cudaErrorNotReady
#define gpuErrorMemoryAllocation           cudaErrorMemoryAllocation
#define gpuErrorNoDevice                   cudaErrorNoDevice
#define gpuErrorInsufficientDriver         cudaErrorInsufficientDriver
#define gpuErrorPeerAccessAlreadyEnabled   cudaErrorPeerAccessAlreadyEnabled
#define gpuGetErrorName                    cudaGetErrorName
#define gpuGetErrorString                  cudaGetErrorString
#define gpuGetLastError                    cudaGetLastError
#define gpuPeekAtLastError                 cudaPeekAtLastError
#define gpuGetDeviceCount                  cudaGetDeviceCount
#define gpuSetDevice                       cudaSetDevice
#define gpuGetDevice                       cudaGetDevice
#define gpuMemGetInfo                      cudaMemGetInfo
#define gpuDriverGetVersion                cudaDriverGetVersion
#define gpuDeviceGetAttribute              cudaDeviceGetAttribute
#define gpuDeviceGetPCIBusId               cudaDeviceGetPCIBusId
#define gpuDeviceCanAccessPeer             cudaDeviceCanAccessPeer
#define gpuDeviceEnablePeerAccess          cudaDeviceEnablePeerAccess
#define gpuMalloc                          cudaMalloc
#define gpuFree                            cudaFree
#define gpuMallocAsync                     cudaMallocAsync
#define gpuFreeAsync                       cudaFreeAsync
#define gpuMemcpyAsync                     cudaMemcpyAsync
#define gpuMemcpyPeerAsync                 cudaMemcpyPeerAsync
#define gpuMemsetAsync                     cudaMemsetAsync
#define gpuMemcpyHostToDevice              cudaMemcpyHostToDevice
#define gpuMemcpyDeviceToHost              cudaMemcpyDeviceToHost
#define gpuMemcpyDeviceToDevice            cudaMemcpyDeviceToDevice
#define gpuMemcpyDefault                   cudaMemcpyDefault
#define gpuStream_t                        cudaStream_t
#define gpuStreamDestroy                   cudaStreamDestroy
#define gpuStreamSynchronize               cudaStreamSynchronize
#define gpuStreamQuery                     cudaStreamQuery
#define gpuLaunchHostFunc                  cudaLaunchHostFunc
#define gpuEvent_t                         cudaEvent_t
#define gpuEventDestroy                    cudaEventDestroy
#define gpuEventRecord                     cudaEventRecord
#define gpuEventQuery                      cudaEventQuery
#define gpuEventSynchronize                cudaEventSynchronize
#define gpuGraph_t                         cudaGraph_t
#define gpuGraphExec_t                     cudaGraphExec_t
#define gpuStreamEndCapture                cudaStreamEndCapture
#define gpuGraphLaunch                     cudaGraphLaunch
#define gpuGraphDestroy                    cudaGraphDestroy
#define gpuGraphExecDestroy                cudaGraphExecDestroy
/* clang-format on */
#define gpuErrorStubLibrary                cudaErrorStubLibrary
#define gpuHostMalloc(p, bytes)            cudaHostAlloc((p), (bytes), cudaHostAllocPortable)
#define gpuHostFree                        cudaFreeHost
#define gpuStreamCreate(s)                 cudaStreamCreateWithFlags((s), cudaStreamNonBlocking)
#define gpuStreamWaitEvent(s, e)           cudaStreamWaitEvent((s), (e), 0)
#define gpuEventCreate(e)                  cudaEventCreateWithFlags((e), cudaEventDisableTiming)
#define gpuStreamBeginCapture(s)           cudaStreamBeginCapture((s), cudaStreamCaptureModeThreadLocal)
#define gpuGraphInstantiate(exec, graph)   cudaGraphInstantiate((exec), (graph), 0)

#endif
