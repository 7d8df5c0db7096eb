/* Memory by layout, against what was published.
 *
 * Source: Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter
 * models" (arXiv 1910.02054): table 1, GB per device of model states by data-parallel size; table
 * 2, the largest models that 32 GB hold with model parallelism beside it. Both count 2 + 2 + 12
 * bytes a parameter.
 */
#include "model/params.h"
#include "zero/estimate_model.h"
#include "zero/layout.h"
#include "zero/local.h"

#include "test.h"

#include <stdlib.h>

/* So many parameters in one piece, and no activations. */
static ds_estimate_model lump(double params, ds_split split) {
  return (ds_estimate_model){
      .layers = 1, .n_block = 1, .block = {{.numel = params, .split = split}}};
}

static ds_estimate_layout paper(int stage, int ranks) {
  ds_estimate_layout l = ds_estimate_layout_init();
  l.bytes = ds_estimate_bytes_paper();
  l.stage = stage;
  l.data = ranks;
  l.align = 1;
  return l;
}

static double states_of(const ds_estimate_model *m, const ds_estimate_layout *l) {
  ds_estimate_memory x = ds_estimate_memory_of(m, l);
  return x.weights + x.masters + x.gradients + x.states;
}

static void test_zero_table1(void) {
  static const struct {
    double params;
    int ranks;
    double gb[3]; /* stages 1, 2, 3 */
    double digit; /* the last that is printed */
  } rows[] = {{7.5e9, 1, {120, 120, 120}, 1},        {7.5e9, 4, {52.5, 41.3, 30}, 0.1},
              {7.5e9, 16, {35.6, 21.6, 7.5}, 0.1},   {7.5e9, 64, {31.4, 16.6, 1.88}, 0.1},
              {7.5e9, 256, {30.4, 15.4, 0.47}, 0.1}, {7.5e9, 1024, {30.1, 15.1, 0.12}, 0.1},
              {128e9, 1, {2048, 2048, 2048}, 1},     {128e9, 4, {896, 704, 512}, 1},
              {128e9, 16, {608, 368, 128}, 1},       {128e9, 64, {536, 284, 32}, 1},
              {128e9, 256, {518, 263, 8}, 1},        {128e9, 1024, {513, 257, 2}, 1},
              {1e12, 1, {16000, 16000, 16000}, 1},   {1e12, 4, {7000, 5500, 4000}, 1},
              {1e12, 16, {4750, 2875, 1000}, 1},     {1e12, 64, {4187, 2218, 250}, 1},
              {1e12, 256, {4046, 2054, 62.5}, 1},    {1e12, 1024, {4011, 2013, 15.6}, 1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int stage = 1; stage <= 3; stage++) {
      ds_estimate_model m = lump(rows[i].params, DS_SPLIT_NONE);
      ds_estimate_layout l = paper(stage, rows[i].ranks);
      double gb = states_of(&m, &l) / 1e9, printed = rows[i].gb[stage - 1];
      double digit = printed < 10 && stage == 3 ? 0.01 : rows[i].digit;
      CHECK(fabs(gb - printed) < digit); /* some figures are rounded, some cut off */
      l.stage = 0;
      CHECK_NEAR(states_of(&m, &l) / rows[i].params, 16, 1e-5); /* padded to the ranks */
    }
}

static void test_zero_table2(void) {
  static const struct {
    int tensor, ranks;
    double billions[4]; /* by stage */
  } rows[] = {{1, 64, {2, 7.6, 14.4, 128}},
              {2, 128, {4, 15.2, 28.8, 256}},
              {4, 256, {8, 30.4, 57.6, 512}},
              {8, 512, {16, 60.8, 115.2, 1024}},
              {16, 1024, {32, 121.6, 230.4, 2048}}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int stage = 0; stage <= 3; stage++) {
      ds_estimate_model m = lump(rows[i].billions[stage] * 1e9, DS_SPLIT_COLUMN);
      ds_estimate_layout l = paper(stage, rows[i].ranks / rows[i].tensor);
      l.tensor = rows[i].tensor;
      CHECK_NEAR(states_of(&m, &l) / 1e9, 32, 0.25);
    }
}

/* dscore's own bytes: gradients in f32; in f32 the weights are the masters. */
static void test_own_bytes(void) {
  ds_estimate_model m = lump(1 << 20, DS_SPLIT_NONE);
  static const struct {
    bool bf16;
    int stage;
    double bytes; /* per parameter, on 4 ranks */
  } rows[] = {{false, 0, 4 + 4 + 8},
              {false, 1, 4 + 4 + 8 / 4.0},
              {false, 2, 4 + 4 / 4.0 + 8 / 4.0},
              {false, 3, (4 + 4 + 8) / 4.0},
              {true, 0, 2 + 4 + 4 + 8},
              {true, 1, 2 + 4 / 4.0 + 4 + 8 / 4.0},
              {true, 2, 2 + (4 + 4 + 8) / 4.0},
              {true, 3, (2 + 4 + 4 + 8) / 4.0}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    ds_estimate_layout l = ds_estimate_layout_init();
    l.bytes = ds_estimate_bytes_of(rows[i].bf16, 2);
    l.data = 4;
    l.stage = rows[i].stage;
    CHECK(states_of(&m, &l) == rows[i].bytes * (1 << 20));
  }
}

/* Units against zero/layout.c, which puts the parameters one by one: real models, cut down by
 * tensor parallelism, under limits that cut blocks, leave them, and join them. */
static void check_units(const char *config, const ds_estimate_layout *l) {
  ds_error err;
  ds_model *m = NULL;
  ds_params *whole = NULL, *here = NULL;
  ds_shard *shards = NULL;
  ds_estimate_model sizes;
  ds_unit_layout units = {0};
  CHECK_OK(ds_model_from_config(config, &m, &err), err);
  CHECK_OK(ds_estimate_model_of(m, &sizes, &err), err);
  CHECK_OK(ds_model_declare(m, &whole, &err), err);
  CHECK_OK(ds_local_plan(whole, 0, l->tensor, true, &shards, &err), err);
  CHECK_OK(ds_params_localize(whole, shards, &here, &err), err);
  /* zero/zero.c's rules */
  double most = fmin((double)l->reduce_bucket, (double)l->gather_bucket), least = 1 << 20;
  if (l->stage == 3) most = fmin(most, (double)l->prefetch_bucket);
  ds_layout_rules rules = {
      .shards = l->stage ? l->data : 1, .most = (int64_t)most, .align = l->align};
  rules.least = (int64_t)(l->stage < 3 && !l->overlap ? most : fmin(most, least));
  if (l->stage == 3 && l->data > 1) rules.persistent = l->persistence;
  bool *frozen = calloc((size_t)ds_params_count(here), sizeof *frozen);
  CHECK_OK(ds_layout_init(&units, here, frozen, &rules, &err), err);
  double partitioned = 0, persistent = 0, n = 0, largest = 0;
  for (int u = 0; u < units.n_units; u++) {
    double size = (double)(units.units[u].place.end - units.units[u].place.begin);
    *(units.units[u].persistent ? &persistent : &partitioned) += size;
    n += !units.units[u].persistent;
    if (!units.units[u].persistent) largest = fmax(largest, size);
  }
  ds_estimate_held h = ds_estimate_hold(&sizes, l, 0);
  CHECK(h.partitioned == partitioned && h.units == n && h.largest_unit == largest);
  CHECK(h.persistent == persistent && h.persistent_units == units.n_units - n);
  ds_layout_finish(&units);
  free(frozen);
  free(shards);
  ds_params_destroy(here);
  ds_params_destroy(whole);
  ds_model_destroy(m);
}

static void test_units(void) {
  static const char *const configs[] = {
      "{\"model_type\": \"gpt2\", \"n_layer\": 12, \"n_embd\": 768, \"n_head\": 12, "
      "\"n_positions\": 1024, \"vocab_size\": 50256}",
      "{\"model_type\": \"gpt2\", \"n_layer\": 7, \"n_embd\": 96, \"n_head\": 4, "
      "\"n_positions\": 33, \"vocab_size\": 1000}",
      "{\"model_type\": \"llama\", \"vocab_size\": 32000, \"hidden_size\": 4096, "
      "\"intermediate_size\": 11008, \"num_hidden_layers\": 32, \"num_attention_heads\": 32, "
      "\"num_key_value_heads\": 32, \"max_position_embeddings\": 2048, "
      "\"tie_word_embeddings\": false}"};
  for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
    for (int stage = 0; stage <= 3; stage++)
      for (int data = 1; data <= 3; data++)
        for (int tensor = 1; tensor <= 4; tensor *= 2)
          for (int limits = 0; limits < 4; limits++) {
            ds_estimate_layout l = ds_estimate_layout_init();
            l.stage = stage;
            l.data = data;
            l.tensor = tensor;
            if (limits == 1) l.overlap = false;
            if (limits == 2) l.reduce_bucket = 100000, l.persistence = 1000;
            if (limits == 1 && stage == 3) l.align = 256;
            if (limits == 3) l.prefetch_bucket = 20000000, l.persistence = 0;
            check_units(configs[i], &l);
          }
}

/* A block of one large and one small parameter, twice, between an embedding and a norm. */
static ds_estimate_model pieces(void) {
  return (ds_estimate_model){
      .layers = 2,
      .n_block = 2,
      .n_outer = 2,
      .block = {{.numel = 1000}, {.numel = 10}},
      .outer = {{.numel = 500, .split = DS_SPLIT_VOCAB}, {.numel = 7, .end = DS_ESTIMATE_LAST}}};
}

/* Stage 3 on n ranks, a unit per block's large parameter. */
static ds_estimate_layout stage3(int ranks) {
  ds_estimate_layout l = ds_estimate_layout_init();
  l.stage = 3;
  l.data = ranks;
  l.persistence = 64;
  l.reduce_bucket = 600;
  return l;
}

static void test_held(void) {
  ds_estimate_model m = pieces();
  ds_estimate_layout l = stage3(3);
  ds_estimate_held h = ds_estimate_hold(&m, &l, 0);
  /* units of 512, 1024 and 1024 elements in multiples of 3 x 64; what stays: 10, 10, 7 at 64
   * each */
  CHECK(h.partitioned == 576 + 1152 + 1152 && h.largest_unit == 1152 && h.units == 3);
  CHECK(h.lent == 576 + 1152 + 192 && h.persistent == 192 && h.blocks == 2);
  l.persistence = 512;
  h = ds_estimate_hold(&m, &l, 0);
  CHECK(h.partitioned == 2304 && h.persistent == 768); /* 512 + 3 x 64 in two units */
  l.persistence = 0;
  h = ds_estimate_hold(&m, &l, 0);
  CHECK(h.persistent == 0 && h.units == 5); /* 512, 1024, 64, 1024, 64 + 64 */
  l.persistence = 64;
  l.pipe = 2; /* each end has a block, the first the embedding, the last the norm */
  h = ds_estimate_hold(&m, &l, 0);
  CHECK(h.partitioned == 576 + 1152 && h.persistent == 192 && h.blocks == 1);
  h = ds_estimate_hold(&m, &l, 1);
  CHECK(h.partitioned == 1152 && h.persistent == 192);
  m.outer[0].end = DS_ESTIMATE_BOTH;
  h = ds_estimate_hold(&m, &l, 1);
  CHECK(h.partitioned == 576 + 1152);
  CHECK(ds_estimate_parameters(&m) == 2 * 1010 + 507);
  l.tensor = 2; /* the embedding alone is split */
  CHECK(ds_estimate_hold(&m, &l, 1).partitioned == 384 + 1152);
}

static void test_stage3(void) {
  ds_estimate_model m = pieces();
  ds_estimate_layout l = stage3(3);
  l.bytes = ds_estimate_bytes_of(true, 2);
  ds_estimate_memory x = ds_estimate_memory_of(&m, &l);
  CHECK(x.weights == 2 * (3072 / 3 + 192) && x.masters == 4 * 3072 / 3);
  CHECK(x.gradients == 4 * 3072 / 3 && x.states == 8 * 3072 / 3);
  CHECK(x.buffers == 4 * (576 + 2 * 1152 + 192) + (4 << 20)); /* three in a row at once */
  CHECK(x.gathered == 2 * 2880);                              /* all: it is used again soon */
  l.max_reuse = 0;
  l.prefetch_bucket =
      1500; /* ahead of the one in use: of so many elements 1200 are of 1152's size */
  CHECK(ds_estimate_memory_of(&m, &l).gathered == 2 * (576 + 2304));
  l.overlap = false; /* one of each size at a time */
  CHECK(ds_estimate_memory_of(&m, &l).gathered == 2 * (576 + 1152));
  l.max_reuse = 3000; /* half of that stays, both ways */
  CHECK(ds_estimate_memory_of(&m, &l).gathered == 2 * (576 + 2304));
  l.secondary = 3;
  CHECK(ds_estimate_memory_of(&m, &l).weights == x.weights + 2 * 3072 / 3);
  l.secondary = 1;
  l.offload_optimizer = l.offload_param = DS_OFFLOAD_CPU;
  ds_estimate_memory y = ds_estimate_memory_of(&m, &l);
  CHECK(y.weights == 2 * 192 && y.masters == 0 && y.states == 0 && y.gradients == 0);
  /* gradients, masters, states and weights; and room for a unit's part */
  CHECK(y.host == (4 + 4 + 8 + 2) * 3072 / 3 + 4 * 1152 / 3 && y.nvme == 0);
  l.offload_optimizer = l.offload_param = DS_OFFLOAD_NVME;
  l.sub_group = 100;
  y = ds_estimate_memory_of(&m, &l);
  CHECK(y.nvme == (4 + 8 + 2) * 3072 / 3);
  CHECK(y.host == 4 * 3072 / 3 + 4 * 1152 / 3 + 4 * (100 * 12 + 2 * 1152 / 3));
  CHECK(y.device == y.weights + y.gathered + y.buffers + y.activations);
}

/* In flight in a pipeline of p: the first stage has p micro batches, the last one, or as many as
 * there are. */
static void test_pipeline_activations(void) {
  ds_estimate_model m = {.layers = 8, .n_block = 1, .block = {{.numel = 64}}};
  m.hidden = 4096, m.heads = m.kv_heads = 32, m.head_dim = 128, m.inner = 16384;
  ds_estimate_layout l = ds_estimate_layout_init();
  l.accumulation = 8;
  l.seq_len = 8192;
  double whole, split;
  ds_estimate_block_values(&m, &whole, &split);
  CHECK(whole == 6 * 4096 && split == 4 * 4096 + 2 * 16384); /* 10 C + 2 F: 18 C, as F = 4 C */
  double block = 8192.0 * (18 * 4096 * 4 + 4 * (32 + 4)), in = 8192.0 * 2 * 4096 * 4, one, all;
  one = ds_estimate_memory_of(&m, &l).activations;
  CHECK(one >= 8 * block + in && one <= 1.5 * (8 * block + 2 * in)); /* the arena's spare room */
  l.pipe = 4;
  all = ds_estimate_memory_of(&m, &l).activations; /* 4 of 2 blocks each */
  CHECK(all >= 4 * (2 * block + in) && all <= 1.5 * 4 * (3 * block + in));
  l.accumulation = 1;
  CHECK(ds_estimate_memory_of(&m, &l).activations <= 1.5 * (3 * block + 2 * in));
}

static void test_refused(void) {
  ds_estimate_model m = lump(1e6, DS_SPLIT_COLUMN);
  m.heads = 12;
  m.layers = 4;
  ds_estimate_layout good = ds_estimate_layout_init(), l;
  ds_error err;
  CHECK_OK(ds_estimate_check(&m, &good, &err), err);
#define REFUSED(change, text)                                                                      \
  l = good;                                                                                        \
  change;                                                                                          \
  CHECK_FAILS(ds_estimate_check(&m, &l, &err), DS_ERR_INVALID, err, text)
  REFUSED(l.data = 0, "every axis");
  REFUSED(l.tensor = 13, "more than the 12 heads");
  REFUSED(l.pipe = 5, "more than the 4 blocks");
  REFUSED(l.sequence = 5, "doesn't divide the 12 heads");
  REFUSED((l.sequence = 4, l.tensor = 4), "doesn't divide the 3 heads");
  REFUSED((l.sequence = 3, l.seq_len = 1000), "sequences of 1000");
  REFUSED(l.stage = 4, "stages 0 to 3");
  REFUSED(l.micro_batch = 0, "at least 1");
  REFUSED((l.pipe = 2, l.stage = 2), "a pipeline goes with stage 0 or 1");
  REFUSED(l.offload_optimizer = DS_OFFLOAD_CPU, "needs stage 1");
  REFUSED((l.offload_param = l.offload_optimizer = DS_OFFLOAD_CPU, l.stage = 2), "needs stage 3");
  REFUSED((l.offload_param = DS_OFFLOAD_CPU, l.stage = 3), "offload of the optimizer");
  REFUSED((l.secondary = 2, l.stage = 3, l.data = 3), "must divide the 3 ranks");
#undef REFUSED
}

int main(void) {
  test_zero_table1();
  test_zero_table2();
  test_own_bytes();
  test_units();
  test_held();
  test_stage3();
  test_pipeline_activations();
  test_refused();
  return TEST_RESULT();
}
