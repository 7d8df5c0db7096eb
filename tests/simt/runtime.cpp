/* runtime.cpp - gpu_runtime.h: devices, streams, events, graphs. */
#include "machine.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

namespace {

typedef std::unique_lock<std::mutex> holding;
struct stream;
struct event_at { /* how far a stream has to come */
  std::shared_ptr<stream> of;
  uint64_t count = 0;
};
struct work {
  std::function<gpuError_t(holding &)> run;
  event_at after;    /* what it waits for */
  bool host = false; /* a host function, which may take as long as it likes */
};

struct stream {
  int device = 0;
  std::deque<work> queue;
  uint64_t given = 0, done = 0;
  bool running = false; /* somebody runs its first piece of work */
  bool capturing = false, capture_broken = false;
  std::vector<work> captured;
};

struct device_state {
  gpuError_t failure = gpuSuccess; /* all calls fail so */
  char why[1400];
  std::shared_ptr<stream> own; /* what NULL means */
  bool peers[SIMT_DEVICES_MOST];
};

std::mutex lock;
std::condition_variable changed;
std::map<const void *, std::shared_ptr<stream>> streams;
device_state devices[SIMT_DEVICES_MOST];

thread_local int current;
thread_local gpuError_t last;
thread_local bool in_host_function;
thread_local char note[1400]; /* of this thread's last failure */

gpuError_t done(gpuError_t code) {
  if (code != gpuSuccess && code != gpuErrorNotReady) last = code;
  return code;
}
gpuError_t wrong(gpuError_t code, const char *why) {
  simt_note("%s", why);
  return done(code);
}

std::shared_ptr<stream> find(gpuStream_t s) {
  if (s) {
    auto found = streams.find(s);
    return found == streams.end() ? nullptr : found->second;
  }
  std::shared_ptr<stream> &own = devices[current].own;
  if (!own) {
    own = std::make_shared<stream>();
    own->device = current;
  }
  return own;
}

gpuError_t failure_of(const stream &s) {
  return devices[s.device].failure;
}

/* ---- running */

bool ready(const work &w) {
  return !w.after.of || w.after.of->done >= w.after.count;
}

void run_until(holding &h, const std::shared_ptr<stream> &s, uint64_t count);

/* The first of its queue; s isn't running, its queue isn't empty. */
void run_one(holding &h, const std::shared_ptr<stream> &s) {
  work w = std::move(s->queue.front());
  s->queue.pop_front();
  s->running = true;
  device_state &d = devices[s->device];
  if (w.after.of && !ready(w)) run_until(h, w.after.of, w.after.count);
  if (d.failure == gpuSuccess && w.run) {
    const gpuError_t code = w.run(h);
    if (code != gpuSuccess && d.failure == gpuSuccess) {
      d.failure = code;
      memcpy(d.why, note, sizeof d.why);
    }
  }
  s->running = false;
  s->done++;
  changed.notify_all();
}

void run_until(holding &h, const std::shared_ptr<stream> &s, uint64_t count) {
  while (s->done < count) {
    if (s->running)
      changed.wait(h);
    else
      run_one(h, s);
  }
}

/* Work for s, or a node of what it captures. */
gpuError_t give(const std::shared_ptr<stream> &s, work w) {
  if (failure_of(*s) != gpuSuccess) return failure_of(*s);
  if (s->capturing) {
    s->captured.push_back(std::move(w));
    return gpuSuccess;
  }
  s->queue.push_back(std::move(w));
  s->given++;
  return gpuSuccess;
}
gpuError_t give(const std::shared_ptr<stream> &s, std::function<gpuError_t(holding &)> run) {
  return give(s, work{std::move(run), {}});
}
gpuError_t give(gpuStream_t handle, std::function<gpuError_t(holding &)> run,
                bool is_host = false) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  return done(give(s, work{std::move(run), {}, is_host}));
}

/* What can't be captured spoils the capture. */
bool spoils(stream &s) {
  if (!s.capturing) return false;
  s.capture_broken = true;
  simt_note("not while the stream captures");
  return true;
}

} // namespace

void simt_note(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(note, sizeof note, format, args);
  va_end(args);
}

