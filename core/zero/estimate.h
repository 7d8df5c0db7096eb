/* estimate.h - memory that training takes, by layout, before anything runs. Pure arithmetic.
 *
 * How much of a model a rank holds, and what for. The parts and their partition are those of ZeRO
 * (Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter models",
 * sec. 5); tensor parallelism splits matrices as Megatron does (Shoeybi et al. 2019), pipelines
 * hold what 1F1B holds (Narayanan et al. 2021, sec. 2.2); sequence parallelism is Ulysses (Jacobs
 * et al. 2023); the secondary partition is ZeRO++'s hpZ (Wang et al. 2023). estimate_traffic.h
 * counts what is sent, estimate_time.h how long a step takes, estimate_model.h fills a model in.
 *
 * Bytes and elements are doubles: whole numbers, exact to 2^53. One rank is one device.
 */
#ifndef DS_ZERO_ESTIMATE_H
#define DS_ZERO_ESTIMATE_H

#include "base/status.h"
#include "parallel/shard.h"
#include "zero/offload.h"

enum { DS_ESTIMATE_PARAMS = 40 };

typedef enum ds_estimate_end {
  DS_ESTIMATE_FIRST, /* before the blocks: the first pipeline stage has it */
  DS_ESTIMATE_LAST,  /* behind them: the last one */
  DS_ESTIMATE_BOTH   /* both have a copy (a tied embedding), and add their gradients */
} ds_estimate_end;

typedef struct ds_estimate_param {
  double numel;
  ds_split split;      /* under tensor parallelism */
  bool matrix;         /* of a product: counts in the work of a step */
  ds_estimate_end end; /* of parameters outside of blocks */
  bool same;           /* outside of blocks: of the same module as the one before (zero/layout.h) */
} ds_estimate_param;

/* A transformer of `layers` blocks that are alike. Sizes of the second group may be 0 where only
 * model states matter. */
typedef struct ds_estimate_model {
  int64_t layers;
  int n_block, n_outer;
  ds_estimate_param block[DS_ESTIMATE_PARAMS]; /* one block's */
  ds_estimate_param outer[DS_ESTIMATE_PARAMS]; /* all others */

  int64_t hidden, heads, kv_heads, head_dim, inner, vocab;
  bool gated;  /* the MLP has two matrices of hidden x inner ahead of the one back */
  bool rotary; /* queries and keys are rotated: one more value of each */
} ds_estimate_model;

/* Bytes per parameter. dscore sums gradients in f32 (4, not the paper's 2), and in f32 the masters
 * are the weights. */
typedef struct ds_estimate_bytes {
  double weight;   /* as computed with and gathered */
  double master;   /* besides the weights; 0: the weights are the masters */
  double gradient; /* as kept and reduced */
  double states;   /* the optimizer's, all together */
} ds_estimate_bytes;

typedef struct ds_estimate_layout {
  int data, sequence, tensor, pipe; /* ranks along each axis (parallel/topology.h); stages have as
                                       many blocks each (pipeline.partition "uniform") */
  int stage;                        /* ZeRO over data x sequence: 0 to 3 */
  int64_t micro_batch;              /* sequences that a data-parallel replica takes at once */
  int64_t accumulation;             /* micro batches a step; those that a pipeline has on its way */
  int64_t seq_len;
  ds_estimate_bytes bytes;
  ds_offload offload_optimizer, offload_param;
  /* A rank's part of a unit is a multiple of so many elements: 64, with quantization 256; 1:
   * nothing is padded. */
  int64_t align;
  /* The config's limits, in elements: see ds_zero_rules in zero/zero.h. */
  bool overlap; /* overlap_comm */
  int64_t reduce_bucket, gather_bucket;
  int64_t prefetch_bucket, persistence, max_live, max_reuse, granularity; /* stage 3 */
  int64_t sub_group; /* of what is offloaded to files: elements of a slice, and how many slices, */
  int buffers;       /* or units of parameters, are on their way */
  int secondary;     /* hpZ: ranks that share a second copy of the weights; 1: none */
  int weight_bits;   /* of weights gathered at stage 3 (qwZ); 0: as they are */
  int gradient_bits; /* of gradients reduced at stages 2 and 3 (qgZ); 0: as they are */
  int quant_group;   /* elements per f32 scale, where one of them is quantized */
  bool recompute;    /* blocks keep their input only and run forward again in the backward pass */
  bool split_norms;  /* tensor parallelism splits what norms work on, too, along the sequence */
  bool materialized; /* attention keeps its [T,T] probabilities; dscore's doesn't */
} ds_estimate_layout;

/* Bytes of one rank: the one that needs most. */
typedef struct ds_estimate_memory {
  double weights, masters, gradients, states; /* for good */
  double gathered;                            /* stage 3: whole units, while they are used */
  double buffers;                             /* stages 2-3: whole units of gradients, on their way;
                                                 and 4 MiB by which ranks share parameters */
  double activations;                         /* peak, with the arena's spare room */
  double device, host, nvme;                  /* sums; host and nvme: what is offloaded to there */
} ds_estimate_memory;

/* What a rank holds of the model, in elements, padded as it is kept: in the units of
 * zero/layout.h. */
typedef struct ds_estimate_held {
  double partitioned;             /* in units that stage 3 partitions */
  double persistent;              /* in units that it doesn't */
  double units, persistent_units; /* how many */
  double largest_unit, largest_persistent;
  double gathered;   /* stage 3: elements of buffers that weights are gathered into */
  double distinct;   /* elements of one unit of each size */
  double lent;       /* elements of buffers that gradients wait in until they are reduced */
  double entry_unit; /* the unit that the first block begins in: the last one of a backward pass */
  double blocks;     /* of this pipeline stage */
} ds_estimate_held;

/* bf16 or f32, an optimizer of n f32 states per parameter. */
ds_estimate_bytes ds_estimate_bytes_of(bool bf16, int states);
/* The paper's: 16-bit weights and gradients, K = 12 for Adam (4 of masters, 8 of states). */
ds_estimate_bytes ds_estimate_bytes_paper(void);
/* One rank, stage 0, one sequence of 1024, f32 with Adam, DeepSpeed's default limits. */
ds_estimate_layout ds_estimate_layout_init(void);

/* Parameters, each counted once. */
double ds_estimate_parameters(const ds_estimate_model *m);
/* Ranks that ZeRO partitions over: data x sequence. */
int ds_estimate_shards(const ds_estimate_layout *l);
/* DS_ERR_INVALID, with why, for a layout that can't be: sizes that don't divide, a stage without
 * what it needs. */
DS_MUST_USE ds_status ds_estimate_check(const ds_estimate_model *m, const ds_estimate_layout *l,
                                        ds_error *err);
/* estimate_units.c. pipe_stage: 0 is the first, l->pipe - 1 the last. */
ds_estimate_held ds_estimate_hold(const ds_estimate_model *m, const ds_estimate_layout *l,
                                  int pipe_stage);
/* Elements of weights that stay gathered at stage 3 from the forward pass to the backward pass,
 * because they are used again soon enough; the rest is gathered twice. */
double ds_estimate_reused(const ds_estimate_layout *l, const ds_estimate_held *h);
/* Elements per token of what a block keeps for the backward pass: `whole` on every rank of a tensor
 * group, `split` divided among them. */
void ds_estimate_block_values(const ds_estimate_model *m, double *whole, double *split);
/* The layout must pass ds_estimate_check(). */
ds_estimate_memory ds_estimate_memory_of(const ds_estimate_model *m, const ds_estimate_layout *l);

#endif
