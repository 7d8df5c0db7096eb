#include "kernel.h"

ds_cpu_kernel *const K(kernels)[] = {
#define DS_OP(id, upper, lower, n_in, n_out, n_attr) [id] = K(lower),
#include "ds_ops.def"
#undef DS_OP
};
