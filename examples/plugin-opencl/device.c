/* device.c - finding and opening devices. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opencl.h"

static const char kernels[] = {
#include "kernels.inc"
};

enum { MOST_DEVICES = 64, MOST_SIGNALS = 64 };

/* What devices need to be used, made when one is first opened and kept for the life of the process:
 * compiling takes a second, and not every driver gives back all that it took. */
typedef struct compiled {
  cl_device_id id;
  cl_context context;
  cl_program program;
} compiled;

static struct {
  pthread_mutex_t lock;
  compiled list[MOST_DEVICES];
  int count;
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* All devices that can compile, graphics cards first. */
static int32_t ask_for_devices(cl_device_id *out) {
  static const cl_device_type order[] = {CL_DEVICE_TYPE_GPU | CL_DEVICE_TYPE_ACCELERATOR,
                                         CL_DEVICE_TYPE_CPU};
  cl_platform_id platforms[16];
  cl_uint n_platforms = 0;
  int32_t n = 0;
  if (clGetPlatformIDs(16, platforms, &n_platforms) != CL_SUCCESS) return 0;
  if (n_platforms > 16) n_platforms = 16;
  for (size_t o = 0; o < sizeof order / sizeof *order; o++)
    for (cl_uint p = 0; p < n_platforms; p++) {
      cl_device_id found[16];
      cl_uint count = 0;
      if (clGetDeviceIDs(platforms[p], order[o], 16, found, &count) != CL_SUCCESS) continue;
      for (cl_uint i = 0; i < count && i < 16 && n < MOST_DEVICES; i++) {
        cl_bool compiles = CL_FALSE;
        clGetDeviceInfo(found[i], CL_DEVICE_COMPILER_AVAILABLE, sizeof compiles, &compiles, NULL);
        if (compiles) out[n++] = found[i];
      }
    }
  return n;
}

/* Drivers start here, and some bring a compiler that takes the process's signals for itself. They
 * are the host's. [locked] */
static int32_t list_devices(cl_device_id *out) {
  struct sigaction before[MOST_SIGNALS], after;
  for (int i = 1; i < MOST_SIGNALS; i++) sigaction(i, NULL, &before[i]);
  const int32_t n = ask_for_devices(out);
  for (int i = 1; i < MOST_SIGNALS; i++)
    if (sigaction(i, NULL, &after) == 0 && after.sa_handler != before[i].sa_handler)
      sigaction(i, &before[i], NULL);
  return n;
}

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  cl_device_id devices[MOST_DEVICES];
  (void)err;
  pthread_mutex_lock(&process.lock);
  *count_out = list_devices(devices);
  pthread_mutex_unlock(&process.lock);
  if (reason_out)
    *reason_out = *count_out ? NULL
                             : "no OpenCL device found; install the driver of your card, or "
                               "pocl-opencl-icd for the processor; clinfo lists what there is";
  return DS_OK;
}

static bool is_empty_object(const char *options) {
  static const char space[] = " \t\r\n";
  const char *p = options + strspn(options, space);
  if (*p++ != '{') return false;
  p += strspn(p, space);
  return *p++ == '}' && p[strspn(p, space)] == '\0';
}

