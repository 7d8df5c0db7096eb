/* launch.c - gives a kernel its arguments and puts it into a stream's queue. */
#include "opencl.h"

static const char *const names[KERNEL_COUNT] = {
#define K(name) #name,
    KERNELS(K)
#undef K
};

static ds_status kernel_of(ds_stream *s, int which, cl_kernel *out, ds_error *err) {
  cl_int code = CL_SUCCESS;
  if (!s->kernels[which]) s->kernels[which] = clCreateKernel(s->dev->program, names[which], &code);
  *out = s->kernels[which];
  return code == CL_SUCCESS ? DS_OK : fail_cl(err, code, names[which]);
}

/* A tensor is two arguments: its buffer and where it begins in it. Absent: ~0 (kernels ask GIVEN).
 */
static ds_status set_address(ds_stream *s, cl_kernel k, cl_uint *at, const void *p, bool empty,
                             const char *name, ds_error *err) {
  cl_mem buffer = s->dev->nothing;
  size_t found = 0;
  if (p && !empty && !memory_find(s->dev, p, &buffer, &found))
    return fail(err, DS_ERR_INVALID, "%s: %p is no memory of this device", name, p);
  const cl_ulong offset = p ? found : ~(cl_ulong)0;
  cl_int code = clSetKernelArg(k, (*at)++, sizeof buffer, &buffer);
  if (code == CL_SUCCESS) code = clSetKernelArg(k, (*at)++, sizeof offset, &offset);
  return code == CL_SUCCESS ? DS_OK : fail_cl(err, code, name);
}

static ds_status set(ds_stream *s, cl_kernel k, cl_uint *at, const arg *a, const char *name,
                     ds_error *err) {
  const cl_long l = a->l;
  const cl_float f = (cl_float)a->f;
  cl_int code;
  switch (a->kind) {
    case ARG_TENSOR:
      return set_address(s, k, at, a->tensor ? a->tensor->data : NULL,
                         !a->tensor || elements(a->tensor) == 0, name, err);
    case ARG_ADDRESS: return set_address(s, k, at, a->address, false, name, err);
    case ARG_LONG: code = clSetKernelArg(k, (*at)++, sizeof l, &l); break;
    default: code = clSetKernelArg(k, (*at)++, sizeof f, &f); break;
  }
  return code == CL_SUCCESS ? DS_OK : fail_cl(err, code, name);
}

ds_status launch(ds_stream *s, int which, grid g, const arg *args, ds_error *err) {
  cl_kernel k;
  cl_uint at = 0;
  cl_event event;
  size_t global[3];
  ds_status st = stream_ready(s, err);
  for (int i = 0; i < 3; i++) global[i] = g.groups[i] * g.local[i];
  if (st != DS_OK || !global[0] || !global[1] || !global[2]) return st;
  st = kernel_of(s, which, &k, err);
  for (const arg *a = args; st == DS_OK && a->kind != ARG_END; a++)
    st = set(s, k, &at, a, names[which], err);
  if (st != DS_OK) return st;
  const cl_int code =
      clEnqueueNDRangeKernel(s->queue, k, 3, NULL, global, g.local, 0, NULL, &event);
  return stream_given(s, code, event, names[which], err);
}
