#include "plan.h"

#include "bench_gemm.h"
#include "parallel/world.h"

#include <unistd.h>

/* A rank's sending in an all-reduce of 16 MiB, the best of several: others may be at work here. */
static ds_status measure_network(ds_backend *b, ds_world *w, plan_request *r, ds_error *err) {
  enum { COUNT = 4 << 20, TIMES = 5 };
  void *x;
  bench_samples rates = {0};
  DS_TRY(ds_backend_alloc(b, COUNT * sizeof(float), &x, err));
  ds_status status = ds_backend_fill(b, x, 0, COUNT * sizeof(float), err);
  for (int i = 0; i <= TIMES && status == DS_OK; i++) {
    double start = cli_now();
    status = ds_world_allreduce(w, x, COUNT, DS_REDUCE_SUM, err);
    if (status == DS_OK) status = ds_backend_sync(b, err);
    double bytes = 2.0 * (w->size - 1) / w->size * COUNT * sizeof(float);
    if (i > 0) bench_samples_add(&rates, bytes / (cli_now() - start));
  }
  ds_backend_free(b, x, COUNT * sizeof(float));
  r->machine.near_rate = r->machine.far_rate = bench_samples_max(&rates);
  r->machine.link_efficiency = 1;
  return status;
}

static ds_status measure_product(bench *b, int32_t dtype, int64_t rows, int64_t width,
                                 plan_request *r, ds_error *err) {
  bench_gemm_times times;
  DS_TRY(bench_gemm_measure(b, BENCH_GEMM_FORWARD, dtype, rows, width, width, 0.05, &times, err));
  r->machine.flops = 1e9 * bench_samples_max(&times.gflops);
  r->machine.efficiency = 1;
  return DS_OK;
}

/* A device that makes short work of a small product needs a large one to show what it can do. */
static ds_status measure_products(bench *b, bool bf16, plan_request *r, ds_error *err) {
  int32_t dtype = bf16 ? DS_BF16 : DS_F32;
  DS_TRY(measure_product(b, dtype, 128, 1024, r, err));
  return r->machine.flops > 1e12 ? measure_product(b, dtype, 8192, 8192, r, err) : DS_OK;
}

/* Half of a copy's bytes are read, half written. */
static ds_status measure_memory(ds_backend *b, plan_request *r, ds_error *err) {
  enum { BYTES = 64 << 20, TIMES = 5 };
  void *x;
  bench_samples rates = {0};
  DS_TRY(ds_backend_alloc(b, BYTES, &x, err));
  ds_status status = ds_backend_fill(b, x, 0, BYTES, err);
  for (int i = 0; i <= TIMES && status == DS_OK; i++) {
    double start = cli_now();
    status = ds_backend_copy(b, (char *)x + BYTES / 2, x, BYTES / 2, err);
    if (status == DS_OK) status = ds_backend_sync(b, err);
    if (i > 0) bench_samples_add(&rates, BYTES / (cli_now() - start));
  }
  ds_backend_free(b, x, BYTES);
  r->machine.memory_rate = bench_samples_max(&rates);
  r->machine.memory_efficiency = 1;
  return status;
}

static ds_status measure_all(bench *b, bool bf16, plan_request *r, int *rank, ds_error *err) {
  ds_logger logger = {cli_log, NULL};
  ds_world_args args = {.local_rank = -1, .distributed_port = -1, .dist_init_required = -1};
  ds_world w;
  ds_device_info info = {.size = sizeof info};
  const ds_device_table *device = ds_backend_plugin(b->backend)->device;
  if (device->info(ds_backend_raw_device(b->backend), &info, NULL) == DS_OK)
    r->machine.memory = (double)info.memory_total;
  DS_TRY(measure_products(b, bf16, r, err));
  DS_TRY(measure_memory(b->backend, r, err));
  DS_TRY(ds_world_init(&w, b->backend, &args, &logger, err));
  *rank = w.rank;
  r->machine.per_node = w.local_size;
  double host = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / w.local_size;
  if (ds_backend_host_accessible(b->backend))
    r->machine.memory = host; /* the device is the host: its ranks share it, nothing is offloaded */
  else
    r->machine.host_memory = host;
  ds_status status = w.size > 1 ? measure_network(b->backend, &w, r, err) : DS_OK;
  ds_world_finish(&w);
  return status;
}

ds_status plan_measure(const char *backend, bool bf16, plan_request *r, int *rank, ds_error *err) {
  static char name[160];
  bench_common common = {.backend = backend, .json = true};
  bench b;
  DS_TRY(bench_open("plan", &common, &b, err));
  ds_status status = measure_all(&b, bf16, r, rank, err);
  snprintf(name, sizeof name, "%s", ds_backend_device(b.backend));
  r->machine_name = name;
  r->machine_source = "measured: a matrix product, a copy of 32 MiB, an all-reduce of "
                      "16 MiB where there are ranks";
  bench_finish(&b);
  return status;
}
