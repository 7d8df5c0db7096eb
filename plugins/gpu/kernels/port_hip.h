/* port_hip.h - port.h for hipcc; and, with plugins/rocm/nvidia first on the include path, for nvcc
 * (HIP's NVIDIA platform). */
#ifndef DS_GPU_PORT_HIP_H
#define DS_GPU_PORT_HIP_H

#include <hip/hip_runtime.h>
#include <stdint.h>

#include "gpu_runtime.h"

/* CDNA and GCN run 64 lanes together, RDNA 32. */
#if defined(__CUDA_ARCH__) || defined(__NVCC__)
#define GPU_WAVE 32
#elif defined(__GFX10__) || defined(__GFX11__) || defined(__GFX12__)
#define GPU_WAVE 32
#else
#define GPU_WAVE 64
#endif

/* HIP's second bound means something else. */
#define GPU_KERNEL(threads, ...) __global__ void __launch_bounds__(threads)
#define GPU_DEVICE               static __device__ __forceinline__
/* The runtime is shared with rocBLAS, RCCL and the host: what they left behind is none of the launch's. */
#define GPU_LAUNCH(kernel, grid, block, shared, stream, ...)                                       \
  ((void)hipGetLastError(), kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__),          \
   hipGetLastError())
#define GPU_ALLOW_SHARED(kernel, bytes)                                                            \
  hipFuncSetAttribute(reinterpret_cast<const void *>(kernel),                                      \
                      hipFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))
#define GPU_SHARED(type, name, count) __shared__ __attribute__((aligned(16))) type name[count]
#define GPU_SHARED_DYNAMIC(type, name)                                                             \
  extern __shared__ __attribute__((aligned(16))) unsigned char gpu_dynamic_shared[];               \
  type *name = reinterpret_cast<type *>(gpu_dynamic_shared)

GPU_DEVICE int gpu_lane() {
  return (int)(threadIdx.x % GPU_WAVE);
}

template <typename V> GPU_DEVICE V gpu_shuffle(V v, int lane, int width = 32) {
  return __shfl(v, lane, width);
}
template <typename V> GPU_DEVICE V gpu_shuffle_xor(V v, int mask, int width = 32) {
  return __shfl_xor(v, mask, width);
}
template <typename V> GPU_DEVICE V gpu_shuffle_down(V v, int by, int width = 32) {
  return __shfl_down(v, (unsigned)by, width);
}
GPU_DEVICE unsigned long long gpu_ballot(bool p) {
  return __ballot(p);
}
GPU_DEVICE bool gpu_any(bool p) {
  return __any(p);
}
GPU_DEVICE bool gpu_all(bool p) {
  return __all(p);
}
GPU_DEVICE void gpu_sync() {
  __syncthreads();
}
GPU_DEVICE void gpu_sync_wave() {
#if defined(__NVCC__)
  __syncwarp();
#else
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
  __builtin_amdgcn_wave_barrier();
#endif
}
GPU_DEVICE void gpu_fence() {
  __threadfence();
}
template <typename V> GPU_DEVICE V gpu_atomic_add(V *p, V v) {
  return atomicAdd(p, v);
}
template <typename V> GPU_DEVICE V gpu_atomic_max(V *p, V v) {
  return atomicMax(p, v);
}
template <typename V> GPU_DEVICE V gpu_atomic_cas(V *p, V was, V v) {
  return atomicCAS(p, was, v);
}

GPU_DEVICE float gpu_rsqrt(float x) {
  return rsqrtf(x);
}
GPU_DEVICE float gpu_exp2_fast(float x) {
#if defined(__NVCC__)
  return exp2f(x);
#else
  return __builtin_exp2f(x);
#endif
}
GPU_DEVICE float gpu_exp_fast(float x) {
  return gpu_exp2_fast(x * 1.44269504088896340736f);
}

/* No copies beside the thread: a plain one is the same, a little later. */
GPU_DEVICE void gpu_copy16(void *shared, const void *global, bool valid) {
  *static_cast<uint4 *>(shared) =
      valid ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
}
GPU_DEVICE void gpu_copy_commit() {}
template <int N> GPU_DEVICE void gpu_copy_wait() {}

#endif