void simt_run_all(void) {
  holding h(lock);
  for (bool progress = true; progress;) {
    progress = false;
    std::vector<std::shared_ptr<stream>> all;
    for (auto &s : streams) all.push_back(s.second);
    for (auto &s : all)
      while (!s->running && !s->queue.empty() && ready(s->queue.front())) {
        run_one(h, s);
        progress = true;
      }
  }
}

void simt_revive(void) {
  holding h(lock);
  for (device_state &d : devices) d.failure = gpuSuccess;
  last = gpuSuccess;
}

/* ---- kernels */

gpuError_t simt_give(const simt_launch &launch, simt_call *call, gpuStream_t s) {
  const std::shared_ptr<simt_call> owned(call);
  {
    holding h(lock);
    if (!simt_can_launch(launch)) return done(gpuErrorInvalidConfiguration);
  }
  return give(s, [launch, owned](holding &) {
    simt_memory_open for_this;
    return simt_run(launch, *owned);
  });
}

gpuError_t simt_allow_shared(const void *function, size_t bytes) {
  holding h(lock);
  return done(simt_allow_shared_locked(function, bytes));
}

/* ---- errors */

static const struct {
  gpuError_t code;
  const char *name, *text;
} errors[] = {
    {gpuSuccess, "gpuSuccess", "no error"},
    {gpuErrorInvalidValue, "gpuErrorInvalidValue", "invalid argument"},
    {gpuErrorMemoryAllocation, "gpuErrorMemoryAllocation", "out of memory"},
    {gpuErrorInvalidConfiguration, "gpuErrorInvalidConfiguration", "invalid launch"},
    {gpuErrorStubLibrary, "gpuErrorStubLibrary", "stub library"},
    {gpuErrorInsufficientDriver, "gpuErrorInsufficientDriver", "insufficient driver"},
    {gpuErrorNoDevice, "gpuErrorNoDevice", "no device"},
    {gpuErrorInvalidDevice, "gpuErrorInvalidDevice", "invalid device"},
    {gpuErrorInvalidResourceHandle, "gpuErrorInvalidResourceHandle", "invalid handle"},
    {gpuErrorNotReady, "gpuErrorNotReady", "not ready"},
    {gpuErrorPeerAccessAlreadyEnabled, "gpuErrorPeerAccessAlreadyEnabled", "already enabled"},
    {gpuErrorLaunchFailure, "gpuErrorLaunchFailure", "launch failure"},
    {gpuErrorStreamCaptureUnsupported, "gpuErrorStreamCaptureUnsupported",
     "not while the stream captures"},
    {gpuErrorStreamCaptureInvalidated, "gpuErrorStreamCaptureInvalidated",
     "an earlier call spoiled the capture"},
};

const char *gpuGetErrorName(gpuError_t code) {
  for (auto &e : errors)
    if (e.code == code) return e.name;
  return "unknown error";
}

/* What was noted, where this thread's last failure, or the current device's, was this one. */
const char *gpuGetErrorString(gpuError_t code) {
  const bool detailed = code == gpuErrorInvalidValue || code == gpuErrorInvalidConfiguration ||
                        code == gpuErrorInvalidResourceHandle;
  if (code == gpuErrorLaunchFailure)
    for (auto &d : devices)
      if (d.failure == code && (&d == &devices[current] || devices[current].failure != code))
        return d.why;
  if (detailed && note[0]) return note;
  for (auto &e : errors)
    if (e.code == code) return e.text;
  return "unknown error";
}

gpuError_t gpuPeekAtLastError(void) {
  return devices[current].failure ? devices[current].failure : last;
}
gpuError_t gpuGetLastError(void) {
  const gpuError_t code = gpuPeekAtLastError();
  last = gpuSuccess;
  return code;
}

/* ---- devices */

