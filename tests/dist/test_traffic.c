/* test_traffic.c - what ZeRO's stages communicate in a step, counted by the comms logger, held to
 * the formulas of the paper (Rajbhandari et al. 2020, sec. 7): with P parameters, gradients of 4
 * bytes and weights of w bytes, in a step of G micro batches
 *
 *     stage 0    all-reduce       4 P
 *     stage 1    reduce-scatter   4 P        all-gather  w P
 *     stage 2    reduce-scatter   4 P G      all-gather  w P
 *     stage 3    reduce-scatter   4 P G      all-gather  2 w P G, less what stays gathered
 *
 * exactly, where P counts the padding of units; and that is bounded.
 *
 * usage: [mpirun -n N] test_traffic PLUGIN_FOLDER N
 */
#include "unit/test.h"

#include "train/engine.h"

#include <stdlib.h>

enum { T = 8, TOKENS = 4096, MICRO = 2, G = 2, STEPS = 3 };

static int ranks;
static const char *plugins;

#define MODEL(heads, kv)                                                                           \
  "{\"model_type\": \"llama\", \"vocab_size\": 61, \"hidden_size\": 24, \"head_dim\": 8, "         \
  "\"intermediate_size\": 40, \"num_hidden_layers\": 3, \"num_attention_heads\": " #heads          \
  ", \"num_key_value_heads\": " #kv ", \"max_position_embeddings\": 16, "                          \
  "\"tie_word_embeddings\": false}"
enum { LAYERS = 3, DIM = 8, HEADS = 4, KV = 2 };

typedef struct run {
  ds_model *model;
  ds_dataset *data;
  ds_engine *engine;
} run;

static void open_run(run *r, const char *model, int stage, bool bf16, const char *more) {
  ds_error err;
  char config[1024];
  static int32_t ids[TOKENS];
  for (int i = 0; i < TOKENS; i++) ids[i] = (i * 7 + i / 5) % 61;
  memset(r, 0, sizeof *r);
  snprintf(config, sizeof config,
           "{\"backend\": {\"name\": \"cpu\", \"plugin_path\": \"%s\"}, "
           "\"train_micro_batch_size_per_gpu\": %d, \"gradient_accumulation_steps\": %d, "
           "\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.001}}, "
           "\"bf16\": {\"enabled\": %s}, \"comms_logger\": {%s}, "
           "\"zero_optimization\": {\"stage\": %d, \"reduce_bucket_size\": 3000, "
           "\"allgather_bucket_size\": 3000, \"stage3_param_persistence_threshold\": 0, "
           "\"stage3_prefetch_bucket_size\": 0, \"stage3_max_reuse_distance\": 0}}",
           plugins, MICRO, G, bf16 ? "true" : "false", more, stage);
  CHECK_OK(ds_model_from_config(model, &r->model, &err), err);
  CHECK_OK(ds_dataset_tokens(ids, TOKENS, T, 61, &r->data, &err), err);
  ds_initialize_args a = DS_INITIALIZE_ARGS_INIT;
  a.model = r->model;
  a.training_data = r->data;
  a.config = config;
  CHECK_OK(ds_initialize(&a, &r->engine, NULL, NULL, NULL, &err), err);
  if (!r->engine) exit(1);
}

static void close_run(run *r) {
  ds_engine_destroy(r->engine);
  ds_dataset_destroy(r->data);
  ds_model_destroy(r->model);
}

typedef struct bytes {
  uint64_t message, sent;
} bytes;

/* Of one op in a group. */
static bytes sum_of(run *r, const char *op, const char *group) {
  ds_error err;
  const ds_comms_stats *rows;
  size_t n;
  bytes out = {0, 0};
  CHECK_OK(ds_engine_comms_summary(r->engine, &rows, &n, &err), err);
  for (size_t i = 0; i < n; i++) {
    if (strcmp(rows[i].op, op) != 0 || strcmp(rows[i].group, group) != 0) continue;
    CHECK(rows[i].ranks == ranks);
    out.message += rows[i].calls * rows[i].message_bytes;
    out.sent += rows[i].sent_bytes;
  }
  return out;
}

/* Among those that have the same parameters. */
static bytes sum(run *r, const char *op) {
  return sum_of(r, op, "zero");
}

/* Elements that stage 3 doesn't gather twice in a step: what is used again at once stays. At the
 * turn from forward to backward these are the last units - the head, and that of the norm before it
 * - and from one micro batch to the next the first. */
static uint64_t kept(const ds_unit_layout *l) {
  uint64_t out = 0;
  for (int i = 0; i < l->n_units; i++) {
    uint64_t n = (uint64_t)(l->units[i].place.end - l->units[i].place.begin);
    if (i >= l->n_units - 2) out += n * G;
    if (i == 0) out += n * (G - 1);
  }
  return out;
}

static const char *const ops[] = {"allreduce", "reduce_scatter", "allgather"};

