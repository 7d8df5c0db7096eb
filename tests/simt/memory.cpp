/* memory.cpp - device memory: pages of one reserved range, each allocation at the end of its pages, so that what goes
 * beyond it faults; addresses aren't given out again for a long time, so that what comes too late faults too. */
#include "machine.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace {

struct allocation {
  size_t bytes;
  char *pages;
  size_t page_bytes;
  int device;
  bool pooled, usable; /* not usable: the stream hasn't come to it */
};

const size_t PAGE = 4096, REGION = (size_t)1 << 36;
/* What 0xff is written to at most: whoever asks for gigabytes in a test doesn't use them. */
const size_t FILL = 64u << 20;

char *region;
size_t cursor;
std::map<char *, allocation> allocations; /* by address */
std::map<char *, size_t> pinned;
size_t used[SIMT_DEVICES_MOST];
int open;

bool reserve() {
  if (region) return true;
  void *p = mmap(nullptr, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED || !simt_race_start(p, REGION)) return false;
  region = static_cast<char *>(p);
  return true;
}

size_t round_up(size_t n, size_t to) {
  return (n + to - 1) / to * to;
}

/* Room for `bytes` and a page that stays inaccessible, from where the last was on. */
char *find_room(size_t bytes) {
  if (bytes + PAGE > REGION) return nullptr;
#if defined(__SANITIZE_ADDRESS__)
  cursor = 0; /* its shadow would grow with every new address, as if memory leaked */
#endif
  for (int round = 0; round < 2; round++) {
    while (cursor + bytes + PAGE <= REGION) {
      char *at = region + cursor;
      auto next = allocations.lower_bound(at);
      if (next == allocations.end() || next->second.pages >= at + bytes + PAGE) {
        cursor += bytes + PAGE;
        return at;
      }
      cursor = (size_t)(next->second.pages - region) + next->second.page_bytes + PAGE;
    }
    cursor = 0;
  }
  return nullptr;
}

std::map<char *, allocation>::iterator find(const void *p) {
  char *at = static_cast<char *>(const_cast<void *>(p));
  auto after = allocations.upper_bound(at);
  if (after == allocations.begin()) return allocations.end();
  --after;
  return at < after->first + after->second.bytes ? after : allocations.end();
}

void set_poison(char *at, const allocation &a) {
  if (!a.usable) return;
  if (open)
    __asan_unpoison_memory_region(at, a.bytes);
  else
    __asan_poison_memory_region(at, a.bytes);
}

} // namespace

int simt_devices() {
  const char *text = getenv("DS_SIMT_DEVICES");
  const long n = text ? strtol(text, nullptr, 10) : 2;
  return n < 0 ? 0 : n > SIMT_DEVICES_MOST ? SIMT_DEVICES_MOST : (int)n;
}

size_t simt_memory_total() {
  const char *text = getenv("DS_SIMT_MEMORY");
  return text ? strtoull(text, nullptr, 10) : (size_t)8 << 30;
}

size_t simt_memory_used(int device) {
  return used[device];
}

gpuError_t simt_memory_alloc(int device, size_t bytes, bool pooled, void **out) {
  const size_t limit = simt_memory_total();
  if (bytes > limit || used[device] > limit - bytes || !reserve()) return gpuErrorMemoryAllocation;
  const size_t page_bytes = round_up(bytes, PAGE);
  char *pages = find_room(page_bytes);
  if (!pages) return gpuErrorMemoryAllocation;
  char *at = pages + page_bytes - round_up(bytes, 64);
  allocations[at] = {bytes, pages, page_bytes, device, pooled, false};
  used[device] += bytes;
  if (!pooled) simt_memory_make_usable(at);
  *out = at;
  return gpuSuccess;
}

