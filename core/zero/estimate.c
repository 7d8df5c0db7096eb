#include "zero/estimate.h"

#include <math.h>

ds_estimate_bytes ds_estimate_bytes_of(bool bf16, int states) {
  return (ds_estimate_bytes){bf16 ? 2 : 4, bf16 ? 4 : 0, 4, 4.0 * states};
}

ds_estimate_bytes ds_estimate_bytes_paper(void) {
  return (ds_estimate_bytes){2, 4, 2, 8};
}

ds_estimate_layout ds_estimate_layout_init(void) {
  return (ds_estimate_layout){.data = 1,
                              .sequence = 1,
                              .tensor = 1,
                              .pipe = 1,
                              .micro_batch = 1,
                              .accumulation = 1,
                              .seq_len = 1024,
                              .bytes = ds_estimate_bytes_of(false, 2),
                              .align = 64,
                              .overlap = true,
                              .reduce_bucket = 500000000,
                              .gather_bucket = 500000000,
                              .prefetch_bucket = 50000000,
                              .persistence = 100000,
                              .max_live = 1000000000,
                              .max_reuse = 1000000000,
                              .sub_group = 1000000000,
                              .buffers = 4,
                              .secondary = 1,
                              .quant_group = 256};
}

double ds_estimate_parameters(const ds_estimate_model *m) {
  double block = 0, outer = 0;
  for (int i = 0; i < m->n_block; i++) block += m->block[i].numel;
  for (int i = 0; i < m->n_outer; i++) outer += m->outer[i].numel;
  return (double)m->layers * block + outer;
}

int ds_estimate_shards(const ds_estimate_layout *l) {
  return l->data * l->sequence;
}

static ds_status check_axes(const ds_estimate_model *m, const ds_estimate_layout *l,
                            ds_error *err) {
  if (l->data < 1 || l->sequence < 1 || l->tensor < 1 || l->pipe < 1)
    return ds_fail(err, DS_ERR_INVALID, "every axis needs at least one rank");
  if (m->heads && l->tensor > m->heads)
    return ds_fail(err, DS_ERR_INVALID, "tensor parallelism of %d is more than the %lld heads",
                   l->tensor, (long long)m->heads);
  if (l->pipe > m->layers)
    return ds_fail(err, DS_ERR_INVALID, "%d pipeline stages are more than the %lld blocks", l->pipe,
                   (long long)m->layers);
  if (l->sequence > 1 && m->heads && m->heads % ((int64_t)l->sequence * l->tensor))
    return ds_fail(err, DS_ERR_INVALID,
                   "sequence parallelism of %d doesn't divide the %lld heads of a rank",
                   l->sequence, (long long)(m->heads / l->tensor));
  if (l->seq_len % l->sequence)
    return ds_fail(err, DS_ERR_INVALID,
                   "sequence parallelism of %d doesn't divide sequences of %lld", l->sequence,
                   (long long)l->seq_len);
  return DS_OK;
}

ds_status ds_estimate_check(const ds_estimate_model *m, const ds_estimate_layout *l,
                            ds_error *err) {
  DS_TRY(check_axes(m, l, err));
  if (l->stage < 0 || l->stage > 3)
    return ds_fail(err, DS_ERR_INVALID, "ZeRO has stages 0 to 3, not %d", l->stage);
  if (l->micro_batch < 1 || l->accumulation < 1 || l->seq_len < 1)
    return ds_fail(err, DS_ERR_INVALID,
                   "a step needs a micro batch, micro batches and a sequence length of at least 1");
  if (l->pipe > 1 && l->stage > 1)
    return ds_fail(err, DS_ERR_INVALID,
                   "a pipeline goes with stage 0 or 1: at stage %d every micro batch would be "
                   "reduced by itself",
                   l->stage);
  if (l->offload_optimizer && l->stage == 0)
    return ds_fail(err, DS_ERR_INVALID, "offload of the optimizer needs stage 1 or more");
  if (l->offload_param && (l->stage < 3 || !l->offload_optimizer))
    return ds_fail(err, DS_ERR_INVALID,
                   "offload of parameters needs stage 3 and offload of the optimizer");
  if (l->secondary > 1 && (l->stage < 3 || ds_estimate_shards(l) % l->secondary))
    return ds_fail(err, DS_ERR_INVALID,
                   "a secondary partition of %d needs stage 3 and must divide the %d ranks",
                   l->secondary, ds_estimate_shards(l));
  return DS_OK;
}

