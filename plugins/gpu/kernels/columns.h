/* columns.h - sums over rows in two stages, in one order: blocks leave parts [parts,cols], which are then added up. Of
 * norm_backward.cu and reduce_rows. */
#ifndef DS_GPU_COLUMNS_H
#define DS_GPU_COLUMNS_H

#include <stdint.h>

#include "port.h"

/* How many parts: enough for every multiprocessor, and of 16 rows at least. */
static inline int gpu_column_count(int64_t rows, int multiprocessors) {
  const int64_t by_rows = (rows + 15) / 16, most = (int64_t)multiprocessors * 4;
  return (int)(by_rows < 1 ? 1 : by_rows < most ? by_rows : most);
}

/* Parts of sum x[r,c], and, with `of`, of sum x[r,c] (of[r,c] - mean[r]) rstd[r]. What is NULL isn't made; mean NULL
 * is 0. */
template <typename T> struct gpu_columns {
  const T *x, *of;
  const float *mean, *rstd;
  float *sums, *products;
  int64_t rows;
  int64_t cols;
};
template <typename T> gpuError_t gpu_column_launch(gpuStream_t s, gpu_columns<T> c, int parts);

/* y[c] = sum of parts[p,c], or y[c] += it. */
gpuError_t gpu_column_end(gpuStream_t s, const float *parts, float *y, int count, int64_t cols,
                          bool add);

#endif
