/* nccl.c - opens NCCL or RCCL. */
#include "nccl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* How a library is opened; the runtime's header may have another way. */
#ifndef GPU_OPEN_LIBRARY
#define GPU_OPEN_LIBRARY(name) dlopen((name), RTLD_NOW | RTLD_LOCAL)
#endif

enum { OLDEST = 21400 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static gpu_nccl nccl;
static bool usable;
static char reason[512];

/* The first that opens of "a|b". */
static void *open_any(void) {
  char name[64];
  for (const char *p = GPU_COLLECTIVES; *p;) {
    const size_t n = strcspn(p, "|");
    snprintf(name, sizeof name, "%.*s", (int)n, p);
    void *so = GPU_OPEN_LIBRARY(name);
    if (so != NULL) return so;
    p += n + (p[n] == '|');
  }
  return NULL;
}

static bool find(void *so, const char *name, void *out, bool required) {
  char symbol[64];
  snprintf(symbol, sizeof symbol, "nccl%s", name);
  void *p = dlsym(so, symbol);
  memcpy(out, &p, sizeof p);
  if (p == NULL && required)
    snprintf(reason, sizeof reason,
             "the collectives library (" GPU_COLLECTIVES ") has no %s: it is older than NCCL 2.14, "
             "or no NCCL; install a newer one",
             symbol);
  return p != NULL || !required;
}

static void open_once(void) {
  int version = 0;
  void *so = open_any(); /* for good, as the plugin itself */
  if (so == NULL) {
    const char *said = dlerror();
    snprintf(reason, sizeof reason,
             "several ranks need a collectives library, and none of " GPU_COLLECTIVES
             " opens (%.200s): install NCCL (for AMD cards RCCL), or put its folder in "
             "LD_LIBRARY_PATH",
             said != NULL ? said : "not found");
    return;
  }
#define F(name, arguments, required)                                                               \
  if (!find(so, #name, &nccl.name, required)) return;
  GPU_NCCL_FUNCTIONS(F)
#undef F
  if (!find(so, "GetErrorString", &nccl.GetErrorString, true)) return;
  (void)find(so, "GetLastError", &nccl.GetLastError, false);
  if (nccl.GetVersion(&version) != GPU_NCCL_SUCCESS || version < OLDEST) {
    snprintf(reason, sizeof reason,
             "the collectives library (" GPU_COLLECTIVES ") is version %d; %d (2.14) is the "
             "oldest that will do",
             version, OLDEST);
    return;
  }
  usable = true;
}

const gpu_nccl *gpu_nccl_open(const char **why) {
  pthread_once(&once, open_once);
  *why = usable ? NULL : reason;
  return usable ? &nccl : NULL;
}
