/* test_pipeline.c - stages of a pipeline, each its own rank, give the loss and the gradients of all
 * blocks on one rank: to the bit in f32, where no sum is taken in another order.
 *
 * usage: mpirun -n N test_pipeline PLUGIN_FOLDER N [BACKEND]
 * A backend that is given is a slow one, and gets one model.
 * Every rank computes all blocks too, on the same backend, to compare with.
 */
#include "pipe_model.h"

#include "backend/backend.h"
#include "model/model.h"
#include "model/params.h"
#include "parallel/pipe_schedule.h"
#include "tensor/tensor.h"
#include "train/pipeline.h"

#include <stdlib.h>

enum { MOST_PARAMS = 128, MICROS = 9 };

static int ranks;
static ds_backend *backend;
static ds_world world;
static ds_topology topology;
static ds_error err;

/* ---- batches: as many rows and tokens as the micro batch says */

typedef struct source {
  int next;
  int bad_at; /* an id that is out of range in this micro batch; -1: none */
  int fail_at;
  bool same_shape;
  int32_t ids[4 * PIPE_POSITIONS], labels[4 * PIPE_POSITIONS];
} source;

static ds_status next_batch(void *ctx, ds_batch *batch, ds_error *e) {
  source *s = ctx;
  int m = s->next++, rows = s->same_shape ? 2 : 1 + m % 3, length = s->same_shape ? 8 : 5 + m % 7;
  if (m == s->fail_at) {
    snprintf(e->message, sizeof e->message, "no batch %d", m);
    return e->status = DS_ERR_IO;
  }
  for (int i = 0; i < rows * length; i++) {
    s->ids[i] = (i * i + 3 * m + i / 2) % PIPE_VOCAB;
    s->labels[i] = i % 5 == 4 ? -100 : (i * 7 + m) % PIPE_VOCAB;
  }
  if (m == s->bad_at) s->ids[1] = PIPE_VOCAB;
  batch->n = 2;
  batch->tensors[0] = (ds_host_tensor){DS_I32, 2, {rows, length}, s->ids};
  batch->tensors[1] = (ds_host_tensor){DS_I32, 2, {rows, length}, s->labels};
  return DS_OK;
}

static source fresh(void) {
  return (source){.bad_at = -1, .fail_at = -1};
}

/* ---- a model with its numbers on the device */

typedef struct numbers {
  ds_model *model;
  ds_params *params;
  int n;
  int32_t dtype;
  ds_param_slot slots[MOST_PARAMS];
  size_t bytes[MOST_PARAMS];
} numbers;

static void make_param(numbers *x, int i) {
  int64_t shape[DS_MAX_RANK], n = ds_params_numel(x->params, i);
  int32_t rank = ds_params_shape(x->params, i, shape);
  float *host = malloc((size_t)n * sizeof *host);
  void *value, *grad;
  CHECK_OK(ds_params_init_values(x->params, i, 5, host), err);
  if (x->dtype == DS_BF16) ds_convert_from_f32(host, DS_BF16, host, (size_t)n);
  x->bytes[i] = (size_t)n * (x->dtype == DS_BF16 ? 2 : 4);
  CHECK_OK(ds_backend_alloc(backend, x->bytes[i], &value, &err), err);
  CHECK_OK(ds_backend_alloc(backend, (size_t)n * sizeof(float), &grad, &err), err);
  CHECK_OK(ds_backend_upload(backend, value, host, x->bytes[i], &err), err);
  x->slots[i] =
      (ds_param_slot){.value = ds_tensor_make(value, x->dtype, rank, shape), .grad = grad};
  free(host);
}

static void open_numbers(numbers *x, const char *config, int32_t dtype) {
  *x = (numbers){.dtype = dtype};
  CHECK_OK(ds_model_from_config(config, &x->model, &err), err);
  CHECK_OK(ds_model_declare(x->model, &x->params, &err), err);
  x->n = ds_params_count(x->params);
  CHECK(x->n <= MOST_PARAMS);
  for (int i = 0; i < x->n; i++) make_param(x, i);
}

