#include "test.h"

#include "infer/sampler.h"

enum { V = 5 };
static const float logits[V] = {0.0f, 2.0f, 1.0f, -1.0f, 2.0f};

static void test_greedy(ds_sampler *s) {
  ds_error err;
  int32_t token;
  const float bad[V] = {NAN, INFINITY, NAN, NAN, NAN}, holes[V] = {NAN, 1, 3, NAN, NAN};
  CHECK_OK(ds_sampler_set(s, 0, 0, 1, 0, &err), err);
  CHECK_OK(ds_sampler_pick(s, logits, -1, ds_sampler_draw(s), &token, &err), err);
  CHECK(token == 1); /* the first of equals */
  CHECK_OK(ds_sampler_pick(s, logits, 1, ds_sampler_draw(s), &token, &err), err);
  CHECK(token == 4);
  CHECK_OK(ds_sampler_pick(s, holes, -1, ds_sampler_draw(s), &token, &err), err);
  CHECK(token == 2);
  CHECK_FAILS(ds_sampler_pick(s, bad, -1, ds_sampler_draw(s), &token, &err), DS_ERR_NUMERIC, err,
              "finite");
}

/* Observed frequencies against the softmax, within five standard deviations. */
static void test_frequencies(ds_sampler *s, double temperature, int64_t k, double p,
                             const double *want) {
  enum { N = 20000 };
  ds_error err;
  int count[V] = {0};
  CHECK_OK(ds_sampler_set(s, temperature, k, p, 11, &err), err);
  for (int i = 0; i < N; i++) {
    int32_t token = -1;
    CHECK_OK(ds_sampler_pick(s, logits, -1, ds_sampler_draw(s), &token, &err), err);
    if (token >= 0 && token < V) count[token]++;
  }
  for (int i = 0; i < V; i++)
    CHECK_NEAR((double)count[i] / N, want[i], 5 * sqrt(want[i] * (1 - want[i]) / N) + 1e-9);
}

static void test_sampled(ds_sampler *s) {
  double e[V], sum = 0, want[V];
  for (int i = 0; i < V; i++) sum += e[i] = exp(logits[i] / 0.7);
  for (int i = 0; i < V; i++) want[i] = e[i] / sum;
  test_frequencies(s, 0.7, 0, 1, want);
  test_frequencies(s, 1, 2, 1, (double[]){0, 0.5, 0, 0, 0.5});
  /* exp(2), exp(2), exp(1), 1, exp(-1) of 18.9: two of them make up 0.78, three 0.93 */
  double three = 2 * exp(2) + exp(1);
  test_frequencies(s, 1, 0, 0.9, (double[]){0, exp(2) / three, exp(1) / three, 0, exp(2) / three});
  test_frequencies(s, 1, 0, 1e-9, (double[]){0, 1, 0, 0, 0});
}

static void test_reproducible(ds_sampler *s) {
  ds_error err;
  int32_t first[64], again;
  CHECK_OK(ds_sampler_set(s, 1, 0, 1, 5, &err), err);
  for (int i = 0; i < 64; i++)
    CHECK_OK(ds_sampler_pick(s, logits, -1, ds_sampler_draw(s), &first[i], &err), err);
  CHECK_OK(ds_sampler_set(s, 1, 0, 1, 5, &err), err);
  for (int i = 0; i < 64; i++) {
    CHECK_OK(ds_sampler_pick(s, logits, -1, ds_sampler_draw(s), &again, &err), err);
    CHECK(again == first[i]);
  }
}

static void test_refusals(ds_sampler *s) {
  ds_error err;
  CHECK_FAILS(ds_sampler_set(s, -1, 0, 1, 0, &err), DS_ERR_INVALID, err, "temperature");
  CHECK_FAILS(ds_sampler_set(s, NAN, 0, 1, 0, &err), DS_ERR_INVALID, err, "temperature");
  CHECK_FAILS(ds_sampler_set(s, 1, -2, 1, 0, &err), DS_ERR_INVALID, err, "top_k");
  CHECK_FAILS(ds_sampler_set(s, 1, 0, 0, 0, &err), DS_ERR_INVALID, err, "top_p");
  CHECK_FAILS(ds_sampler_set(s, 1, 0, 1.5, 0, &err), DS_ERR_INVALID, err, "top_p");
}

int main(void) {
  ds_sampler s;
  ds_error err;
  CHECK_OK(ds_sampler_init(&s, V, &err), err);
  test_greedy(&s);
  test_sampled(&s);
  test_reproducible(&s);
  test_refusals(&s);
  ds_sampler_finish(&s);
  return TEST_RESULT();
}
