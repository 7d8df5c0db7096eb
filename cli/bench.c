#include "bench.h"

#include "base/rng.h"
#include "base/str.h"
#include "tensor/tensor.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* {"name":"cpu","options":{"threads":2}} */
static char *section_text(const bench_common *c) {
  cJSON *o = cJSON_CreateObject();
  char *text = NULL;
  bool ok = cJSON_AddStringToObject(o, "name", c->backend ? c->backend : "auto");
  if (c->threads > 0) {
    cJSON *options = cJSON_AddObjectToObject(o, "options");
    ok = ok && cJSON_AddNumberToObject(options, "threads", (double)c->threads);
  }
  if (ok) text = cJSON_PrintUnformatted(o);
  cJSON_Delete(o);
  return text;
}

static ds_status open_backend(bench *b, ds_error *err) {
  ds_logger logger = {cli_log, NULL};
  ds_backend_config config;
  cJSON *section = cJSON_Parse(b->section);
  ds_status status = section ? DS_OK : ds_fail_memory(err, "the backend's config");
  if (status == DS_OK) status = ds_backend_config_parse(section, &config, err);
  if (status == DS_OK) {
    status = ds_backend_open(&config, &logger, &b->backend, err);
    ds_backend_config_finish(&config);
  }
  cJSON_Delete(section);
  return status;
}

int bench_threads(const bench *b) {
  ds_device_info info = {.size = sizeof info};
  const ds_device_table *t = ds_backend_plugin(b->backend)->device;
  if (t->info(ds_backend_raw_device(b->backend), &info, NULL) != DS_OK) return 1;
  return info.threads > 0 ? info.threads : 1;
}

ds_status bench_open(const char *name, const bench_common *common, bench *out, ds_error *err) {
  *out = (bench){.common = common};
  ds_status status = DS_OK;
  if (common->threads < 0)
    return ds_fail(err, DS_ERR_INVALID, "--threads is %lld", (long long)common->threads);
  out->root = cJSON_CreateObject();
  cJSON_AddStringToObject(out->root, "benchmark", name);
  cJSON_AddObjectToObject(out->root, "machine");
  out->results = cJSON_AddArrayToObject(out->root, "results");
  out->section = section_text(common);
  if (!out->results || !out->section) status = ds_fail_memory(err, "a benchmark");
  if (status == DS_OK) status = open_backend(out, err);
  if (status == DS_OK && ds_backend_host_accessible(out->backend))
    status = bench_probe_create(bench_threads(out), &out->probe, err);
  if (status == DS_OK && !common->json)
    printf("%s: %s\n", ds_backend_name(out->backend), ds_backend_device(out->backend));
  if (status != DS_OK) bench_finish(out);
  return status;
}

void bench_finish(bench *b) {
  bench_probe_destroy(b->probe);
  ds_backend_close(b->backend);
  cJSON_free(b->section);
  cJSON_Delete(b->root);
  *b = (bench){0};
}

ds_status bench_report(bench *b, ds_error *err) {
  if (!b->common->json) {
    bench_probe_print(b->probe);
    return DS_OK;
  }
  cJSON *machine = cJSON_GetObjectItem(b->root, "machine");
  cJSON_AddStringToObject(machine, "backend", ds_backend_name(b->backend));
  cJSON_AddStringToObject(machine, "cpu", ds_backend_device(b->backend));
  cJSON_AddNumberToObject(machine, "threads", bench_threads(b));
  bench_probe_json(b->probe, machine);
  char *text = cJSON_PrintUnformatted(b->root);
  if (!text) return ds_fail_memory(err, "the results");
  printf("%s\n", text);
  cJSON_free(text);
  return DS_OK;
}

cJSON *bench_result(bench *b) {
  cJSON *o = cJSON_CreateObject();
  if (cJSON_AddItemToArray(b->results, o)) return o;
  cJSON_Delete(o);
  return NULL;
}

void bench_add_number(cJSON *object, const char *key, double value) {
  if (isfinite(value))
    cJSON_AddNumberToObject(object, key, value);
  else
    cJSON_AddNullToObject(object, key);
}

bool bench_numbers(const char *who, const char *what, const option_list *list, int64_t max,
                   int64_t out[BENCH_LIST_MAX], int *count) {
  int n = 0;
  for (int i = 0; i < list->count; i++)
    for (const char *p = list->values[i]; *p;) {
      char *end;
      errno = 0;
      long long v = strtoll(p, &end, 10);
      bool good = end != p && (*end == '\0' || (*end == ',' && end[1])) && errno == 0;
      if (!good || v < 1 || v > max || n == BENCH_LIST_MAX) {
        fprintf(stderr, "ds %s: %s wants up to %d whole numbers from 1 to %lld, not \"%s\"\n", who,
                what, BENCH_LIST_MAX, (long long)max, list->values[i]);
        return false;
      }
      out[n++] = v;
      p = *end ? end + 1 : end;
    }
  if (n > 0) *count = n;
  return true;
}

bool bench_dtypes(const char *who, const char *text, int32_t out[2], int *count) {
  bool both = strcmp(text, "both") == 0;
  *count = 0;
  if (both || strcmp(text, "f32") == 0) out[(*count)++] = DS_F32;
  if (both || strcmp(text, "bf16") == 0) out[(*count)++] = DS_BF16;
  if (*count > 0) return true;
  fprintf(stderr, "ds %s: --dtype is \"%s\"; it may be f32, bf16 or both\n", who, text);
  return false;
}

ds_status bench_make_random(ds_backend *b, int32_t dtype, size_t bytes, void **out, ds_error *err) {
  enum { RANDOM_BLOCK = 1 << 16 };
  static float values[RANDOM_BLOCK];
  static unsigned char block[sizeof values];
  size_t block_bytes = RANDOM_BLOCK * ds_dtype_size(dtype);
  ds_rng rng;
  ds_rng_init(&rng, 1, 0);
  for (size_t i = 0; i < RANDOM_BLOCK; i++) values[i] = (float)(ds_rng_uniform(&rng) - 0.5);
  ds_convert_from_f32(block, dtype, values, RANDOM_BLOCK);
  DS_TRY(ds_backend_alloc(b, bytes, out, err));
  for (size_t at = 0; at < bytes; at += block_bytes) {
    size_t n = bytes - at < block_bytes ? bytes - at : block_bytes;
    DS_TRY(ds_backend_upload(b, (char *)*out + at, block, n, err));
  }
  return DS_OK;
}
