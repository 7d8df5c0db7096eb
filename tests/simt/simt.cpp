/* simt.cpp - blocks, waves and threads: who runs next, who waits for whom. */
#include "machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unordered_map>
#include <vector>

#include "fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
int simt_lane_now;
simt_time simt_clock;

namespace {

enum { THREADS_MOST = 1024, WAVES_MOST = THREADS_MOST / GPU_WAVE };

struct place {
  simt_op op;
  const char *file;
  int line;
};

struct copy {
  char *to;
  const char *from;
  bool valid;
};

struct thread {
  uint3 index;
  fiber *on; /* while it waits */
  std::vector<copy> copies;
  std::vector<size_t> groups; /* where each ends in copies */
};

/* Lanes are bits. */
struct wave {
  uint64_t all, fresh, ready, waiting, at_barrier;
  place at;
  unsigned turn;
  uint64_t words[2][GPU_WAVE];
};

thread threads[THREADS_MOST];
wave waves[WAVES_MOST];

/* Of the launch. */
const simt_launch *launch;
const simt_call *call;
int n_threads, n_waves;
uint64_t blocks_begun, n_blocks;
char failure[1400];

/* Of the block. */
uint64_t waves_running;
int current, current_wave, at_barrier, exited;
place barrier;

/* ---- order */

enum { FORWARD, REVERSE, RANDOM } order;
uint64_t seed, random_state, block_step, block_offset;

uint64_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void read_order() {
  const char *text = getenv("DS_SIMT_ORDER");
  order = !text || strcmp(text, "forward") == 0 ? FORWARD : RANDOM;
  if (text && strcmp(text, "reverse") == 0) order = REVERSE;
  seed = order == RANDOM ? strtoull(text, nullptr, 10) : 0;
}

/* One of the bits that are set. */
int choose(uint64_t bits) {
  if (order == FORWARD) return __builtin_ctzll(bits);
  if (order == REVERSE) return 63 - __builtin_clzll(bits);
  for (int skip = (int)(next_random() % (unsigned)__builtin_popcountll(bits)); skip > 0; skip--)
    bits &= bits - 1;
  return __builtin_ctzll(bits);
}

uint64_t gcd(uint64_t a, uint64_t b) {
  return b ? gcd(b, a % b) : a;
}

/* Which block is the i-th to run: in a random order by steps that have no divisor in common with their number. */
uint64_t block_number(uint64_t i) {
  if (order == REVERSE) return n_blocks - 1 - i;
  return order == FORWARD ? i : (block_offset + i * block_step) % n_blocks;
}

void begin_order() {
  random_state = seed * 0x9e3779b97f4a7c15u + 0x1234567u;
  if (order != RANDOM) return;
  next_random();
  block_offset = next_random() % n_blocks;
  do block_step = (next_random() >> 8) % n_blocks + 1;
  while (gcd(block_step, n_blocks) != 1);
}

/* ---- messages */

const char *op_name(simt_op op) {
  static const char *const names[] = {"gpu_sync",         "gpu_sync_wave",
                                      "gpu_shuffle",      "gpu_shuffle_xor",
                                      "gpu_shuffle_down", "gpu_ballot, gpu_any or gpu_all",
                                      "simt_wave_gather"};
  return names[op];
}

/* No heap: what fails is never left. */
struct words {
  char text[200];
};

words text(const place &p) {
  words out;
  const char *slash = strrchr(p.file, '/');
  snprintf(out.text, sizeof out.text, "%s (%s:%d)", op_name(p.op), slash ? slash + 1 : p.file,
           p.line);
  return out;
}

bool same(const place &a, const place &b) {
  return a.op == b.op && a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

words thread_text(int t) {
  words out;
  const uint3 &i = threads[t].index;
  if (blockDim.y * blockDim.z == 1)
    snprintf(out.text, sizeof out.text, "thread %u", i.x);
  else
    snprintf(out.text, sizeof out.text, "thread (%u,%u,%u)", i.x, i.y, i.z);
  return out;
}

/* "lanes 3, 4 and 12 more" */
words lanes_text(uint64_t lanes) {
  words out;
  int used = snprintf(out.text, sizeof out.text, lanes & (lanes - 1) ? "lanes" : "lane"), named = 0;
  for (uint64_t left = lanes; left && named < 4; left &= left - 1, named++)
    used += snprintf(out.text + used, sizeof out.text - (size_t)used, "%s%d", named ? ", " : " ",
                     __builtin_ctzll(left));
  const int more = __builtin_popcountll(lanes) - named;
  if (more) snprintf(out.text + used, sizeof out.text - (size_t)used, " and %d more", more);
  return out;
}

[[noreturn]] void fail_missing(const wave &w) {
  const uint64_t gone = w.all & ~w.waiting & ~w.at_barrier;
  simt_fail("not all lanes of wave %d come to %s: %s%s%s%s%s%s", current_wave, text(w.at).text,
            gone ? lanes_text(gone).text : "", gone ? " left the kernel" : "",
            gone && w.at_barrier ? ", " : "", w.at_barrier ? lanes_text(w.at_barrier).text : "",
            w.at_barrier ? " at " : "", w.at_barrier ? text(barrier).text : "");
}

[[noreturn]] void fail_divergent() {
  simt_fail("not all threads of the block come to %s: %d wait there, %d left the kernel",
            text(barrier).text, at_barrier, exited);
}

/* ---- shared memory */

struct array {
  const void *key;
  const char *name;
  char *at;
  size_t bytes;
};

const size_t GAP = 64;
const void *const DYNAMIC = &n_blocks; /* a key that no array has */
/* Room for 48 KiB of static arrays beside all that a launch may ask for: so that who asks for too much is told so. */
alignas(4096) char arena[SIMT_SHARED_MOST + SIMT_SHARED_PLAIN + 64 * 1024];
std::vector<array> arrays;
size_t arena_used, static_bytes;
std::unordered_map<const void *, size_t> allowed;

void forget_shared() {
  __asan_poison_memory_region(arena, arena_used ? arena_used : sizeof arena);
  arrays.clear();
  arena_used = static_bytes = 0;
}

/* At addresses that are multiples of 16 and not of 32. */
char *new_array(const void *key, const char *name, size_t bytes) {
  char *at = arena + (arena_used + GAP + 31) / 32 * 32 + 16;
  arena_used = (size_t)(at - arena) + bytes;
  __asan_unpoison_memory_region(at, bytes);
  memset(at, 0xff, bytes);
  arrays.push_back({key, name, at, bytes});
  return at;
}

/* ---- one after another */

void begin_block() {
  const uint64_t b = block_number(blocks_begun++);
  blockIdx.x = (unsigned)(b % gridDim.x);
  blockIdx.y = (unsigned)(b / gridDim.x % gridDim.y);
  blockIdx.z = (unsigned)(b / gridDim.x / gridDim.y);
  for (int i = 0; i < n_waves; i++) {
    wave &w = waves[i];
    w.fresh = w.all;
    w.ready = w.waiting = w.at_barrier = 0;
  }
  waves_running = n_waves == 64 ? ~0ull : (1ull << n_waves) - 1;
  at_barrier = exited = 0;
  forget_shared();
  simt_clock.block = simt_clock.phase = ++simt_clock.now;
  current_wave = choose(waves_running);
  simt_clock.wave = ++simt_clock.now;
}

/* Makes the thread that runs next the current one; false: all blocks are done. `fresh`: it begins. */
bool pick(bool *fresh) {
  for (;;) {
    wave &w = waves[current_wave];
    const uint64_t can = w.fresh | w.ready;
    if (can) {
      const int lane = choose(can);
      const uint64_t bit = 1ull << lane;
      *fresh = w.fresh & bit;
      w.fresh &= ~bit;
      w.ready &= ~bit;
      current = current_wave * GPU_WAVE + lane;
      simt_lane_now = lane;
      threadIdx = threads[current].index;
      return true;
    }
    if (w.waiting) fail_missing(w);
    waves_running &= ~(1ull << current_wave);
    if (waves_running) {
      current_wave = choose(waves_running);
      simt_clock.wave = ++simt_clock.now;
    } else if (at_barrier) {
      fail_divergent();
    } else if (blocks_begun == n_blocks) {
      return false;
    } else {
      begin_block();
    }
  }
}

/* The current thread has to wait: others run until its turn comes again. */
void run_others() {
  threads[current].on = fiber_running();
  bool fresh;
  pick(&fresh);
  fiber_go(fresh ? fiber_take() : threads[current].on);
}

/* What each fiber does: runs threads that begin, one after another. */
void fiber_body() {
  bool fresh = true;
  for (;;) {
    if (fresh) {
      call->run();
      if (!threads[current].copies.empty()) {
        threads[current].copies.clear();
        threads[current].groups.clear();
      }
      exited++;
    }
    if (!pick(&fresh)) {
      fiber_release(fiber_running());
      fiber_leave();
      fresh = true;
    } else if (!fresh) {
      fiber_release(fiber_running());
      fiber_go(threads[current].on);
      fresh = true; /* whoever comes to a free fiber has a thread that begins */
    }
  }
}

void begin_launch(const simt_launch &l, const simt_call &c) {
  launch = &l;
  call = &c;
  gridDim = l.grid;
  blockDim = l.block;
  n_threads = (int)(l.block.x * l.block.y * l.block.z);
  n_waves = (n_threads + GPU_WAVE - 1) / GPU_WAVE;
  n_blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
  blocks_begun = 0;
  for (int t = 0; t < n_threads; t++) {
    threads[t].index.x = (unsigned)t % blockDim.x;
    threads[t].index.y = (unsigned)t / blockDim.x % blockDim.y;
    threads[t].index.z = (unsigned)t / blockDim.x / blockDim.y;
    threads[t].copies.clear();
    threads[t].groups.clear();
  }
  for (int i = 0; i < n_waves; i++) {
    const int lanes = n_threads - i * GPU_WAVE;
    waves[i].all =
        lanes >= 64 || lanes >= GPU_WAVE ? ~0ull >> (64 - GPU_WAVE) : (1ull << lanes) - 1;
  }
  read_order();
  begin_order();
  simt_clock.launch = ++simt_clock.now;
}

} // namespace

gpuError_t simt_run(const simt_launch &l, const simt_call &c) {
  if (!fiber_start(THREADS_MOST + 1, fiber_body)) {
    simt_note("no memory for the stacks of %d threads", THREADS_MOST);
    return gpuErrorMemoryAllocation;
  }
  failure[0] = '\0';
  begin_launch(l, c);
  begin_block();
  bool fresh;
  pick(&fresh);
  {
    simt_faults become_failures;
    fiber_enter();
  }
  forget_shared();
  launch = nullptr;
  if (!failure[0]) return gpuSuccess;
  simt_note("%s", failure);
  return gpuErrorLaunchFailure;
}

bool simt_is_running() {
  return launch != nullptr;
}

int simt_thread_now() {
  return current;
}

void simt_fail(const char *format, ...) {
  char what[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  snprintf(failure, sizeof failure, "kernel %s of %s, block (%u,%u,%u), %s: %s", launch->kernel,
           launch->launcher, blockIdx.x, blockIdx.y, blockIdx.z, thread_text(current).text, what);
  fiber_abandon();
}

/* ---- what kernels call */

const uint64_t *simt_wave(simt_op op, uint64_t mine, const char *file, int line) {
  wave &w = waves[current_wave];
  const uint64_t bit = 1ull << simt_lane_now;
  const place here = {op, file, line};
  if (!w.waiting)
    w.at = here;
  else if (!same(w.at, here))
    simt_fail("is at %s while %s of its wave are at %s", text(here).text,
              lanes_text(w.waiting).text, text(w.at).text);
  if (w.all != ~0ull >> (64 - GPU_WAVE))
    simt_fail("%s in a block of %d threads, which is no whole number of waves of %d",
              text(here).text, n_threads, GPU_WAVE);
  uint64_t *words = w.words[w.turn];
  words[simt_lane_now] = mine;
  w.waiting |= bit;
  if (w.waiting != w.all) {
    run_others();
    return words;
  }
  w.ready = w.all & ~bit;
  w.waiting = 0;
  w.turn ^= 1;
  if (op == SIMT_SYNC_WAVE) simt_clock.now++;
  return words;
}

int simt_group_lane(simt_op op, int width, int argument, const char *file, int line) {
  const char *wrong = nullptr;
  if (width < 1 || width > GPU_WAVE || (width & (width - 1)))
    wrong = "a width that doesn't divide the wave";
  else if (op == SIMT_SHUFFLE_XOR && (argument < 0 || argument >= width))
    wrong = "a mask that leaves the group";
  else if (op == SIMT_SHUFFLE_DOWN && argument < 0)
    wrong = "a negative distance";
  if (wrong)
    simt_fail("%s with %s: %d in groups of %d lanes", text({op, file, line}).text, wrong, argument,
              width);
  return simt_lane_now & (width - 1);
}

void simt_block_sync(const char *file, int line) {
  const place here = {SIMT_BARRIER, file, line};
  if (!at_barrier)
    barrier = here;
  else if (!same(barrier, here))
    simt_fail("is at %s while %d threads of its block are at %s", text(here).text, at_barrier,
              text(barrier).text);
  const uint64_t bit = 1ull << simt_lane_now;
  waves[current_wave].at_barrier |= bit;
  if (++at_barrier < n_threads) return run_others();
  for (int i = 0; i < n_waves; i++) {
    waves[i].ready = waves[i].at_barrier;
    waves[i].at_barrier = 0;
  }
  waves[current_wave].ready &= ~bit;
  waves_running = n_waves == 64 ? ~0ull : (1ull << n_waves) - 1;
  at_barrier = 0;
  simt_clock.phase = simt_clock.wave = ++simt_clock.now;
}

void *simt_shared(const void *key, size_t bytes, const char *name) {
  for (const array &a : arrays)
    if (a.key == key) return a.at;
  static_bytes += bytes;
  if (static_bytes > SIMT_SHARED_PLAIN)
    simt_fail("%zu bytes of GPU_SHARED, of which a kernel may have %d", static_bytes,
              SIMT_SHARED_PLAIN);
  const size_t limit = launch->shared > SIMT_SHARED_PLAIN || allowed.count(launch->function)
                           ? SIMT_SHARED_MOST
                           : SIMT_SHARED_PLAIN;
  if (static_bytes + launch->shared > limit)
    simt_fail("%zu bytes of GPU_SHARED and %zu dynamic ones are more than %zu", static_bytes,
              launch->shared, limit);
  return new_array(key, name, bytes);
}

void *simt_shared_dynamic() {
  for (const array &a : arrays)
    if (a.key == DYNAMIC) return a.at;
  return new_array(DYNAMIC, "dynamic shared memory", launch->shared);
}

void simt_copy16(void *shared, const void *global, bool valid) {
  char *to = static_cast<char *>(shared);
  if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16)
    simt_fail("gpu_copy16(%p, %p): both must be multiples of 16", shared, global);
  if (to < arena || to + 16 > arena + sizeof arena)
    simt_fail("gpu_copy16 to %p, which is not in shared memory", shared);
  simt_race_access(to, 16, true, false);
  if (valid) {
    simt_race_access(global, 16, false, false);
    const volatile uint64_t *from = static_cast<const volatile uint64_t *>(global);
    (void)from[0]; /* a bad address is seen here, where it was given */
    (void)from[1];
  }
  memset(to, 0xff, 16);
  threads[current].copies.push_back({to, static_cast<const char *>(global), valid});
}

void simt_copy_commit() {
  thread &t = threads[current];
  t.groups.push_back(t.copies.size());
}

void simt_copy_wait(int groups) {
  thread &t = threads[current];
  if (t.groups.size() <= (size_t)groups) return;
  const size_t done = t.groups.size() - (size_t)groups, end = t.groups[done - 1];
  for (size_t i = 0; i < end; i++) {
    const copy &c = t.copies[i];
    simt_race_access(c.to, 16, true, false);
    if (c.valid)
      memcpy(c.to, c.from, 16);
    else
      memset(c.to, 0, 16);
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + (ptrdiff_t)end);
  t.groups.erase(t.groups.begin(), t.groups.begin() + (ptrdiff_t)done);
  for (size_t &g : t.groups) g -= end;
}

bool simt_shared_describe(const void *p, char *out, size_t size) {
  const char *at = static_cast<const char *>(p);
  if (at < arena || at >= arena + sizeof arena) return false;
  for (const array &a : arrays)
    if (at >= a.at && at < a.at + a.bytes) {
      snprintf(out, size, "byte %td of %s", at - a.at, a.name);
      return true;
    }
  snprintf(out, size, "shared memory outside of all arrays");
  return true;
}

void simt_shared_range(const char **begin, size_t *bytes) {
  *begin = arena;
  *bytes = sizeof arena;
}

/* ---- limits */

extern "C" {
extern char *__start___patchable_function_entries[] __attribute__((weak, visibility("hidden")));
extern char *__stop___patchable_function_entries[] __attribute__((weak, visibility("hidden")));
}

/* How many threads the kernel was declared for: GPU_KERNEL puts as many bytes before it, and the compiler where they
 * begin into a list. */
static unsigned bound_of(const void *function) {
  const char *at = static_cast<const char *>(function);
  ptrdiff_t least = THREADS_MOST;
  for (char **p = __start___patchable_function_entries; p < __stop___patchable_function_entries;
       p++)
    if (*p <= at && at - *p < least) least = at - *p;
  return (unsigned)least;
}

bool simt_can_launch(const simt_launch &l) {
  const uint64_t count = (uint64_t)l.block.x * l.block.y * l.block.z;
  const dim3 &g = l.grid, &b = l.block;
  char why[200] = "";
  if (g.x == 0 || g.y == 0 || g.z == 0 || count == 0)
    snprintf(why, sizeof why, "is empty");
  else if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    snprintf(why, sizeof why, "is beyond 2147483647 x 65535 x 65535 blocks");
  else if (count > THREADS_MOST || b.x > 1024 || b.y > 1024 || b.z > 64)
    snprintf(why, sizeof why, "is beyond 1024 threads a block, 64 in z");
  else if (count > bound_of(l.function))
    snprintf(why, sizeof why, "is beyond the %u threads the kernel is declared for",
             bound_of(l.function));
  else if (l.shared > SIMT_SHARED_PLAIN &&
           (!allowed.count(l.function) || l.shared > allowed[l.function]))
    snprintf(why, sizeof why, "is beyond %d bytes of shared memory without GPU_ALLOW_SHARED",
             SIMT_SHARED_PLAIN);
  if (!why[0]) return true;
  simt_note(
      "kernel %s of %s: a launch of (%u,%u,%u) blocks of (%u,%u,%u) threads with %zu bytes %s",
      l.kernel, l.launcher, g.x, g.y, g.z, b.x, b.y, b.z, l.shared, why);
  return false;
}

gpuError_t simt_allow_shared_locked(const void *function, size_t bytes) {
  if (bytes > SIMT_SHARED_MOST) {
    simt_note("GPU_ALLOW_SHARED of %zu bytes: a block has %d", bytes, SIMT_SHARED_MOST);
    return gpuErrorInvalidValue;
  }
  allowed[function] = bytes;
  return gpuSuccess;
}
