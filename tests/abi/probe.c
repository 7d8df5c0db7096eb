/* probe.c - what a core of the next version does with a plugin that is behind it: an op, a flag and
 * a value that the plugin can't know are the reference's, or an error that says UNSUPPORTED.
 *
 *     probe BACKEND next|today     which version the plugin is of
 */
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 24 };

static int failures;

static void check(bool good, const char *what, const ds_error *err) {
  if (good) return;
  failures++;
  printf("failed: %s: %s\n", what, err->message);
}

/* The appended op doubles; a plugin without it leaves it to the reference. */
static void probe_op(ds_backend *b, bool has_it) {
  float x[N], y[N] = {0};
  void *device_x = NULL, *device_y = NULL;
  ds_error err = {DS_OK, ""};
  for (int i = 0; i < N; i++) x[i] = (float)i;
  ds_status status = ds_backend_alloc(b, sizeof x, &device_x, &err);
  if (status == DS_OK) status = ds_backend_alloc(b, sizeof y, &device_y, &err);
  if (status == DS_OK) status = ds_backend_upload(b, device_x, x, sizeof x, &err);
  ds_tensor in = {device_x, DS_F32, 1, {N}, {1}}, out = {device_y, DS_F32, 1, {N}, {1}};
  const ds_tensor *ins[] = {&in}, *outs[] = {&out};
  ds_op op = {.size = sizeof op, .id = DS_OP_NEXT, .n_in = 1, .n_out = 1, .in = ins, .out = outs};
  uint64_t before = ds_backend_stats_get(b).fallback_ops;
  if (status == DS_OK) status = ds_backend_op(b, &op, &err);
  if (status == DS_OK) status = ds_backend_download(b, y, device_y, sizeof y, &err);
  bool right = status == DS_OK;
  for (int i = 0; i < N && right; i++) right = y[i] == 2 * x[i];
  check(right, "the appended op", &err);
  check((ds_backend_stats_get(b).fallback_ops == before) == has_it, "who ran it", &err);
  ds_backend_free(b, device_x, sizeof x);
  ds_backend_free(b, device_y, sizeof y);
}

/* Nobody has these, not even the reference: the failure is UNSUPPORTED, nothing else. */
static void probe_gemm(ds_backend *b, const char *what, uint32_t flags, int32_t epilogue,
                       int32_t dtype) {
  void *p = NULL;
  ds_error err = {DS_OK, ""};
  ds_status status = ds_backend_alloc(b, 64 * N, &p, &err);
  if (status == DS_OK) status = ds_backend_fill(b, p, 0, 64 * N, &err);
  ds_gemm g = {.size = sizeof g,
               .flags = flags,
               .m = 2,
               .n = 2,
               .k = 2,
               .lda = 2,
               .ldb = 2,
               .ldc = 2,
               .batch = 1,
               .dtype_a = dtype,
               .epilogue = epilogue,
               .alpha = 1,
               .a = p,
               .b = p,
               .c = (char *)p + 32 * N};
  if (status == DS_OK) status = ds_backend_gemm(b, &g, &err);
  check(status == DS_ERR_UNSUPPORTED, what, &err);
  ds_backend_free(b, p, 64 * N);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  ds_error err;
  ds_backend *b = NULL;
  ds_backend_config config;
  cJSON *name = cJSON_CreateString(argv[1]);
  ds_status status = ds_backend_config_parse(name, &config, &err);
  cJSON_Delete(name);
  if (status == DS_OK) {
    status = ds_backend_open(&config, NULL, &b, &err);
    ds_backend_config_finish(&config);
  }
  if (status != DS_OK) {
    printf("failed: open: %s\n", err.message);
    return 1;
  }
  probe_op(b, strcmp(argv[2], "next") == 0);
  probe_gemm(b, "an appended flag", DS_NEXT_GEMM_SCALES, 0, DS_F32);
  probe_gemm(b, "an appended epilogue", 0, DS_NEXT_EPILOGUE_SILU, DS_F32);
  probe_gemm(b, "an appended dtype", 0, 0, DS_NEXT_F8E5M2);
  ds_backend_close(b);
  return failures != 0;
}