static void test_stage(int stage, bool bf16) {
  ds_error err;
  run r;
  bytes before[3], after;
  open_run(&r, MODEL(3, 1), stage, bf16, "\"enabled\": true, \"debug\": true");
  CHECK_OK(ds_engine_train_batch(r.engine, NULL, &err), err);
  for (int i = 0; i < 3; i++) before[i] = sum(&r, ops[i]);
  for (int i = 0; i < STEPS; i++) CHECK_OK(ds_engine_train_batch(r.engine, NULL, &err), err);

  const ds_unit_layout *l = ds_zero_layout(r.engine->zero);
  uint64_t p = (uint64_t)l->trained, exact = (uint64_t)ds_params_total(ds_engine_params(r.engine));
  CHECK(stage == 0 || l->n_units > 3);
  CHECK(p >= exact &&
        p < exact + (uint64_t)(l->n_units * l->shards + l->n_params) * DS_PARAM_ALIGN);
  uint64_t w = bf16 ? 2 : 4, g = stage >= 2 ? G : 1;
  uint64_t wanted[3] = {stage == 0 ? 4 * p : 0, stage > 0 ? 4 * p * g : 0,
                        stage == 0   ? 0
                        : stage == 3 ? w * (2 * p * G - kept(l))
                                     : w * p};
  for (int i = 0; i < 3; i++) {
    after = sum(&r, ops[i]);
    uint64_t message = after.message - before[i].message, sent = after.sent - before[i].sent;
    uint64_t n = (uint64_t)ranks, times = i == 0 ? 2 : 1;
    if (ranks == 1) wanted[i] = 0;
    if (message != STEPS * wanted[i])
      fprintf(stderr, "stage %d, %d ranks, %s: %llu bytes a step, not %llu\n", stage, ranks, ops[i],
              (unsigned long long)(message / STEPS), (unsigned long long)wanted[i]);
    CHECK(message == STEPS * wanted[i]);
    CHECK(sent == times * message / n * (n - 1));
  }
  close_run(&r);
}

/* Ulysses (Jacobs et al. 2023, sec. 3.3): in each layer q, k, v and the output go once between all
 * ranks forward, and once backward, a rank's tokens of each: N h / s elements, of N tokens and
 * width h. Key and value heads fewer than ranks go to several. */
static void test_ulysses(bool bf16) {
  ds_error err;
  run r;
  char more[160];
  /* What follows in the config closes an empty section. */
  snprintf(
      more, sizeof more,
      "\"enabled\": true, \"debug\": true}, \"sequence_parallel_size\": %d, \"tensorboard\": {",
      ranks);
  open_run(&r, MODEL(4, 2), 1, bf16, more);
  CHECK_OK(ds_engine_train_batch(r.engine, NULL, &err), err);
  bytes before = sum_of(&r, "alltoall", "sequence");
  for (int i = 0; i < STEPS; i++) CHECK_OK(ds_engine_train_batch(r.engine, NULL, &err), err);
  bytes after = sum_of(&r, "alltoall", "sequence");
  uint64_t kv = ranks > KV ? (uint64_t)ranks : KV, tokens = MICRO * T / (uint64_t)ranks;
  uint64_t layer = 2 * tokens * (2 * HEADS + 2 * kv) * DIM * (bf16 ? 2 : 4);
  uint64_t wanted = ranks == 1 ? 0 : STEPS * G * LAYERS * layer;
  CHECK(after.message - before.message == wanted);
  CHECK(after.sent - before.sent == wanted / (uint64_t)ranks * (uint64_t)(ranks - 1));
  close_run(&r);
}

/* prof_ops instead of prof_all; and an engine that isn't asked to. */
static void test_chosen(void) {
  ds_error err;
  run r;
  const ds_comms_stats *rows;
  size_t n;
  open_run(&r, MODEL(3, 1), 1, false,
           "\"enabled\": true, \"debug\": true, \"prof_all\": false, "
           "\"prof_ops\": [\"all_gather_into_tensor\"]");
  CHECK_OK(ds_engine_train_batch(r.engine, NULL, &err), err);
  CHECK(sum(&r, "reduce_scatter").message == 0);
  CHECK(ranks == 1 || sum(&r, "allgather").message > 0);
  close_run(&r);
  open_run(&r, MODEL(3, 1), 1, false, "\"enabled\": false");
  CHECK_FAILS(ds_engine_comms_summary(r.engine, &rows, &n, &err), DS_ERR_STATE, err,
              "comms_logger.enabled");
  close_run(&r);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  plugins = argv[1];
  ranks = atoi(argv[2]);
  for (int stage = 0; stage <= 3; stage++) {
    test_stage(stage, false);
    test_stage(stage, true);
  }
  test_ulysses(false);
  test_ulysses(true);
  test_chosen();
  return TEST_RESULT();
}
