/* test_kernels.cpp - what simt.h makes of port.h, against results worked out by hand, in several orders of threads. */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

namespace {

int failures;
#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      failures++;                                                                                  \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
    }                                                                                              \
  } while (0)
#define GOOD(call)                                                                                 \
  do {                                                                                             \
    const gpuError_t code_ = (call);                                                               \
    if (code_ != gpuSuccess) {                                                                     \
      failures++;                                                                                  \
      printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, gpuGetErrorString(code_));              \
    }                                                                                              \
  } while (0)

gpuStream_t stream;

template <typename T> struct on_device {
  T *at;
  size_t n;
  explicit on_device(size_t count) : n(count) {
    void *p = nullptr;
    GOOD(gpuMalloc(&p, n * sizeof(T)));
    at = static_cast<T *>(p);
  }
  explicit on_device(const std::vector<T> &from) : on_device(from.size()) {
    GOOD(gpuMemcpyAsync(at, from.data(), n * sizeof(T), gpuMemcpyHostToDevice, stream));
  }
  ~on_device() { GOOD(gpuFree(at)); }
  std::vector<T> get() const {
    std::vector<T> out(n);
    GOOD(gpuMemcpyAsync(out.data(), at, n * sizeof(T), gpuMemcpyDeviceToHost, stream));
    GOOD(gpuStreamSynchronize(stream));
    return out;
  }
};

/* ---- who am I */

GPU_KERNEL(256) indices(int *x) {
  const unsigned b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  x[b * (blockDim.x * blockDim.y * blockDim.z) + t] = (int)(1000 * b + t);
}

void test_indices() {
  const dim3 grid(3, 2, 2), block(5, 4, 3);
  on_device<int> x(12 * 60);
  GOOD(GPU_LAUNCH(indices, grid, block, 0, stream, x.at));
  const std::vector<int> got = x.get();
  for (int b = 0; b < 12; b++)
    for (int t = 0; t < 60; t++) CHECK(got[(size_t)(60 * b + t)] == 1000 * b + t);
}

/* ---- lanes */

enum { T = 128, OUTS = 16 };

GPU_KERNEL(T) lanes(int *x, double *d, unsigned long long *votes) {
  const int t = (int)threadIdx.x, lane = gpu_lane();
  int *mine = x + t * OUTS;
  mine[0] = lane;
  mine[1] = gpu_shuffle(10 * t, 3);
  mine[2] = gpu_shuffle(10 * t, 3, 8);
  mine[3] = gpu_shuffle(10 * t, lane + 1, 16); /* beyond the group: modulo the width */
  mine[4] = gpu_shuffle_xor(10 * t, 5);
  mine[5] = gpu_shuffle_xor(10 * t, 1, 2);
  mine[6] = gpu_shuffle_down(10 * t, 4);
  mine[7] = gpu_shuffle_down(10 * t, 4, 8);
  mine[8] = gpu_shuffle(10 * t, GPU_WAVE - 1, GPU_WAVE);
  mine[9] = (int)gpu_shuffle_xor(7u * (unsigned)t, 2);
  mine[10] = (int)gpu_shuffle_xor(0.5f * (float)t, 2);
  mine[11] = (int)(gpu_shuffle_xor((long long)t << 40, 1) >> 40);
  mine[12] = gpu_any(t == 40);
  mine[13] = gpu_all(t != 40);
  d[t] = gpu_shuffle_down(1.0 / (t + 1), 1);
  votes[t] = gpu_ballot(t % 3 == 0);
}

void test_lanes() {
  on_device<int> x(T * OUTS);
  on_device<double> d(T);
  on_device<unsigned long long> votes(T);
  GOOD(GPU_LAUNCH(lanes, 1, T, 0, stream, x.at, d.at, votes.at));
  const std::vector<int> all = x.get();
  const std::vector<double> down = d.get();
  const std::vector<unsigned long long> ballots = votes.get();
  for (int t = 0; t < T; t++) {
    const int *got = &all[(size_t)(t * OUTS)];
    const int wave = t / GPU_WAVE * GPU_WAVE;
    CHECK(got[0] == t - wave);
    CHECK(got[1] == 10 * (t / 32 * 32 + 3));
    CHECK(got[2] == 10 * (t / 8 * 8 + 3));
    CHECK(got[3] == 10 * (t / 16 * 16 + (t + 1) % 16));
    CHECK(got[4] == 10 * (t ^ 5));
    CHECK(got[5] == 10 * (t ^ 1));
    CHECK(got[6] == 10 * (t % 32 < 28 ? t + 4 : t));
    CHECK(got[7] == 10 * (t % 8 < 4 ? t + 4 : t));
    CHECK(got[8] == 10 * (wave + GPU_WAVE - 1));
    CHECK(got[9] == 7 * (t ^ 2));
    CHECK(got[10] == (t ^ 2) / 2);
    CHECK(got[11] == (t ^ 1));
    CHECK(got[12] == (40 / GPU_WAVE == t / GPU_WAVE));
    CHECK(got[13] == (40 / GPU_WAVE != t / GPU_WAVE));
    CHECK(down[(size_t)t] == 1.0 / (t % 32 < 31 ? t + 2 : t + 1));
    unsigned long long votes_of_wave = 0;
    for (int i = 0; i < GPU_WAVE; i++)
      if ((wave + i) % 3 == 0) votes_of_wave |= 1ull << i;
    CHECK(ballots[(size_t)t] == votes_of_wave);
  }
}

