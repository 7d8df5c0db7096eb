/* softmax.h - a running maximum and the sum of exp(x - maximum): one reading of a row. Part of kernels.
 * (Milakov & Gimelshein 2018.) */
#ifndef DS_GPU_SOFTMAX_H
#define DS_GPU_SOFTMAX_H

#include <float.h>

#include "reduce.h"

/* most begins finite, so that rows of -infinity don't make NaN on the way. */
struct gpu_exp_sum {
  float most, sum;
};
GPU_DEVICE gpu_exp_sum gpu_no_exp_sum() {
  return gpu_exp_sum{-FLT_MAX, 0};
}
GPU_DEVICE gpu_exp_sum gpu_exp_sum_of(gpu_exp_sum a, gpu_exp_sum b) {
  const float most = fmaxf(a.most, b.most);
  return gpu_exp_sum{most,
                     a.sum * gpu_exp_fast(a.most - most) + b.sum * gpu_exp_fast(b.most - most)};
}
/* NaN among v makes sum NaN. */
template <int N> GPU_DEVICE void gpu_exp_sum_add(gpu_exp_sum *a, const float (&v)[N], int count) {
  float most = a->most, sum = 0;
#pragma unroll
  for (int j = 0; j < count; j++) most = fmaxf(most, v[j]);
#pragma unroll
  for (int j = 0; j < count; j++) sum += gpu_exp_fast(v[j] - most);
  a->sum = fmaf(a->sum, gpu_exp_fast(a->most - most), sum);
  a->most = most;
}

struct gpu_exp_sums {
  GPU_DEVICE gpu_exp_sum of(gpu_exp_sum a, gpu_exp_sum b) { return gpu_exp_sum_of(a, b); }
};
GPU_DEVICE gpu_exp_sum gpu_exchange(gpu_exp_sum v, int mask) {
  return gpu_exp_sum{gpu_shuffle_xor(v.most, mask), gpu_shuffle_xor(v.sum, mask)};
}
GPU_DEVICE gpu_exp_sum gpu_block_exp_sum(gpu_exp_sum v, gpu_exp_sum *scratch) {
  return gpu_block_reduce<gpu_exp_sums>(v, gpu_no_exp_sum(), scratch);
}

#endif
