/* runtime.h - the vendor's runtime under one set of names.
 *
 * gpu_runtime.h is found by include path: plugins/cuda's, plugins/rocm's or tests/simt's. It is C and C++,
 * and defines, each with the meaning of cudaX and hipX of the same name:
 *
 *   gpuError_t gpuSuccess gpuErrorNotReady gpuErrorMemoryAllocation gpuErrorNoDevice
 *   gpuErrorInsufficientDriver gpuErrorStubLibrary gpuErrorPeerAccessAlreadyEnabled
 *   gpuGetErrorName gpuGetErrorString gpuGetLastError gpuPeekAtLastError
 *   gpuGetDeviceCount gpuSetDevice gpuGetDevice gpuMemGetInfo gpuDriverGetVersion
 *   gpuDeviceGetAttribute gpuDeviceGetPCIBusId gpuDeviceCanAccessPeer gpuDeviceEnablePeerAccess
 *   gpuMalloc gpuFree gpuHostMalloc (portable) gpuHostFree
 *   gpuMemPool_t gpuMallocFromPoolAsync gpuFreeAsync gpuMemPoolTrimTo gpuMemPoolDestroy
 *   gpuAttributeMultiprocessors gpuAttributeSharedPerBlock (by consent)   for gpuDeviceGetAttribute
 *   gpuMemcpyKind gpuMemcpyAsync gpuMemcpyPeerAsync gpuMemsetAsync gpuMemcpyHostToDevice ... gpuMemcpyDefault
 *   gpuStream_t gpuStreamCreate (does not wait for the null stream) gpuStreamDestroy
 *   gpuStreamSynchronize gpuStreamQuery gpuStreamWaitEvent gpuLaunchHostFunc
 *   gpuEvent_t gpuEventCreate (without timing) gpuEventDestroy gpuEventRecord gpuEventQuery gpuEventSynchronize
 *   gpuGraph_t gpuGraphExec_t gpuStreamBeginCapture (relaxed: this stream's work, whatever threads do)
 *   gpuStreamEndCapture gpuGraphInstantiate gpuGraphLaunch gpuGraphDestroy gpuGraphExecDestroy
 *
 * and, of its own:
 *
 *   GPU_PLUGIN_NAME                "cuda"
 *   GPU_PLUGIN_DESCRIPTION         one line
 *   GPU_PLUGIN_NEEDS               for the note
 *   GPU_PLUGIN_PRIORITY
 *   GPU_COLLECTIVES                names under which the NCCL-like library is looked for, "a|b"
 *   gpu_device_name(index, out, size)              gpuError_t
 *   gpu_device_wave(index), gpu_device_arch(index)     lanes of a wave; 900 for sm_90, 0x90a for gfx90a; or 0
 *   gpu_pool_create(out, index)    gpuError_t: a pool of this process that keeps what is freed; an error where the
 *                                  device has no pools
 *   gpu_pool_share(pool, index)    gpuError_t: its memory is reached by that device too
 *   gpu_no_device_reason(code)     a static string: why gpuGetDeviceCount said code, and the cure
 */
#ifndef DS_GPU_RUNTIME_H
#define DS_GPU_RUNTIME_H

#include "gpu_runtime.h"

#endif
