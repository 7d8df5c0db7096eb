/* bench_dispatch.c - what the engine's way to an op costs: the same tiny op through
 * ds_backend_op() and straight through the plugin's table, in turns. */
#include "bench.h"

#include "tensor/tensor.h"

enum { ELEMENTS = 16, ROUNDS = 200 };

typedef struct dispatch {
  bench b;
  bench_common common;
  int64_t calls;
  void *memory;
  ds_tensor tensors[3];
  const ds_tensor *in[2], *out[1];
  ds_op op;
} dispatch;

static ds_status prepare(dispatch *d, ds_error *err) {
  enum { BYTES = ELEMENTS * sizeof(float) };
  const ds_plugin *plugin = ds_backend_plugin(d->b.backend);
  DS_TRY(ds_backend_alloc(d->b.backend, (size_t)3 * BYTES, &d->memory, err));
  DS_TRY(ds_backend_fill(d->b.backend, d->memory, 0, (size_t)3 * BYTES, err));
  for (int i = 0; i < 3; i++)
    d->tensors[i] =
        ds_tensor_make((char *)d->memory + i * (int)BYTES, DS_F32, 1, (int64_t[]){ELEMENTS});
  d->in[0] = &d->tensors[0];
  d->in[1] = &d->tensors[1];
  d->out[0] = &d->tensors[2];
  d->op = (ds_op){
      .size = sizeof d->op, .id = DS_OP_ADD, .n_in = 2, .n_out = 1, .in = d->in, .out = d->out};
  if (!plugin->ops || !plugin->ops->supports(ds_backend_raw_device(d->b.backend), &d->op) ||
      (plugin->ops->workspace &&
       plugin->ops->workspace(ds_backend_raw_device(d->b.backend), &d->op) > 0))
    return ds_fail(err, DS_ERR_UNSUPPORTED,
                   "%s: its f32 add is missing or wants a workspace; dispatch can't be measured",
                   ds_backend_name(d->b.backend));
  return DS_OK;
}

/* Nanoseconds of a call. */
static ds_status through(dispatch *d, double *ns, ds_error *err) {
  double start = cli_now();
  for (int64_t i = 0; i < d->calls; i++) DS_TRY(ds_backend_op(d->b.backend, &d->op, err));
  DS_TRY(ds_backend_sync(d->b.backend, err));
  *ns = 1e9 * (cli_now() - start) / (double)d->calls;
  return DS_OK;
}

static ds_status direct(dispatch *d, double *ns, ds_error *err) {
  const ds_ops_table *ops = ds_backend_plugin(d->b.backend)->ops;
  ds_stream *stream = ds_backend_raw_stream(d->b.backend);
  double start = cli_now();
  for (int64_t i = 0; i < d->calls; i++) DS_TRY(ops->run(stream, &d->op, err));
  DS_TRY(ds_backend_sync(d->b.backend, err));
  *ns = 1e9 * (cli_now() - start) / (double)d->calls;
  return DS_OK;
}

static ds_status measure(dispatch *d, ds_error *err) {
  bench_samples with = {0}, without = {0}, added = {0};
  for (int i = 0; i <= ROUNDS; i++) {
    double t, u;
    DS_TRY(direct(d, &u, err));
    DS_TRY(through(d, &t, err));
    if (i == 0) continue; /* the first round warms up */
    bench_samples_add(&with, t);
    bench_samples_add(&without, u);
    bench_samples_add(&added, t - u);
  }
  cJSON *r = bench_result(&d->b);
  cJSON_AddStringToObject(r, "op", "add");
  cJSON_AddNumberToObject(r, "elements", ELEMENTS);
  cJSON_AddNumberToObject(r, "calls", (double)d->calls);
  bench_samples_json(&with, r, "ns_through_core");
  bench_samples_json(&without, r, "ns_direct");
  bench_samples_json(&added, r, "ns_dispatch");
  if (!d->common.json)
    printf("add of %d f32, %lld calls x %d\n  through ds_backend_op  %7.1f ns\n"
           "  the plugin's run       %7.1f ns\n  dispatch               %7.1f ns (%.1f to %.1f)\n",
           ELEMENTS, (long long)d->calls, ROUNDS, bench_samples_median(&with),
           bench_samples_median(&without), bench_samples_median(&added), bench_samples_min(&added),
           bench_samples_max(&added));
  return bench_report(&d->b, err);
}

int bench_dispatch(int argc, char **argv) {
  dispatch d = {.calls = 1000};
  option_list words;
  ds_error err;
  const command c = {"bench dispatch",
                     "Measures what core adds to one call of a backend's op.",
                     "[--calls N] [--backend NAME] [--json]",
                     NULL,
                     {{"--calls", OPTION_INT, &d.calls, "N", "calls in each of 200 rounds (1000)"},
                      BENCH_COMMON_OPTIONS(&d.common)}};
  parsed p = options_parse(&c, argc, argv, &words);
  if (p != PARSED_RUN) return p == PARSED_HELP ? 0 : 2;
  if (words.count > 0 || d.calls < 1 || d.calls > 100000000) {
    fprintf(stderr, "ds bench dispatch: --calls must be from 1 to 100000000, and no other words "
                    "stand there (ds bench dispatch --help)\n");
    return 2;
  }
  ds_status status = bench_open("dispatch", &d.common, &d.b, &err);
  if (status == DS_OK) {
    status = prepare(&d, &err);
    if (status == DS_OK) status = measure(&d, &err);
    if (d.memory) ds_backend_free(d.b.backend, d.memory, 3 * ELEMENTS * sizeof(float));
    bench_finish(&d.b);
  }
  return status == DS_OK ? 0 : cli_fail("bench dispatch", &err);
}
