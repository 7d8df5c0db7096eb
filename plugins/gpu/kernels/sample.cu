/* sample.cu - an id for each row of logits: temperature, the k likeliest, the likeliest that make up p.
 *
 * Nothing is sorted. What stays are the logits above a threshold and the first few that equal it, and a threshold is found
 * by search: how much lies at or above three values between the bounds, then the same in the quarter that has it. Weights
 * are whole numbers, exp((x - max) / temperature) in fixed point, so that sums are exact and have no order. */
#include "sample.h"

#include "reduce.h"
#include "vector.h"

namespace {

enum { THREADS = 1024, FEW = 256 };

template <typename T> struct sample_args {
  const T *logits;
  const float *draw;
  const int32_t *banned;
  int32_t *id;
  int cols;
  int64_t top_k;
  float inverse_temperature, unit; /* unit: the fixed-point number that is 1 */
  double top_p;
  bool greedy;
};

/* A row and what is known of it. Keys are unsigned numbers in the order of the logits, 0 for what is no candidate. */
template <typename T> struct row_of {
  const T *x;
  int cols, banned;
  float most, inverse_temperature, unit;
};

/* bf16's keys are those of the float, without the lower half. */
template <typename T> struct key_width {
  enum { SHIFT = 0 };
};
template <> struct key_width<gpu_bf16> {
  enum { SHIFT = 16 };
};
template <typename T> GPU_DEVICE uint32_t key_of(const row_of<T> &r, float x, int i) {
  const uint32_t bits = gpu_bits(x + 0.0f); /* -0 is 0 */
  const uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return isfinite(x) && i != r.banned ? key >> key_width<T>::SHIFT : 0;
}
template <typename T> GPU_DEVICE float logit_of(uint32_t key) {
  key <<= key_width<T>::SHIFT;
  return gpu_float(key & 0x80000000u ? key & 0x7fffffffu
                                     : ~(key | ((1u << key_width<T>::SHIFT) - 1u)));
}
template <typename T> GPU_DEVICE long long weight_of(const row_of<T> &r, float x) {
  return (long long)(gpu_exp_fast((x - r.most) * r.inverse_temperature) * r.unit);
}

/* f(key, logit) of every candidate. */
template <typename T, typename F> GPU_DEVICE void each_candidate(const row_of<T> &r, F f) {
  gpu_visit<16 / (int)sizeof(T)>(r.x, r.cols, threadIdx.x, blockDim.x,
                                 [&](const auto &v, int64_t at, int n) {
#pragma unroll
                                   for (int j = 0; j < n; j++) {
                                     const uint32_t key = key_of(r, v[j], (int)at + j);
                                     if (key > 0) f(key, v[j]);
                                   }
                                 });
}

/* What stays: keys above `key`, and the first `equals` that are it. */
struct threshold {
  uint32_t key;
  long long equals;
};

/* The largest key of [low,high] at or above which the candidates' sizes add up to `least`, which they do at low; *above:
 * the sum beyond it, of the keys beyond high at first. */
template <typename T, typename F>
GPU_DEVICE uint32_t search(const row_of<T> &r, uint32_t low, uint32_t high, double least,
                           long long *above, long long *scratch, F size) {
  while (low < high) {
    const uint32_t span = high - low;
    const uint32_t a = low + 1 + span / 4, b = low + 1 + span / 2, c = high - span / 4;
    long long sums[3] = {0, 0, 0};
    each_candidate(r, [&](uint32_t key, float x) {
      if (key < a) return;
      const long long n = size(key, x);
      sums[0] += n;
      if (key >= b) sums[1] += n;
      if (key >= c) sums[2] += n;
    });
#pragma unroll
    for (int i = 0; i < 3; i++) sums[i] = gpu_block_sum(sums[i], scratch);
    if ((double)sums[2] >= least) {
      low = c;
    } else if ((double)sums[1] >= least) {
      low = b;
      high = c - 1;
      *above = sums[2];
    } else if ((double)sums[0] >= least) {
      low = a;
      high = b - 1;
      *above = sums[1];
    } else {
      high = a - 1;
      *above = sums[0];
    }
  }
  return low;
}

/* The fewest of those that `stays` leaves whose weights make up top_p of theirs. */
template <typename T>
GPU_DEVICE threshold make_up(const row_of<T> &r, threshold stays, uint32_t most, double top_p,
                             long long *scratch) {
  long long over = 0, above = 0;
  each_candidate(r, [&](uint32_t key, float x) {
    if (key > stays.key) over += weight_of(r, x);
  });
  over = gpu_block_sum(over, scratch);
  const long long each = stays.key ? weight_of(r, logit_of<T>(stays.key)) : 0;
  const double least = top_p * (double)(over + stays.equals * each);
  threshold found = {stays.key, stays.equals};
  if (stays.key < most && (double)over >= least)
    found.key = search(r, stays.key + 1, most, least, &above, scratch, [&](uint32_t key, float x) {
      return key > stays.key ? weight_of(r, x) : 0;
    });
  else
    above = over;
  const long long weight = weight_of(r, logit_of<T>(found.key));
  const double more = weight > 0 ? ceil((least - (double)above) / (double)weight) : 1;
  const long long equals = more > 1 ? (long long)more : 1;
  if (found.key > stays.key || equals < found.equals) found.equals = equals;
  return found;
}

/* In the order of ids, the first whose running sum exceeds draw times the sum of all that stay. Each group of lanes has
 * a stretch of the row; the one in which the sum is reached goes through it again. */
template <typename T>
GPU_DEVICE void draw_id(const row_of<T> &r, threshold stays, float draw, int32_t *id,
                        long long *scratch) {
  const int lane = (int)threadIdx.x % GPU_GROUP, group = (int)threadIdx.x / GPU_GROUP;
  const int groups = (int)blockDim.x / GPU_GROUP;
  const int steps = (r.cols - 1) / (groups * GPU_GROUP) + 1;
  const int64_t first = (int64_t)group * steps * GPU_GROUP + lane;
  long long sum = 0, equal = 0, over = 0, total = 0, unused = 0;
  for (int step = 0; step < steps; step++) {
    const int64_t i = first + step * GPU_GROUP;
    if (i >= r.cols) break;
    const float x = gpu_f32(r.x[i]);
    const uint32_t key = key_of(r, x, (int)i);
    equal += key > 0 && key == stays.key;
    if (key > stays.key) {
      over++;
      sum += weight_of(r, x);
    }
  }
  sum = gpu_group_sum(sum);
  equal = gpu_group_sum(equal);
  over = gpu_group_sum(over);
  /* The groups before this one: their first lanes bring the sums. */
  const long long equal_before =
      gpu_shuffle(gpu_block_before(lane ? 0LL : equal, scratch, &unused), 0);
  long long kept = stays.equals - equal_before;
  kept = kept < 0 ? 0 : kept < equal ? kept : equal;
  if (kept > 0) sum += kept * weight_of(r, logit_of<T>(stays.key));
  const long long before = gpu_shuffle(gpu_block_before(lane ? 0LL : sum, scratch, &total), 0);
  const int last_group = (int)gpu_block_max(kept + over > 0 ? (long long)group : -1LL, scratch);
  const double goal = (double)draw * (double)total;
  const bool reached = goal < (double)total;
  const bool mine =
      reached ? (double)before <= goal && goal < (double)(before + sum) : group == last_group;
  if (!gpu_any(mine)) return;
  int hit = INT32_MAX, last = -1;
  long long running = before, equals = equal_before;
  for (int step = 0; step < steps; step++) {
    const int64_t i = first + step * GPU_GROUP;
    const float x = i < r.cols ? gpu_f32(r.x[i]) : NAN;
    const uint32_t key = key_of(r, x, (int)i);
    const long long is_equal = key > 0 && key == stays.key;
    const long long nth = equals + gpu_group_running(is_equal);
    const bool here = key > stays.key || (is_equal && nth <= stays.equals);
    const long long sum_here = running + gpu_group_running(here ? weight_of(r, x) : 0LL);
    if (here) last = (int)i;
    if (here && (double)sum_here > goal && hit == INT32_MAX) hit = (int)i;
    running = gpu_shuffle(sum_here, GPU_GROUP - 1);
    equals = gpu_shuffle(nth, GPU_GROUP - 1);
  }
  hit = -gpu_group_max(-hit);
  last = gpu_group_max(last);
  if (mine && lane == 0) *id = hit < INT32_MAX ? hit : last;
}

template <typename T> GPU_KERNEL(THREADS) sample_kernel(sample_args<T> a) {
  GPU_SHARED(gpu_best, best_scratch, GPU_GROUPS);
  GPU_SHARED(long long, scratch, GPU_GROUPS);
  row_of<T> r = {a.logits + (int64_t)blockIdx.x * a.cols,
                 a.cols,
                 a.banned ? a.banned[blockIdx.x] : -1,
                 0,
                 a.inverse_temperature,
                 a.unit};
  gpu_best best = gpu_no_best();
  long long count = 0, above = 0;
  gpu_visit<16 / (int)sizeof(T)>(r.x, r.cols, threadIdx.x, blockDim.x,
                                 [&](const auto &v, int64_t at, int n) {
#pragma unroll
                                   for (int j = 0; j < n; j++) {
                                     const int i = (int)at + j;
                                     if (!isfinite(v[j]) || i == r.banned) continue;
                                     best = gpu_better(best, gpu_best{v[j], i});
                                     count++;
                                   }
                                 });
  best = gpu_block_best(best, best_scratch);
  count = gpu_block_sum(count, scratch);
  if (count == 0 || a.greedy) {
    if (threadIdx.x == 0) a.id[blockIdx.x] = count ? best.index : -1;
    return;
  }
  r.most = best.value;
  const uint32_t most = key_of(r, best.value, best.index);
  threshold stays = {0, 0};
  if (a.top_k > 0 && a.top_k < count) {
    stays.key =
        search(r, 1, most, (double)a.top_k, &above, scratch, [](uint32_t, float) { return 1LL; });
    stays.equals = a.top_k - above;
  }
  if (a.top_p < 1) stays = make_up(r, stays, most, a.top_p, scratch);
  draw_id(r, stays, a.draw[blockIdx.x], &a.id[blockIdx.x], scratch);
}

template <typename T> static gpuError_t sample(gpuStream_t s, const gpu_sample_args *from) {
  sample_args<T> a = {};
  a.logits = static_cast<const T *>(from->logits);
  a.draw = from->draw;
  a.banned = from->banned;
  a.id = from->id;
  a.cols = (int)from->cols;
  a.top_k = from->top_k;
  a.top_p = from->top_p;
  a.greedy = from->temperature == 0;
  /* So large that 1 / temperature is finite, and 0 times it 0. */
  a.inverse_temperature = from->temperature > 1e-37 ? (float)(1 / from->temperature) : 1e37f;
  a.unit = 1;
  for (int64_t room = (int64_t)1 << 61; room > from->cols; room /= 2) a.unit *= 2;
  auto kernel = sample_kernel<T>;
  return GPU_LAUNCH(kernel, (unsigned)from->rows, from->cols > 4096 ? THREADS : FEW, 0, s, a);
}

} // namespace

extern "C" gpuError_t gpu_sample(gpuStream_t s, int dtype, const gpu_sample_args *a) {
  if (a->rows == 0) return gpuSuccess;
  GPU_DTYPE_SWITCH(dtype, T, return (sample<T>(s, a)));
}
