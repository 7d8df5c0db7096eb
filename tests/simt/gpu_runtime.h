/* gpu_runtime.h - plugins/gpu/runtime.h on host memory: devices that aren't there, for tests.
 *
 * As on a GPU, work runs later: a stream is a queue that runs when somebody has to wait for it (to synchronize or
 * destroy it or one of its events' waiters), one piece at each query but no host
 * function, and in no other case. Arguments are copied at
 * the call, what pointers point to is not; but copies from ordinary host memory are taken at the call, as CUDA does.
 * gpuFree doesn't wait: work that still uses the memory fails. Failures of a kernel are kept: gpuGetErrorString(gpuErrorLaunchFailure)
 * says which kernel, block and thread did what, and every later call on the device fails with it.
 *
 * Environment: DS_SIMT_DEVICES  how many there are (2)
 *              DS_SIMT_MEMORY   bytes that each has (8589934592)
 *              DS_SIMT_ORDER    forward, reverse, or a number: which thread of a block runs first, and which block;
 *                               a number is the seed of a random order (forward)
 *
 * GPU_WAVE, set by the build, is the lanes of a wave. */
#ifndef DS_SIMT_GPU_RUNTIME_H
#define DS_SIMT_GPU_RUNTIME_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum gpuError_t {
  gpuSuccess = 0,
  gpuErrorInvalidValue = 1,
  gpuErrorMemoryAllocation = 2,
  gpuErrorInvalidConfiguration = 9,
  gpuErrorStubLibrary = 34,
  gpuErrorInsufficientDriver = 35,
  gpuErrorNoDevice = 100,
  gpuErrorInvalidDevice = 101,
  gpuErrorInvalidResourceHandle = 400,
  gpuErrorNotReady = 600,
  gpuErrorPeerAccessAlreadyEnabled = 704,
  gpuErrorLaunchFailure = 719,
  gpuErrorStreamCaptureUnsupported = 900,
  gpuErrorStreamCaptureInvalidated = 901
} gpuError_t;

typedef enum gpuMemcpyKind {
  gpuMemcpyHostToHost = 0,
  gpuMemcpyHostToDevice = 1,
  gpuMemcpyDeviceToHost = 2,
  gpuMemcpyDeviceToDevice = 3,
  gpuMemcpyDefault = 4
} gpuMemcpyKind;

typedef enum gpuDeviceAttr {
  gpuAttributeMultiprocessors = 16,
  gpuAttributeSharedPerBlock = 97
} gpuDeviceAttr;

typedef struct simt_stream *gpuStream_t; /* NULL: the device's default stream */
typedef struct simt_event *gpuEvent_t;
typedef struct simt_pool *gpuMemPool_t;
typedef struct simt_graph *gpuGraph_t;
typedef struct simt_graph *gpuGraphExec_t;

const char *gpuGetErrorName(gpuError_t code);
const char *gpuGetErrorString(gpuError_t code);
gpuError_t gpuGetLastError(void);
gpuError_t gpuPeekAtLastError(void);

gpuError_t gpuGetDeviceCount(int *count);
gpuError_t gpuSetDevice(int index);
gpuError_t gpuGetDevice(int *index);
gpuError_t gpuDriverGetVersion(int *version);
gpuError_t gpuDeviceGetAttribute(int *value, gpuDeviceAttr attribute, int index);
gpuError_t gpuDeviceGetPCIBusId(char *out, int size, int index);
gpuError_t gpuDeviceCanAccessPeer(int *can, int from, int to);
gpuError_t gpuDeviceEnablePeerAccess(int to, unsigned flags);

gpuError_t gpuMemGetInfo(size_t *available, size_t *total);
gpuError_t gpuMalloc(void **out, size_t bytes);
gpuError_t gpuFree(void *p);
gpuError_t gpuMemPoolTrimTo(gpuMemPool_t pool, size_t keep);
gpuError_t gpuMemPoolDestroy(gpuMemPool_t pool);
gpuError_t gpuMallocFromPoolAsync(void **out, size_t bytes, gpuMemPool_t pool, gpuStream_t s);
gpuError_t gpuFreeAsync(void *p, gpuStream_t s);
gpuError_t gpuHostMalloc(void **out, size_t bytes);
gpuError_t gpuHostFree(void *p);
gpuError_t gpuMemcpyAsync(void *to, const void *from, size_t bytes, gpuMemcpyKind kind,
                          gpuStream_t s);
gpuError_t gpuMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                              size_t bytes, gpuStream_t s);
gpuError_t gpuMemsetAsync(void *to, int byte, size_t bytes, gpuStream_t s);

gpuError_t gpuStreamCreate(gpuStream_t *out);
gpuError_t gpuStreamDestroy(gpuStream_t s);
gpuError_t gpuStreamSynchronize(gpuStream_t s);
gpuError_t gpuStreamQuery(gpuStream_t s);
gpuError_t gpuStreamWaitEvent(gpuStream_t s, gpuEvent_t e);
gpuError_t gpuLaunchHostFunc(gpuStream_t s, void (*run)(void *), void *argument);

gpuError_t gpuEventCreate(gpuEvent_t *out);
gpuError_t gpuEventDestroy(gpuEvent_t e);
gpuError_t gpuEventRecord(gpuEvent_t e, gpuStream_t s);
gpuError_t gpuEventQuery(gpuEvent_t e);
gpuError_t gpuEventSynchronize(gpuEvent_t e);

gpuError_t gpuStreamBeginCapture(gpuStream_t s);
gpuError_t gpuStreamEndCapture(gpuStream_t s, gpuGraph_t *out);
gpuError_t gpuGraphInstantiate(gpuGraphExec_t *out, gpuGraph_t graph);
gpuError_t gpuGraphLaunch(gpuGraphExec_t exec, gpuStream_t s);
gpuError_t gpuGraphDestroy(gpuGraph_t graph);
gpuError_t gpuGraphExecDestroy(gpuGraphExec_t exec);

/* Tests only. Runs all work of all streams that nobody runs already: what waits for another stream's work from
 * within a host function calls it, since nothing here runs by itself. */
void simt_run_all(void);
/* Tests only. For host functions that stand for work of the device: between device memory and any. */
gpuError_t simt_copy(void *to, const void *from, size_t bytes);
/* collectives.cpp */
void *simt_open_library(const char *name);
/* Tests only. Revives all devices after a failure. */
void simt_revive(void);

#if GPU_WAVE == 64
#define GPU_PLUGIN_NAME "emu64"
#else
#define GPU_PLUGIN_NAME "emu"
#endif
#define GPU_PLUGIN_DESCRIPTION "GPU kernels on this processor, thread by thread: for tests"
#define GPU_PLUGIN_NEEDS       "nothing"
#define GPU_PLUGIN_PRIORITY    0
#define GPU_COLLECTIVES        "libdscore_nccl_double.so"
#define GPU_OPEN_LIBRARY(name) simt_open_library(name)

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