void simt_memory_make_usable(void *p) {
  const auto found = find(p);
  if (found == allocations.end()) return;
  allocation &a = found->second;
  mprotect(a.pages, a.page_bytes, PROT_READ | PROT_WRITE);
  __asan_unpoison_memory_region(a.pages, a.page_bytes);
  memset(found->first, 0xff, a.bytes < FILL ? a.bytes : FILL);
  __asan_poison_memory_region(a.pages, a.page_bytes);
  a.usable = true;
  set_poison(found->first, a);
}

bool simt_memory_free(void *p) {
  const auto found = allocations.find(static_cast<char *>(p));
  if (found == allocations.end()) return false;
  const allocation &a = found->second;
  used[a.device] -= a.bytes;
  __asan_unpoison_memory_region(a.pages, a.page_bytes);
  /* Faults from now on. */
  mmap(a.pages, a.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
       -1, 0);
  simt_race_forget(a.pages, a.page_bytes);
  allocations.erase(found);
  return true;
}

bool simt_memory_is_pooled(const void *p) {
  const auto found = find(p);
  return found != allocations.end() && found->second.pooled;
}

bool simt_memory_is_device(const void *p) {
  const char *at = static_cast<const char *>(p);
  return region && at >= region && at < region + REGION;
}

void simt_memory_describe(const void *p, char *out, size_t size) {
  if (simt_shared_describe(p, out, size)) return;
  const auto in = find(p);
  if (in != allocations.end()) {
    snprintf(out, size, "byte %td of the %zu at %p%s", static_cast<const char *>(p) - in->first,
             in->second.bytes, static_cast<void *>(in->first),
             in->second.usable ? "" : ", which stream order hasn't allocated yet");
    return;
  }
  if (!simt_memory_is_device(p)) {
    snprintf(out, size, "%p, which is not of a device", p);
    return;
  }
  char *at = static_cast<char *>(const_cast<void *>(p));
  auto after = allocations.upper_bound(at), before = after;
  if (before != allocations.begin() &&
      (--before)->second.pages + before->second.page_bytes + PAGE > at)
    snprintf(out, size, "%td bytes behind the %zu at %p",
             at - (before->first + before->second.bytes), before->second.bytes,
             static_cast<void *>(before->first));
  else if (after != allocations.end() && after->second.pages - PAGE <= at)
    snprintf(out, size, "%td bytes before the %zu at %p", after->first - at, after->second.bytes,
             static_cast<void *>(after->first));
  else
    snprintf(out, size, "%p, which is not allocated (freed?)", p);
}

bool simt_memory_check(const void *p, size_t bytes, const char *what) {
  const auto in = find(p);
  if (in != allocations.end() && in->second.usable &&
      bytes <= in->second.bytes - (size_t)(static_cast<const char *>(p) - in->first))
    return true;
  char where[200];
  simt_memory_describe(p, where, sizeof where);
  simt_note("%s %zu bytes at %s", what, bytes, where);
  return false;
}

/* ---- host memory that the device knows */

void *simt_pinned_alloc(size_t bytes) {
  void *p = nullptr;
  if (posix_memalign(&p, PAGE, bytes) != 0) return nullptr;
  memset(p, 0xff, bytes);
  pinned[static_cast<char *>(p)] = bytes;
  return p;
}

bool simt_pinned_free(void *p) {
  if (!pinned.erase(static_cast<char *>(p))) return false;
  free(p);
  return true;
}

bool simt_pinned_has(const void *p) {
  char *at = static_cast<char *>(const_cast<void *>(p));
  auto after = pinned.upper_bound(at);
  if (after == pinned.begin()) return false;
  --after;
  return at < after->first + after->second;
}

/* ---- the host doesn't see device memory. AddressSanitizer's build says so; the plain one lets it be seen. */

simt_memory_open::simt_memory_open() {
  if (open++) return;
#if defined(__SANITIZE_ADDRESS__)
  for (auto &a : allocations) set_poison(a.first, a.second);
#endif
}

simt_memory_open::~simt_memory_open() {
  if (--open) return;
#if defined(__SANITIZE_ADDRESS__)
  for (auto &a : allocations) set_poison(a.first, a.second);
#endif
}
