/* The 1F1B schedule against the paper's figure, against a simulation in which every send waits for
 * its receiver; partitions against all partitions there are. */
#include "test.h"

#include "parallel/pipe_schedule.h"

#include <stdlib.h>

enum { MOST_STAGES = 9, MOST_MICROS = 20 };

/* Passes as the figure has them, micro batches from 1: "F1 F2 B1 ...". */
static void passes(int stages, int stage, int64_t micros, char *text) {
  ds_error err;
  ds_pipe_work *work;
  size_t n;
  *text = '\0';
  CHECK_OK(ds_pipe_schedule(stages, stage, micros, &work, &n, &err), err);
  for (size_t i = 0; i < n; i++)
    if (work[i].kind == DS_PIPE_FORWARD || work[i].kind == DS_PIPE_BACKWARD)
      text += sprintf(text, "%c%d ", work[i].kind == DS_PIPE_FORWARD ? 'F' : 'B',
                      (int)work[i].micro + 1);
  free(work);
}

/* Narayanan et al. 2021, figure 4, top: four devices, eight micro batches. */
static void test_figure(void) {
  static const char *const figure[] = {"F1 F2 F3 F4 B1 F5 B2 F6 B3 F7 B4 F8 B5 B6 B7 B8 ",
                                       "F1 F2 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 F8 B6 B7 B8 ",
                                       "F1 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 F8 B7 B8 ",
                                       "F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7 F8 B8 "};
  char text[256];
  for (int s = 0; s < 4; s++) {
    passes(4, s, 8, text);
    CHECK(strcmp(text, figure[s]) == 0);
  }
  passes(1, 0, 3, text);
  CHECK(strcmp(text, "F1 B1 F2 B2 F3 B3 ") == 0);
  passes(4, 0, 2, text); /* fewer micro batches than stages */
  CHECK(strcmp(text, "F1 F2 B1 B2 ") == 0);
}

/* A stage of the simulation. */
typedef struct stage {
  ds_pipe_work *work;
  size_t n, at;
  int64_t forwards, backwards, most; /* passes done; the most between them */
} stage;

static bool is(const stage *s, ds_pipe_kind kind, int64_t micro) {
  return s->at < s->n && s->work[s->at].kind == kind && s->work[s->at].micro == micro;
}

/* One piece of work of stage i, or a message with a neighbour, which both do at once. */
static bool advance(stage *all, int i) {
  stage *s = &all[i];
  if (s->at == s->n) return false;
  ds_pipe_work w = s->work[s->at];
  switch (w.kind) {
    case DS_PIPE_FORWARD:
      CHECK(w.micro == s->forwards); /* in order */
      s->forwards++;
      if (s->forwards - s->backwards > s->most) s->most = s->forwards - s->backwards;
      break;
    case DS_PIPE_BACKWARD:
      CHECK(w.micro == s->backwards && w.micro < s->forwards);
      s->backwards++;
      break;
    case DS_PIPE_SEND_HIDDEN:
      if (!is(&all[i + 1], DS_PIPE_RECV_HIDDEN, w.micro)) return false;
      CHECK(w.micro < s->forwards);
      CHECK(w.micro == all[i + 1].forwards);
      all[i + 1].at++;
      break;
    case DS_PIPE_SEND_GRADIENT:
      if (!is(&all[i - 1], DS_PIPE_RECV_GRADIENT, w.micro)) return false;
      CHECK(w.micro < s->backwards);
      CHECK(w.micro == all[i - 1].backwards);
      all[i - 1].at++;
      break;
    default: return false; /* a receive: its sender moves both */
  }
  s->at++;
  return true;
}

static void simulate(int stages, int64_t micros) {
  stage all[MOST_STAGES] = {0};
  ds_error err;
  for (int i = 0; i < stages; i++)
    CHECK_OK(ds_pipe_schedule(stages, i, micros, &all[i].work, &all[i].n, &err), err);
  for (bool moved = true; moved;) {
    moved = false;
    for (int i = 0; i < stages; i++) moved = advance(all, i) || moved;
  }
  for (int i = 0; i < stages; i++) {
    CHECK(all[i].at == all[i].n); /* nobody waits for ever */
    CHECK(all[i].forwards == micros && all[i].backwards == micros);
    CHECK(all[i].most == ds_pipe_in_flight(stages, i, micros));
    CHECK(all[i].most == (micros < stages - i ? micros : stages - i));
    free(all[i].work);
  }
}

