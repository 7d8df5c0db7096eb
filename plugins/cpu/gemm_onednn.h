/* gemm_onednn.h - matrix products by oneDNN: primitives made once per description and kept.
 *
 * Products come as ds_gemm with m, n, k, batch > 0 and alpha != 0 that gemm.c has checked. Types:
 * f32 x f32 -> f32, and where ds_cpu_onednn_takes says so bf16 x bf16 -> bf16 or f32.
 * [per-stream] but for ds_cpu_onednn_takes and ds_cpu_onednn_pack_size, which are [any-thread].
 */
#ifndef DS_CPU_GEMM_ONEDNN_H
#define DS_CPU_GEMM_ONEDNN_H

#include "cpu.h"

/* Whether these operand types run directly on the device. */
bool ds_cpu_onednn_takes(const ds_device *dev, int32_t a, int32_t b, int32_t c);

ds_status ds_cpu_onednn_run(ds_stream *s, const ds_gemm *g, ds_error *err);

/* Bytes of B in blocked form, the same for every m; 0 when oneDNN has none for this product. */
size_t ds_cpu_onednn_pack_size(const ds_device *dev, const ds_gemm *g);
ds_status ds_cpu_onednn_pack(ds_stream *s, const ds_gemm *g, void *packed, ds_error *err);

#endif