static void close_numbers(numbers *x) {
  for (int i = 0; i < x->n; i++) {
    ds_backend_free(backend, x->slots[i].value.data, x->bytes[i]);
    ds_backend_free(backend, x->slots[i].grad,
                    (size_t)ds_params_numel(x->params, i) * sizeof(float));
  }
  ds_params_destroy(x->params);
  ds_model_destroy(x->model);
}

static float *read_grad(numbers *x, int i) {
  size_t n = (size_t)ds_params_numel(x->params, i);
  float *host = calloc(n, sizeof *host);
  if (x->slots[i].has_grad)
    CHECK_OK(ds_backend_download(backend, host, x->slots[i].grad, n * sizeof *host, &err), err);
  return host;
}

static void forget(numbers *x) {
  for (int i = 0; i < x->n; i++) x->slots[i].has_grad = false;
}

/* ---- all blocks on this rank */

static double run_alone(numbers *x, int micros, source s) {
  ds_ctx *ctx;
  double sum = 0;
  forget(x);
  CHECK_OK(ds_ctx_create(backend, x->dtype, &ctx, &err), err);
  ds_ctx_bind_params(ctx, x->slots, x->n);
  ds_ctx_set_training(ctx, true);
  for (int m = 0; m < micros; m++) {
    ds_batch b;
    float loss;
    CHECK_OK(next_batch(&s, &b, &err), err);
    CHECK_OK(ds_ctx_begin(ctx, &err), err);
    ds_value *in[2];
    for (int i = 0; i < 2; i++)
      in[i] = ds_input(ctx, DS_I32, 2, b.tensors[i].shape, b.tensors[i].data);
    ds_value *v = ds_model_forward(x->model, ctx, in, 2);
    CHECK_OK(ds_value_read(ctx, v, &loss, 1, &err), err);
    CHECK_OK(ds_ctx_backward(ctx, v, 1.0 / micros, &err), err);
    sum += loss;
  }
  ds_ctx_destroy(ctx);
  return sum / micros;
}

/* ---- the stages */

static ds_pipeline *open_stage(numbers *x, const int *bounds) {
  int stage = topology.pipe.rank;
  ds_pipeline *p = NULL;
  ds_pipeline_args a = {.backend = backend,
                        .model = x->model,
                        .pipe = &topology.pipe,
                        .first = bounds[stage],
                        .last = bounds[stage + 1],
                        .slots = x->slots,
                        .n_slots = x->n,
                        .dtype = x->dtype,
                        .share = 1};
  CHECK_OK(ds_pipeline_create(&a, &p, &err), err);
  return p;
}

/* How many of this stage's blocks use parameter i, and of all stages'. */
static int uses(numbers *x, int i, const int *bounds, int stage) {
  int at[DS_PARAM_BLOCKS], n, here = 0;
  CHECK_OK(ds_model_param_blocks(x->model, i, at, &n, &err), err);
  for (int k = 0; k < n; k++)
    here += stage < 0 || (at[k] >= bounds[stage] && at[k] < bounds[stage + 1]);
  return here;
}

/* The gradient of a parameter that the first and the last stage have: their parts' sum. */
static void sum_parts(float *g, int64_t n) {
  void *p;
  size_t bytes = (size_t)n * sizeof *g;
  CHECK_OK(ds_backend_alloc(backend, bytes, &p, &err), err);
  CHECK_OK(ds_backend_upload(backend, p, g, bytes, &err), err);
  CHECK_OK(ds_group_allreduce(topology.pipe.group, NULL, p, p, n, DS_F32, DS_REDUCE_SUM, &err),
           err);
  CHECK_OK(ds_backend_download(backend, g, p, bytes, &err), err);
  ds_backend_free(backend, p, bytes);
}