GPU_KERNEL(T) gather(int *x) {
  int mine = 3 * (int)threadIdx.x;
  const void *const *all = simt_wave_gather(&mine);
  int sum = 0;
  for (int i = 0; i < GPU_WAVE; i++) sum += *static_cast<const int *>(all[i]);
  gpu_sync_wave();
  mine = 0;
  x[threadIdx.x] = sum + mine;
}

void test_gather() {
  on_device<int> x(T);
  GOOD(GPU_LAUNCH(gather, 1, T, 0, stream, x.at));
  const std::vector<int> got = x.get();
  for (int t = 0; t < T; t++) {
    const int first = t / GPU_WAVE * GPU_WAVE, last = first + GPU_WAVE - 1;
    CHECK(got[(size_t)t] == 3 * (first + last) * GPU_WAVE / 2);
  }
}

/* ---- the block */

/* A sum by halves, twice, with the first one's result in the second: barriers in a loop. */
template <typename V> GPU_KERNEL(T) block_sum(V *x) {
  GPU_SHARED(V, part, T);
  GPU_SHARED_DYNAMIC(V, before);
  const int t = (int)threadIdx.x;
  before[t] = (V)(t + (int)blockIdx.x);
  gpu_sync();
  for (int round = 0; round < 2; round++) {
    part[t] = before[T - 1 - t];
    gpu_sync();
    for (int half = T / 2; half > 0; half /= 2) {
      if (t < half) part[t] += part[t + half];
      gpu_sync();
    }
    before[t] = part[0];
    gpu_sync();
  }
  if (t == 0) x[blockIdx.x] = before[1];
}

template <typename V> void test_block_sum() {
  on_device<V> x(5);
  auto kernel = block_sum<V>;
  GOOD(GPU_LAUNCH(kernel, 5, T, T * sizeof(V), stream, x.at));
  const std::vector<V> got = x.get();
  for (int b = 0; b < 5; b++) CHECK(got[(size_t)b] == (V)(T * (T * (T - 1) / 2 + b * T)));
}

GPU_KERNEL(T) shared_contents(unsigned *x) {
  GPU_SHARED(char, first, 3);
  GPU_SHARED(uint4, second, 2);
  GPU_SHARED_DYNAMIC(unsigned, third);
  first[threadIdx.x % 3] = 1;
  x += 6 * blockIdx.x;
  x[0] = (unsigned)(reinterpret_cast<uintptr_t>(first) % 16);
  x[1] = (unsigned)(reinterpret_cast<uintptr_t>(second) % 16);
  x[2] = (unsigned)(reinterpret_cast<uintptr_t>(third) % 16);
  x[3] = (unsigned)sizeof second;
  x[4] = second[1].w;
  x[5] = third[7];
  second[1].w = third[7] = 0; /* not what the next block finds */
}

void test_shared_contents() {
  on_device<unsigned> x(18);
  GOOD(GPU_LAUNCH(shared_contents, 3, 1, 32, stream, x.at));
  const std::vector<unsigned> got = x.get(), block = {0, 0, 0, 32, ~0u, ~0u};
  for (size_t i = 0; i < 18; i++) CHECK(got[i] == block[i % 6]);
}

GPU_KERNEL(T) atomics(int *sum, unsigned *most, int *order, int *lock) {
  const int t = (int)threadIdx.x;
  gpu_atomic_add(sum, t);
  gpu_atomic_max(most, (unsigned)(t * 37 % 100));
  const int ticket = gpu_atomic_add(order + T * 2, 1);
  order[ticket] = t;
  if (gpu_atomic_cas(lock, -1, t) == -1) sum[1] = t; /* one of all */
}

void test_atomics() {
  on_device<int> sum(std::vector<int>{0, -1}), order(std::vector<int>(2 * T + 1, 0)),
      lock(std::vector<int>(1, -1));
  on_device<unsigned> most(std::vector<unsigned>(1, 0));
  GOOD(GPU_LAUNCH(atomics, 2, T, 0, stream, sum.at, most.at, order.at, lock.at));
  CHECK(sum.get()[0] == T * (T - 1));
  CHECK(most.get()[0] == 99);
  CHECK(lock.get()[0] == sum.get()[1] && sum.get()[1] >= 0);
  std::vector<int> seen(T), got = order.get();
  for (int i = 0; i < 2 * T; i++) seen[(size_t)got[(size_t)i]]++;
  CHECK(got[2 * T] == 2 * T);
  CHECK(seen == std::vector<int>(T, 2));
}

