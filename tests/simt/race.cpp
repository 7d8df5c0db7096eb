/* race.cpp - races: two accesses to a byte by different threads, one of them a write, not both atomic, that no barrier
 * orders. Kernels are compiled with -fsanitize=thread, whose calls come here instead of to its library.
 *
 * Each byte of device memory and of shared memory has a cell with the last write and a read. What is recorded of an access
 * is the number of the interval it fell into (simt_clock) and the thread. Blocks run one after another, and between
 * two of the block's barriers its waves do, so that the number alone says, compared to now, in which launch, block, phase and
 * wave the other access was, and so whether something orders the two. */
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace {

/* interval | thread (10 bits) | MANY | ATOMIC */
typedef uint32_t record;
enum { MANY = 2, ATOMIC = 1, THREAD_SHIFT = 2, INTERVAL_SHIFT = 12, INTERVALS = 1 << 20 };
struct cell {
  record written, read;
};

const char *device, *shared;
size_t device_bytes, shared_bytes;
cell *device_cells, *shared_cells;
uint64_t base; /* what simt_clock counts from in records */

cell *reserve(size_t bytes) {
  void *p = mmap(nullptr, bytes * sizeof(cell), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<cell *>(p);
}

void forget_all() {
  madvise(device_cells, device_bytes * sizeof(cell), MADV_DONTNEED);
  madvise(shared_cells, shared_bytes * sizeof(cell), MADV_DONTNEED);
  base = simt_clock.now - 1;
}

record interval(uint64_t clock) {
  return clock <= base ? 0 : (record)((clock - base) << INTERVAL_SHIFT);
}

enum relation { ORDERED, SAME_INTERVAL, OTHER_WAVE, OTHER_BLOCK };

/* The clock as records have it, at an access. */
struct moment {
  record
      first; /* accesses before it were in another launch, or of shared memory in another block */
  record block, phase, wave, now;
  record me;

  /* How an access that was relates to one of this thread now. */
  relation relate(record was) const {
    if (was < first) return ORDERED;
    if (was < block) return OTHER_BLOCK;
    if (was < phase) return ORDERED;
    if (was < wave) return OTHER_WAVE;
    if (was < now) return ORDERED; /* by gpu_sync_wave */
    return (was | ATOMIC) == (me | ATOMIC) ? ORDERED : SAME_INTERVAL;
  }
};

moment moment_now(bool atomic, bool is_shared) {
  if (simt_clock.now - base >= INTERVALS) forget_all();
  moment m;
  m.block = interval(simt_clock.block);
  m.first = is_shared ? m.block : interval(simt_clock.launch);
  m.phase = interval(simt_clock.phase);
  m.wave = interval(simt_clock.wave);
  m.now = interval(simt_clock.now);
  m.me = m.now | (record)simt_thread_now() << THREAD_SHIFT | (atomic ? (record)ATOMIC : 0);
  return m;
}

const char *const WHERE[] = {"", "of its wave without a gpu_sync_wave or gpu_sync in between",
                             "of its block without a gpu_sync in between", "of another block"};

[[noreturn]] void report(const char *p, record was, bool write, bool was_write, relation r) {
  char where[200];
  simt_memory_describe(p, where, sizeof where);
  simt_fail("a race: %s %s, which thread %u %s has %s", write ? "writes" : "reads", where,
            was >> THREAD_SHIFT & 1023u, WHERE[r], was_write ? "written" : "read");
}

/* The oldest access that isn't ordered before this one stands for both: what is not ordered after this one isn't
 * after the older either. */
void keep(record *of, record me, relation r) {
  if (r == ORDERED)
    *of = me;
  else if (r == SAME_INTERVAL)
    *of |= MANY;
}

void check(cell *c, const char *p, size_t bytes, bool write, bool atomic, bool is_shared) {
  const moment m = moment_now(atomic, is_shared);
  for (size_t i = 0; i < bytes; i++, c++) {
    const relation w = m.relate(c->written);
    if (w != ORDERED && !(atomic && c->written & ATOMIC)) report(p + i, c->written, write, true, w);
    const relation r = m.relate(c->read);
    if (write && r != ORDERED) report(p + i, c->read, true, false, r);
    if (write)
      keep(&c->written, m.me, w);
    else
      keep(&c->read, m.me, r);
  }
}

} // namespace

bool simt_race_start(const void *device_begin, size_t bytes) {
  device = static_cast<const char *>(device_begin);
  device_bytes = bytes;
  simt_shared_range(&shared, &shared_bytes);
  device_cells = reserve(device_bytes);
  shared_cells = reserve(shared_bytes);
  return device_cells && shared_cells;
}

void simt_race_forget(const void *p, size_t bytes) {
  madvise(device_cells + (static_cast<const char *>(p) - device), bytes * sizeof(cell),
          MADV_DONTNEED);
}

void simt_race_access(const void *p, size_t bytes, bool write, bool atomic) {
  const char *at = static_cast<const char *>(p);
  const size_t in_device = (size_t)(at - device), in_shared = (size_t)(at - shared);
  if (!simt_is_running()) return;
  if (in_device < device_bytes)
    check(device_cells + in_device, at, bytes, write, atomic, false);
  else if (in_shared < shared_bytes)
    check(shared_cells + in_shared, at, bytes, write, atomic, true);
}

/* ---- what the compiler calls */

extern "C" {
void __tsan_init();
void __tsan_init() {}
void __tsan_vptr_update(void **p, void *v);
void __tsan_vptr_update(void **p, void *v) {
  (void)p;
  (void)v;
}

#define PLAIN(bytes)                                                                               \
  void __tsan_read##bytes(void *p);                                                                \
  void __tsan_write##bytes(void *p);                                                               \
  void __tsan_unaligned_read##bytes(void *p);                                                      \
  void __tsan_unaligned_write##bytes(void *p);                                                     \
  void __tsan_read##bytes(void *p) {                                                               \
    simt_race_access(p, bytes, false, false);                                                      \
  }                                                                                                \
  void __tsan_write##bytes(void *p) {                                                              \
    simt_race_access(p, bytes, true, false);                                                       \
  }                                                                                                \
  void __tsan_unaligned_read##bytes(void *p) {                                                     \
    simt_race_access(p, bytes, false, false);                                                      \
  }                                                                                                \
  void __tsan_unaligned_write##bytes(void *p) {                                                    \
    simt_race_access(p, bytes, true, false);                                                       \
  }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(void *p, size_t bytes);