static void compare(numbers *alone, numbers *stages, const int *bounds) {
  for (int i = 0; i < alone->n; i++) {
    int64_t n = ds_params_numel(alone->params, i);
    int here = uses(stages, i, bounds, topology.pipe.rank), all = uses(stages, i, bounds, -1);
    float *a = read_grad(alone, i), *b = read_grad(stages, i);
    CHECK((here > 0) == stages->slots[i].has_grad);
    if (all == 1 && here == 1) CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);
    if (all == 2) {
      double most = 0, worst = 0;
      sum_parts(b, n);
      for (int64_t k = 0; k < n; k++) {
        most = fmax(most, fabs((double)a[k]));
        worst = fmax(worst, fabs((double)a[k] - (double)b[k]));
      }
      CHECK(most > 0 && worst <= 1e-6 * most);
    }
    free(a);
    free(b);
  }
}

static double run_stages(ds_pipeline *p, numbers *x, int micros, source s) {
  void *loss;
  float host = NAN;
  forget(x);
  CHECK_OK(ds_backend_alloc(backend, sizeof(float), &loss, &err), err);
  CHECK_OK(ds_pipeline_run(p, micros, 1, next_batch, &s, loss, &err), err);
  CHECK_OK(ds_backend_download(backend, &host, loss, sizeof host, &err), err);
  ds_backend_free(backend, loss, sizeof(float));
  CHECK(s.next == micros); /* every stage reads every micro batch once */
  CHECK(ds_pipeline_peak(p) == ds_pipe_in_flight(ranks, topology.pipe.rank, micros));
  return host;
}

/* weights: of blocks; NULL: uniform. micros: of the steps, 0 at the end; of the second all micro
 * batches have one shape. */
static void test_same(const char *config, int32_t dtype, const int64_t *weights,
                      const int *micros) {
  numbers alone, stages;
  int blocks = 0, bounds[8];
  open_numbers(&alone, config, dtype);
  open_numbers(&stages, config, dtype);
  CHECK_OK(ds_model_blocks(stages.model, &blocks, &err), err);
  CHECK_OK(ds_pipe_partition(weights, blocks, ranks, bounds, &err), err);
  ds_pipeline *p = open_stage(&stages, bounds);
  for (int i = 0; micros[i] > 0 && p; i++) {
    source s = fresh();
    s.same_shape = i == 1;
    double a = run_alone(&alone, micros[i], s);
    double b = run_stages(p, &stages, micros[i], s);
    CHECK_NEAR(a, b, 1e-6 * a);
    compare(&alone, &stages, bounds);
  }
  ds_pipeline_destroy(p);
  close_numbers(&alone);
  close_numbers(&stages);
}

/* What one stage fails at, all hear of, and the next step is as if nothing had been. */
static void test_failure(void) {
  numbers alone, stages;
  int bounds[8], stage = topology.pipe.rank;
  void *loss;
  open_numbers(&alone, pipe_models[1], DS_F32);
  open_numbers(&stages, pipe_models[1], DS_F32);
  CHECK_OK(ds_pipe_partition(NULL, 5, ranks, bounds, &err), err);
  CHECK_OK(ds_backend_alloc(backend, sizeof(float), &loss, &err), err);
  ds_pipeline *p = open_stage(&stages, bounds);
  source bad = fresh(), broken = fresh();
  bad.bad_at = 2; /* only the first stage looks at ids */
  ds_status status = ds_pipeline_run(p, 6, 1, next_batch, &bad, loss, &err);
  CHECK(status == (stage == 0 ? DS_ERR_INVALID : DS_ERR_STATE));
  CHECK(strstr(err.message, stage == 0 ? "pipeline stage 0: " : "failed on stage 0") != NULL);
  if (stage == ranks - 1) broken.fail_at = 1;
  broken.same_shape = true;
  status = ds_pipeline_run(p, 4, 1, next_batch, &broken, loss, &err);
  CHECK(status == (stage == ranks - 1 ? DS_ERR_IO : DS_ERR_STATE));
  CHECK(strstr(err.message, stage == ranks - 1 ? "no batch 1" : "failed on stage") != NULL);
  double a = run_alone(&alone, MICROS, fresh());
  CHECK_NEAR(a, run_stages(p, &stages, MICROS, fresh()), 1e-6 * a);
  compare(&alone, &stages, bounds);
  ds_pipeline_destroy(p);
  ds_backend_free(backend, loss, sizeof(float));
  close_numbers(&alone);
  close_numbers(&stages);
}

