/* Tensor parallelism's arithmetic: tables for heads, roles by name, and for every division the
 * properties that make it one: each element counted once, query heads beside their keys. */
#include "test.h"

#include "parallel/shard.h"

#include <stdlib.h>

enum { MAX_RANKS = 12, DIM = 2 };

static ds_error err;

static ds_shard_param matrix(const char *name, int64_t n, int64_t k) {
  return (ds_shard_param){.name = name, .rank = 2, .shape = {n, k}};
}
static ds_shard_param vector(const char *name, int64_t n) {
  return (ds_shard_param){.name = name, .rank = 1, .shape = {n}};
}

/* ---- roles */

static void test_roles(void) {
  static const struct {
    const char *name;
    ds_split split;
  } table[] = {
      {"transformer.h.3.attn.c_attn.weight", DS_SPLIT_COLUMN},
      {"transformer.h.3.attn.c_proj.weight", DS_SPLIT_ROW},
      {"transformer.h.3.mlp.c_fc.weight", DS_SPLIT_COLUMN},
      {"transformer.h.3.mlp.c_proj.weight", DS_SPLIT_ROW},
      {"transformer.wte.weight", DS_SPLIT_VOCAB},
      {"transformer.wpe.weight", DS_SPLIT_NONE},
      {"model.embed_tokens.weight", DS_SPLIT_VOCAB},
      {"model.layers.0.self_attn.q_proj.weight", DS_SPLIT_COLUMN},
      {"model.layers.0.self_attn.k_proj.weight", DS_SPLIT_COLUMN},
      {"model.layers.0.self_attn.o_proj.weight", DS_SPLIT_ROW},
      {"model.layers.0.mlp.gate_proj.weight", DS_SPLIT_COLUMN},
      {"model.layers.0.mlp.down_proj.weight", DS_SPLIT_ROW},
      {"lm_head.weight", DS_SPLIT_VOCAB},
      {"encoder.0.attention.dense.weight", DS_SPLIT_ROW},
      {"encoder.0.dense.weight", DS_SPLIT_COLUMN},
      {"h.0.mlp.dense_4h_to_h.weight", DS_SPLIT_ROW},
      {"h.0.mlp.dense_h_to_4h.weight", DS_SPLIT_COLUMN},
      {"h.0.ff.w2.weight", DS_SPLIT_ROW},
      {"h.0.ff.new2.weight", DS_SPLIT_COLUMN}, /* ends in "w2", but it isn't a whole part */
      {"w2", DS_SPLIT_ROW},
  };
  const ds_shard_heads heads = {4, 4, 2};
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    ds_shard s;
    ds_shard_param p = matrix(table[i].name, strstr(table[i].name, "c_attn") ? 24 : 8, 8);
    CHECK_OK(ds_shard_plan(&p, 1, &heads, 1, 2, false, &s, &err), err);
    CHECK(s.split == table[i].split);
    if (s.split != table[i].split) fprintf(stderr, "%s\n", table[i].name);
  }
}

