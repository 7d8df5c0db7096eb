/* The model of time against runs that were published.
 *
 * Sources: Narayanan et al. 2021, "Efficient large-scale language model training on GPU clusters
 * using Megatron-LM" (arXiv 2104.04473): table 1 (weak scaling, 1.7B to 1T parameters on 32 to 3072
 * A100), table 2 (ZeRO-3 without model parallelism, and their own, on 384 to 2240), fig. 13 (which
 * pair of tensor and pipeline sizes is best on 64), equations 2 and 3. All with sequences of 2048,
 * a vocabulary of 51200, 16-bit weights and gradients, recomputation, attention that keeps its
 * probabilities, nodes of 8. Hardware: NVIDIA's A100 80GB datasheet (312 Tflop/s, 2.039 TB/s,
 * NVLink 300 GB/s each way) and the paper's sec. 5 (one 200 Gbit/s port per GPU).
 */
#include "zero/estimate_model.h"
#include "zero/estimate_time.h"

#include "test.h"

static ds_estimate_machine selene(void) {
  ds_estimate_machine a = ds_estimate_machine_init();
  a.per_node = 8;
  a.flops = 312e12;
  a.memory = 80e9;
  a.memory_rate = 2.039e12;
  a.near_rate = 300e9;
  a.far_rate = 25e9;
  a.near_latency = 1e-6;
  a.far_latency = 5e-6;
  a.host_rate = a.host_memory_rate = 32e9;
  return a;
}

/* A GPT of the paper's kind, through the library's own reader of configs. */
static ds_estimate_model gpt(int layers, int hidden, int heads) {
  char config[256];
  snprintf(config, sizeof config,
           "{\"model_type\": \"gpt2\", \"n_layer\": %d, \"n_embd\": %d, \"n_head\": %d, "
           "\"n_positions\": 2048, \"vocab_size\": 51200}",
           layers, hidden, heads);
  ds_error err;
  ds_model *m = NULL;
  ds_estimate_model out = {0};
  CHECK_OK(ds_model_from_config(config, &m, &err), err);
  CHECK_OK(ds_estimate_model_of(m, &out, &err), err);
  ds_model_destroy(m);
  return out;
}

static ds_estimate_layout layout(int gpus, int tensor, int pipe, int64_t batch, int64_t micro) {
  ds_estimate_layout l = ds_estimate_layout_init();
  l.data = gpus / tensor / pipe;
  l.tensor = tensor;
  l.pipe = pipe;
  l.micro_batch = micro;
  l.accumulation = batch / micro / l.data;
  l.seq_len = 2048;
  l.bytes = ds_estimate_bytes_paper();
  l.recompute = l.materialized = true;
  return l;
}

/* Tflop/s per GPU, as the paper counts them: with what recomputation repeats. */
static double rate(const ds_estimate_model *m, const ds_estimate_layout *l) {
  ds_estimate_machine a = selene();
  double gpus = (double)ds_estimate_shards(l) * l->tensor * l->pipe;
  return ds_estimate_flop(m, l, true) / ds_estimate_time_of(m, l, &a).total / gpus / 1e12;
}

static void near_published(const char *what, double estimate, double published, double within) {
  bool near = fabs(estimate / published - 1) <= within;
  if (!near) fprintf(stderr, "%s: %.1f, published %.1f\n", what, estimate, published);
  CHECK(near);
}