gpuError_t gpuGetDeviceCount(int *count) {
  *count = simt_devices();
  return *count ? gpuSuccess : done(gpuErrorNoDevice);
}
static bool is_device(int index) {
  return index >= 0 && index < simt_devices();
}
gpuError_t gpuSetDevice(int index) {
  if (!is_device(index)) return done(gpuErrorInvalidDevice);
  current = index;
  return gpuSuccess;
}
gpuError_t gpuGetDevice(int *index) {
  *index = current;
  return gpuSuccess;
}
gpuError_t gpuDriverGetVersion(int *version) {
  *version = 1;
  return gpuSuccess;
}
gpuError_t gpuDeviceGetAttribute(int *value, gpuDeviceAttr attribute, int index) {
  if (!is_device(index)) return done(gpuErrorInvalidDevice);
  switch (attribute) {
    case gpuAttributeMultiprocessors: *value = 4; return gpuSuccess;
    case gpuAttributeSharedPerBlock: *value = SIMT_SHARED_MOST; return gpuSuccess;
  }
  return wrong(gpuErrorInvalidValue, "no such attribute");
}
gpuError_t gpuDeviceGetPCIBusId(char *out, int size, int index) {
  if (!is_device(index)) return done(gpuErrorInvalidDevice);
  snprintf(out, (size_t)size, "0000:%02x:00.0", index + 1);
  return gpuSuccess;
}
gpuError_t gpuDeviceCanAccessPeer(int *can, int from, int to) {
  if (!is_device(from) || !is_device(to)) return done(gpuErrorInvalidDevice);
  *can = from != to;
  return gpuSuccess;
}
gpuError_t gpuDeviceEnablePeerAccess(int to, unsigned flags) {
  holding h(lock);
  if (!is_device(to) || to == current || flags) return done(gpuErrorInvalidDevice);
  if (devices[current].peers[to]) return done(gpuErrorPeerAccessAlreadyEnabled);
  devices[current].peers[to] = true;
  return gpuSuccess;
}

gpuError_t gpu_device_name(int index, char *out, size_t size) {
  if (!is_device(index)) return done(gpuErrorInvalidDevice);
  snprintf(out, size, "emulated device %d, waves of %d lanes", index, GPU_WAVE);
  return gpuSuccess;
}
int gpu_device_wave(int index) {
  (void)index;
  return GPU_WAVE;
}
int gpu_device_arch(int index) {
  (void)index;
  return GPU_WAVE == 32 ? 900 : 0x90a;
}
const char *gpu_no_device_reason(gpuError_t code) {
  (void)code;
  return "DS_SIMT_DEVICES is 0: set it to 1 or more";
}

/* ---- memory */

gpuError_t gpuMemGetInfo(size_t *available, size_t *total) {
  holding h(lock);
  const size_t in_use = simt_memory_used(current);
  *total = simt_memory_total();
  *available = *total > in_use ? *total - in_use : 0;
  return done(devices[current].failure);
}

gpuError_t gpuMalloc(void **out, size_t bytes) {
  holding h(lock);
  if (devices[current].failure) return done(devices[current].failure);
  if (bytes == 0) return *out = nullptr, gpuSuccess;
  return done(simt_memory_alloc(current, bytes, false, out));
}

gpuError_t gpuFree(void *p) {
  holding h(lock);
  if (!p) return gpuSuccess;
  if (!simt_memory_free(p)) return wrong(gpuErrorInvalidValue, "gpuFree of what isn't allocated");
  return done(devices[current].failure);
}

/* What a pool keeps isn't emulated: freed memory is gone. */
struct simt_pool {
  int device;
};

gpuError_t gpu_pool_create(gpuMemPool_t *out, int index) {
  if (!is_device(index)) return done(gpuErrorInvalidDevice);
  *out = new simt_pool{index};
  return gpuSuccess;
}
gpuError_t gpu_pool_share(gpuMemPool_t pool, int index) {
  return pool && is_device(index) ? gpuSuccess : done(gpuErrorInvalidDevice);
}
gpuError_t gpuMemPoolTrimTo(gpuMemPool_t pool, size_t keep) {
  (void)keep;
  return pool ? gpuSuccess : wrong(gpuErrorInvalidValue, "no pool");
}
gpuError_t gpuMemPoolDestroy(gpuMemPool_t pool) {
  delete pool;
  return gpuSuccess;
}

gpuError_t gpuMallocFromPoolAsync(void **out, size_t bytes, gpuMemPool_t pool, gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (failure_of(*s)) return done(failure_of(*s));
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  if (bytes == 0) return *out = nullptr, gpuSuccess;
  void *p;
  gpuError_t code = simt_memory_alloc(pool->device, bytes, true, &p);
  if (code == gpuErrorMemoryAllocation) { /* the stream may be about to free some */
    run_until(h, s, s->given);
    code = simt_memory_alloc(pool->device, bytes, true, &p);
  }
  if (code) return done(code);
  *out = p;
  return done(give(s, [p](holding &) {
    simt_memory_make_usable(p);
    return gpuSuccess;
  }));
}

