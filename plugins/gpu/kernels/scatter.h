/* scatter.h - launcher of embedding's gradient: rows added up by id. */
#ifndef DS_GPU_SCATTER_H
#define DS_GPU_SCATTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gpu_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dtable[v] = sum of dy[r] over rows with ids[r] == v, in the order of rows; or dtable[v] += it. ids outside [0,entries)
 * are skipped. dy [rows,cols] DS_F32 or DS_BF16, dtable [entries,cols] f32; rows and entries below 2^31. scratch: 16-byte
 * aligned, of gpu_scatter_scratch bytes. */
gpuError_t gpu_scatter_rows(gpuStream_t s, int dtype, const int32_t *ids, const void *dy,
                            float *dtable, int64_t rows, int64_t entries, int64_t cols, bool add,
                            void *scratch);
size_t gpu_scatter_scratch(int64_t rows, int64_t entries, int64_t cols);

#ifdef __cplusplus
}
#endif

#endif
