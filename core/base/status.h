/* status.h - filling a caller-owned ds_error.
 *
 * Every fallible function returns a ds_status (abi/ds_abi.h) and takes a ds_error *err, which may
 * be NULL. ds_fail() writes both and returns the status, so a failure is one line:
 *
 *     return ds_fail(err, DS_ERR_INVALID, "config: \"%s\" must be positive, got %g", key, v);
 */
#ifndef DS_BASE_STATUS_H
#define DS_BASE_STATUS_H

#include "ds_abi.h"

/* Fills err (may be NULL) and returns status. Arguments may point into err->message. */
ds_status ds_fail(ds_error *err, ds_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the message that err holds; returns err's status given as status. */
ds_status ds_fail_prefix(ds_error *err, ds_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* "out of memory" for `what`; the commonest failure. */
ds_status ds_fail_memory(ds_error *err, const char *what);

/* "invalid argument", "out of memory", ...; a static string for every ds_status. */
const char *ds_status_name(ds_status status);

/* Returns from the enclosing function when expr is not DS_OK. */
#define DS_TRY(expr)                                                                               \
  do {                                                                                             \
    ds_status ds_try_status_ = (expr);                                                             \
    if (ds_try_status_ != DS_OK) return ds_try_status_;                                            \
  } while (0)

#endif
