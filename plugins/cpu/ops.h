/* ops.h - the ops table of the cpu plugin: checks an op's description and hands it to the kernels
 * (kernels/) of the device's instruction set. */
#ifndef DS_CPU_OPS_H
#define DS_CPU_OPS_H

#include "ds_abi.h"

extern const ds_ops_table ds_cpu_ops_table;

#endif
