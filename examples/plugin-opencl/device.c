/* device.c - finding and opening devices. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opencl.h"

static const char kernels[] = {
#include "kernels.inc"
};

enum { MOST_DEVICES = 64 };

/* All devices that can compile, graphics cards first. */
static int32_t list_devices(cl_device_id *out) {
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

static ds_status device_count(int32_t *count_out, const char **reason_out, ds_error *err) {
  cl_device_id devices[MOST_DEVICES];
  (void)err;
  *count_out = list_devices(devices);
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

static ds_status compile(ds_device *dev, ds_error *err) {
  const char *text = kernels;
  char options[200], log[700] = "";
  cl_int code;
  dev->program = clCreateProgramWithSource(dev->context, 1, &text, NULL, &code);
  if (code != CL_SUCCESS) return fail_cl(err, code, "clCreateProgramWithSource");
  snprintf(options, sizeof options,
           "-cl-std=CL1.2 -DLANES=%d -DEACH=%d -DTILE=%d -DPARTS=%d -DMOST_HEAD=%d%s", LANES, EACH,
           TILE, PARTS, MOST_HEAD, dev->f64 ? " -DHAVE_F64" : "");
  code = clBuildProgram(dev->program, 1, &dev->id, options, NULL, NULL);
  if (code == CL_SUCCESS) return DS_OK;
  clGetProgramBuildInfo(dev->program, dev->id, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
  return fail(err, DS_ERR_DEVICE, "%s can't compile the kernels (OpenCL error %d): %s", dev->name,
              code, log);
}

static void device_close(ds_device *dev) {
  if (!dev) return;
  while (dev->n_allocations)
    memory_free(dev, (void *)dev->allocations[dev->n_allocations - 1].base);
  free(dev->allocations);
  if (dev->nothing) clReleaseMemObject(dev->nothing);
  if (dev->program) clReleaseProgram(dev->program);
  if (dev->context) clReleaseContext(dev->context);
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

static ds_status device_open(int32_t index, const char *options, ds_device **out, ds_error *err) {
  cl_device_id devices[MOST_DEVICES];
  const int32_t n = list_devices(devices);
  cl_int code;
  if (index < 0 || index >= n)
    return fail(err, DS_ERR_NOT_FOUND, "no device %d; there are %d, counted from 0", index, n);
  if (options && !is_empty_object(options))
    return fail(err, DS_ERR_INVALID, "this plugin has no options; given: %.300s", options);
  ds_device *dev = calloc(1, sizeof *dev);
  if (!dev) return fail(err, DS_ERR_MEMORY, "no memory for a device");
  pthread_mutex_init(&dev->lock, NULL);
  dev->id = devices[index];
  describe(dev);
  ds_status st = DS_OK;
  dev->context = clCreateContext(NULL, 1, &dev->id, NULL, NULL, &code);
  if (code == CL_SUCCESS)
    dev->nothing = clCreateBuffer(dev->context, CL_MEM_READ_WRITE, 64, NULL, &code);
  st = code == CL_SUCCESS ? compile(dev, err) : fail_cl(err, code, "opening the device");
  if (st != DS_OK) {
    device_close(dev);
    return st;
  }
  *out = dev;
  return DS_OK;
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
