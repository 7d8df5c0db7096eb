/* gpu_runtime.h - plugins/gpu/runtime.h for the CUDA runtime. */
#ifndef DS_GPU_RUNTIME_CUDA_H
#define DS_GPU_RUNTIME_CUDA_H

#include <cuda_runtime_api.h>
#include <stddef.h>

#define GPU_PLUGIN_NAME        "cuda"
#define GPU_PLUGIN_DESCRIPTION "NVIDIA cards: own kernels, cuBLASLt, NCCL"
#define GPU_PLUGIN_NEEDS       "the NVIDIA driver (and libcublasLt, libnccl where they are)"
#define GPU_PLUGIN_PRIORITY    300
#define GPU_COLLECTIVES        "libnccl.so.2"

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
#define gpuAttributeMultiprocessors        cudaDevAttrMultiProcessorCount
#define gpuAttributeSharedPerBlock         cudaDevAttrMaxSharedMemoryPerBlockOptin
#define gpuDeviceGetPCIBusId               cudaDeviceGetPCIBusId
#define gpuDeviceCanAccessPeer             cudaDeviceCanAccessPeer
#define gpuDeviceEnablePeerAccess          cudaDeviceEnablePeerAccess
#define gpuMalloc                          cudaMalloc
#define gpuFree                            cudaFree
#define gpuMemPool_t                       cudaMemPool_t
#define gpuMallocFromPoolAsync             cudaMallocFromPoolAsync
#define gpuMemPoolTrimTo                   cudaMemPoolTrimTo
#define gpuMemPoolDestroy                  cudaMemPoolDestroy
#define gpuFreeAsync                       cudaFreeAsync
#define gpuMemcpyAsync                     cudaMemcpyAsync
#define gpuMemcpyPeerAsync                 cudaMemcpyPeerAsync
#define gpuMemsetAsync                     cudaMemsetAsync
#define gpuMemcpyKind                      enum cudaMemcpyKind
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
#define gpuErrorStubLibrary              cudaErrorStubLibrary
#define gpuHostMalloc(p, bytes)          cudaHostAlloc((p), (bytes), cudaHostAllocPortable)
#define gpuHostFree                      cudaFreeHost
#define gpuStreamCreate(s)               cudaStreamCreateWithFlags((s), cudaStreamNonBlocking)
#define gpuStreamWaitEvent(s, e)         cudaStreamWaitEvent((s), (e), 0)
#define gpuEventCreate(e)                cudaEventCreateWithFlags((e), cudaEventDisableTiming)
#define gpuStreamBeginCapture(s)         cudaStreamBeginCapture((s), cudaStreamCaptureModeRelaxed)
#define gpuGraphInstantiate(exec, graph) cudaGraphInstantiate((exec), (graph), 0)

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