static void test_vectors(void) {
  const ds_shard_heads heads = {4, 4, 2};
  ds_shard_param p[] = {matrix("h.0.attn.c_attn.weight", 24, 8),
                        vector("h.0.attn.c_attn.bias", 24),
                        matrix("h.0.attn.c_proj.weight", 8, 8),
                        vector("h.0.attn.c_proj.bias", 8),
                        vector("h.0.ln_1.weight", 8),
                        vector("h.0.ln_1.bias", 8),
                        matrix("h.0.mlp.c_fc.weight", 7, 8),
                        vector("h.0.mlp.c_fc.bias", 7)};
  ds_shard s[8];
  for (int rank = 0; rank < 2; rank++)
    for (int sequence = 0; sequence < 2; sequence++) {
      CHECK_OK(ds_shard_plan(p, 8, &heads, rank, 2, sequence, s, &err), err);
      CHECK(s[1].split == DS_SPLIT_COLUMN && s[1].n_runs == 3 && s[1].shape[0] == 12);
      CHECK(s[1].runs[1].begin == 8 + rank * 4 && s[1].runs[2].end == 16 + rank * 4 + 4);
      CHECK(s[2].dim == 1 && s[2].shape[0] == 8 && s[2].shape[1] == 4);
      CHECK(s[3].split == DS_SPLIT_NONE && s[3].shape[0] == 8 && s[3].counted == (rank == 0));
      CHECK(s[3].sum_count == 0); /* its gradient is of all rows, on every rank */
      CHECK(s[4].split == DS_SPLIT_NONE && s[4].sum_count == (sequence ? 2 : 0));
      CHECK(s[5].split == DS_SPLIT_NONE && s[5].sum_count == (sequence ? 2 : 0));
      CHECK(s[6].shape[0] == (rank ? 3 : 4) && s[7].shape[0] == s[6].shape[0]);
      CHECK(s[6].sum_count == 0 && s[6].counted);
    }
}

/* ---- heads */

