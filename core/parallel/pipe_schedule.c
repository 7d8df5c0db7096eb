#include "parallel/pipe_schedule.h"

#include <stdlib.h>

/* ---- the order of work */

typedef struct list {
  int stages, stage;
  ds_pipe_work *work;
  size_t n;
} list;

static void add(list *l, ds_pipe_kind kind, int64_t micro) {
  bool hidden_in = kind == DS_PIPE_RECV_HIDDEN, gradient_out = kind == DS_PIPE_SEND_GRADIENT;
  bool hidden_out = kind == DS_PIPE_SEND_HIDDEN, gradient_in = kind == DS_PIPE_RECV_GRADIENT;
  if (l->stage == 0 && (hidden_in || gradient_out)) return;
  if (l->stage == l->stages - 1 && (hidden_out || gradient_in)) return;
  l->work[l->n++] = (ds_pipe_work){kind, micro};
}

/* Two messages with one neighbour, in the order that suits this stage. */
static void exchange(list *l, ds_pipe_kind send, int64_t sent, ds_pipe_kind receive,
                     int64_t received) {
  bool odd = l->stage % 2 == 1;
  if (odd) add(l, receive, received);
  add(l, send, sent);
  if (!odd) add(l, receive, received);
}

int64_t ds_pipe_in_flight(int stages, int stage, int64_t micros) {
  return micros < stages - stage ? micros : stages - stage;
}

ds_status ds_pipe_schedule(int stages, int stage, int64_t micros, ds_pipe_work **out, size_t *count,
                           ds_error *err) {
  int64_t ahead = stages - 1 - stage < micros ? stages - 1 - stage : micros;
  list l = {stages, stage, calloc((size_t)micros * 6, sizeof(ds_pipe_work)), 0};
  *out = l.work;
  *count = 0;
  if (!l.work) return ds_fail_memory(err, "the pipeline's schedule");
  for (int64_t m = 0; m < ahead; m++) {
    add(&l, DS_PIPE_RECV_HIDDEN, m);
    add(&l, DS_PIPE_FORWARD, m);
    add(&l, DS_PIPE_SEND_HIDDEN, m);
  }
  if (ahead < micros) add(&l, DS_PIPE_RECV_HIDDEN, ahead);
  for (int64_t m = ahead; m < micros; m++) {
    add(&l, DS_PIPE_FORWARD, m);
    exchange(&l, DS_PIPE_SEND_HIDDEN, m, DS_PIPE_RECV_GRADIENT, m - ahead);
    add(&l, DS_PIPE_BACKWARD, m - ahead);
    if (m + 1 < micros)
      exchange(&l, DS_PIPE_SEND_GRADIENT, m - ahead, DS_PIPE_RECV_HIDDEN, m + 1);
    else
      add(&l, DS_PIPE_SEND_GRADIENT, m - ahead);
  }
  for (int64_t m = micros - ahead; m < micros; m++) {
    add(&l, DS_PIPE_RECV_GRADIENT, m);
    add(&l, DS_PIPE_BACKWARD, m);
    add(&l, DS_PIPE_SEND_GRADIENT, m);
  }
  *count = l.n;
  return DS_OK;
}

/* ---- which blocks */

static void uniform(int blocks, int stages, int *bounds) {
  int each = blocks / stages, more = blocks % stages;
  for (int s = 0; s <= stages; s++) bounds[s] = s * each + (s < more ? s : more);
}

/* Whether no stage need be heavier than limit: each takes what it can, but leaves one block to each
 * stage that follows. */
static bool fits(const int64_t *weights, int blocks, int stages, int64_t limit) {
  int at = 0;
  for (int s = 0; s < stages; s++) {
    int64_t sum = 0;
    int first = at;
    while (at < blocks - (stages - 1 - s) && weights[at] <= limit - sum) sum += weights[at++];
    if (at == first) return false;
  }
  return at == blocks;
}

static int64_t least_heaviest(const int64_t *weights, int blocks, int stages) {
  int64_t low = 0, high = 0;
  for (int i = 0; i < blocks; i++) high += weights[i];
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (fits(weights, blocks, stages, middle))
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* cost[s][i]: the least sum of squares of s stages over the first i blocks, negative where no stage
 * can be light enough; cut[s][i]: where the last of them begins, as far left as can be. */
static void find_cuts(const int64_t *weights, int blocks, int stages, int64_t limit, double *cost,
                      int *cut) {
  int row = blocks + 1;
  for (int i = 0; i < (stages + 1) * row; i++) cost[i] = -1;
  cost[0] = 0;
  for (int s = 1; s <= stages; s++)
    for (int i = s; i <= blocks; i++) {
      int64_t sum = 0;
      double *best = &cost[s * row + i];
      for (int k = i - 1; k >= s - 1 && weights[k] <= limit - sum; k--) {
        sum += weights[k];
        double before = cost[(s - 1) * row + k], all = before + (double)sum * (double)sum;
        if (before < 0 || (*best >= 0 && all > *best)) continue;
        *best = all;
        cut[s * row + i] = k;
      }
    }
}

static ds_status balanced(const int64_t *weights, int blocks, int stages, int *bounds,
                          ds_error *err) {
  size_t places = (size_t)(stages + 1) * (size_t)(blocks + 1);
  double *cost = malloc(places * sizeof *cost);
  int *cut = malloc(places * sizeof *cut);
  ds_status status = cost && cut ? DS_OK : ds_fail_memory(err, "the partition into stages");
  if (status == DS_OK) {
    find_cuts(weights, blocks, stages, least_heaviest(weights, blocks, stages), cost, cut);
    bounds[stages] = blocks;
    for (int s = stages; s > 0; s--) bounds[s - 1] = cut[s * (blocks + 1) + bounds[s]];
  }
  free(cost);
  free(cut);
  return status;
}

ds_status ds_pipe_partition(const int64_t *weights, int blocks, int stages, int *bounds,
                            ds_error *err) {
  if (stages < 1 || blocks < stages)
    return ds_fail(err, DS_ERR_INVALID,
                   "%d pipeline stages, but the model has %d blocks; each stage needs one", stages,
                   blocks);
  if (weights) return balanced(weights, blocks, stages, bounds, err);
  uniform(blocks, stages, bounds);
  return DS_OK;
}
