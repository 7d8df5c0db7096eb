#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ds_status ds_fail(ds_error *err, ds_status status, const char *fmt, ...) {
  if (!err) return status;
  /* A message may quote the one it replaces. */
  char text[DS_ERROR_MESSAGE_MAX];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  err->status = status;
  memcpy(err->message, text, sizeof text);
  return status;
}

ds_status ds_fail_prefix(ds_error *err, ds_status status, const char *fmt, ...) {
  if (!err) return status;
  char prefix[DS_ERROR_MESSAGE_MAX / 2];
  va_list args;
  va_start(args, fmt);
  vsnprintf(prefix, sizeof prefix, fmt, args);
  va_end(args);
  return ds_fail(err, status, "%s: %s", prefix, err->message);
}

ds_status ds_fail_memory(ds_error *err, const char *what) {
  return ds_fail(err, DS_ERR_MEMORY, "out of host memory for %s", what);
}

const char *ds_status_name(ds_status status) {
  switch (status) {
    case DS_OK: return "ok";
    case DS_ERR_INVALID: return "invalid argument";
    case DS_ERR_UNSUPPORTED: return "unsupported";
    case DS_ERR_MEMORY: return "out of memory";
    case DS_ERR_IO: return "input/output error";
    case DS_ERR_FORMAT: return "bad format";
    case DS_ERR_NOT_FOUND: return "not found";
    case DS_ERR_VERSION: return "version mismatch";
    case DS_ERR_DEVICE: return "device error";
    case DS_ERR_TIMEOUT: return "timeout";
    case DS_ERR_NUMERIC: return "not a finite number";
    case DS_ERR_STATE: return "not allowed now";
    case DS_ERR_END: return "end of data";
    case DS_ERR_INTERNAL: return "internal error";
    case DS_ERR_ABORTED: return "aborted";
  }
  return "unknown status";
}
