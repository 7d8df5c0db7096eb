/* test_runtime.c - gpu_runtime.h: what runs when, and what is refused. Two devices. */
#include "gpu_runtime.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      failures++;                                                                                  \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
    }                                                                                              \
  } while (0)
#define GOOD(call) CHECK((call) == gpuSuccess)

static gpuStream_t a, b;

/* Host functions that write down when they ran. */
static int log_of[16], logged;
static void note(void *what) {
  log_of[logged++] = (int)(intptr_t)what;
}
static void give(gpuStream_t s, int what) {
  GOOD(gpuLaunchHostFunc(s, note, (void *)(intptr_t)what));
}
static int ran(const char *expected) {
  char got[17] = "";
  for (int i = 0; i < logged; i++) got[i] = (char)('0' + log_of[i]);
  logged = 0;
  if (strcmp(got, expected) != 0) printf("ran %s, not %s\n", got, expected);
  return strcmp(got, expected) == 0;
}

static void *device_memory(size_t bytes) {
  void *p = NULL;
  GOOD(gpuMalloc(&p, bytes));
  return p;
}

static void test_late(void) {
  /* A query is time that passes: one piece of work, but no host function, which may take for ever. */
  void *p = device_memory(8);
  GOOD(gpuMemsetAsync(p, 1, 8, a));
  GOOD(gpuMemsetAsync(p, 2, 8, a));
  CHECK(gpuStreamQuery(a) == gpuErrorNotReady);
  CHECK(gpuStreamQuery(a) == gpuErrorNotReady);
  GOOD(gpuStreamQuery(a));
  GOOD(gpuFree(p));
  give(a, 1);
  give(a, 2);
  CHECK(gpuStreamQuery(a) == gpuErrorNotReady && gpuStreamQuery(a) == gpuErrorNotReady);
  GOOD(gpuStreamSynchronize(b));
  CHECK(ran(""));
  GOOD(gpuStreamSynchronize(a));
  CHECK(ran("12"));
  gpuStream_t c;
  GOOD(gpuStreamCreate(&c));
  give(c, 4);
  GOOD(gpuStreamDestroy(c));
  CHECK(ran("4"));
  CHECK(gpuStreamSynchronize(c) == gpuErrorInvalidResourceHandle);
  CHECK(gpuGetLastError() == gpuErrorInvalidResourceHandle && gpuGetLastError() == gpuSuccess);
}

static void test_events(void) {
  gpuEvent_t e;
  GOOD(gpuEventCreate(&e));
  GOOD(gpuEventSynchronize(e)); /* never recorded */
  GOOD(gpuStreamWaitEvent(b, e));
  give(a, 1);
  GOOD(gpuEventRecord(e, a));
  give(a, 2);
  GOOD(gpuStreamWaitEvent(b, e));
  give(b, 3);
  GOOD(gpuStreamSynchronize(b));
  CHECK(ran("13"));
  GOOD(gpuEventQuery(e));
  give(a, 4);
  GOOD(gpuEventRecord(e, a));
  CHECK(gpuEventQuery(e) == gpuErrorNotReady); /* 2 */
  GOOD(gpuEventSynchronize(e));
  CHECK(ran("24"));
  /* A wait is for the event as it was recorded then. */
  give(a, 5);
  GOOD(gpuEventRecord(e, a));
  GOOD(gpuStreamWaitEvent(b, e));
  give(a, 6);
  GOOD(gpuEventRecord(e, a));
  give(b, 7);
  GOOD(gpuStreamSynchronize(b));
  CHECK(ran("57"));
  GOOD(gpuEventDestroy(e));
  GOOD(gpuStreamSynchronize(a));
  CHECK(ran("6"));
}

/* Ordinary memory is taken at the call, pinned memory when the copy runs. */
static void test_copies(void) {
  char plain[4] = "abc", got[4] = "", *pinned;
  void *p = device_memory(8), *q = device_memory(8);
  GOOD(gpuHostMalloc((void **)&pinned, 4));
  memcpy(pinned, "def", 4);
  GOOD(gpuMemcpyAsync(p, plain, 4, gpuMemcpyHostToDevice, a));
  GOOD(gpuMemcpyAsync((char *)p + 4, pinned, 4, gpuMemcpyDefault, a));
  memcpy(plain, "xyz", 4);
  memcpy(pinned, "uvw", 4);
  GOOD(gpuMemcpyAsync(q, p, 8, gpuMemcpyDeviceToDevice, a));
  GOOD(gpuMemsetAsync(p, 'm', 2, a));
  GOOD(gpuMemcpyAsync(got, q, 4, gpuMemcpyDeviceToHost, a));
  CHECK(strcmp(got, "") == 0);
  GOOD(gpuStreamSynchronize(a));
  CHECK(strcmp(got, "abc") == 0);
  GOOD(gpuMemcpyAsync(pinned, (char *)q + 4, 4, gpuMemcpyDeviceToHost, a));
  GOOD(gpuMemcpyAsync(got, p, 4, gpuMemcpyDeviceToHost, a));
  GOOD(gpuStreamSynchronize(a));
  CHECK(strcmp(pinned, "uvw") == 0 && strcmp(got, "mmc") == 0);
  CHECK(gpuMemcpyAsync(p, plain, 4, gpuMemcpyDeviceToDevice, a) == gpuErrorInvalidValue);
  CHECK(strstr(gpuGetErrorString(gpuErrorInvalidValue), "kind") != NULL);
  GOOD(gpuHostFree(pinned));
  CHECK(gpuHostFree(plain) == gpuErrorInvalidValue);
  CHECK(gpuFree(plain) == gpuErrorInvalidValue);
  GOOD(gpuFree(p));
  GOOD(gpuFree(q));
}

