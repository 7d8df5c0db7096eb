/* tile.h - one tiled matrix product for gemm.c and quant.c.
 *
 * C = A . B^T-like products over any element type: callers load tiles of A and B as float in the
 * order the loops want, the tile product sums in double. Products of floats are exact in double.
 */
#ifndef DS_BACKEND_REFERENCE_TILE_H
#define DS_BACKEND_REFERENCE_TILE_H

#include <stdint.h>

enum { DS_TILE_M = 32, DS_TILE_N = 64, DS_TILE_K = 64 };

/* About 40 KiB, meant for the stack. */
typedef struct ds_tile {
  float a[DS_TILE_M][DS_TILE_K];
  float b[DS_TILE_K][DS_TILE_N];
  double c[DS_TILE_M][DS_TILE_N];
} ds_tile;

static inline int64_t ds_tile_part(int64_t left, int64_t most) {
  return left < most ? left : most;
}

/* c[m][n] += a[m][k] . b[k][n] */
static inline void ds_tile_product(ds_tile *t, int64_t m, int64_t n, int64_t k) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t p = 0; p < k; p++) {
      double a = (double)t->a[i][p];
      for (int64_t j = 0; j < n; j++) t->c[i][j] += a * (double)t->b[p][j];
    }
  }
}

#endif
