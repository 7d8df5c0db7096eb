
/* ---- gemm.cl: C = epilogue(alpha A B + bias) + beta C, by matrices of a batch. A and B have a step
 * for each index, so a transposed matrix is like any other. */
#define GEMM_ARGS                                                                                  \
  ARG(float, a), ARG(float, b), ARG(float, bias), ARG(float, c), long m, long n, long k,           \
      long a_row, long a_col, long b_row, long b_col, long ldc, long a_step, long b_step,          \
      long c_step, long epilogue, float alpha, float beta
#define GEMM_BEGIN                                                                                 \
  USE(float, a);                                                                                   \
  USE(float, b);                                                                                   \
  USE(float, bias);                                                                                \
  USE(float, c);                                                                                   \
  a += get_group_id(2) * a_step;                                                                   \
  b += get_group_id(2) * b_step;                                                                   \
  c += get_group_id(2) * c_step
#define GEMM_STORE(i, j, sum)                                                                      \
  do {                                                                                             \
    float v_ = activate(epilogue, alpha * (sum) + (GIVEN(bias) ? bias[j] : 0));                    \
    put(&c[(i) * ldc + (j)], v_, beta != 0);                                                       \
  } while (0)

#define STEP 16       /* of k at a time */
#define OWN (TILE / 16) /* a work-item computes OWN x OWN elements */

__kernel __attribute__((reqd_work_group_size(16, 16, 1))) void gemm_tile(GEMM_ARGS) {
  __local float as[STEP][TILE + 1], bs[STEP][TILE + 1];
  GEMM_BEGIN;
  const int x = get_local_id(0), y = get_local_id(1), me = y * 16 + x;
  const long i0 = get_group_id(1) * (long)TILE, j0 = get_group_id(0) * (long)TILE;
  float sum[OWN][OWN] = {{0}};
  for (long p0 = 0; p0 < k; p0 += STEP) {
    for (int e = me; e < STEP * TILE; e += 256) {
      /* Neighbours read neighbours, whichever index is the contiguous one. */
      const int ap = a_col == 1 ? e % STEP : e / TILE, ai = a_col == 1 ? e / STEP : e % TILE;
      const int bp = b_col == 1 ? e / TILE : e % STEP, bj = b_col == 1 ? e % TILE : e / STEP;
      as[ap][ai] = i0 + ai < m && p0 + ap < k ? a[(i0 + ai) * a_row + (p0 + ap) * a_col] : 0;
      bs[bp][bj] = j0 + bj < n && p0 + bp < k ? b[(p0 + bp) * b_row + (j0 + bj) * b_col] : 0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int p = 0; p < STEP; p++)
      for (int i = 0; i < OWN; i++)
        for (int j = 0; j < OWN; j++) sum[i][j] += as[p][y * OWN + i] * bs[p][x + 16 * j];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  for (int i = 0; i < OWN; i++)
    for (int j = 0; j < OWN; j++) {
      const long row = i0 + y * OWN + i, col = j0 + x + 16 * j;
      if (row < m && col < n) GEMM_STORE(row, col, sum[i][j]);
    }
}

SHARED gemm_dot(GEMM_ARGS) {
  __local float scratch[LANES];
  GEMM_BEGIN;
  const long i = get_group_id(1), j = get_group_id(0);
  float sum = 0;
  for (long p = get_local_id(0); p < k; p += LANES)
    sum += a[i * a_row + p * a_col] * b[p * b_row + j * b_col];
  sum = lanes_sum(sum, scratch);
  if (get_local_id(0) == 0) GEMM_STORE(i, j, sum);
}

SHARED gemm_column(GEMM_ARGS) {
  GEMM_BEGIN;
  const long i = get_group_id(1), j = get_global_id(0);
  if (j >= n) return;
  float sum = 0;
  for (long p = 0; p < k; p++) sum += a[i * a_row + p * a_col] * b[p * b_row + j * b_col];
  GEMM_STORE(i, j, sum);
}
