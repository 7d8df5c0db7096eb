/* reduce.h - sums, maxima and prefix sums of a group of 32 lanes and of a block. Part of kernels.
 *
 * Every function is for all threads at once (no early return before it), and gives all of them the result. The order
 * of combination depends on the number of threads alone, so that results are the same from run to run.
 *
 * A block is one-dimensional, of whole groups, at most 1024 threads. `scratch` is shared memory of GPU_GROUPS elements;
 * functions begin and end with a barrier where the next may use it again at once.
 *
 *   gpu_group_sum(v)  gpu_group_max(v)          int, unsigned, float, double, long long
 *   gpu_block_sum(v, scratch)  gpu_block_max(v, scratch)
 *   gpu_group_best(b)  gpu_block_best(b, scratch)
 *   gpu_block_before(v, scratch, &total)        the sum over the threads before this one
 *
 *   gpu_pair{a, b}                              two floats, each summed by itself
 *
 * Maxima of floats pass over NaN. */
#ifndef DS_GPU_REDUCE_H
#define DS_GPU_REDUCE_H

#include <math.h>
#include <stdint.h>

#include "port.h"

enum { GPU_GROUP = 32, GPU_GROUPS = 32 };

/* The larger value, of equals the one with the lower index. NaN is never better; begin with gpu_no_best(). */
struct gpu_best {
  float value;
  int index; /* INT32_MAX: none yet */
};
GPU_DEVICE gpu_best gpu_no_best() {
  return gpu_best{-INFINITY, INT32_MAX};
}
GPU_DEVICE gpu_best gpu_better(gpu_best a, gpu_best b) {
  const bool second = b.value > a.value || (b.value == a.value && b.index < a.index);
  return second ? b : a;
}

struct gpu_pair {
  float a, b;
};

/* How two are combined: GPU_DEVICE is static, so these are types with one function. */
struct gpu_plus {
  GPU_DEVICE gpu_pair of(gpu_pair x, gpu_pair y) { return gpu_pair{x.a + y.a, x.b + y.b}; }
  template <typename V> GPU_DEVICE V of(V a, V b) { return a + b; }
};
struct gpu_larger {
  GPU_DEVICE float of(float a, float b) { return fmaxf(a, b); }
  template <typename V> GPU_DEVICE V of(V a, V b) { return a < b ? b : a; }
};
struct gpu_better_of {
  GPU_DEVICE gpu_best of(gpu_best a, gpu_best b) { return gpu_better(a, b); }
};

template <typename V> GPU_DEVICE V gpu_exchange(V v, int mask) {
  return gpu_shuffle_xor(v, mask);
}
GPU_DEVICE gpu_pair gpu_exchange(gpu_pair v, int mask) {
  return gpu_pair{gpu_shuffle_xor(v.a, mask), gpu_shuffle_xor(v.b, mask)};
}
GPU_DEVICE gpu_best gpu_exchange(gpu_best v, int mask) {
  return gpu_best{gpu_shuffle_xor(v.value, mask), gpu_shuffle_xor(v.index, mask)};
}

template <typename F, typename V> GPU_DEVICE V gpu_group_reduce(V v) {
#pragma unroll
  for (int mask = GPU_GROUP / 2; mask > 0; mask /= 2) v = F::of(v, gpu_exchange(v, mask));
  return v;
}

/* none: what changes nothing. */
template <typename F, typename V> GPU_DEVICE V gpu_block_reduce(V v, V none, V *scratch) {
  const int lane = (int)threadIdx.x % GPU_GROUP, group = (int)threadIdx.x / GPU_GROUP;
  v = gpu_group_reduce<F>(v);
  gpu_sync();
  if (lane == 0) scratch[group] = v;
  gpu_sync();
  v = lane < (int)blockDim.x / GPU_GROUP ? scratch[lane] : none;
  return gpu_group_reduce<F>(v);
}

template <typename V> GPU_DEVICE V gpu_group_sum(V v) {
  return gpu_group_reduce<gpu_plus>(v);
}
template <typename V> GPU_DEVICE V gpu_group_max(V v) {
  return gpu_group_reduce<gpu_larger>(v);
}
GPU_DEVICE gpu_best gpu_group_best(gpu_best v) {
  return gpu_group_reduce<gpu_better_of>(v);
}
template <typename V> GPU_DEVICE V gpu_block_sum(V v, V *scratch) {
  return gpu_block_reduce<gpu_plus>(v, V{}, scratch);
}
/* What a thread without a group to read brings is the value of its own group, which changes nothing. */
template <typename V> GPU_DEVICE V gpu_block_max(V v, V *scratch) {
  v = gpu_group_max(v);
  return gpu_block_reduce<gpu_larger>(v, v, scratch);
}
GPU_DEVICE gpu_best gpu_block_best(gpu_best v, gpu_best *scratch) {
  return gpu_block_reduce<gpu_better_of>(v, gpu_no_best(), scratch);
}

/* Of lanes before this one in its group, and this one. */
template <typename V> GPU_DEVICE V gpu_group_running(V v) {
  const int lane = (int)threadIdx.x % GPU_GROUP;
  for (int by = 1; by < GPU_GROUP; by *= 2) {
    const V before = gpu_shuffle(v, lane >= by ? lane - by : lane);
    if (lane >= by) v += before;
  }
  return v;
}

template <typename V> GPU_DEVICE V gpu_block_before(V v, V *scratch, V *total) {
  const int lane = (int)threadIdx.x % GPU_GROUP, group = (int)threadIdx.x / GPU_GROUP;
  const V running = gpu_group_running(v);
  gpu_sync();
  if (lane == GPU_GROUP - 1) scratch[group] = running;
  gpu_sync();
  const V sums = gpu_group_running(lane < (int)blockDim.x / GPU_GROUP ? scratch[lane] : V(0));
  *total = gpu_shuffle(sums, GPU_GROUP - 1);
  const V groups_before = gpu_shuffle(sums, group > 0 ? group - 1 : 0);
  return running - v + (group > 0 ? groups_before : V(0));
}

#endif
