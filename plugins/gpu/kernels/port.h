/* port.h - what kernels are written in: the part of CUDA C++ that nvcc, hipcc and the emulation of
 * tests/simt have in common, and names for what differs.
 *
 * A kernel file (.cu) includes this header and its own C header, and defines kernels and, as
 * extern "C", the functions that launch them. It is C++14 without exceptions, RTTI, the standard
 * library and static initializers.
 *
 *   GPU_KERNEL(threads) name(...)    a kernel launched with at most `threads` threads a block;
 *                                    GPU_KERNEL(threads, n): CUDA's compiler leaves registers for n such
 *                                    blocks on a multiprocessor
 *   GPU_DEVICE type name(...)        a function of kernels, inlined
 *   GPU_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)
 *                                    a gpuError_t. Commas of a template: auto k = kernel<T, 4>; first
 *   GPU_ALLOW_SHARED(kernel, bytes)  a gpuError_t: launches may ask for that much, if beyond 48 KiB;
 *                                    on the current device, before the first
 *   GPU_SHARED(type, name, count);   type name[count], shared by the block, 16-byte aligned, at the
 *                                    top level of a kernel; contents unspecified
 *   GPU_SHARED_DYNAMIC(type, name);  type *name: the launch's shared_bytes; at most one a kernel
 *   threadIdx blockIdx blockDim gridDim dim3 uint2 uint4 float2 float4
 *
 * Lanes. GPU_WAVE is the number of lanes that run together, 32 or 64, a constant of device code (the
 * host's is ds_device.wave). Shuffles and votes are for all lanes of a wave at once, none having
 * left: no early return before them, and blocks of whole waves. A shuffle stays within `width` lanes, which divides
 * the wave; most kernels use groups of 32 and never ask how long a wave is.
 *
 *   gpu_lane()                                     threadIdx.x % GPU_WAVE, for blocks of one dimension
 *   gpu_shuffle(v, lane, width = 32)               v of lane `lane` of the group
 *   gpu_shuffle_xor(v, mask, width = 32), gpu_shuffle_down(v, by, width = 32)
 *                                                  v: int, unsigned, float, double, long long
 *   gpu_ballot(p)  gpu_any(p)  gpu_all(p)          over the wave; ballot is an unsigned long long
 *   gpu_sync()                                     the block's barrier: all threads come
 *   gpu_sync_wave()                                orders the wave's accesses to shared memory
 *   gpu_fence()                                    this thread's writes before, for other blocks
 *   gpu_atomic_add(p, v)  gpu_atomic_max(p, v)  gpu_atomic_cas(p, was, v)
 *                                                  int, unsigned; gives what was there. No float
 *                                                  atomics: results have one order of summation.
 *
 * Copies from global to shared memory that run beside the thread (cp.async). 16 bytes, both
 * addresses 16-byte aligned; the data is there after gpu_copy_wait and, for other threads, a barrier.
 *
 *   gpu_copy16(shared, global, valid)   zeros where !valid (global isn't read)
 *   gpu_copy_commit()                   ends a group
 *   gpu_copy_wait<N>()                  all but this thread's last N groups are done
 *
 * Arithmetic: fmaf expf exp2f logf log2f sqrtf tanhf erff fabsf fmaxf fminf isnan isfinite rintf, and
 *   gpu_rsqrt(x)                        to 2 ulp
 *   gpu_exp2_fast(x)                    to 4 ulp for |x| < 64; -inf gives 0
 *   gpu_exp_fast(x)                     the same, but x log2(e) is rounded first: to (1 + |x|) 2^-22 of the result
 *
 * Types. Storage only; arithmetic is in float:
 *   gpu_bf16 gpu_f16 gpu_f8e4m3 gpu_f8e5m2   structs with the one member `bits`
 *   gpu_f32(x)                               exact, from any of them and from float
 *   gpu_from<T>(float)                       to nearest even; fp8 saturates; NaN stays NaN
 *   gpu_vec<T, N>                            T at[N], aligned to its size: one load of up to 16 bytes
 */
#ifndef DS_GPU_PORT_H
#define DS_GPU_PORT_H

#if defined(GPU_EMULATED)
#include "simt.h"
#elif defined(GPU_HIP)
#include "port_hip.h"
#else
#include "port_cuda.h"
#endif

#ifndef GPU_ALLOW_SHARED
#define GPU_ALLOW_SHARED(kernel, bytes) gpuSuccess
#endif

#include "port_types.h"

#endif