gpuError_t gpuFreeAsync(void *p, gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  if (!p) return gpuSuccess;
  if (!simt_memory_is_pooled(p))
    return wrong(gpuErrorInvalidValue, "gpuFreeAsync of what isn't a pool's memory");
  return done(give(s, [p](holding &) {
    if (simt_memory_free(p)) return gpuSuccess;
    simt_note("gpuFreeAsync of what isn't allocated");
    return gpuErrorInvalidValue;
  }));
}

gpuError_t gpuHostMalloc(void **out, size_t bytes) {
  holding h(lock);
  if (bytes == 0) return *out = nullptr, gpuSuccess;
  *out = simt_pinned_alloc(bytes);
  return *out ? gpuSuccess : done(gpuErrorMemoryAllocation);
}

gpuError_t gpuHostFree(void *p) {
  holding h(lock);
  if (!p) return gpuSuccess;
  return simt_pinned_free(p) ? gpuSuccess
                             : wrong(gpuErrorInvalidValue, "gpuHostFree of what isn't allocated");
}

static gpuError_t copy_now(void *to, const void *from, size_t bytes) {
  simt_memory_open for_this;
  if (simt_memory_is_device(to) && !simt_memory_check(to, bytes, "copy to"))
    return gpuErrorLaunchFailure;
  if (simt_memory_is_device(from) && !simt_memory_check(from, bytes, "copy from"))
    return gpuErrorLaunchFailure;
  memmove(to, from, bytes);
  return gpuSuccess;
}

gpuError_t simt_copy(void *to, const void *from, size_t bytes) {
  holding h(lock);
  return copy_now(to, from, bytes);
}

gpuError_t gpuMemcpyAsync(void *to, const void *from, size_t bytes, gpuMemcpyKind kind,
                          gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  const bool from_device = simt_memory_is_device(from), to_device = simt_memory_is_device(to);
  const gpuMemcpyKind is = (gpuMemcpyKind)((from_device ? 2 : 0) + (to_device ? 1 : 0));
  if (kind != gpuMemcpyDefault && kind != is)
    return wrong(gpuErrorInvalidValue, "gpuMemcpyAsync: the addresses are not of this kind");
  if (bytes == 0) return gpuSuccess;
  if (!to || !from) return wrong(gpuErrorInvalidValue, "gpuMemcpyAsync: NULL");
  std::shared_ptr<std::vector<char>> staged;
  if (!from_device && !s->capturing && !simt_pinned_has(from))
    staged = std::make_shared<std::vector<char>>(static_cast<const char *>(from),
                                                 static_cast<const char *>(from) + bytes);
  return done(give(
      s, work{[=](holding &) { return copy_now(to, staged ? staged->data() : from, bytes); }, {}}));
}

gpuError_t gpuMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device,
                              size_t bytes, gpuStream_t s) {
  if (!is_device(to_device) || !is_device(from_device)) return done(gpuErrorInvalidDevice);
  return gpuMemcpyAsync(to, from, bytes, gpuMemcpyDeviceToDevice, s);
}

gpuError_t gpuMemsetAsync(void *to, int byte, size_t bytes, gpuStream_t s) {
  if (bytes == 0) return gpuSuccess;
  return give(s, [=](holding &) {
    simt_memory_open for_this;
    if (!simt_memory_check(to, bytes, "set")) return gpuErrorLaunchFailure;
    memset(to, byte, bytes);
    return gpuSuccess;
  });
}

/* ---- streams */

gpuError_t gpuStreamCreate(gpuStream_t *out) {
  holding h(lock);
  if (devices[current].failure) return done(devices[current].failure);
  const auto s = std::make_shared<stream>();
  s->device = current;
  streams[s.get()] = s;
  *out = reinterpret_cast<gpuStream_t>(s.get());
  return gpuSuccess;
}

gpuError_t gpuStreamDestroy(gpuStream_t handle) {
  holding h(lock);
  const auto s = handle ? find(handle) : nullptr;
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  s->capturing = false;
  s->captured.clear();
  run_until(h, s, s->given);
  streams.erase(handle);
  return done(failure_of(*s));
}

gpuError_t gpuStreamSynchronize(gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (in_host_function) return wrong(gpuErrorInvalidValue, "no runtime calls in host functions");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  run_until(h, s, s->given);
  return done(failure_of(*s));
}

