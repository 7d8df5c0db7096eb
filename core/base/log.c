#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void ds_log(const ds_logger *logger, ds_log_level level, const char *fmt, ...) {
  if (!logger || !logger->fn) return;
  char text[1024];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  logger->fn(logger->ctx, level, text);
}
