/* log.h - messages to the host app. The library prints nothing: a logger without a function is
 * silent. */
#ifndef DS_BASE_LOG_H
#define DS_BASE_LOG_H

#include "ds_abi.h"

/* Copied by value into whoever logs. fn may be called from any thread. */
typedef struct ds_logger {
  void (*fn)(void *ctx, ds_log_level level, const char *message); /* NULL = silent */
  void *ctx;
} ds_logger;

void ds_log(const ds_logger *logger, ds_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