/* ---- copies: groups in order, the last N left */

GPU_KERNEL(T) copies(int *x, const int *from) {
  GPU_SHARED(int, a, 3 * 4);
  if (threadIdx.x == 0) {
    for (int g = 0; g < 3; g++) {
      gpu_copy16(a + 4 * g, from + 4 * g, g != 1);
      gpu_copy_commit();
    }
    gpu_copy_wait<2>();
    x[0] = a[0];
    x[1] = a[4]; /* not there yet */
    gpu_copy_wait<1>();
    x[2] = a[7]; /* zeros: not valid */
    x[3] = a[8];
    gpu_copy_wait<0>();
    x[4] = a[11];
    gpu_copy16(a, from + 4, true);
    gpu_copy_wait<0>(); /* of no group: not waited for */
    x[5] = a[0];
    gpu_copy_commit();
    gpu_copy_wait<0>();
    x[6] = a[0];
  }
}

void test_copies() {
  on_device<int> from(std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), x(7);
  GOOD(GPU_LAUNCH(copies, 1, T, 0, stream, x.at, from.at));
  CHECK((x.get() == std::vector<int>{1, -1, 0, -1, 12, -1, 5}));
}

/* ---- order */

GPU_KERNEL(T) first_come(int *x) {
  const int ticket = gpu_atomic_add(x, 1);
  x[1 + ticket] = (int)(blockIdx.x * T + threadIdx.x);
}

void test_order() {
  const char *const orders[] = {"forward", "reverse", "7"};
  const char *const before = getenv("DS_SIMT_ORDER");
  const std::string kept = before ? before : "forward";
  std::vector<int> seen[3];
  for (int i = 0; i < 3; i++) {
    setenv("DS_SIMT_ORDER", orders[i], 1);
    on_device<int> x(std::vector<int>(1 + 3 * T, 0));
    GOOD(GPU_LAUNCH(first_come, 3, T, 0, stream, x.at));
    seen[i] = x.get();
  }
  setenv("DS_SIMT_ORDER", kept.c_str(), 1);
  std::vector<int> times(3 * T);
  for (int i = 0; i < 3 * T; i++) {
    CHECK(seen[0][(size_t)i + 1] == i);
    CHECK(seen[1][(size_t)i + 1] == 3 * T - 1 - i);
    times[(size_t)seen[2][(size_t)i + 1]]++;
  }
  CHECK(times == std::vector<int>(3 * T, 1));
  CHECK(seen[2] != seen[0] && seen[2] != seen[1]);
}

/* ---- numbers */

GPU_KERNEL(1) numbers(float *x) {
  x[0] = gpu_rsqrt(4.0f);
  x[1] = gpu_exp2_fast(3.0f);
  x[2] = gpu_exp_fast(1.0f);
  x[3] = gpu_exp_fast(-INFINITY);
  x[4] = fmaf(2.0f, 3.0f, 4.0f);
  x[5] = rintf(2.5f);
  x[6] = isnan(x[0] - x[0] + NAN) && !isfinite(INFINITY) ? 1.0f : 0.0f;
  x[7] = make_float4(1, 2, 3, 4).w + make_float2(5, 6).y;
}

void test_numbers() {
  on_device<float> x(8);
  GOOD(GPU_LAUNCH(numbers, 1, 1, 0, stream, x.at));
  const std::vector<float> got = x.get();
  CHECK(got[0] == 0.5f && got[1] == 8.0f && fabsf(got[2] - 2.7182817f) < 1e-6f && got[3] == 0.0f);
  CHECK(got[4] == 10.0f && got[5] == 2.0f && got[6] == 1.0f && got[7] == 10.0f);
}

/* Arguments are copied at the call; work runs later. */
void test_arguments() {
  on_device<int> x(1);
  struct big {
    int at[100];
  } value = {};
  value.at[99] = 5;
  void (*kernel)(int *, big) = [](int *out, big b) { out[0] = b.at[99]; };
  GOOD(GPU_LAUNCH(kernel, 1, 1, 0, stream, x.at, value));
  value.at[99] = 6;
  CHECK(x.get()[0] == 5);
}

} // namespace

int main() {
  const char *const orders[] = {"forward", "reverse", "1", "2"};
  GOOD(gpuStreamCreate(&stream));
  for (const char *order : orders) {
    setenv("DS_SIMT_ORDER", order, 1);
    test_indices();
    test_lanes();
    test_gather();
    test_block_sum<int>();
    test_block_sum<float>();
    test_shared_contents();
    test_atomics();
    test_copies();
    test_order();
    test_numbers();
    test_arguments();
  }
  GOOD(gpuStreamDestroy(stream));
  printf("%d failed\n", failures);
  return failures != 0;
}
