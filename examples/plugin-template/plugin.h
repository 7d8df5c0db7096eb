/* plugin.h - what the files of this plugin share.
 *
 * The plugin computes in host memory, so that it runs anywhere; the comments say what a plugin for
 * an accelerator does at each place. ds_abi.h is the contract; begin reading at plugin.c. */
#ifndef PLUGIN_H
#define PLUGIN_H

#include "ds_abi.h"

struct ds_device { /* yours: the driver's context, properties, compiled kernels */
  int32_t index;
};

struct ds_stream { /* yours: the driver's queue; whether it failed; scratch that work on it uses */
  ds_device *device;
};

extern const ds_host *plugin_host;         /* plugin.c: core's services, set by the query */
extern const ds_device_table device_table; /* device.c */
extern const ds_gemm_table gemm_table;     /* gemm.c */
extern const ds_ops_table ops_table;       /* ops.c */

/* plugin.c: fills err (may be NULL) and gives status back, for `return fail(err, ...)`. */
ds_status fail(ds_error *err, ds_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ops.c: a ds_activation, or a ds_epilogue, which has the same numbers; 0 gives x. */
float activate(int64_t kind, float x);

#endif
