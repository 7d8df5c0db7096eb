
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

#define STEP 16 /* of k at a time */

/* 8 x 8 work-items, 8 x 8 elements each: a product reads 16 numbers for 64 multiplications, and
 * eight neighbours make a vector on a processor. */
__kernel __attribute__((reqd_work_group_size(8, 8, 1))) void gemm_tile(GEMM_ARGS) {
  __local float as[STEP][TILE], bs[STEP][TILE];
  GEMM_BEGIN;
  const int x = get_local_id(0), y = get_local_id(1), me = y * 8 + x;
  const long i0 = get_group_id(1) * (long)TILE, j0 = get_group_id(0) * (long)TILE;
  float8 sum[8];
  for (int i = 0; i < 8; i++) sum[i] = 0;
  for (long p0 = 0; p0 < k; p0 += STEP) {
    for (int e = me; e < STEP * TILE; e += 64) {
      /* Neighbours read neighbours, whichever index is the contiguous one. */
      const int ap = a_col == 1 ? e % STEP : e / TILE, ai = a_col == 1 ? e / STEP : e % TILE;
      const int bp = b_col == 1 ? e / TILE : e % STEP, bj = b_col == 1 ? e % TILE : e / STEP;
      as[ap][ai] = i0 + ai < m && p0 + ap < k ? a[(i0 + ai) * a_row + (p0 + ap) * a_col] : 0;
      bs[bp][bj] = j0 + bj < n && p0 + bp < k ? b[(p0 + bp) * b_row + (j0 + bj) * b_col] : 0;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int p = 0; p < STEP; p++) {
      const float8 right = vload8(x, bs[p]);
      for (int i = 0; i < 8; i++) sum[i] += as[p][y * 8 + i] * right;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  for (int i = 0; i < 8; i++) {
    float row[8];
    vstore8(sum[i], 0, row);
    for (int j = 0; j < 8; j++)
      if (i0 + y * 8 + i < m && j0 + x * 8 + j < n)
        GEMM_STORE(i0 + y * 8 + i, j0 + x * 8 + j, row[j]);
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
