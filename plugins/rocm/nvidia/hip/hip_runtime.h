/* hip_runtime.h - hip_runtime_api.h, and the functions of device code that HIP has and CUDA hasn't. */
#ifndef DS_ROCM_NVIDIA_HIP_RUNTIME_H
#define DS_ROCM_NVIDIA_HIP_RUNTIME_H

#include <cuda_runtime.h>

#include "hip_runtime_api.h"

#define HIP_ALL_LANES 0xffffffffu

template <typename V> static __device__ __forceinline__ V __shfl(V v, int lane, int width) {
  return __shfl_sync(HIP_ALL_LANES, v, lane, width);
}
template <typename V> static __device__ __forceinline__ V __shfl_xor(V v, int mask, int width) {
  return __shfl_xor_sync(HIP_ALL_LANES, v, mask, width);
}
template <typename V> static __device__ __forceinline__ V __shfl_down(V v, unsigned by, int width) {
  return __shfl_down_sync(HIP_ALL_LANES, v, by, width);
}
/* CUDA once had these three, and refuses the names today. */
static __device__ __forceinline__ unsigned long long hip_ballot(int p) {
  return __ballot_sync(HIP_ALL_LANES, p);
}
static __device__ __forceinline__ bool hip_any(int p) {
  return __any_sync(HIP_ALL_LANES, p);
}
static __device__ __forceinline__ bool hip_all(int p) {
  return __all_sync(HIP_ALL_LANES, p);
}
#define __ballot(p) hip_ballot(p)
#define __any(p)    hip_any(p)
#define __all(p)    hip_all(p)

#endif
