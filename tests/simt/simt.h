/* simt.h - plugins/gpu/kernels/port.h for the host's compiler: kernels run on this processor, so that
 * they can be tested, also under sanitizers, where there is no GPU.
 *
 * Blocks run in turn. The threads of a block are fibers: the first runs until it has to wait - at a barrier,
 * at a shuffle - and only then the next one starts, wave by wave. Where the order of threads matters, the kernel is wrong:
 * DS_SIMT_ORDER (gpu_runtime.h) sets another one.
 *
 * What no kernel may do ends the launch, and the device, with gpuErrorLaunchFailure and a message that names kernel,
 * block and thread: a barrier or an operation of the wave that not all threads reach, or at different places of the
 * source; a shuffle of illegal width; a misaligned gpu_copy16. A launch beyond a limit - of the grid, of the block, of
 * the kernel's own bound, of shared memory - fails at once with gpuErrorInvalidConfiguration.
 *
 * What is uninitialized is 0xff in every byte: a NaN in every type of number, -1 as an integer. Shared memory is at the start
 * of a block; and what gpu_copy16 will overwrite, from its call to gpu_copy_wait, when the copy really happens. */
#ifndef DS_SIMT_H
#define DS_SIMT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#include "gpu_runtime.h"

#if GPU_WAVE != 32 && GPU_WAVE != 64
#error "the build says -DGPU_WAVE=32 or 64"
#endif

