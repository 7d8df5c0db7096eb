/* Bytes sent in a step, against the papers' volumes: Rajbhandari et al. 2020, sec. 7 (2 P to stage
 * 2, 3 P at stage 3); Wang et al. 2023, sec. 3 (ZeRO++: 3 M to 0.75 M across nodes); Narayanan et
 * al. 2021, sec. 3.2 (8 b s h (t-1)/t per layer and micro batch; b s h between stages); Jacobs et
 * al. 2023, sec. 3.2 (Ulysses: 4 N h / P a layer, so constant when sequence and ranks grow
 * together). */
#include "zero/estimate_traffic.h"

#include "test.h"

enum { WIDTH = 1024, LAYERS = 4, HEADS = 16, LENGTH = 512 };
static const double block_params = 12.0 * WIDTH * WIDTH;

static ds_estimate_model transformer(void) {
  ds_estimate_model m = {.layers = LAYERS, .n_block = 1};
  m.block[0] = (ds_estimate_param){.numel = block_params, .split = DS_SPLIT_COLUMN, .matrix = true};
  m.hidden = WIDTH, m.heads = m.kv_heads = HEADS, m.head_dim = WIDTH / HEADS;
  m.inner = 4 * WIDTH;
  return m;
}

static ds_estimate_layout sixteen_bit(int stage, int data) {
  ds_estimate_layout l = ds_estimate_layout_init();
  l.bytes = ds_estimate_bytes_paper();
  l.stage = stage;
  l.data = data;
  l.seq_len = LENGTH;
  l.quant_group = 0;
  l.max_reuse = 0; /* nothing stays gathered from the forward pass to the backward pass */
  return l;
}

static double sent(const ds_estimate_traffic *t, ds_traffic_kind kind) {
  return t->item[kind].bytes;
}

static void test_zero(void) {
  ds_estimate_model m = transformer();
  double p = 2 * LAYERS * block_params; /* bytes of the 16-bit weights */
  static const int ranks[] = {1, 2, 3, 4, 64, 1024};
  for (int stage = 0; stage <= 3; stage++)
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
      double n = ranks[i], share = (n - 1) / n;
      ds_estimate_layout l = sixteen_bit(stage, ranks[i]);
      l.align = 1;
      ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
      CHECK_NEAR(t.bytes / p, (stage == 3 ? 3 : 2) * share, 1e-9);
      CHECK(t.host == 0 && t.nvme == 0);
      /* 4 micro batches: reduced once to stage 1; at stage 2 each one; at 3 gathered for each, too,
       * but for the block that the one before ended with */
      l.accumulation = 4;
      t = ds_estimate_traffic_of(&m, &l);
      double times = stage == 3 ? 12 - 3.0 / LAYERS : stage == 2 ? 5 : 2;
      CHECK_NEAR(t.bytes / p, times * share, 1e-9);
      CHECK_NEAR(sent(&t, DS_TRAFFIC_GRADIENTS) / p,
                 (stage == 0   ? 2
                  : stage == 1 ? 1
                               : 4) *
                     share,
                 1e-9);
    }
}

/* What is used again within the limit is gathered once. */
static void test_reuse(void) {
  ds_estimate_model m = transformer();
  double p = LAYERS * block_params;
  ds_estimate_layout l = sixteen_bit(3, 4);
  l.max_reuse = (int64_t)(2 * p);
  ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
  CHECK(sent(&t, DS_TRAFFIC_FORWARD) == 2 * p * 3 / 4 && sent(&t, DS_TRAFFIC_BACKWARD) == 0);
  l.max_reuse = (int64_t)p; /* the second half, up to where it is used again */
  t = ds_estimate_traffic_of(&m, &l);
  CHECK(sent(&t, DS_TRAFFIC_BACKWARD) == 2 * p * 3 / 4 / 2);
  l.max_live = (int64_t)(p / 4);
  t = ds_estimate_traffic_of(&m, &l);
  CHECK(sent(&t, DS_TRAFFIC_BACKWARD) == 2 * p * 3 / 4 * 3 / 4);
}

/* 8 nodes of 16, as in ZeRO++'s evaluation. Weights go as int8: half; backward they come from the
 * node's own copy: nothing between nodes. Gradients go as int8 in one hop (the paper: as int4 in
 * two). */
static void test_zeropp(void) {
  ds_estimate_model m = transformer();
  double p = 2 * LAYERS * block_params;
  ds_estimate_layout l = sixteen_bit(3, 128);
  l.secondary = 16;
  l.weight_bits = 8;
  l.gradient_bits = 8;
  ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_FORWARD) / p, 0.5 * 127 / 128, 1e-9);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_BACKWARD) / p, 15.0 / 16, 1e-9); /* 16-bit, inside of the node */
  CHECK(t.item[DS_TRAFFIC_BACKWARD].ranks == 16 && t.item[DS_TRAFFIC_FORWARD].ranks == 128);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_GRADIENTS) / p, 0.5 * 127 / 128, 1e-9);
  /* between nodes: of 3 M one is left */
  CHECK((sent(&t, DS_TRAFFIC_FORWARD) + sent(&t, DS_TRAFFIC_GRADIENTS)) / p <= 1);
  l.quant_group = 64; /* and a scale of 4 bytes for each 64 */
  t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_FORWARD) / p, 0.5 * (1 + 4.0 / 64) * 127 / 128, 1e-9);
  /* later micro batches gather from the near copy, too */
  l.quant_group = 0;
  l.accumulation = 3;
  t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_FORWARD) / p, 0.5 * 127 / 128, 1e-9);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_BACKWARD) / p, (5 - 2.0 / LAYERS) * 15 / 16, 1e-9);
}

