#include "zero/estimate_time.h"

#include <math.h>

ds_estimate_machine ds_estimate_machine_init(void) {
  return (ds_estimate_machine){.per_node = 1,
                               .efficiency = 0.68,
                               .memory_efficiency = 0.8,
                               .link_efficiency = 0.75,
                               .overlap = 0.65};
}

double ds_estimate_tokens(const ds_estimate_layout *l) {
  return (double)l->data * (double)l->micro_batch * (double)l->accumulation * (double)l->seq_len;
}

/* Forward flop per token of one block, and of the head. */
static double block_flop(const ds_estimate_model *m, double seq_len) {
  double matrices = 0;
  for (int i = 0; i < m->n_block; i++)
    if (m->block[i].matrix) matrices += m->block[i].numel;
  return 2 * matrices + 4 * seq_len * (double)(m->heads * m->head_dim);
}
static double head_flop(const ds_estimate_model *m) {
  return 2 * (double)m->vocab * (double)m->hidden;
}

double ds_estimate_flop(const ds_estimate_model *m, const ds_estimate_layout *l, bool again) {
  double passes = again && l->recompute ? 4 : 3;
  double blocks = (double)m->layers * block_flop(m, (double)l->seq_len);
  return ds_estimate_tokens(l) * (passes * blocks + 3 * head_flop(m));
}

/* Seconds of one item in a step. */
static double seconds(const ds_traffic_item *i, const ds_estimate_machine *a) {
  if (i->bytes == 0) return 0;
  bool near = (double)i->ranks * i->stride <= a->per_node;
  double rate = (near ? a->near_rate : a->far_rate) * a->link_efficiency;
  double hops = i->ranks - 1, far = near ? 0 : ceil((double)i->ranks * i->stride / a->per_node) - 1;
  if (far > hops) far = hops;
  return i->bytes / rate + i->calls * ((hops - far) * a->near_latency + far * a->far_latency);
}

/* What a micro batch's work is made of on the rank that has most of it. */
typedef struct work {
  double products, elementwise, tensor, sequence, all;
} work;

static work micro_batch(const ds_estimate_model *m, const ds_estimate_layout *l,
                        const ds_estimate_machine *a, const ds_estimate_traffic *t) {
  double tokens = (double)l->micro_batch * (double)(l->seq_len / l->sequence);
  double passes = l->recompute ? 4 : 3, blocks = ceil((double)m->layers / l->pipe);
  double flop = passes * blocks * block_flop(m, (double)l->seq_len) + 3 * head_flop(m);
  double whole, split;
  ds_estimate_block_values(m, &whole, &split);
  double values = whole / (l->split_norms ? l->tensor : 1) + split / l->tensor;
  if (l->materialized) values += 4 * (double)m->heads / l->tensor * (double)l->seq_len;
  double moved = blocks * values + 2 * (double)m->vocab / l->tensor;
  work w = {
      .products = tokens * flop / l->tensor / (a->flops * a->efficiency),
      .elementwise = tokens * moved * l->bytes.weight * passes * 4 / 3 /
                     (a->memory_rate * a->memory_efficiency),
      .tensor =
          (seconds(&t->item[DS_TRAFFIC_TENSOR], a) + seconds(&t->item[DS_TRAFFIC_VOCABULARY], a)) /
          (double)l->accumulation,
      .sequence = seconds(&t->item[DS_TRAFFIC_SEQUENCE], a) / (double)l->accumulation,
  };
  w.all = w.products + w.elementwise + w.tensor + w.sequence;
  return w;
}

static double beyond(double t, double hidden) {
  return t > hidden ? t - hidden : 0;
}

/* Collectives of ZeRO and data parallelism that the work doesn't hide. */
static double data_time(const ds_estimate_layout *l, const ds_estimate_machine *a,
                        const ds_estimate_traffic *t, const work *w) {
  double gradients = seconds(&t->item[DS_TRAFFIC_GRADIENTS], a);
  double weights =
      seconds(&t->item[DS_TRAFFIC_FORWARD], a) + seconds(&t->item[DS_TRAFFIC_BACKWARD], a);
  double after = seconds(&t->item[DS_TRAFFIC_UPDATED], a) + seconds(&t->item[DS_TRAFFIC_TIED], a);
  if (!l->overlap) return gradients + weights + after;
  double backward = w->all * (l->recompute ? 3.0 / 4 : 2.0 / 3), g = (double)l->accumulation;
  if (l->stage == 3) return beyond(gradients + weights, a->overlap * g * w->all) + after;
  return beyond(gradients, a->overlap * (l->stage == 2 ? g : 1) * backward) + after;
}

static double offload_time(const ds_estimate_layout *l, const ds_estimate_machine *a,
                           const ds_estimate_traffic *t, const work *w) {
  double host = 0, files = 0, update = 0;
  if (t->host > 0) host = t->host / (a->host_rate * a->link_efficiency);
  if (t->nvme > 0) {
    files = (t->nvme - t->update) / (a->nvme_rate * a->link_efficiency);
    update = t->update / (a->nvme_rate * a->link_efficiency);
  }
  double hidden = l->overlap ? a->overlap * (double)l->accumulation * w->all : 0;
  return beyond(fmax(host, files), hidden) + update;
}

/* One sweep over masters, gradients and states that reads and writes them. */
static double update_time(const ds_estimate_model *m, const ds_estimate_layout *l,
                          const ds_estimate_machine *a) {
  ds_estimate_held h = ds_estimate_hold(m, l, 0);
  double own = (h.partitioned + h.persistent) / (l->stage ? ds_estimate_shards(l) : 1);
  const ds_estimate_bytes *b = &l->bytes;
  double bytes = own * (2 * (b->master > 0 ? b->master : b->weight) + b->gradient + 2 * b->states +
                        (b->master > 0 ? b->weight : 0));
  double rate = l->offload_optimizer ? a->host_memory_rate : a->memory_rate;
  return bytes / (rate * a->memory_efficiency);
}

ds_estimate_time ds_estimate_time_of(const ds_estimate_model *m, const ds_estimate_layout *l,
                                     const ds_estimate_machine *machine) {
  ds_estimate_traffic t = ds_estimate_traffic_of(m, l);
  work w = micro_batch(m, l, machine, &t);
  double g = (double)l->accumulation;
  ds_estimate_time out = {
      .products = g * w.products,
      .elementwise = g * w.elementwise,
      .tensor = g * w.tensor,
      .sequence = g * w.sequence,
      .bubble = (l->pipe - 1) * w.all,
      .pipe = seconds(&t.item[DS_TRAFFIC_PIPE], machine) * (g + l->pipe - 1) / g,
      .data = data_time(l, machine, &t, &w),
      .offload = offload_time(l, machine, &t, &w),
      .update = update_time(m, l, machine),
  };
  out.total = out.products + out.elementwise + out.tensor + out.sequence + out.bubble + out.pipe +
              out.data + out.offload + out.update;
  return out;
}
