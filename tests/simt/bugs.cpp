/* bugs.cpp - kernels with one bug each, and the same without: what the emulation must find.
 *
 * usage: bugs NAME, or bugs right for all of them without their bugs
 * Says "ok" where the result is what it should be, "wrong" where not, or "failed: " and the launch's message. */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>
#include <vector>

namespace {

enum { N = 64 }; /* threads of a block; a whole number of waves */

/* ---- out of bounds */

template <bool BUG> GPU_KERNEL(N) global_end(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (i < n || BUG) x[i] = i;
}
template <bool BUG> GPU_KERNEL(N) global_begin(int *x, int n) {
  const int i = (int)threadIdx.x - (BUG ? 1 : 0);
  if (i < n) x[i] = i;
}
template <bool BUG> GPU_KERNEL(N) static_shared_end(int *x, int n) {
  GPU_SHARED(int, a, N);
  GPU_SHARED(int, b, N);
  const int i = (int)threadIdx.x;
  a[BUG ? i + 1 : i] = i;
  b[i] = a[i];
  if (i < n) x[i] = b[i];
}
template <bool BUG> GPU_KERNEL(N) dynamic_shared_end(int *x, int n) {
  GPU_SHARED_DYNAMIC(int, a);
  const int i = (int)threadIdx.x;
  a[BUG ? i + 1 : i] = i;
  gpu_sync();
  if (i < n) x[i] = a[i];
}
template <bool BUG> GPU_KERNEL(N) misaligned(int *x, int n) {
  const int i = (int)threadIdx.x;
  char *bytes = reinterpret_cast<char *>(x);
  int *at = reinterpret_cast<int *>(bytes + (BUG ? 1 : 0));
  if (i + 1 < n) at[i] = i;
  if (i + 1 == n) x[i] = i;
}

/* ---- threads that don't wait for each other */

template <bool BUG> GPU_KERNEL(N) missing_barrier(int *x, int n) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x;
  a[N - 1 - i] = N - 1 - i;
  if (!BUG) gpu_sync();
  if (i < n) x[i] = a[i];
}
/* The next round begins to write before all have read: right in many orders. */
template <bool BUG> GPU_KERNEL(N) missing_second_barrier(int *x, int n) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x;
  int sum = 0;
  for (int round = 0; round < 2; round++) {
    a[N - 1 - i] = (N - 1 - i) / 2 + (round ? (N - 1 - i) % 2 : 0);
    gpu_sync();
    sum += a[i];
    if (!BUG) gpu_sync();
  }
  if (i < n) x[i] = sum;
}
template <bool BUG> GPU_KERNEL(N) shared_race(int *x, int n) {
  GPU_SHARED(int, total, 1);
  const int i = (int)threadIdx.x;
  if (i == 0) *total = 0;
  gpu_sync();
  if (BUG)
    *total = *total + 1;
  else
    gpu_atomic_add(total, 1);
  gpu_sync();
  if (i < n) x[i] = i + *total - N;
}
template <bool BUG> GPU_KERNEL(N) global_race(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (i < n && (!BUG || i == n - 1 || blockIdx.x == 0))
    if (blockIdx.x == (BUG && i == n - 1 ? blockIdx.x : 0u)) x[i] = i;
}
/* Blocks that read what another one writes: which of them runs first is not known. */
template <bool BUG> GPU_KERNEL(N) blocks_race(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (blockIdx.x == 0 && i < n) x[i] = i;
  if (BUG && blockIdx.x == 1 && i + 1 < n) x[n - 1] = x[i] < 0 ? 0 : n - 1;
}
template <bool BUG> GPU_KERNEL(N) wave_race(int *x, int n) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x, wave = i / GPU_WAVE * GPU_WAVE;
  a[i] = i;
  if (!BUG) gpu_sync_wave();
  const int other = a[wave + (gpu_lane() + 1) % GPU_WAVE];
  const int back = wave + (other - wave + GPU_WAVE - 1) % GPU_WAVE;
  if (i < n) x[i] = back;
}
/* The same value by all: no better. */
template <bool BUG> GPU_KERNEL(N) same_value(int *x, int n) {
  GPU_SHARED(int, zero, 1);
  const int i = (int)threadIdx.x;
  if (BUG || i == 0) *zero = 0;
  gpu_sync();
  if (i < n) x[i] = i + *zero;
}

/* ---- threads that don't come */