/* As time passes: one piece of work at a query, of what is asked for or of what that waits for. Who asks doesn't wait,
 * so no host function. */
static void run_a_little(holding &h, std::shared_ptr<stream> s) {
  while (!s->running && !s->queue.empty() && !s->queue.front().host) {
    if (ready(s->queue.front())) return run_one(h, s);
    s = s->queue.front().after.of;
  }
}

gpuError_t gpuStreamQuery(gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  if (s->done < s->given) {
    run_a_little(h, s);
    if (!failure_of(*s)) return gpuErrorNotReady;
  }
  return done(failure_of(*s));
}

gpuError_t gpuLaunchHostFunc(gpuStream_t s, void (*run)(void *), void *argument) {
  return give(
      s,
      [=](holding &h) {
        h.unlock();
        in_host_function = true;
        run(argument);
        in_host_function = false;
        h.lock();
        return gpuSuccess;
      },
      true);
}

/* ---- events */

struct simt_event {
  event_at at;
};

gpuError_t gpuEventCreate(gpuEvent_t *out) {
  *out = new simt_event;
  return gpuSuccess;
}
gpuError_t gpuEventDestroy(gpuEvent_t e) {
  holding h(lock);
  delete e;
  return gpuSuccess;
}

gpuError_t gpuEventRecord(gpuEvent_t e, gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  e->at.of = s;
  e->at.count = s->given;
  return done(failure_of(*s));
}

gpuError_t gpuStreamWaitEvent(gpuStream_t handle, gpuEvent_t e) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  if (!e->at.of) return gpuSuccess;
  return done(give(s, work{nullptr, e->at}));
}

gpuError_t gpuEventQuery(gpuEvent_t e) {
  holding h(lock);
  if (!e->at.of) return gpuSuccess;
  if (e->at.of->done < e->at.count) {
    run_a_little(h, e->at.of);
    if (!failure_of(*e->at.of)) return gpuErrorNotReady;
  }
  return done(failure_of(*e->at.of));
}

gpuError_t gpuEventSynchronize(gpuEvent_t e) {
  holding h(lock);
  const event_at at = e->at;
  if (!at.of) return gpuSuccess;
  run_until(h, at.of, at.count);
  return done(failure_of(*at.of));
}

/* ---- graphs */

struct simt_graph {
  std::shared_ptr<std::vector<work>> nodes;
  event_at last; /* launch: the next one runs after it */
};

gpuError_t gpuStreamBeginCapture(gpuStream_t handle) {
  holding h(lock);
  const auto s = handle ? find(handle) : nullptr;
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  if (failure_of(*s)) return done(failure_of(*s));
  s->capturing = true;
  s->capture_broken = false;
  return gpuSuccess;
}

gpuError_t gpuStreamEndCapture(gpuStream_t handle, gpuGraph_t *out) {
  holding h(lock);
  const auto s = handle ? find(handle) : nullptr;
  if (!s || !s->capturing) return wrong(gpuErrorInvalidValue, "the stream doesn't capture");
  s->capturing = false;
  *out = nullptr;
  const auto nodes = std::make_shared<std::vector<work>>(std::move(s->captured));
  s->captured.clear();
  if (s->capture_broken) return done(gpuErrorStreamCaptureInvalidated);
  *out = new simt_graph{nodes, {}};
  return gpuSuccess;
}

gpuError_t gpuGraphInstantiate(gpuGraphExec_t *out, gpuGraph_t graph) {
  *out = new simt_graph{graph->nodes, {}};
  return gpuSuccess;
}

gpuError_t gpuGraphLaunch(gpuGraphExec_t exec, gpuStream_t handle) {
  holding h(lock);
  const auto s = find(handle);
  if (!s) return wrong(gpuErrorInvalidResourceHandle, "no such stream");
  if (spoils(*s)) return done(gpuErrorStreamCaptureUnsupported);
  if (exec->last.of) give(s, work{nullptr, exec->last});
  for (const work &w : *exec->nodes) give(s, w);
  exec->last.of = s;
  exec->last.count = s->given;
  return done(failure_of(*s));
}

gpuError_t gpuGraphDestroy(gpuGraph_t graph) {
  delete graph;
  return gpuSuccess;
}
gpuError_t gpuGraphExecDestroy(gpuGraphExec_t exec) {
  delete exec;
  return gpuSuccess;
}