/* A stage of which nothing is trained passes gradients on all the same. */
static void test_frozen(void) {
  numbers alone, stages;
  int bounds[8];
  open_numbers(&alone, pipe_models[2], DS_F32);
  open_numbers(&stages, pipe_models[2], DS_F32);
  CHECK_OK(ds_pipe_partition(NULL, 5, ranks, bounds, &err), err);
  for (int frozen = 0; frozen < 2; frozen++) { /* the first stage; the last */
    void *kept[2][MOST_PARAMS];
    int stage = frozen ? ranks - 1 : 0;
    numbers *both[] = {&alone, &stages};
    for (int k = 0; k < 2; k++)
      for (int i = 0; i < alone.n; i++) {
        kept[k][i] = both[k]->slots[i].grad;
        if (uses(&alone, i, bounds, stage)) both[k]->slots[i].grad = NULL;
      }
    ds_pipeline *p = open_stage(&stages, bounds);
    double a = run_alone(&alone, 4, fresh());
    CHECK_NEAR(a, run_stages(p, &stages, 4, fresh()), 1e-6 * a);
    for (int i = 0; i < alone.n; i++) {
      if (uses(&alone, i, bounds, stage) || !uses(&alone, i, bounds, topology.pipe.rank)) continue;
      float *x = read_grad(&alone, i), *y = read_grad(&stages, i);
      CHECK(memcmp(x, y, (size_t)ds_params_numel(alone.params, i) * sizeof *x) == 0);
      free(x);
      free(y);
    }
    ds_pipeline_destroy(p);
    for (int k = 0; k < 2; k++)
      for (int i = 0; i < alone.n; i++) both[k]->slots[i].grad = kept[k][i];
  }
  close_numbers(&alone);
  close_numbers(&stages);
}

static bool connect(const char *folder, const char *name) {
  char text[512];
  ds_backend_config config;
  ds_world_args args = {.local_rank = -1, .distributed_port = -1, .dist_init_required = -1};
  static const ds_logger quiet;
  snprintf(text, sizeof text, "{\"name\": \"%s\", \"plugin_path\": \"%s\"}", name, folder);
  cJSON *section = cJSON_Parse(text);
  CHECK_OK(ds_backend_config_parse(section, &config, &err), err);
  cJSON_Delete(section);
  CHECK_OK(ds_backend_open(&config, &quiet, &backend, &err), err);
  ds_backend_config_finish(&config);
  if (!backend) return false;
  CHECK_OK(ds_world_init(&world, backend, &args, &quiet, &err), err);
  CHECK_OK(ds_topology_place(&topology, world.rank, world.size, 1, 1, ranks, &err), err);
  CHECK_OK(ds_topology_connect(&topology, &world, &err), err);
  CHECK(topology.pipe.size == ranks && topology.pipe.rank == world.rank);
  return topology.pipe.group != NULL;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  ranks = atoi(argv[2]);
  if (!connect(argv[1], argc > 3 ? argv[3] : "cpu")) return 1;
  static const int64_t heavy[] = {4, 1, 1, 1, 1}; /* another partition than the uniform one */
  static const int steps[] = {1, MICROS, 2, 5, 0}, few[] = {4, 0};
  if (argc > 3) {
    test_same(pipe_models[0], DS_F32, NULL, few);
  } else {
    for (int i = 0; i < PIPE_MODELS; i++)
      test_same(pipe_models[i], DS_F32, i % 2 ? heavy : NULL, steps);
    test_same(pipe_models[0], DS_BF16, NULL, steps);
    test_same(pipe_models[2], DS_BF16, heavy, steps);
    test_failure();
    test_frozen();
  }
  ds_topology_finish(&topology);
  ds_world_finish(&world);
  ds_backend_close(backend);
  return TEST_RESULT();
}
