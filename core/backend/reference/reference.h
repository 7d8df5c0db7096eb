/* reference.h - the reference backend: plain scalar C, built into core.
 *
 * A complete plugin (device, gemm, quant, comm and ops tables; no graph) that needs nothing but
 * libm. It is the oracle that other backends are compared with, the fallback for every op a plugin
 * lacks, and a backend of its own where there is no plugin at all. Clarity and exactness come
 * before speed: sums are kept in double, results are rounded once.
 *
 * It takes every op of abi/ds_ops.def, gemm in any mix of f32 and bf16 (and fp8 operands), every form of
 * quantization,
 * and a world of exactly one rank. One device; its memory is host memory and every call
 * returns with its work done. It keeps no state outside the objects it hands out, so any number of
 * devices may be open at once. Its options are none: NULL or "{}".
 */
#ifndef DS_BACKEND_REFERENCE_REFERENCE_H
#define DS_BACKEND_REFERENCE_REFERENCE_H

#include "ds_abi.h"

/* The plugin's tables, static. [any-thread] */
const ds_plugin *ds_reference_plugin(void);

/* What the ELF note of a plugin file would say, static. [any-thread] */
const ds_note *ds_reference_note(void);

#endif