static void test_weak_scaling(void) {
  static const struct {
    double billions;
    int heads, hidden, layers, tensor, pipe, gpus, batch;
    double tflops;
  } rows[] = {{1.7, 24, 2304, 24, 1, 1, 32, 512, 137},
              {3.6, 32, 3072, 30, 2, 1, 64, 512, 138},
              {7.5, 32, 4096, 36, 4, 1, 128, 512, 142},
              {18.4, 48, 6144, 40, 8, 1, 256, 1024, 135},
              {39.1, 64, 8192, 48, 8, 2, 512, 1536, 138},
              {76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140},
              {145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148},
              {310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155},
              {529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163},
              {1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    ds_estimate_model m = gpt(rows[i].layers, rows[i].hidden, rows[i].heads);
    CHECK_NEAR(ds_estimate_parameters(&m) / 1e9, rows[i].billions, 0.051);
    ds_estimate_layout l = layout(rows[i].gpus, rows[i].tensor, rows[i].pipe, rows[i].batch, 1);
    char what[32];
    snprintf(what, sizeof what, "%g B on %d", rows[i].billions, rows[i].gpus);
    near_published(what, rate(&m, &l), rows[i].tflops, 0.12);
  }
}

/* ZeRO-3 alone runs out of bandwidth between nodes as the batch per GPU falls; 8 x 12 and 8 x 35
 * ranks of tensor and pipeline parallelism don't. */
static void test_against_zero3(void) {
  static const struct {
    int hidden, layers, heads, stage, tensor, pipe, gpus, batch, micro;
    double tflops;
  } rows[] = {{12288, 96, 96, 3, 1, 1, 384, 1536, 4, 144},
              {12288, 96, 96, 3, 1, 1, 768, 1536, 2, 88},
              {12288, 96, 96, 3, 1, 1, 1536, 1536, 1, 44},
              {20480, 105, 128, 3, 1, 1, 640, 2560, 4, 138},
              {20480, 105, 128, 3, 1, 1, 1120, 2240, 2, 98},
              {20480, 105, 128, 3, 1, 1, 2240, 2240, 1, 48},
              {12288, 96, 96, 0, 8, 12, 384, 1536, 1, 153},
              {12288, 96, 96, 0, 8, 12, 768, 1536, 1, 149},
              {12288, 96, 96, 0, 8, 12, 1536, 1536, 1, 141},
              {20480, 105, 128, 0, 8, 35, 560, 2240, 1, 171},
              {20480, 105, 128, 0, 8, 35, 1120, 2240, 1, 167},
              {20480, 105, 128, 0, 8, 35, 2240, 2240, 1, 159}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    ds_estimate_model m = gpt(rows[i].layers, rows[i].hidden, rows[i].heads);
    ds_estimate_layout l =
        layout(rows[i].gpus, rows[i].tensor, rows[i].pipe, rows[i].batch, rows[i].micro);
    l.stage = rows[i].stage;
    char what[32];
    snprintf(what, sizeof what, "%d: stage %d on %d", rows[i].hidden, rows[i].stage, rows[i].gpus);
    near_published(what, rate(&m, &l), rows[i].tflops, 0.12);
  }
}
/* 162.2B on 64: of five pairs, 8 ranks of tensor and 8 of pipeline parallelism are fastest, at
 * either batch. */
static void test_best_pair(void) {
  ds_estimate_model m = gpt(32, 20480, 128);
  CHECK_NEAR(ds_estimate_parameters(&m) / 1e9, 162.2, 0.051);
  for (int batch = 32; batch <= 128; batch += 96) {
    double best = 0;
    int at = 0;
    for (int tensor = 2; tensor <= 32; tensor *= 2) {
      ds_estimate_layout l = layout(64, tensor, 64 / tensor, batch, 1);
      double r = rate(&m, &l);
      if (r > best) best = r, at = tensor;
    }
    CHECK(at == 8);
  }
}

/* Equation 2, P = 12 l h^2 (1 + 13 / 12h + (V + s) / 12lh), counts no last norm (2 h); equation 3
 * is F = 96 B s l h^2 (1 + s / 6h + V / 16lh). */
static void test_equations(void) {
  ds_estimate_model m = gpt(24, 2304, 24);
  double l = 24, h = 2304, s = 2048, v = 51200, b = 512;
  double p = 12 * l * h * h * (1 + 13 / (12 * h) + (v + s) / (12 * l * h));
  double f = 96 * b * s * l * h * h * (1 + s / (6 * h) + v / (16 * l * h));
  ds_estimate_layout at = layout(32, 1, 1, 512, 1);
  CHECK_NEAR(ds_estimate_parameters(&m) - 2 * h, p, 1);
  CHECK_NEAR(ds_estimate_flop(&m, &at, true) / f, 1, 1e-9);
  at.recompute = false; /* 3 passes of 4 over the blocks */
  double head = 6 * b * s * h * v;
  CHECK_NEAR(ds_estimate_flop(&m, &at, true), (f - head) * 3 / 4 + head, f * 1e-9);
  CHECK(ds_estimate_tokens(&at) == 512 * 2048);
}

/* What the parts of a step are. */
static void test_parts(void) {
  ds_estimate_model m = gpt(32, 4096, 32);
  ds_estimate_machine a = selene();
  ds_estimate_layout l = layout(64, 4, 8, 64, 1);
  ds_estimate_time t = ds_estimate_time_of(&m, &l, &a);
  double work = t.products + t.elementwise + t.tensor + t.sequence;
  CHECK_NEAR(t.bubble / work, (8 - 1) / 32.0, 1e-9); /* (p - 1) / m */
  CHECK_NEAR(t.total, work + t.bubble + t.pipe + t.data + t.offload + t.update, 1e-9 * t.total);
  CHECK(t.sequence == 0 && t.offload == 0 && t.data > 0 && t.pipe > 0);
  /* all of a step's flop at full efficiency bounds it from below */
  CHECK(t.products >= ds_estimate_flop(&m, &l, true) / 64 / (a.flops * a.efficiency));
  /* a faster link leaves less in the open; a slower one never gains */
  ds_estimate_layout zero3 = layout(64, 1, 1, 64, 1);
  zero3.stage = 3;
  double before = 0;
  for (double rate = 1e9; rate <= 1e12; rate *= 4) {
    a.far_rate = rate;
    t = ds_estimate_time_of(&m, &zero3, &a);
    CHECK(before == 0 || t.data <= before);
    before = t.data;
  }
  CHECK(before < 0.01 * t.total);
  /* the update by the host, after gradients went there */
  zero3.offload_optimizer = DS_OFFLOAD_CPU;
  ds_estimate_time off = ds_estimate_time_of(&m, &zero3, &a);
  CHECK_NEAR(off.update / t.update, a.memory_rate / a.host_memory_rate, 1e-9);
  zero3.offload_optimizer = DS_OFFLOAD_NVME;
  a.nvme_rate = 1e9;
  off = ds_estimate_time_of(&m, &zero3, &a);
  CHECK_NEAR(off.offload, 2 * 12 * ds_estimate_parameters(&m) / 64 / 0.75e9, 0.01 * off.offload);
}

int main(void) {
  test_weak_scaling();
  test_against_zero3();
  test_best_pair();
  test_equations();
  test_parts();
  return TEST_RESULT();
}
