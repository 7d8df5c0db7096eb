/* quant_kernel.h - the kernels that make up a set's table of ../quant.h. */
#ifndef DS_CPU_QUANT_KERNEL_H
#define DS_CPU_QUANT_KERNEL_H

#include "../quant.h"
#include "kernel.h"

void K(quant_quantize)(const ds_cpu_quantize *t, int threads);
void K(quant_dequantize)(const ds_cpu_dequantize *t, int threads);
void K(quant_pack)(const ds_cpu_quant_dot *d, int threads);
void K(quant_dot)(const ds_cpu_quant_dot *d, int threads);

#endif