static void test_tensor(void) {
  ds_estimate_model m = transformer();
  ds_estimate_layout l = sixteen_bit(0, 1);
  l.tensor = 8;
  l.micro_batch = 3;
  l.accumulation = 2;
  double bsh = 3.0 * LENGTH * WIDTH * 2;
  ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_TENSOR), 2 * LAYERS * 8 * bsh * 7 / 8, 1);
  CHECK(t.item[DS_TRAFFIC_TENSOR].calls == 2 * LAYERS * 4 && t.item[DS_TRAFFIC_TENSOR].stride == 1);
  CHECK(t.bytes == sent(&t, DS_TRAFFIC_TENSOR)); /* without a vocabulary and data parallelism */
  l.recompute = true;                            /* forward again */
  t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_TENSOR), 2 * LAYERS * 12 * bsh * 7 / 8, 1);
  m.vocab = 5000; /* two all-reduces of b s h, and three numbers a token */
  t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&t, DS_TRAFFIC_VOCABULARY), 2 * 2 * 7.0 / 8 * (2 * bsh + 3.0 * LENGTH * 3 * 4),
             1);
}

static void test_pipe(void) {
  ds_estimate_model m = transformer();
  m.n_outer = 1;
  m.outer[0] = (ds_estimate_param){
      .numel = 1000.0 * WIDTH, .split = DS_SPLIT_VOCAB, .end = DS_ESTIMATE_BOTH};
  ds_estimate_layout l = sixteen_bit(0, 2);
  l.pipe = 4;
  l.tensor = 2;
  l.accumulation = 8;
  double bsh = (double)LENGTH * WIDTH * 2;
  ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
  CHECK(sent(&t, DS_TRAFFIC_PIPE) == 8 * 2 * bsh && t.item[DS_TRAFFIC_PIPE].stride == 4);
  CHECK(sent(&t, DS_TRAFFIC_TIED) == 500.0 * WIDTH * 2 && t.item[DS_TRAFFIC_TIED].stride == 12);
  l.split_norms = true; /* each rank of a tensor group sends its part */
  CHECK(ds_estimate_traffic_of(&m, &l).item[DS_TRAFFIC_PIPE].bytes == 8 * bsh);
  l.pipe = 2; /* each stage sends one way */
  CHECK(ds_estimate_traffic_of(&m, &l).item[DS_TRAFFIC_PIPE].bytes == 4 * bsh);
}

static void test_sequence(void) {
  ds_estimate_model m = transformer();
  double before = 0;
  for (int n = 2; n <= 16; n *= 2) {
    ds_estimate_layout l = sixteen_bit(3, 1);
    l.sequence = n;
    l.seq_len = LENGTH * n;
    ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
    double nh = (double)LENGTH * n * WIDTH * 2;
    /* forward and backward, what leaves the rank of 4 N h / P */
    CHECK_NEAR(sent(&t, DS_TRAFFIC_SEQUENCE), LAYERS * 2 * 4 * nh / n * (n - 1) / n, 1);
    CHECK(sent(&t, DS_TRAFFIC_SEQUENCE) < 2 * before || n == 2);
    before = LAYERS * 2 * 4 * (double)LENGTH * WIDTH * 2;
    CHECK(t.item[DS_TRAFFIC_FORWARD].ranks == n); /* ZeRO partitions over them, too */
  }
  /* grouped queries have fewer keys and values to send */
  ds_estimate_layout l = sixteen_bit(0, 1);
  l.sequence = 2;
  ds_estimate_traffic all = ds_estimate_traffic_of(&m, &l);
  m.kv_heads = HEADS / 4;
  ds_estimate_traffic grouped = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(sent(&grouped, DS_TRAFFIC_SEQUENCE) / sent(&all, DS_TRAFFIC_SEQUENCE), 2.5 / 4, 1e-9);
}

static void test_offload(void) {
  ds_estimate_model m = transformer();
  double own = LAYERS * block_params / 4;
  ds_estimate_layout l = sixteen_bit(2, 4);
  l.offload_optimizer = DS_OFFLOAD_CPU;
  ds_estimate_traffic t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(t.host, own * (2 + 2), 1); /* gradients there, weights back */
  l.accumulation = 3;
  CHECK_NEAR(ds_estimate_traffic_of(&m, &l).host, own * (3 * 2 + 2), 1);
  l.stage = 3;
  l.accumulation = 1;
  l.offload_optimizer = DS_OFFLOAD_NVME;
  t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(t.nvme, own * 2 * 12, 1); /* masters and states, read and written */
  CHECK(t.update == t.nvme);
  l.offload_param = DS_OFFLOAD_NVME;
  t = ds_estimate_traffic_of(&m, &l);
  CHECK_NEAR(t.nvme, own * (2 * 12 + 2 * 2 + 2), 1); /* read for both passes, written once */
  CHECK_NEAR(t.host, own * (2 + 2 * 2), 1);
}

int main(void) {
  test_zero();
  test_reuse();
  test_zeropp();
  test_tensor();
  test_pipe();
  test_sequence();
  test_offload();
  return TEST_RESULT();
}