void ds_estimate_block_values(const ds_estimate_model *m, double *whole, double *split) {
  double q = (double)(m->heads * m->head_dim), kv = (double)(m->kv_heads * m->head_dim);
  double c = (double)m->hidden, f = (double)m->inner;
  *whole = 6 * c; /* two norms, what attention and MLP give, two sums */
  *split = q + 2 * kv + q + (m->gated ? 3 : 2) * f + (m->rotary ? q + kv : 0);
}

/* One block's values of a micro batch. */
static double block_bytes(const ds_estimate_model *m, const ds_estimate_layout *l, double tokens) {
  double whole, split, heads = (double)m->heads / l->tensor;
  ds_estimate_block_values(m, &whole, &split);
  double values = whole / (l->split_norms ? l->tensor : 1) + split / l->tensor;
  if (l->materialized) values += 2 * heads * (double)l->seq_len;
  double statistics = 4 * (heads + (m->gated ? 2 : 4)); /* f32: attention's, the norms' */
  return tokens * (values * l->bytes.weight + statistics);
}

/* The arena grows by chunks of 32 MiB, later by half of what it has (backend/arena.h); at the end
 * of each chunk about half an MLP value is left free. */
static double arena(double bytes, double tensor) {
  const double chunk = 32 << 20;
  double total = 0, used = 0;
  if (bytes > 0x1p60) return bytes;
  while (used < bytes) {
    double more = total / 2 > chunk ? floor(total / 2) : chunk;
    if (more < tensor) more = tensor;
    used += more - (tensor < more ? tensor / 2 : 0);
    total += more;
  }
  return total;
}

/* Gradients of values that find no freed memory of their size, in the first block to go back. */
static double backward_bytes(const ds_estimate_model *m, const ds_estimate_layout *l,
                             double tokens) {
  double split =
      (double)((m->heads + 2 * m->kv_heads) * m->head_dim) + (double)m->inner * (m->gated ? 2 : 1);
  return tokens * l->bytes.weight * (split / l->tensor + 2 * (double)m->hidden);
}

static double activations(const ds_estimate_model *m, const ds_estimate_layout *l,
                          const ds_estimate_held *h, int pipe_stage) {
  double tokens = (double)l->micro_batch * (double)(l->seq_len / l->sequence);
  double w = l->bytes.weight, c = (double)m->hidden / (l->split_norms ? l->tensor : 1);
  double block = block_bytes(m, l, tokens), kept = block * h->blocks;
  double extra = backward_bytes(m, l, tokens);
  if (l->recompute) {
    kept = tokens * c * w * h->blocks;
    extra += block;
  }
  if (pipe_stage == 0) kept += tokens * (m->rotary ? 1 : 3) * c * w; /* embeddings */
  double flying = (double)(l->pipe - pipe_stage);
  if (flying > (double)l->accumulation) flying = (double)l->accumulation;
  if (pipe_stage == l->pipe - 1) /* the last norm, and logits: later their gradient */
    extra += tokens * (c * w + 8 + ceil((double)m->vocab / l->tensor) * w);

  /* A pipeline's micro batches have an arena each. */
  return flying * arena(kept + extra, tokens * (double)m->inner / l->tensor * w);
}

/* What offload keeps where (zero/offload.c): on the host also gradients, the weights that the
 * update makes, and room to add a unit's gradients; for files, room to pass through. */