/* What fails ends the device: every call then says so. */
static void failed(const char *words) {
  CHECK(gpuStreamSynchronize(a) == gpuErrorLaunchFailure);
  if (strstr(gpuGetErrorString(gpuErrorLaunchFailure), words) == NULL)
    printf("%s\n", gpuGetErrorString(gpuErrorLaunchFailure));
  CHECK(strstr(gpuGetErrorString(gpuErrorLaunchFailure), words) != NULL);
  CHECK(gpuStreamQuery(b) == gpuErrorLaunchFailure);
  void *p;
  CHECK(gpuMalloc(&p, 1) == gpuErrorLaunchFailure);
  CHECK(gpuGetLastError() == gpuErrorLaunchFailure);
  CHECK(gpuPeekAtLastError() == gpuErrorLaunchFailure);
  simt_revive();
  GOOD(gpuGetLastError());
}

static void test_failures(void) {
  void *p = device_memory(100);
  GOOD(gpuMemsetAsync(p, 0, 101, a));
  give(a, 1);
  failed("set 101 bytes at byte 0 of the 100");
  CHECK(ran(""));
  GOOD(gpuMemsetAsync(p, 0, 100, a));
  GOOD(gpuFree(p)); /* doesn't wait */
  failed("freed?");
  GOOD(gpuStreamSynchronize(b));
}

static void test_pools(void) {
  gpuMemPool_t pool;
  void *p, *q = device_memory(8);
  GOOD(gpu_pool_create(&pool, 0));
  GOOD(gpuMallocFromPoolAsync(&p, 8, pool, a));
  GOOD(gpuMemsetAsync(p, 1, 8, b)); /* too early: b doesn't wait for a */
  CHECK(gpuStreamSynchronize(b) == gpuErrorLaunchFailure);
  CHECK(strstr(gpuGetErrorString(gpuErrorLaunchFailure), "hasn't allocated yet") != NULL);
  simt_revive();
  GOOD(gpuMemsetAsync(p, 1, 8, a));
  GOOD(gpuFreeAsync(p, a));
  GOOD(gpuStreamSynchronize(a));
  CHECK(gpuFree(p) == gpuErrorInvalidValue);
  CHECK(gpuFreeAsync(q, a) == gpuErrorInvalidValue); /* not of a pool */
  GOOD(gpuFree(q));
  GOOD(gpuMemPoolDestroy(pool));
}

static void test_memory_limit(void) {
  size_t left, total;
  void *p;
  setenv("DS_SIMT_MEMORY", "1000", 1);
  GOOD(gpuMemGetInfo(&left, &total));
  CHECK(left == 1000 && total == 1000);
  CHECK(gpuMalloc(&p, 1001) == gpuErrorMemoryAllocation);
  void *most = device_memory(900);
  GOOD(gpuMemGetInfo(&left, &total));
  CHECK(left == 100 && (uintptr_t)most % 64 == 0);
  CHECK(gpuMalloc(&p, 101) == gpuErrorMemoryAllocation);
  GOOD(gpuSetDevice(1));
  GOOD(gpuMalloc(&p, 101)); /* the other device has its own */
  GOOD(gpuFree(p));
  GOOD(gpuSetDevice(0));
  GOOD(gpuFree(most));
  p = device_memory(1000);
  GOOD(gpuFree(p));
  unsetenv("DS_SIMT_MEMORY");
}

static void test_graphs(void) {
  gpuGraph_t graph;
  gpuGraphExec_t exec;
  char got[4] = "", *pinned;
  void *p = device_memory(4);
  GOOD(gpuHostMalloc((void **)&pinned, 4));
  memcpy(pinned, "abc", 4);
  GOOD(gpuStreamBeginCapture(a));
  give(a, 1);
  GOOD(gpuMemcpyAsync(p, pinned, 4, gpuMemcpyHostToDevice, a));
  GOOD(gpuStreamEndCapture(a, &graph));
  GOOD(gpuGraphInstantiate(&exec, graph));
  GOOD(gpuGraphDestroy(graph));
  GOOD(gpuStreamSynchronize(a));
  CHECK(ran(""));
  for (int i = 0; i < 2; i++) {
    GOOD(gpuGraphLaunch(exec, i ? a : b)); /* one after another, on whatever streams */
    give(i ? a : b, 2 + i);
  }
  memcpy(pinned, "def", 4); /* memory is read at the launch */
  GOOD(gpuMemcpyAsync(got, p, 4, gpuMemcpyDeviceToHost, a));
  GOOD(gpuStreamSynchronize(a));
  CHECK(ran("113") && strcmp(got, "def") == 0);
  GOOD(gpuStreamSynchronize(b));
  CHECK(ran("2"));
  GOOD(gpuGraphExecDestroy(exec));
  /* What can't be recorded spoils it. */
  GOOD(gpuStreamBeginCapture(a));
  CHECK(gpuStreamBeginCapture(a) == gpuErrorStreamCaptureUnsupported);
  CHECK(gpuStreamSynchronize(a) == gpuErrorStreamCaptureUnsupported);
  GOOD(gpuStreamSynchronize(b));
  CHECK(gpuStreamEndCapture(a, &graph) == gpuErrorStreamCaptureInvalidated && graph == NULL);
  CHECK(gpuStreamEndCapture(a, &graph) == gpuErrorInvalidValue);
  GOOD(gpuStreamSynchronize(a));
  GOOD(gpuHostFree(pinned));
  GOOD(gpuFree(p));
}

