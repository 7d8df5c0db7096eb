#include "zero/estimate_traffic.h"

#include <math.h>

const char *ds_estimate_traffic_name(ds_traffic_kind kind) {
  static const char *const names[DS_TRAFFIC_KINDS] = {
      "gradients",         "updated weights", "weights forward",
      "weights backward",  "tensor parallel", "vocabulary parallel",
      "sequence parallel", "pipeline",        "tied embedding"};
  return names[kind];
}

/* A ring's share: (n-1)/n. */
static double ring(int n) {
  return (double)(n - 1) / n;
}

/* Bytes per element with a scale per group. */
static double quantized(const ds_estimate_layout *l, int bits, double plain) {
  if (bits == 0) return plain;
  return bits / 8.0 + (l->quant_group > 0 ? 4.0 / l->quant_group : 0);
}

static void add(ds_estimate_traffic *t, ds_traffic_kind kind, int ranks, int stride, double bytes,
                double calls) {
  if (ranks < 2 || bytes <= 0) return;
  ds_traffic_item *i = &t->item[kind];
  i->bytes += bytes;
  i->calls += calls;
  i->ranks = ranks;
  i->stride = stride;
}

static void add_gradients(ds_estimate_traffic *t, const ds_estimate_layout *l,
                          const ds_estimate_held *h, double elements) {
  int n = ds_estimate_shards(l);
  double units = h->units + h->persistent_units, g = (double)l->accumulation;
  double each =
      l->stage >= 2 ? quantized(l, l->gradient_bits, l->bytes.gradient) : l->bytes.gradient;
  double times = l->stage == 0 ? 2 : l->stage == 1 ? 1 : g; /* reduced once, to stage 1 */
  add(t, DS_TRAFFIC_GRADIENTS, n, l->tensor, times * ring(n) * elements * each,
      l->stage >= 2 ? g * units : units);
}

/* Stage 3: forward, and backward where the unit didn't stay. */
static void add_gathers(ds_estimate_traffic *t, const ds_estimate_layout *l,
                        const ds_estimate_held *h) {
  int n = ds_estimate_shards(l), near = l->secondary;
  double g = (double)l->accumulation, each = quantized(l, l->weight_bits, l->bytes.weight);
  /* The unit that a backward pass ends with is there when the next micro batch begins. */
  double forward = g * h->partitioned - (g - 1) * h->entry_unit;
  double again = h->units > 1 ? g * (h->partitioned - ds_estimate_reused(l, h)) : 0;
  double unit = h->partitioned / h->units;
  if (near > 1) { /* once over all ranks, then among those that have a copy together */
    again += forward - h->partitioned;
    forward = h->partitioned;
  }
  add(t, DS_TRAFFIC_FORWARD, n, l->tensor, ring(n) * forward * each, ceil(forward / unit));
  if (near > 1) n = near, each = l->bytes.weight;
  add(t, DS_TRAFFIC_BACKWARD, n, l->tensor, ring(n) * again * each, ceil(again / unit));
}

static void add_zero(ds_estimate_traffic *t, const ds_estimate_layout *l,
                     const ds_estimate_held *h) {
  int n = ds_estimate_shards(l);
  double all = h->partitioned + h->persistent;
  add_gradients(t, l, h, all);
  if (l->stage == 1 || l->stage == 2)
    add(t, DS_TRAFFIC_UPDATED, n, l->tensor, ring(n) * all * l->bytes.weight, h->units);
  if (l->stage < 3) return;
  add(t, DS_TRAFFIC_UPDATED, n, l->tensor, ring(n) * h->persistent * l->bytes.weight,
      h->persistent_units);
  if (h->units > 0) add_gathers(t, l, h);
}

static double undivided(const ds_estimate_model *m, const ds_estimate_held *h) {
  double block = 0, outer = 0;
  for (int i = 0; i < m->n_block; i++)
    if (m->block[i].split == DS_SPLIT_NONE) block += m->block[i].numel;
  for (int i = 0; i < m->n_outer; i++)
    if (m->outer[i].split == DS_SPLIT_NONE) outer += m->outer[i].numel;
  return h->blocks * block + outer;
}