template <bool BUG> GPU_KERNEL(N) divergent_barrier(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (!BUG || i < n) gpu_sync();
  if (i < n) x[i] = i;
}
template <bool BUG> GPU_KERNEL(N) two_barriers(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (BUG && i % 2)
    gpu_sync();
  else if (BUG)
    gpu_sync();
  if (i < n) x[i] = i;
}
template <bool BUG> GPU_KERNEL(N) early_exit(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (BUG && i >= n) return;
  const int v = gpu_shuffle(i, gpu_lane() % 32);
  if (i < n) x[i] = v;
}
template <bool BUG> GPU_KERNEL(N) shuffle_beside_vote(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (!BUG || i % 2)
    gpu_any(true);
  else
    gpu_shuffle(i, 0);
  if (i < n) x[i] = i;
}
template <bool BUG> GPU_KERNEL(N) shuffle_width(int *x, int n) {
  const int i = (int)threadIdx.x;
  gpu_shuffle_xor(i, 1, BUG ? 24 : 16);
  if (i < n) x[i] = i;
}
template <bool BUG> GPU_KERNEL(N) shuffle_mask(int *x, int n) {
  const int i = (int)threadIdx.x;
  gpu_shuffle_xor(i, BUG ? 16 : 8, 16);
  if (i < n) x[i] = i;
}

/* ---- what isn't there */

template <bool BUG> GPU_KERNEL(N) uninitialized_shared(int *x, int n) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x;
  if (!BUG || i > 0) a[i] = i;
  gpu_sync();
  if (i < n) x[i] = a[i];
}
template <bool BUG> GPU_KERNEL(N) missing_copy_wait(int *x, int n, const int *from) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x;
  if (i < N / 4) gpu_copy16(a + 4 * i, from + 4 * i, true);
  gpu_copy_commit();
  gpu_copy_wait<BUG ? 1 : 0>();
  gpu_sync();
  if (i < n) x[i] = a[i];
}
template <bool BUG> GPU_KERNEL(N) missing_barrier_after_copy(int *x, int n, const int *from) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x;
  if (i < N / 4) gpu_copy16(a + 4 * i, from + 4 * i, true);
  gpu_copy_commit();
  gpu_copy_wait<0>();
  if (!BUG) gpu_sync();
  if (i < n) x[i] = a[i];
}
template <bool BUG> GPU_KERNEL(N) copy_too_early(int *x, int n, const int *from) {
  GPU_SHARED(int, a, N);
  const int i = (int)threadIdx.x;
  a[i] = i;
  gpu_sync();
  const int mine = a[N - 1 - i];
  if (!BUG) gpu_sync();
  if (i < N / 4) gpu_copy16(a + 4 * i, from + 4 * i, true);
  gpu_copy_commit();
  gpu_copy_wait<0>();
  gpu_sync();
  if (i < n) x[i] = N - 1 - mine + a[i] - i;
}
template <bool BUG> GPU_KERNEL(N) misaligned_copy(int *x, int n, const int *from) {
  GPU_SHARED(int, a, N + 4);
  const int i = (int)threadIdx.x;
  if (i < N / 4) gpu_copy16(a + 4 * i, from + 4 * i + (BUG ? 1 : 0), true);
  gpu_copy_commit();
  gpu_copy_wait<0>();
  gpu_sync();
  if (i < n) x[i] = a[i];
}

/* ---- launches */

GPU_KERNEL(N) plain(int *x, int n) {
  const int i = (int)threadIdx.x;
  if (i < n) x[i] = i;
}
GPU_KERNEL(N) deep_stack(int *x, int n) {
  volatile int deep[72000];
  const int i = (int)threadIdx.x;
  for (int k = 0; k < 72000; k++) deep[k] = i;
  if (i < n) x[i] = deep[n];
}

struct arguments {
  bool bug;
  int *x, *from;
  int n;
  gpuStream_t s;
};

#define RUN(name, ...)                                                                             \
  (a.bug ? GPU_LAUNCH(name<true>, __VA_ARGS__) : GPU_LAUNCH(name<false>, __VA_ARGS__))
#define SIMPLE(name)                                                                               \
  {                                                                                                \
#name, [](const arguments &a) { return RUN(name, 2, N, N * sizeof(int), a.s, a.x, a.n); }      \
  }
#define ONE_BLOCK(name)                                                                            \
  {                                                                                                \
#name, [](const arguments &a) { return RUN(name, 1, N, N * sizeof(int), a.s, a.x, a.n); }      \
  }
#define COPIES(name)                                                                               \
  {                                                                                                \
#name, [](const arguments &a) { return RUN(name, 1, N, 0, a.s, a.x, a.n, a.from); }            \
  }