static ds_status build(compiled *c, const ds_device *dev, ds_error *err) {
  char options[200], log[700] = "";
  snprintf(options, sizeof options,
           "-cl-std=CL1.2 -DLANES=%d -DEACH=%d -DTILE=%d -DPARTS=%d -DMOST_HEAD=%d%s", LANES, EACH,
           TILE, PARTS, MOST_HEAD, dev->f64 ? " -DHAVE_F64" : "");
  const cl_int code = clBuildProgram(c->program, 1, &c->id, options, NULL, NULL);
  if (code == CL_SUCCESS) return DS_OK;
  clGetProgramBuildInfo(c->program, c->id, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
  return fail(err, DS_ERR_DEVICE, "%s can't compile the kernels (OpenCL error %d): %s", dev->name,
              code, log);
}

/* The context and the kernels of dev->id. [locked] */
static ds_status compile(ds_device *dev, ds_error *err) {
  const char *text = kernels;
  compiled new = {.id = dev->id};
  cl_int code;
  int i = 0;
  while (i < process.count && process.list[i].id != dev->id) i++;
  if (i == process.count) {
    new.context = clCreateContext(NULL, 1, &new.id, NULL, NULL, &code);
    if (code == CL_SUCCESS)
      new.program = clCreateProgramWithSource(new.context, 1, &text, NULL, &code);
    const ds_status st = code == CL_SUCCESS ? build(&new, dev, err)
                                            : fail_cl(err, code, "making a context and a program");
    if (st != DS_OK) {
      if (new.program) clReleaseProgram(new.program);
      if (new.context) clReleaseContext(new.context);
      return st;
    }
    process.list[process.count++] = new;
  }
  dev->context = process.list[i].context;
  dev->program = process.list[i].program;
  return DS_OK;
}

static void device_close(ds_device *dev) {
  if (!dev) return;
  while (dev->n_allocations)
    memory_free(dev, (void *)dev->allocations[dev->n_allocations - 1].base);
  free(dev->allocations);
  if (dev->nothing) clReleaseMemObject(dev->nothing);
  pthread_mutex_destroy(&dev->lock);
  free(dev);
}

static void describe(ds_device *dev) {
  cl_ulong most = 0;
  cl_device_fp_config f64 = 0;
  snprintf(dev->name, sizeof dev->name, "unknown OpenCL device");
  clGetDeviceInfo(dev->id, CL_DEVICE_NAME, sizeof dev->name - 1, dev->name, NULL);
  clGetDeviceInfo(dev->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof most, &most, NULL);
  clGetDeviceInfo(dev->id, CL_DEVICE_DOUBLE_FP_CONFIG, sizeof f64, &f64, NULL);
  dev->most_alloc = (size_t)most;
  dev->f64 = f64 != 0;
}

/* Finds the device and its kernels. [locked] */
static ds_status find(ds_device *dev, int32_t index, ds_error *err) {
  cl_device_id devices[MOST_DEVICES];
  const int32_t n = list_devices(devices);
  cl_int code;
  if (index < 0 || index >= n)
    return fail(err, DS_ERR_NOT_FOUND, "no device %d; there are %d, counted from 0", index, n);
  dev->id = devices[index];
  describe(dev);
  const ds_status st = compile(dev, err);
  if (st != DS_OK) return st;
  dev->nothing = clCreateBuffer(dev->context, CL_MEM_READ_WRITE, 64, NULL, &code);
  return code == CL_SUCCESS ? DS_OK : fail_cl(err, code, "opening the device");
}

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  if (options && !is_empty_object(options))
    return fail(err, DS_ERR_INVALID, "this plugin has no options; given: %.300s", options);
  ds_device *dev = calloc(1, sizeof *dev);
  if (!dev) return fail(err, DS_ERR_MEMORY, "no memory for a device");
  pthread_mutex_init(&dev->lock, NULL);
  pthread_mutex_lock(&process.lock);
  const ds_status st = find(dev, index, err);
  pthread_mutex_unlock(&process.lock);
  if (st == DS_OK)
    *out = dev;
  else
    device_close(dev);
  return st;
}

/* Neither flag: the host can't reach the memory, and work runs while calls have returned. */
static ds_status device_info(ds_device *dev, ds_device_info *info, ds_error *err) {
  ds_device_info full = {0};
  cl_ulong total = 0;
  cl_uint units = 0;
  if (info->size < sizeof info->size) return fail(err, DS_ERR_INVALID, "info: size is not set");
  clGetDeviceInfo(dev->id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof total, &total, NULL);
  clGetDeviceInfo(dev->id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof units, &units, NULL);
  memcpy(full.name, dev->name, sizeof full.name);
  full.memory_total = total; /* OpenCL can't say how much is free */
  full.threads = (int32_t)units;
  full.size = info->size < sizeof full ? info->size : (uint32_t)sizeof full;
  memcpy(info, &full, full.size);
  return DS_OK;
}

const ds_device_table opencl_device = {
    .base = {sizeof(ds_device_table), DS_ABI_MAJOR, DS_ABI_MINOR},
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .alloc = memory_alloc,
    .free = memory_free,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_sync = stream_sync,
    .upload = stream_upload,
    .download = stream_download,
    .copy = stream_copy,
    .fill = stream_fill,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
};