static void offload(const ds_estimate_layout *l, const ds_estimate_held *h, double own,
                    ds_estimate_memory *out) {
  const double stage = 1 << 22; /* elements of a slice that goes through (zero/update.c) */
  const ds_estimate_bytes *b = &l->bytes;
  double masters = own * (b->master > 0 ? b->master : b->weight), states = own * b->states;
  double shard = fmax(h->largest_unit, h->largest_persistent) / ds_estimate_shards(l);
  out->masters = out->states = 0;
  out->host = own * b->gradient + shard * b->gradient;
  if (l->offload_optimizer == DS_OFFLOAD_NVME) {
    out->nvme = masters + states;
    out->host += fmax(2, l->buffers) * fmin(stage, (double)l->sub_group) * (4 + b->states);
  } else {
    out->host += masters + states;
  }
  if (l->offload_param == DS_OFFLOAD_NVME) {
    out->nvme += own * b->weight;
    out->host += fmax(1, l->buffers) * shard * b->weight;
  } else if (b->master > 0 || l->offload_optimizer == DS_OFFLOAD_NVME) {
    out->host += own * b->weight; /* else the masters are they */
  }
}

/* Through it parameters are brought together on ranks (ds_zero_share). */
static const double bounce = 4 << 20;

/* What quantized weights and gradients are on their way in: units of weights, and of gradients what
 * goes and what comes. */
static double wires(const ds_estimate_layout *l, const ds_estimate_held *h) {
  double each = 1 + 4.0 / l->quant_group, bytes = 0;
  if (l->stage == 3 && l->weight_bits) bytes += each * h->distinct;
  if (l->stage >= 2 && l->gradient_bits) bytes += 2 * each * h->lent;
  return bytes;
}

static ds_estimate_memory stage_memory(const ds_estimate_model *m, const ds_estimate_layout *l,
                                       int pipe_stage) {
  ds_estimate_held h = ds_estimate_hold(m, l, pipe_stage);
  const ds_estimate_bytes *b = &l->bytes;
  double all = h.partitioned + h.persistent, n = ds_estimate_shards(l), own = all / n;
  ds_estimate_memory out = {.weights = b->weight * all,
                            .masters = b->master * (l->stage ? own : all),
                            .gradients = b->gradient * (l->stage >= 2 ? own : all),
                            .states = b->states * (l->stage ? own : all)};
  bool offloads = l->offload_optimizer != DS_OFFLOAD_NONE;
  bool offloads_params = l->offload_param != DS_OFFLOAD_NONE;
  if (l->stage == 3 && (n > 1 || offloads_params)) {
    out.gathered = b->weight * h.gathered;
    out.weights = (offloads_params ? 0 : b->weight * own) + b->weight * h.persistent;
    if (n > 1 && l->secondary > 1) out.weights += b->weight * all / l->secondary;
    if (n > 1 && l->weight_bits) out.weights += own * (1 + 4.0 / l->quant_group);
  }
  if (l->stage >= 2 && (n > 1 || offloads)) out.buffers = b->gradient * h.lent;
  if (l->stage >= 2 && offloads) out.gradients = 0;
  if (n > 1) out.buffers += wires(l, &h);
  if (n > 1) out.buffers += bounce;
  if (offloads) offload(l, &h, own, &out);
  out.activations = activations(m, l, &h, pipe_stage);
  out.device = out.weights + out.masters + out.gradients + out.states + out.gathered + out.buffers +
               out.activations;
  return out;
}

ds_estimate_memory ds_estimate_memory_of(const ds_estimate_model *m, const ds_estimate_layout *l) {
  ds_estimate_memory first = stage_memory(m, l, 0);
  if (l->pipe == 1) return first;
  ds_estimate_memory last = stage_memory(m, l, l->pipe - 1);
  return last.device > first.device ? last : first;
}
