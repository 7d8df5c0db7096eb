/* machine.h - what the parts of the emulation know of each other. One lock is held by whoever runs work. */
#ifndef DS_SIMT_MACHINE_H
#define DS_SIMT_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "simt.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define __asan_poison_memory_region(p, bytes)   ((void)(p), (void)(bytes))
#define __asan_unpoison_memory_region(p, bytes) ((void)(p), (void)(bytes))
#endif

/* ---- simt.cpp */

/* Whether the launch is within limits; false: with a message noted. */
bool simt_can_launch(const simt_launch &launch);
gpuError_t simt_allow_shared_locked(const void *function, size_t bytes);
/* Runs all blocks, with the lock held. */
gpuError_t simt_run(const simt_launch &launch, const simt_call &call);

enum { SIMT_SHARED_PLAIN = 48 * 1024, SIMT_SHARED_MOST = GPU_WAVE == 32 ? 227 * 1024 : 64 * 1024 };

/* ---- fault.cpp: while this thread runs kernels */
struct simt_faults {
  simt_faults();
  ~simt_faults();
};

/* ---- memory.cpp: all with the lock held */

enum { SIMT_DEVICES_MOST = 16 };

int simt_devices();
/* 0xff in every byte. `pooled`: inaccessible until simt_memory_make_usable. */
gpuError_t simt_memory_alloc(int device, size_t bytes, bool pooled, void **out);
void simt_memory_make_usable(void *p);
bool simt_memory_is_pooled(const void *p);
bool simt_memory_free(void *p); /* whether it was allocated */
bool simt_memory_is_device(const void *p);
/* Whether [p, p + bytes) is in one allocation that is usable; false: with a message noted, about `what`. */
bool simt_memory_check(const void *p, size_t bytes, const char *what);
size_t simt_memory_used(int device);
size_t simt_memory_total();
/* "24 bytes into the 4096 bytes at 0x...". For any address. */
void simt_memory_describe(const void *p, char *out, size_t size);
void *simt_pinned_alloc(size_t bytes);
bool simt_pinned_free(void *p);
bool simt_pinned_has(const void *p);
/* Device memory is for the work that runs alone. */
struct simt_memory_open {
  simt_memory_open();
  ~simt_memory_open();
};

/* ---- runtime.cpp */

/* Keeps the message for gpuGetErrorString, of this thread for a call, of all for work that failed. */
void simt_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- race.cpp, where it is built: what happened between two accesses, as numbers that only grow. Blocks run one after
 * another, and between two barriers waves do, so that the number at an access says what it is ordered with. */
struct simt_time {
  uint64_t now;    /* grows with each of the following and with each gpu_sync_wave */
  uint64_t launch; /* since it began */
  uint64_t block;
  uint64_t phase; /* since the block's last barrier */
  uint64_t wave;  /* since the wave began to run after it */
};
extern simt_time simt_clock;
int simt_thread_now(); /* of the block */
/* A race, or whatever else is seen: ends the launch. From a kernel only. */
[[noreturn]] void simt_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "ROWS + 24" for an address in shared memory, else false. */
bool simt_shared_describe(const void *p, char *out, size_t size);
void simt_shared_range(const char **begin, size_t *bytes);
bool simt_is_running(); /* within a kernel */
#if defined(SIMT_RACE)
bool simt_race_start(const void *device_begin, size_t bytes);
void simt_race_forget(const void *p, size_t bytes); /* freed */
void simt_race_access(const void *p, size_t bytes, bool write, bool atomic);
#else
static inline bool simt_race_start(const void *, size_t) {
  return true;
}
static inline void simt_race_forget(const void *, size_t) {}
static inline void simt_race_access(const void *, size_t, bool, bool) {}
#endif

#endif