const struct bug {
  const char *name;
  gpuError_t (*run)(const arguments &a);
} bugs[] = {
    ONE_BLOCK(global_end),
    ONE_BLOCK(global_begin),
    ONE_BLOCK(static_shared_end),
    ONE_BLOCK(dynamic_shared_end),
    ONE_BLOCK(misaligned),
    ONE_BLOCK(missing_barrier),
    ONE_BLOCK(missing_second_barrier),
    ONE_BLOCK(shared_race),
    SIMPLE(global_race),
    SIMPLE(blocks_race),
    ONE_BLOCK(wave_race),
    ONE_BLOCK(same_value),
    ONE_BLOCK(divergent_barrier),
    ONE_BLOCK(two_barriers),
    ONE_BLOCK(early_exit),
    ONE_BLOCK(shuffle_beside_vote),
    ONE_BLOCK(shuffle_width),
    ONE_BLOCK(shuffle_mask),
    ONE_BLOCK(uninitialized_shared),
    COPIES(missing_copy_wait),
    COPIES(missing_barrier_after_copy),
    COPIES(copy_too_early),
    COPIES(misaligned_copy),
    {"partial_wave",
     [](const arguments &a) {
       return GPU_LAUNCH(early_exit<false>, 1, a.bug ? N / 2 + 8 : N, 0, a.s, a.x, a.n);
     }},
    {"too_many_threads",
     [](const arguments &a) { return GPU_LAUNCH(plain, 1, a.bug ? N + 1 : N, 0, a.s, a.x, a.n); }},
    {"grid_too_large",
     [](const arguments &a) {
       return GPU_LAUNCH(plain, dim3(1, a.bug ? 65536 : 1), N, 0, a.s, a.x, a.n);
     }},
    {"shared_too_large",
     [](const arguments &a) {
       if (!a.bug) {
         gpuError_t code = GPU_ALLOW_SHARED(plain, 49 * 1024);
         if (code) return code;
       }
       return GPU_LAUNCH(plain, 1, N, 49 * 1024, a.s, a.x, a.n);
     }},
    {"stack_too_small",
     [](const arguments &a) {
       return a.bug ? GPU_LAUNCH(deep_stack, 1, N, 0, a.s, a.x, a.n)
                    : GPU_LAUNCH(plain, 1, N, 0, a.s, a.x, a.n);
     }},
    {"freed_too_early",
     [](const arguments &a) {
       const gpuError_t code = GPU_LAUNCH(plain, 1, N, 0, a.s, a.x, a.n);
       return a.bug && !code ? gpuFree(a.x) : code;
     }},
    {"host_touches_device",
     [](const arguments &a) {
       const gpuError_t code = GPU_LAUNCH(plain, 1, N, 0, a.s, a.x, a.n);
       if (a.bug) *static_cast<volatile int *>(a.x) = 1;
       return code;
     }},
};

int failed(const bug &b, gpuError_t code) {
  printf("%s: failed: %s: %s\n", b.name, gpuGetErrorName(code), gpuGetErrorString(code));
  return 0;
}

int run(const bug &b, bool with_bug) {
  const int n = 37; /* no multiple of anything */
  arguments a = {with_bug, nullptr, nullptr, n, nullptr};
  std::vector<int> numbers(N), out(n);
  for (int i = 0; i < N; i++) numbers[(size_t)i] = i;
  void *x, *from;
  gpuError_t code = gpuStreamCreate(&a.s);
  if (!code) code = gpuMalloc(&x, n * sizeof(int));
  if (!code) code = gpuMalloc(&from, (N + 4) * sizeof(int));
  if (!code)
    code = gpuMemcpyAsync(from, numbers.data(), N * sizeof(int), gpuMemcpyHostToDevice, a.s);
  if (code) return failed(b, code);
  a.x = static_cast<int *>(x);
  a.from = static_cast<int *>(from);
  code = b.run(a);
  if (!code) code = gpuMemcpyAsync(out.data(), x, n * sizeof(int), gpuMemcpyDeviceToHost, a.s);
  if (!code) code = gpuStreamSynchronize(a.s);
  if (code) return failed(b, code);
  gpuFree(from);
  gpuFree(x);
  gpuStreamDestroy(a.s);
  bool right = true;
  for (int i = 0; i < n; i++) right = right && out[(size_t)i] == i;
  printf("%s: %s\n", b.name, right ? "ok" : "wrong");
  return 0;
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  for (const bug &b : bugs) {
    if (strcmp(argv[1], b.name) == 0) return run(b, true);
    if (strcmp(argv[1], "right") == 0) run(b, false);
  }
  return 0;
}
