/* port_cuda.h - port.h for nvcc. */
#ifndef DS_GPU_PORT_CUDA_H
#define DS_GPU_PORT_CUDA_H

#include <cuda_runtime.h>
#include <stdint.h>

#include "gpu_runtime.h"

#define GPU_WAVE        32
#define GPU_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define GPU_DEVICE      static __device__ __forceinline__
#define GPU_LAUNCH(kernel, grid, block, shared, stream, ...)                                       \
  (kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__), cudaGetLastError())
#define GPU_ALLOW_SHARED(kernel, bytes)                                                            \
  cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),                                     \
                       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(bytes))
#define GPU_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define GPU_SHARED_DYNAMIC(type, name)                                                             \
  extern __shared__ __align__(16) unsigned char gpu_dynamic_shared[];                              \
  type *name = reinterpret_cast<type *>(gpu_dynamic_shared)

GPU_DEVICE int gpu_lane() {
  return (int)(threadIdx.x % GPU_WAVE);
}

template <typename V> GPU_DEVICE V gpu_shuffle(V v, int lane, int width = 32) {
  return __shfl_sync(0xffffffffu, v, lane, width);
}
template <typename V> GPU_DEVICE V gpu_shuffle_xor(V v, int mask, int width = 32) {
  return __shfl_xor_sync(0xffffffffu, v, mask, width);
}
template <typename V> GPU_DEVICE V gpu_shuffle_down(V v, int by, int width = 32) {
  return __shfl_down_sync(0xffffffffu, v, (unsigned)by, width);
}
GPU_DEVICE unsigned long long gpu_ballot(bool p) {
  return __ballot_sync(0xffffffffu, p);
}
GPU_DEVICE bool gpu_any(bool p) {
  return __any_sync(0xffffffffu, p);
}
GPU_DEVICE bool gpu_all(bool p) {
  return __all_sync(0xffffffffu, p);
}
GPU_DEVICE void gpu_sync() {
  __syncthreads();
}
GPU_DEVICE void gpu_sync_wave() {
  __syncwarp();
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
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
GPU_DEVICE float gpu_exp_fast(float x) {
  return gpu_exp2_fast(x * 1.44269504088896340736f);
}

/* sm_75 has no cp.async: a plain copy is the same, a little later. */
GPU_DEVICE void gpu_copy16(void *shared, const void *global, bool valid) {
#if __CUDA_ARCH__ >= 800
  unsigned to = (unsigned)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4 *>(shared) =
      valid ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
#endif
}
GPU_DEVICE void gpu_copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> GPU_DEVICE void gpu_copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

#endif
