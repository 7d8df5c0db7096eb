/* cublaslt_gemm.c - the products of `ds bench gemm` by cublasLt called directly: what the library gives to
 * somebody who does nothing else. Reads lines "PASS DTYPE M N K" (as in the benchmark's JSON) and writes
 * lines "PASS DTYPE M N K GFLOPS". */
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GROUPS = 3, WORKSPACE = 32 << 20, BLOCK = 1000003 }; /* a prime: rows differ */

#define CHECK(call)                                                                                \
  do {                                                                                             \
    const int code_ = (int)(call);                                                                 \
    if (code_ != 0) {                                                                              \
      fprintf(stderr, "cublaslt_gemm: %s: error %d\n", #call, code_);                              \
      exit(1);                                                                                     \
    }                                                                                              \
  } while (0)

/* C[m,n] = A . B, row-major, is C^T = B^T . A^T to a library that thinks in columns. */
typedef struct product {
  int64_t m, n, k;
  int trans_a, trans_b; /* A is stored [k,m], B is stored [n,k] */
  cudaDataType_t in, out;
  float beta;
} product;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int describe(const char *pass, const char *dtype, int64_t m, int64_t n, int64_t k,
                    product *p) {
  const cudaDataType_t type = strcmp(dtype, "bf16") == 0 ? CUDA_R_16BF : CUDA_R_32F;
  *p = (product){m, n, k, 0, 1, type, type, 0};
  if (strcmp(pass, "forward") == 0) return 1;
  if (strcmp(pass, "dx") == 0) {
    *p = (product){m, k, n, 0, 0, type, type, 0};
    return 1;
  }
  if (strcmp(pass, "dw") != 0) return 0;
  *p = (product){n, k, m, 1, 0, type, CUDA_R_32F, 1};
  return 1;
}

/* The same block of random numbers again and again: to make hundreds of millions takes longer than to multiply them. */
static void *random_memory(cudaDataType_t type, int64_t count) {
  const size_t size = type == CUDA_R_16BF ? 2 : 4, bytes = (size_t)count * size;
  unsigned char *host = malloc(BLOCK * size), *device;
  if (!host) exit(1);
  for (size_t i = 0; i < BLOCK; i++) {
    const float x = (float)rand() / (float)RAND_MAX - 0.5f;
    memcpy(host + i * size, (const unsigned char *)&x + (size == 2 ? 2 : 0), size);
  }
  CHECK(cudaMalloc((void **)&device, bytes));
  for (size_t at = 0; at < bytes; at += BLOCK * size) {
    const size_t left = bytes - at;
    CHECK(cudaMemcpy(device + at, host, left < BLOCK * size ? left : BLOCK * size,
                     cudaMemcpyHostToDevice));
  }
  free(host);
  return device;
}

static cublasLtMatrixLayout_t layout(cudaDataType_t type, int64_t rows, int64_t cols) {
  cublasLtMatrixLayout_t l;
  CHECK(cublasLtMatrixLayoutCreate(&l, type, (uint64_t)rows, (uint64_t)cols, rows));
  return l;
}

/* GF/s of the median group. */
static double measure(cublasLtHandle_t handle, void *workspace, const product *p, double seconds) {
  const cublasOperation_t op_a = p->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t op_b = p->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  const float alpha = 1;
  const uint64_t room = WORKSPACE;
  cublasLtMatmulDesc_t desc;
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t found;
  int count = 0;
  CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a));
  CHECK(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b));
  cublasLtMatrixLayout_t a = p->trans_b ? layout(p->in, p->k, p->n) : layout(p->in, p->n, p->k);
  cublasLtMatrixLayout_t b = p->trans_a ? layout(p->in, p->m, p->k) : layout(p->in, p->k, p->m);
  cublasLtMatrixLayout_t c = layout(p->out, p->n, p->m);
  CHECK(cublasLtMatmulPreferenceCreate(&preference));
  CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &room, sizeof room));
  CHECK(cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, c, c, preference, 1, &found, &count));
  void *pa = random_memory(p->in, p->m * p->k), *pb = random_memory(p->in, p->k * p->n);
  void *pc = random_memory(p->out, p->m * p->n);
  double samples[GROUPS];
  int calls = 1;
  for (int g = -2; g < GROUPS; g++) {
    const double start = now();
    for (int i = 0; i < calls; i++)
      CHECK(cublasLtMatmul(handle, desc, &alpha, pb, a, pa, b, &p->beta, pc, c, pc, c, &found.algo,
                           workspace, WORKSPACE, 0));
    CHECK(cudaDeviceSynchronize());
    const double once = (now() - start) / calls;
    if (g >= 0) samples[g] = once;
    if (g == -1) calls = once * 1000 > seconds ? 1 + (int)(seconds / once) : 1000;
  }
  for (int i = 1; i < GROUPS; i++)
    for (int j = i; j > 0 && samples[j] < samples[j - 1]; j--) {
      const double t = samples[j];
      samples[j] = samples[j - 1];
      samples[j - 1] = t;
    }
  CHECK(cudaFree(pa));
  CHECK(cudaFree(pb));
  CHECK(cudaFree(pc));
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(a);
  cublasLtMatrixLayoutDestroy(b);
  cublasLtMatrixLayoutDestroy(c);
  cublasLtMatmulDescDestroy(desc);
  return 1e-9 * 2 * (double)p->m * (double)p->n * (double)p->k / samples[GROUPS / 2];
}

int main(int argc, char **argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 0.05;
  char pass[32], dtype[16];
  long long m, n, k;
  cublasLtHandle_t handle;
  void *workspace;
  CHECK(cublasLtCreate(&handle));
  CHECK(cudaMalloc(&workspace, WORKSPACE));
  while (scanf("%31s %15s %lld %lld %lld", pass, dtype, &m, &n, &k) == 5) {
    product p;
    if (!describe(pass, dtype, m, n, k, &p)) continue; /* no such pass here: forward_packed */
    printf("%s %s %lld %lld %lld %.6g\n", pass, dtype, m, n, k,
           measure(handle, workspace, &p, seconds));
    fflush(stdout);
  }
  CHECK(cudaFree(workspace));
  cublasLtDestroy(handle);
  return 0;
}
