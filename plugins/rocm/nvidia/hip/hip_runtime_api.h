/* hip_runtime_api.h - as much of HIP's NVIDIA platform as the rocm plugin uses: HIP's names for CUDA's
 * functions. With it nvcc builds the rocm plugin's code, so that an NVIDIA card can run it. */
#ifndef DS_ROCM_NVIDIA_HIP_RUNTIME_API_H
#define DS_ROCM_NVIDIA_HIP_RUNTIME_API_H

#include <cuda_runtime_api.h>
#include <stdio.h>

/* clang-format off */
#define hipError_t                                cudaError_t
#define hipSuccess                                cudaSuccess
#define hipErrorNotReady                          cudaErrorNotReady
#define hipErrorOutOfMemory                       cudaErrorMemoryAllocation
#define hipErrorNoDevice                          cudaErrorNoDevice
#define hipErrorNotSupported                      cudaErrorNotSupported
#define hipErrorInsufficientDriver                cudaErrorInsufficientDriver
#define hipErrorPeerAccessAlreadyEnabled          cudaErrorPeerAccessAlreadyEnabled
#define hipGetErrorName                           cudaGetErrorName
#define hipGetErrorString                         cudaGetErrorString
#define hipGetLastError                           cudaGetLastError
#define hipPeekAtLastError                        cudaPeekAtLastError
#define hipGetDeviceCount                         cudaGetDeviceCount
#define hipSetDevice                              cudaSetDevice
#define hipGetDevice                              cudaGetDevice
#define hipMemGetInfo                             cudaMemGetInfo
#define hipDriverGetVersion                       cudaDriverGetVersion
#define hipDeviceAttribute_t                      enum cudaDeviceAttr
#define hipDeviceAttributeWarpSize                cudaDevAttrWarpSize
#define hipDeviceAttributeMultiprocessorCount     cudaDevAttrMultiProcessorCount
#define hipDeviceAttributeMaxSharedMemoryPerBlock cudaDevAttrMaxSharedMemoryPerBlockOptin
#define hipDeviceAttributeMemoryPoolsSupported    cudaDevAttrMemoryPoolsSupported
#define hipDeviceAttributeComputeCapabilityMajor  cudaDevAttrComputeCapabilityMajor
#define hipDeviceAttributeComputeCapabilityMinor  cudaDevAttrComputeCapabilityMinor
#define hipDeviceGetAttribute                     cudaDeviceGetAttribute
#define hipDeviceGetPCIBusId                      cudaDeviceGetPCIBusId
#define hipDeviceCanAccessPeer                    cudaDeviceCanAccessPeer
#define hipDeviceEnablePeerAccess                 cudaDeviceEnablePeerAccess
#define hipMalloc                                 cudaMalloc
#define hipFree                                   cudaFree
#define hipHostMalloc                             cudaHostAlloc
#define hipHostMallocPortable                     cudaHostAllocPortable
#define hipHostFree                               cudaFreeHost
#define hipMemPool_t                              cudaMemPool_t
#define hipMemPoolProps                           struct cudaMemPoolProps
#define hipMemAllocationTypePinned                cudaMemAllocationTypePinned
#define hipMemLocationTypeDevice                  cudaMemLocationTypeDevice
#define hipMemPoolAttrReleaseThreshold            cudaMemPoolAttrReleaseThreshold
#define hipMemAccessDesc                          struct cudaMemAccessDesc
#define hipMemAccessFlagsProtReadWrite            cudaMemAccessFlagsProtReadWrite
#define hipMemPoolCreate                          cudaMemPoolCreate
#define hipMemPoolDestroy                         cudaMemPoolDestroy
#define hipMemPoolTrimTo                          cudaMemPoolTrimTo
#define hipMemPoolSetAttribute                    cudaMemPoolSetAttribute
#define hipMemPoolSetAccess                       cudaMemPoolSetAccess
#define hipMallocFromPoolAsync                    cudaMallocFromPoolAsync
#define hipFreeAsync                              cudaFreeAsync
#define hipMemcpyKind                             enum cudaMemcpyKind
#define hipMemcpyHostToDevice                     cudaMemcpyHostToDevice
#define hipMemcpyDeviceToHost                     cudaMemcpyDeviceToHost
#define hipMemcpyDeviceToDevice                   cudaMemcpyDeviceToDevice
#define hipMemcpyDefault                          cudaMemcpyDefault
#define hipMemcpyAsync                            cudaMemcpyAsync
#define hipMemcpyPeerAsync                        cudaMemcpyPeerAsync
#define hipMemsetAsync                            cudaMemsetAsync
#define hipStream_t                               cudaStream_t
#define hipStreamNonBlocking                      cudaStreamNonBlocking
#define hipStreamCreateWithFlags                  cudaStreamCreateWithFlags
#define hipStreamDestroy                          cudaStreamDestroy
#define hipStreamSynchronize                      cudaStreamSynchronize
#define hipStreamQuery                            cudaStreamQuery
#define hipStreamWaitEvent                        cudaStreamWaitEvent
#define hipLaunchHostFunc                         cudaLaunchHostFunc
#define hipEvent_t                                cudaEvent_t
#define hipEventDisableTiming                     cudaEventDisableTiming
#define hipEventCreateWithFlags                   cudaEventCreateWithFlags
#define hipEventDestroy                           cudaEventDestroy
#define hipEventRecord                            cudaEventRecord
#define hipEventQuery                             cudaEventQuery
#define hipEventSynchronize                       cudaEventSynchronize
#define hipGraph_t                                cudaGraph_t
#define hipGraphExec_t                            cudaGraphExec_t
#define hipStreamCaptureModeRelaxed               cudaStreamCaptureModeRelaxed
#define hipStreamBeginCapture                     cudaStreamBeginCapture
#define hipStreamEndCapture                       cudaStreamEndCapture
#define hipGraphLaunch                            cudaGraphLaunch
#define hipGraphDestroy                           cudaGraphDestroy
#define hipGraphExecDestroy                       cudaGraphExecDestroy
#define hipFuncSetAttribute                       cudaFuncSetAttribute
#define hipFuncAttributeMaxDynamicSharedMemorySize cudaFuncAttributeMaxDynamicSharedMemorySize
/* clang-format on */
#define hipGraphInstantiate(exec, graph, node, log, size) cudaGraphInstantiate((exec), (graph), 0)

typedef struct hipDeviceProp_t {
  char gcnArchName[8]; /* "": not AMD's */
} hipDeviceProp_t;

static inline hipError_t hipGetDeviceProperties(hipDeviceProp_t *out, int index) {
  (void)index;
  out->gcnArchName[0] = '\0';
  return hipSuccess;
}

static inline hipError_t hipDeviceGetName(char *out, int size, int index) {
  struct cudaDeviceProp p;
  const cudaError_t code = cudaGetDeviceProperties(&p, index);
  if (code == cudaSuccess) snprintf(out, (size_t)size, "%s", p.name);
  return code;
}

#endif
