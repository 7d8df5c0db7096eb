/* main.c - the command line of the conformance harness. */
#include "harness.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/reference/reference.h"

static const char usage[] =
    "usage: conformance (reference | PLUGIN.so) [--op NAME] [--seed S] [--cases N]\n"
    "                   [--options JSON] [--time]\n"
    "Checks every op of a backend plugin against float64 references.\n"
    "  --op NAME       only this op (or gemm, quant, device)\n"
    "  --seed S        seed of the fuzzed shapes and values (default 1)\n"
    "  --cases N       cases per op and dtype (default 24)\n"
    "  --options JSON  passed to the device's open\n"
    "  --time          measure a few large shapes instead\n"
    "Prints a line per op and dtype: PASS, FAIL or UNSUPPORTED, the cases, and the largest error\n"
    "relative to the sum of magnitudes. Exits with 1 when anything failed, 2 when it cannot run.\n";

/* Asking for more memory than there is must be answered with an error, under AddressSanitizer too:
 * it calls this when it starts. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

static void host_log(void *ctx, ds_log_level level, const char *message) {
  (void)ctx;
  if (level >= DS_LOG_WARN) fprintf(stderr, "plugin: %s\n", message);
}

static void *host_alloc(void *ctx, size_t bytes) {
  (void)ctx;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void host_free(void *ctx, void *p) {
  (void)ctx;
  free(p);
}

static const ds_host host = {
    {sizeof host, DS_ABI_MAJOR, DS_ABI_MINOR}, NULL, host_log, host_alloc, host_free};

static const ds_plugin *load(const char *name) {
  if (strcmp(name, "reference") == 0) return ds_reference_plugin();
  void *so = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!so) {
    fprintf(stderr, "conformance: %s\n", dlerror());
    return NULL;
  }
  ds_plugin_query_fn *query;
  *(void **)&query = dlsym(so, "ds_plugin_query");
  if (!query) {
    fprintf(stderr, "conformance: %s has no ds_plugin_query\n", name);
    return NULL;
  }
  ds_error err = {0};
  const ds_plugin *p = query(&host, (ds_version_range){DS_ABI_MAJOR, 0, DS_ABI_MINOR, 0}, &err);
  if (!p) fprintf(stderr, "conformance: %s: %s\n", name, err.message);
  return p;
}

static void run_ops(conformance *k) {
  for (int i = 0; i < ops_count; i++) {
    const op_spec *spec = &ops_table[i];
    for (int v = 0; v < spec->variants && check_wanted(k, spec->name); v++) {
      tally t = {0};
      char dtype[24];
      for (int n = 0; n < k->cases; n++) {
        test_case c;
        case_init(&c, spec, v, n, k->seed);
        spec->make(&c);
        check_case(k, &c, &t);
        case_finish(&c);
      }
      ops_variant_name(spec, v, dtype, sizeof dtype);
      check_report(k, &t, spec->name, dtype);
    }
  }
}

static int parse(int argc, char **argv, conformance *k, bool *timing, const char **options) {
  for (int i = 2; i < argc; i++) {
    const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(a, "--time") == 0) {
      *timing = true;
      continue;
    }
    if (!value) return i;
    if (strcmp(a, "--op") == 0)
      k->only = value;
    else if (strcmp(a, "--seed") == 0)
      k->seed = strtoull(value, NULL, 0);
    else if (strcmp(a, "--cases") == 0)
      k->cases = atoi(value);
    else if (strcmp(a, "--options") == 0)
      *options = value;
    else
      return i;
    i++;
  }
  return 0;
}

static bool known(const char *op) {
  bool found = !op || !strcmp(op, "gemm") || !strcmp(op, "quant") || !strcmp(op, "device");
  for (int i = 0; i < ops_count && !found; i++) found = strcmp(op, ops_table[i].name) == 0;
  return found;
}

static int open_device(conformance *k, const char *options) {
  ds_error err = {0};
  int32_t count = 0;
  const char *reason = "";
  const ds_device_table *d = k->plugin->device;
  if (d->count(&count, &reason, &err) != DS_OK || count < 1) {
    fprintf(stderr, "conformance: no device: %s%s\n", count < 1 && reason ? reason : "",
            err.message);
    return 2;
  }
  if (d->open(0, options, &k->dev, &err) != DS_OK ||
      d->stream_create(k->dev, &k->stream, &err) != DS_OK) {
    fprintf(stderr, "conformance: cannot open the device: %s\n", err.message);
    d->close(k->dev);
    return 2;
  }
  return 0;
}

int main(int argc, char **argv) {
  conformance k = {.seed = 1, .cases = 24};
  bool timing = false;
  const char *options = NULL;
  int bad = argc < 2 ? 1 : parse(argc, argv, &k, &timing, &options);
  if (argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
    fputs(usage, stdout);
    return 0;
  }
  if (bad || k.cases < 1 || !known(k.only)) {
    const char *what = !known(k.only) ? k.only : bad && argv[bad] ? argv[bad] : "";
    fprintf(stderr, "conformance: wrong or missing argument %s\n%s", what, usage);
    return 2;
  }
  k.plugin = load(argv[1]);
  if (!k.plugin) return 2;
  int status = open_device(&k, options);
  if (status) return status;
  if (timing) {
    timing_all(&k);
  } else {
    prove_all(&k);
    cases_device(&k);
    cases_gemm(&k);
    cases_quant(&k);
    if (k.plugin->ops) run_ops(&k);
    printf("%d passed, %d failed, %d unsupported\n", k.passed, k.failed, k.unsupported);
  }
  k.plugin->device->stream_destroy(k.stream);
  k.plugin->device->close(k.dev);
  return k.failed ? 1 : 0;
}
