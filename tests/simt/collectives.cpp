/* collectives.cpp - opens the double of NCCL, from the plugin's own folder, and hands it this runtime.
 *
 * Environment: DS_SIMT_COLLECTIVES   another file, or nothing: there is none, and opening it fails */
#include "nccl_double.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const nccl_double_runtime runtime = {
    gpuLaunchHostFunc,   gpuEventCreate, gpuEventDestroy,      gpuEventRecord,
    gpuEventSynchronize, gpuGetDevice,   gpuDeviceGetPCIBusId, simt_copy};

void *simt_open_library(const char *name) {
  const char *other = getenv("DS_SIMT_COLLECTIVES");
  char path[1024];
  Dl_info self;
  if (!dladdr(reinterpret_cast<const void *>(&runtime), &self)) return nullptr;
  const char *slash = strrchr(self.dli_fname, '/');
  snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - self.dli_fname) + 1 : 0,
           self.dli_fname, name);
  void *so = dlopen(other && !*other ? "/no collectives"
                    : other          ? other
                                     : path,
                    RTLD_NOW | RTLD_LOCAL);
  void *bind = so != nullptr ? dlsym(so, "nccl_double_bind") : nullptr;
  if (bind != nullptr) reinterpret_cast<nccl_double_bind_fn *>(bind)(&runtime);
  return so;
}