/* ---- types */

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
static inline float2 make_float2(float x, float y) {
  return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

/* Set when a thread begins or goes on. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* ---- kernels and launches */

/* The bound stands in the file as so many bytes of padding before the kernel, where launches find it. */
#define GPU_KERNEL(threads, ...)                                                                   \
  __attribute__((noinline, patchable_function_entry((threads) + 0, (threads) + 0))) void
#define GPU_DEVICE static inline __attribute__((always_inline))

/* A kernel with its arguments. */
struct simt_call {
  virtual ~simt_call() {}
  virtual void run() const = 0;
};

template <typename... P> struct simt_call_of : simt_call {
  void (*kernel)(P...);
  std::tuple<P...> arguments;
  template <typename... A>
  explicit simt_call_of(void (*k)(P...), A &&...a)
      : kernel(k), arguments(static_cast<A &&>(a)...) {}
  __attribute__((no_sanitize("thread"))) void run() const override {
    std::apply(kernel, arguments);
  }
};

struct simt_launch {
  const char *kernel, *launcher; /* as the source names them */
  const void *function;
  dim3 grid, block;
  size_t shared; /* dynamic, bytes */
};

gpuError_t simt_give(const simt_launch &launch, simt_call *call, gpuStream_t s); /* owns call */
gpuError_t simt_allow_shared(const void *function, size_t bytes);

template <typename... P, typename... A>
gpuError_t simt_launch_kernel(const char *name, const char *launcher, void (*kernel)(P...),
                              dim3 grid, dim3 block, size_t shared, gpuStream_t s, A &&...a) {
  static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
  static_assert((!std::is_reference<P>::value && ...), "a kernel takes values");
  static_assert((std::is_trivially_copyable<P>::value && ...), "a kernel takes plain data");
  return simt_give({name, launcher, reinterpret_cast<const void *>(kernel), grid, block, shared},
                   new simt_call_of<P...>(kernel, static_cast<A &&>(a)...), s);
}

#define GPU_LAUNCH(kernel, grid, block, shared, stream, ...)                                       \
  simt_launch_kernel(#kernel, __func__, kernel, (grid), (block), (shared), (stream), ##__VA_ARGS__)
#define GPU_ALLOW_SHARED(kernel, bytes)                                                            \
  simt_allow_shared(reinterpret_cast<const void *>(kernel), (bytes))

/* ---- shared memory */

void *simt_shared(const void *key, size_t bytes, const char *name);
void *simt_shared_dynamic();

#define GPU_SHARED(type, name, count)                                                              \
  static const char simt_key_##name = 0;                                                           \
  type(&name)[count] =                                                                             \
      *static_cast<type(*)[count]>(simt_shared(&simt_key_##name, sizeof(type[count]), #name))
#define GPU_SHARED_DYNAMIC(type, name) type *name = static_cast<type *>(simt_shared_dynamic())

/* ---- threads together. Where a call stands in the source is its place: all threads must come to the same. */

enum simt_op {
  SIMT_BARRIER,
  SIMT_SYNC_WAVE,
  SIMT_SHUFFLE,
  SIMT_SHUFFLE_XOR,
  SIMT_SHUFFLE_DOWN,
  SIMT_BALLOT,
  SIMT_GATHER
};
#define SIMT_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void simt_block_sync(const char *file, int line);
/* All lanes' words, once all lanes have come; valid until the wave's next operation but one. */
const uint64_t *simt_wave(simt_op op, uint64_t mine, const char *file, int line);
/* This lane's number in its group of `width` lanes, once that and the argument are found legal. */
int simt_group_lane(simt_op op, int width, int argument, const char *file, int line);
extern int simt_lane_now; /* of the wave */

/* What every lane gave, by lane, once all have come. What the pointers point to stays as it is only if nobody
 * goes on to change it: end with another operation of the wave. */
GPU_DEVICE const void *const *simt_wave_gather(const void *mine, SIMT_PLACE) {
  static_assert(sizeof(void *) == sizeof(uint64_t), "64-bit addresses");
  return reinterpret_cast<const void *const *>(
      simt_wave(SIMT_GATHER, reinterpret_cast<uint64_t>(mine), file, line));
}

GPU_DEVICE int gpu_lane() {
  return (int)(threadIdx.x % GPU_WAVE);
}

template <typename V> GPU_DEVICE uint64_t simt_word(V v) {
  static_assert(std::is_arithmetic<V>::value && (sizeof v == 4 || sizeof v == 8),
                "int, unsigned, float, double, long long");
  uint64_t word = 0;
  __builtin_memcpy(&word, &v, sizeof v);
  return word;
}
template <typename V> GPU_DEVICE V simt_value(uint64_t word) {
  V v;
  __builtin_memcpy(&v, &word, sizeof v);
  return v;
}
template <typename V> GPU_DEVICE V gpu_shuffle(V v, int lane, int width = 32, SIMT_PLACE) {
  const int mine = simt_group_lane(SIMT_SHUFFLE, width, lane, file, line);
  const uint64_t *group = simt_wave(SIMT_SHUFFLE, simt_word(v), file, line) + simt_lane_now - mine;
  return simt_value<V>(group[lane & (width - 1)]);
}
template <typename V> GPU_DEVICE V gpu_shuffle_xor(V v, int mask, int width = 32, SIMT_PLACE) {
  const int mine = simt_group_lane(SIMT_SHUFFLE_XOR, width, mask, file, line);
  const uint64_t *group =
      simt_wave(SIMT_SHUFFLE_XOR, simt_word(v), file, line) + simt_lane_now - mine;
  return simt_value<V>(group[mine ^ mask]);
}
template <typename V> GPU_DEVICE V gpu_shuffle_down(V v, int by, int width = 32, SIMT_PLACE) {
  const int mine = simt_group_lane(SIMT_SHUFFLE_DOWN, width, by, file, line);
  const uint64_t *group =
      simt_wave(SIMT_SHUFFLE_DOWN, simt_word(v), file, line) + simt_lane_now - mine;
  return simt_value<V>(group[mine + by < width ? mine + by : mine]);
}
GPU_DEVICE unsigned long long gpu_ballot(bool p, SIMT_PLACE) {
  const uint64_t *all = simt_wave(SIMT_BALLOT, p, file, line);
  unsigned long long lanes = 0;
  for (int i = 0; i < GPU_WAVE; i++) lanes |= (unsigned long long)all[i] << i;
  return lanes;
}
GPU_DEVICE bool gpu_any(bool p, SIMT_PLACE) {
  return gpu_ballot(p, file, line) != 0;
}
GPU_DEVICE bool gpu_all(bool p, SIMT_PLACE) {
  return gpu_ballot(!p, file, line) == 0;
}
GPU_DEVICE void gpu_sync(SIMT_PLACE) {
  simt_block_sync(file, line);
}
GPU_DEVICE void gpu_sync_wave(SIMT_PLACE) {
  simt_wave(SIMT_SYNC_WAVE, 0, file, line);
}
GPU_DEVICE void gpu_fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* The compiler's atomics, since the race checker knows them. */
template <typename V> GPU_DEVICE void simt_check_atomic() {
  static_assert(std::is_same<V, int>::value || std::is_same<V, unsigned>::value, "int, unsigned");
}
template <typename V> GPU_DEVICE V gpu_atomic_add(V *p, V v) {
  simt_check_atomic<V>();
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <typename V> GPU_DEVICE V gpu_atomic_cas(V *p, V was, V v) {
  simt_check_atomic<V>();
  __atomic_compare_exchange_n(p, &was, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return was;
}
template <typename V> GPU_DEVICE V gpu_atomic_max(V *p, V v) {
  simt_check_atomic<V>();
  V was = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (was < v &&
         !__atomic_compare_exchange_n(p, &was, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return was;
}

/* ---- copies beside the thread */

void simt_copy16(void *shared, const void *global, bool valid);
void simt_copy_commit();
void simt_copy_wait(int groups);

GPU_DEVICE void gpu_copy16(void *shared, const void *global, bool valid) {
  simt_copy16(shared, global, valid);
}
GPU_DEVICE void gpu_copy_commit() {
  simt_copy_commit();
}
template <int N> GPU_DEVICE void gpu_copy_wait() {
  static_assert(N >= 0, "groups");
  simt_copy_wait(N);
}

/* ---- arithmetic */

GPU_DEVICE float gpu_rsqrt(float x) {
  return 1.0f / sqrtf(x);
}
GPU_DEVICE float gpu_exp2_fast(float x) {
  return exp2f(x);
}
GPU_DEVICE float gpu_exp_fast(float x) {
  return gpu_exp2_fast(x * 1.44269504088896340736f);
}

#endif