static void test_no_deadlock(void) {
  for (int stages = 1; stages <= MOST_STAGES; stages++)
    for (int64_t micros = 1; micros <= MOST_MICROS; micros++) simulate(stages, micros);
}

static void test_uniform(void) {
  ds_error err;
  int bounds[5];
  CHECK_OK(ds_pipe_partition(NULL, 10, 4, bounds, &err), err);
  CHECK(memcmp(bounds, (int[]){0, 3, 6, 8, 10}, sizeof bounds) == 0);
  CHECK_OK(ds_pipe_partition(NULL, 4, 4, bounds, &err), err);
  CHECK(memcmp(bounds, (int[]){0, 1, 2, 3, 4}, sizeof bounds) == 0);
  CHECK_FAILS(ds_pipe_partition(NULL, 3, 4, bounds, &err), DS_ERR_INVALID, err,
              "4 pipeline stages, but the model has 3 blocks");
}

static void weigh(const int64_t *w, const int *bounds, int stages, int64_t *most, double *squares) {
  *most = 0;
  *squares = 0;
  for (int s = 0; s < stages; s++) {
    int64_t sum = 0;
    for (int i = bounds[s]; i < bounds[s + 1]; i++) sum += w[i];
    if (sum > *most) *most = sum;
    *squares += (double)sum * (double)sum;
  }
}

/* The best of all partitions of the blocks from bounds[s] on. */
static void try_all(const int64_t *w, int blocks, int stages, int *bounds, int s, int64_t *most,
                    double *squares) {
  if (s == stages) {
    int64_t m;
    double q;
    if (bounds[s] != blocks) return;
    weigh(w, bounds, stages, &m, &q);
    if (m > *most || (m == *most && q >= *squares)) return;
    *most = m;
    *squares = q;
    return;
  }
  for (bounds[s + 1] = bounds[s] + 1; bounds[s + 1] <= blocks; bounds[s + 1]++)
    try_all(w, blocks, stages, bounds, s + 1, most, squares);
}

static void test_balanced(void) {
  ds_error err;
  uint32_t random = 7;
  for (int round = 0; round < 300; round++) {
    int64_t w[9], most = INT64_MAX, m;
    int blocks = 1 + round % 9, bounds[10] = {0};
    double squares = 0, q;
    for (int i = 0; i < blocks; i++) {
      random = random * 1664525u + 1013904223u;
      w[i] = (int64_t)(random >> 24) % (round % 3 ? 50 : 3); /* zeros among them */
    }
    for (int stages = 1; stages <= blocks; stages++) {
      most = INT64_MAX;
      bounds[0] = 0;
      try_all(w, blocks, stages, bounds, 0, &most, &squares);
      CHECK_OK(ds_pipe_partition(w, blocks, stages, bounds, &err), err);
      CHECK(bounds[0] == 0 && bounds[stages] == blocks);
      for (int s = 0; s < stages; s++) CHECK(bounds[s] < bounds[s + 1]);
      weigh(w, bounds, stages, &m, &q);
      CHECK(m == most && q == squares);
    }
  }
}

/* GPT-2's shape: the embedding with the first block, the head with the last. Early stages, which
 * hold more micro batches, get less where it makes no difference. */
static void test_embedding(void) {
  ds_error err;
  int bounds[4];
  const int64_t heavy[] = {10, 1, 1, 1, 1, 1, 1, 10}, equal[] = {1, 1, 1, 1, 1};
  CHECK_OK(ds_pipe_partition(heavy, 8, 3, bounds, &err), err);
  CHECK(memcmp(bounds, (int[]){0, 1, 7, 8}, sizeof bounds) == 0);
  CHECK_OK(ds_pipe_partition(equal, 5, 3, bounds, &err), err);
  CHECK(memcmp(bounds, (int[]){0, 1, 3, 5}, sizeof bounds) == 0);
}

int main(void) {
  test_figure();
  test_no_deadlock();
  test_uniform();
  test_balanced();
  test_embedding();
  return TEST_RESULT();
}