static void test_devices(void) {
  int n = 0, can = 0, value = 0, index = -1;
  char name[128], bus[2][32];
  GOOD(gpuGetDeviceCount(&n));
  CHECK(n == 2);
  CHECK(gpuSetDevice(2) == gpuErrorInvalidDevice);
  GOOD(gpuGetDevice(&index));
  GOOD(gpuDeviceCanAccessPeer(&can, 0, 1));
  GOOD(gpuDeviceEnablePeerAccess(1, 0));
  CHECK(index == 0 && can == 1 &&
        gpuDeviceEnablePeerAccess(1, 0) == gpuErrorPeerAccessAlreadyEnabled);
  for (int i = 0; i < 2; i++) GOOD(gpuDeviceGetPCIBusId(bus[i], sizeof bus[i], i));
  CHECK(strcmp(bus[0], bus[1]) != 0);
  GOOD(gpu_device_name(1, name, sizeof name));
  CHECK(strstr(name, "1") != NULL && gpu_device_wave(0) == GPU_WAVE);
  GOOD(gpuDeviceGetAttribute(&value, gpuAttributeSharedPerBlock, 0));
  CHECK(value > 48 * 1024);
  /* A failure of one device is not the other's. */
  GOOD(gpuSetDevice(1));
  gpuStream_t s;
  GOOD(gpuStreamCreate(&s));
  char from[4] = "abc", got[4] = "";
  void *p = device_memory(4);
  GOOD(gpuSetDevice(0));
  void *q = device_memory(4);
  GOOD(gpuMemcpyAsync(p, from, 4, gpuMemcpyHostToDevice, s));
  GOOD(gpuMemcpyPeerAsync(q, 0, p, 1, 4, s));
  GOOD(gpuMemcpyAsync(got, q, 4, gpuMemcpyDeviceToHost, s));
  GOOD(gpuMemsetAsync(q, 0, 5, a));
  failed("set 5 bytes");
  GOOD(gpuStreamSynchronize(s));
  CHECK(strcmp(got, "abc") == 0);
  GOOD(gpuStreamDestroy(s));
  GOOD(gpuFree(p));
  GOOD(gpuFree(q));
  setenv("DS_SIMT_DEVICES", "0", 1);
  CHECK(gpuGetDeviceCount(&n) == gpuErrorNoDevice && n == 0);
  CHECK(gpu_no_device_reason(gpuErrorNoDevice)[0] != '\0');
  unsetenv("DS_SIMT_DEVICES");
  (void)gpuGetLastError();
}

/* Work that waits for another thread's doesn't keep that from running. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t met = PTHREAD_COND_INITIALIZER;
static int here;
static void meet(void *nothing) {
  (void)nothing;
  pthread_mutex_lock(&lock);
  here++;
  pthread_cond_broadcast(&met);
  while (here < 2) pthread_cond_wait(&met, &lock);
  pthread_mutex_unlock(&lock);
}
static void *other_thread(void *nothing) {
  GOOD(gpuLaunchHostFunc(b, meet, NULL));
  GOOD(gpuStreamSynchronize(b));
  return nothing;
}
static void test_threads(void) {
  pthread_t t;
  GOOD(gpuLaunchHostFunc(a, meet, NULL));
  CHECK(pthread_create(&t, NULL, other_thread, NULL) == 0);
  GOOD(gpuStreamSynchronize(a));
  pthread_join(t, NULL);
  /* Without a thread: whoever waits runs the others' work. */
  here = 0;
  GOOD(gpuLaunchHostFunc(b, meet, NULL));
  GOOD(gpuLaunchHostFunc(a, (void (*)(void *))simt_run_all, NULL));
  here = 1;
  GOOD(gpuStreamSynchronize(a));
  GOOD(gpuStreamQuery(b));
}

int main(void) {
  GOOD(gpuStreamCreate(&a));
  GOOD(gpuStreamCreate(&b));
  test_late();
  test_events();
  test_copies();
  test_failures();
  test_pools();
  test_memory_limit();
  test_graphs();
  test_devices();
  test_threads();
  GOOD(gpuStreamDestroy(a));
  GOOD(gpuStreamDestroy(b));
  printf("%d failed\n", failures);
  return failures != 0;
}