static void add_tensor(ds_estimate_traffic *t, const ds_estimate_model *m,
                       const ds_estimate_layout *l, const ds_estimate_held *h, double tokens) {
  int n = l->tensor;
  double g = (double)l->accumulation, c = (double)m->hidden, passes = l->recompute ? 6 : 4;
  double sum = 2 * ring(n) * tokens * c * l->bytes.weight;
  add(t, DS_TRAFFIC_TENSOR, n, 1, g * h->blocks * passes * sum, g * h->blocks * passes);
  /* On parts of the sequence, undivided parameters' gradients are sums over the ranks. */
  if (l->split_norms)
    add(t, DS_TRAFFIC_TENSOR, n, 1, 2 * ring(n) * undivided(m, h) * l->bytes.gradient, 1);
  /* embedding forward, the head's input backward, and three f32 per token of the loss */
  if (m->vocab)
    add(t, DS_TRAFFIC_VOCABULARY, n, 1, g * (2 * sum + 2 * ring(n) * tokens * 3 * 4), g * 5);
}

static void add_sequence(ds_estimate_traffic *t, const ds_estimate_model *m,
                         const ds_estimate_layout *l, const ds_estimate_held *h, double tokens) {
  double q = (double)(m->heads * m->head_dim), kv = (double)(m->kv_heads * m->head_dim);
  double g = (double)l->accumulation, passes = l->recompute ? 3 : 2;
  double values = tokens * (2 * q + 2 * kv) / l->tensor * l->bytes.weight;
  add(t, DS_TRAFFIC_SEQUENCE, l->sequence, l->tensor,
      g * h->blocks * passes * ring(l->sequence) * values, g * h->blocks * passes * 4);
}

static void add_pipe(ds_estimate_traffic *t, const ds_estimate_model *m,
                     const ds_estimate_layout *l, double tokens) {
  if (l->pipe == 1) return;
  int stride = l->tensor * ds_estimate_shards(l);
  double g = (double)l->accumulation, both = 0;
  /* An inner stage sends forward and back. */
  double ways = l->pipe > 2 ? 2 : 1;
  add(t, DS_TRAFFIC_PIPE, l->pipe, stride,
      ways * g * tokens * (double)m->hidden * l->bytes.weight / (l->split_norms ? l->tensor : 1),
      ways * g);
  for (int i = 0; i < m->n_outer; i++)
    if (m->outer[i].end == DS_ESTIMATE_BOTH)
      both += m->outer[i].numel / (m->outer[i].split == DS_SPLIT_NONE ? 1 : l->tensor);
  add(t, DS_TRAFFIC_TIED, 2, stride * (l->pipe - 1), both * l->bytes.gradient, 1);
}

/* The host's and the files' part. Gradients go there as they are reduced, weights come back. */
static void add_offload(ds_estimate_traffic *t, const ds_estimate_layout *l,
                        const ds_estimate_held *h) {
  double g = (double)l->accumulation, n = ds_estimate_shards(l);
  double own = (h->partitioned + h->persistent) / n, part = h->partitioned / n;
  const ds_estimate_bytes *b = &l->bytes;
  if (l->offload_optimizer == DS_OFFLOAD_NONE) return;
  t->host = own * b->gradient * (l->stage >= 2 ? g : 1);
  if (l->offload_optimizer == DS_OFFLOAD_NVME)
    t->update = 2 * own * ((b->master > 0 ? b->master : b->weight) + b->states);
  t->nvme = t->update;
  if (l->offload_param == DS_OFFLOAD_NONE) {
    t->host += own * b->weight;
    return;
  }
  double gathers = g * (2 * part - ds_estimate_reused(l, h) / n) - (g - 1) * h->entry_unit / n;
  t->host += gathers * b->weight;
  if (l->offload_param == DS_OFFLOAD_NVME) t->nvme += (gathers + own) * b->weight;
}

ds_estimate_traffic ds_estimate_traffic_of(const ds_estimate_model *m,
                                           const ds_estimate_layout *l) {
  ds_estimate_traffic t = {0};
  ds_estimate_held first = ds_estimate_hold(m, l, 0), last = first;
  if (l->pipe > 1) last = ds_estimate_hold(m, l, l->pipe - 1);
  bool more = last.partitioned + last.persistent > first.partitioned + first.persistent;
  const ds_estimate_held *h = more ? &last : &first;
  double tokens = (double)l->micro_batch * (double)(l->seq_len / l->sequence);
  add_zero(&t, l, h);
  add_tensor(&t, m, l, &first, tokens);
  add_sequence(&t, m, l, &first, tokens);
  add_pipe(&t, m, l, tokens);
  add_offload(&t, l, h);
  for (int i = 0; i < DS_TRAFFIC_KINDS; i++) t.bytes += t.item[i].bytes;
  return t;
}