void __tsan_write_range(void *p, size_t bytes);
void __tsan_read_range(void *p, size_t bytes) {
  simt_race_access(p, bytes, false, false);
}
void __tsan_write_range(void *p, size_t bytes) {
  simt_race_access(p, bytes, true, false);
}

/* Those that simt.h makes of gpu_atomic_*. */
void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order) {
  (void)order;
}
uint32_t __tsan_atomic32_load(const volatile uint32_t *p, int order);
uint32_t __tsan_atomic32_load(const volatile uint32_t *p, int order) {
  (void)order;
  simt_race_access(const_cast<const uint32_t *>(p), 4, true, true); /* gpu_atomic_max will write */
  return *p;
}
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t *p, uint32_t v, int order);
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t *p, uint32_t v, int order) {
  (void)order;
  simt_race_access(const_cast<uint32_t *>(p), 4, true, true);
  const uint32_t was = *p;
  *p = was + v;
  return was;
}
int __tsan_atomic32_compare_exchange_strong(volatile uint32_t *p, uint32_t *expected, uint32_t v,
                                            int order, int order_failed);
int __tsan_atomic32_compare_exchange_strong(volatile uint32_t *p, uint32_t *expected, uint32_t v,
                                            int order, int order_failed) {
  (void)order;
  (void)order_failed;
  simt_race_access(const_cast<uint32_t *>(p), 4, true, true);
  const uint32_t was = *p;
  const bool same = was == *expected;
  if (same) *p = v;
  *expected = was;
  return same;
}
}