/* Query and key/value heads of each rank, by DeepSpeed's rule and ours for few key/value heads. */
static void test_head_tables(void) {
  static const struct {
    int64_t query, kv;
    int size;
    int64_t q[4], g[4]; /* of each rank */
  } table[] = {
      {12, 12, 1, {12}, {12}}, /* whole: nothing is divided */
      {12, 12, 2, {6, 6}, {6, 6}},
      {12, 12, 3, {4, 4, 4}, {4, 4, 4}},
      {12, 12, 4, {3, 3, 3, 3}, {3, 3, 3, 3}},
      {7, 7, 2, {4, 3}, {4, 3}},
      {7, 7, 3, {3, 2, 2}, {3, 2, 2}},
      {7, 7, 4, {2, 2, 2, 1}, {2, 2, 2, 1}},
      {8, 2, 2, {4, 4}, {1, 1}},
      {8, 2, 3, {2, 2, 4}, {1, 1, 1}},
      {8, 2, 4, {2, 2, 2, 2}, {1, 1, 1, 1}},
      {6, 2, 4, {2, 1, 2, 1}, {1, 1, 1, 1}},
      {8, 1, 3, {3, 3, 2}, {1, 1, 1}},
      {9, 3, 2, {6, 3}, {2, 1}},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    for (int rank = 0; rank < table[i].size; rank++) {
      const ds_shard_heads heads = {table[i].query, table[i].kv, DIM};
      ds_shard_param p[] = {matrix("a.q_proj.weight", heads.query * DIM, 3),
                            matrix("a.k_proj.weight", heads.kv * DIM, 3)};
      ds_shard s[2];
      CHECK_OK(ds_shard_plan(p, 2, &heads, rank, table[i].size, false, s, &err), err);
      CHECK(s[0].shape[0] == table[i].q[rank] * DIM);
      CHECK(s[1].shape[0] == table[i].g[rank] * DIM);
      int64_t query, kv;
      ds_shard_count_heads(&heads, rank, table[i].size, &query, &kv);
      CHECK(query == table[i].q[rank] && kv == table[i].g[rank]);
    }
}

static void add_counted(const ds_shard *s, const ds_shard_param *p, int *times) {
  ds_shard_walk w;
  ds_shard_run r;
  int64_t expected = 0;
  ds_shard_walk_begin(&w, s, p->shape, 0, ds_shard_numel(s));
  while (ds_shard_walk_next(&w, &r)) {
    CHECK(r.local == expected);
    expected = r.local + r.count;
    for (int64_t k = 0; k < r.count && s->counted; k++) times[r.whole + k]++;
  }
  CHECK(expected == ds_shard_numel(s));
}

/* Each query head is somewhere once, beside its key/value head; each element is counted once. */
static void check_division(int64_t query, int64_t kv, int size) {
  const ds_shard_heads heads = {query, kv, DIM};
  ds_shard_param p[] = {matrix("a.q_proj.weight", query * DIM, 3),
                        matrix("a.k_proj.weight", kv * DIM, 3), vector("a.k_proj.bias", kv * DIM),
                        matrix("a.o_proj.weight", 3, query * DIM), vector("norm.weight", 5)};
  int times[5][256] = {{0}}, held[MAX_RANKS] = {0};
  ds_shard s[5];
  for (int rank = 0; rank < size; rank++) {
    CHECK_OK(ds_shard_plan(p, 5, &heads, rank, size, false, s, &err), err);
    int64_t q0 = s[0].runs[0].begin / DIM, q1 = s[0].runs[0].end / DIM;
    int64_t g0 = s[1].runs[0].begin / DIM, g1 = s[1].runs[0].end / DIM;
    CHECK(q1 > q0 && g1 > g0);
    CHECK(q0 / (query / kv) == g0 && (q1 - 1) / (query / kv) == g1 - 1);
    CHECK((q1 - q0) % (g1 - g0) == 0);
    CHECK(s[3].runs[0].begin == s[0].runs[0].begin && s[3].runs[0].end == s[0].runs[0].end);
    for (int i = 0; i < 5; i++) add_counted(&s[i], &p[i], times[i]);
    if (size <= kv) {
      CHECK(s[1].sum_count == 0 && s[1].counted);
      CHECK(g1 - g0 == kv / size + (rank < kv % size));
      continue;
    }
    CHECK(s[1].sum_first <= rank && rank < s[1].sum_first + s[1].sum_count);
    CHECK(s[2].sum_first == s[1].sum_first && s[2].sum_count == s[1].sum_count);
    CHECK(s[1].counted == (rank == s[1].sum_first));
    held[g0]++;
    CHECK(s[1].sum_count == size / kv + (g0 < size % kv));
  }
  for (int64_t g = 0; g < kv && size > kv; g++) CHECK(held[g] == size / kv + (g < size % kv));
  for (int i = 0; i < 5; i++) {
    int64_t n = p[i].shape[0] * (p[i].rank == 2 ? p[i].shape[1] : 1);
    for (int64_t k = 0; k < n; k++) CHECK(times[i][k] == 1);
  }
}

static void test_divisions(void) {
  for (int64_t kv = 1; kv <= 5; kv++)
    for (int64_t per = 1; per <= 4; per++)
      for (int size = 2; size <= kv * per && size <= MAX_RANKS; size++)
        check_division(kv * per, kv, size);
}

/* ---- places */

static void test_places(void) {
  const ds_shard_heads heads = {5, 5, 2};
  ds_shard_param p[] = {matrix("c_attn.weight", 30, 3), matrix("attn.c_proj.weight", 3, 10),
                        matrix("wte.weight", 11, 2), vector("n.weight", 4)};
  for (int size = 1; size <= 4; size++) {
    for (int i = 0; i < 4; i++) {
      float whole[96], local[96], back[96];
      int64_t n = p[i].shape[0] * (p[i].rank == 2 ? p[i].shape[1] : 1);
      for (int64_t k = 0; k < n; k++) whole[k] = (float)k, back[k] = -1;
      for (int rank = 0; rank < size; rank++) {
        ds_shard s;
        CHECK_OK(ds_shard_plan(&p[i], 1, &heads, rank, size, false, &s, &err), err);
        ds_shard_take(&s, p[i].shape, sizeof *whole, whole, local);
        ds_shard_put(&s, p[i].shape, sizeof *whole, local, back);
        /* Any stretch of what is here: the same elements, and no more runs than needed. */
        int64_t here = ds_shard_numel(&s);
        for (int64_t begin = 0; begin < here; begin++)
          for (int64_t end = begin; end <= here; end++) {
            ds_shard_walk w;
            ds_shard_run r;
            int64_t at = begin, last = -1;
            ds_shard_walk_begin(&w, &s, p[i].shape, begin, end);
            while (ds_shard_walk_next(&w, &r)) {
              CHECK(r.local == at && r.count > 0 && r.whole != last);
              for (int64_t k = 0; k < r.count; k++) CHECK(local[at + k] == (float)(r.whole + k));
              at += r.count;
              last = r.whole + r.count;
            }
            CHECK(at == end);
          }
      }
      CHECK(memcmp(whole, back, (size_t)n * sizeof *whole) == 0);
    }
  }
  ds_shard s; /* one run where the whole is here */
  ds_shard_run r;
  ds_shard_walk w;
  CHECK_OK(ds_shard_plan(&p[0], 1, &heads, 0, 1, false, &s, &err), err);
  ds_shard_walk_begin(&w, &s, p[0].shape, 0, 90);
  CHECK(ds_shard_walk_next(&w, &r) && r.count == 90 && !ds_shard_walk_next(&w, &r));
  s.present = false; /* another stage's */
  ds_shard_walk_begin(&w, &s, p[0].shape, 0, ds_shard_numel(&s));
  CHECK(ds_shard_numel(&s) == 0 && !ds_shard_walk_next(&w, &r));
}

/* ---- the model's own words, and what can't be */

static void test_declared(void) {
  const ds_shard_heads none = {0, 0, 0};
  ds_shard s;
  ds_shard_param p = matrix("fc2.weight", 6, 9);
  p.declared = true;
  p.split = DS_SPLIT_ROW;
  CHECK_OK(ds_shard_plan(&p, 1, &none, 1, 2, false, &s, &err), err);
  CHECK(s.split == DS_SPLIT_ROW && s.shape[0] == 6 && s.shape[1] == 4);
  p.split = DS_SPLIT_NONE;
  CHECK_OK(ds_shard_plan(&p, 1, &none, 1, 2, true, &s, &err), err);
  CHECK(s.split == DS_SPLIT_NONE && s.dim == -1 && s.sum_count == 2 && !s.counted);
}

static void test_refused(void) {
  const ds_shard_heads heads = {4, 2, 2}, none = {0, 0, 0};
  ds_shard s;
  ds_shard_param q = matrix("a.q_proj.weight", 8, 8), fused = matrix("c_attn.weight", 16, 8);
  CHECK_FAILS(ds_shard_plan(&q, 1, &heads, 0, 5, false, &s, &err), DS_ERR_INVALID, err,
              "4 heads can't be divided over tensor parallel 5");
  CHECK_FAILS(ds_shard_plan(&q, 1, &none, 0, 2, false, &s, &err), DS_ERR_UNSUPPORTED, err,
              "ds_params_set_heads");
  q.shape[0] = 10;
  CHECK_FAILS(ds_shard_plan(&q, 1, &heads, 0, 2, false, &s, &err), DS_ERR_INVALID, err,
              "10 rows or columns to divide, but 4 heads of 2 are 8");
  CHECK_FAILS(ds_shard_plan(&fused, 1, &heads, 0, 4, false, &s, &err), DS_ERR_UNSUPPORTED, err,
              "2 key/value heads in one matrix");
  ds_shard_param small = matrix("wte.weight", 3, 8);
  CHECK_FAILS(ds_shard_plan(&small, 1, &heads, 0, 4, false, &s, &err), DS_ERR_INVALID, err,
              "\"wte.weight\": 3 rows can't be divided over tensor parallel 4");
  ds_shard_param v = vector("v", 3);
  v.declared = true;
  v.split = DS_SPLIT_ROW;
  CHECK_FAILS(ds_shard_plan(&v, 1, &heads, 0, 2, false, &s, &err), DS_ERR_INVALID, err,
              "can't be divided by its dimension 1");
}

int main(void) {
  test_roles();
  test_vectors();
  test_head_tables();
  test_divisions();
  test_places();
  test_declared();
  test_refused();
  return TEST_RESULT();
}
