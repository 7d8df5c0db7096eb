/* zero.h - a model's numbers in training, partitioned over the ranks that have the same parameters
 * (ZeRO, Rajbhandari et al. 2020; DeepSpeed's "zero_optimization").
 *
 *     stage   weights   gradients   masters and optimizer states   what is communicated in a step
 *       0     all       all         all                            all-reduce of gradients
 *       1     all       all         own part                       reduce-scatter, all-gather of weights
 *       2     all       own part    own part                       the same, for each micro batch
 *       3     own part  own part    own part                       all-gather forward and backward, reduce-scatter
 *
 * What lies where is layout.h's. Gradients and masters are f32. In bf16 and f16 weights are the copy of
 * the masters in 16 bits that is computed with; in f32 the weights are the masters, so that at stages 1 and 2
 * the own part of them lies within all of them.
 *
 * The engine tells what happens: ds_zero_begin before a forward, ds_zero_reduce after the backward,
 * ds_zero_update for the update. In between the context asks through its hooks (ops/ctx.h): at
 * stage 3 weights are gathered before an op that needs them, ahead of it where the order of use is
 * known from the step before, and dropped after use; at stages 2 and 3 gradients get a buffer for as
 * long as their unit is not reduced; units are reduced as they become complete, on a stream beside
 * the backward pass. Units are reduced in one order on every rank, the last first: that in which a backward
 * pass completes them, by the order of declaration; persistent ones, of parameters of many modules, come
 * last.
 *
 * The answer is that of stage 0: sums over ranks are the comm table's, which adds in the same order
 * for each of them or says otherwise. At stage 3 all ranks use the same parameters in the same order;
 * at the others each may leave some out.
 */
#ifndef DS_ZERO_ZERO_H
#define DS_ZERO_ZERO_H

#include "backend/group.h"
#include "ops/ctx.h"
#include "optim/optimizer.h"
#include "zero/layout.h"
#include "zero/offload.h"

typedef struct ds_zero_rules {
  int stage;
  int32_t dtype;       /* of weights: DS_F32, DS_BF16 or DS_F16 */
  int n_states;        /* of the optimizer; 0 without one */
  bool overlap;        /* overlap_comm */
  bool reduce_scatter; /* false: all-reduce and keep the own part */
  bool all_gather;     /* allgather_partitions; false: a broadcast from each rank */
  bool sum;            /* gradients are summed over ranks, not averaged */
  const bool
      *counted; /* by parameter: whether ds_zero_sum_squares counts it; NULL: all. The caller's
                          memory, to outlive it */
  int64_t reduce_bucket, gather_bucket, sub_group;
  int64_t prefetch_bucket, persistence, max_live, max_reuse, granularity; /* stage 3 */
  bool quantized_weights, quantized_gradients; /* ZeRO++: stage 3; stages 2 and 3 */
  int near; /* zero_hpz_partition_size: ranks over which a secondary copy is parted; 0 and 1: none */
  ds_offload offload_optimizer, offload_param; /* stages 1 to 3; stage 3, with the optimizer's */
  const char *optimizer_path, *param_path;     /* folders, for NVME; the caller's */
  bool pin_memory; /* memory that is offloaded to is of the device's own kind (side.h) */
  int buffers;     /* of parameters that are read from a file at once; of the optimizer's slices */
  bool pipeline_read, pipeline_write; /* the file is read ahead of, and written behind the update */
} ds_zero_rules;

typedef struct ds_zero ds_zero;

/* host: where offloaded parts are computed with, a device whose memory is the host's; may be the
 * context's own; NULL where nothing is offloaded. params: what is here (declarations); frozen: by parameter. group: the ranks that have the same;
 * NULL: this one alone. All are the caller's and must outlive it. Everything is zero afterwards. */
DS_MUST_USE ds_status ds_zero_create(const ds_zero_rules *rules, ds_ctx *ctx, ds_backend *host,
                                     ds_group *group, const ds_params *params, const bool *frozen,
                                     ds_zero **out, ds_error *err);
void ds_zero_destroy(ds_zero *z);
const ds_unit_layout *ds_zero_layout(const ds_zero *z);
/* Whether its side stream died, and with it work that nobody has waited for. */
bool ds_zero_died(const ds_zero *z);
/* Everything is zero, and nothing under way: after a failure. */
DS_MUST_USE ds_status ds_zero_clear(ds_zero *z, ds_error *err);

/* By parameter; bound to the context. */
ds_param_slot *ds_zero_slots(ds_zero *z);

/* Whether the forward or backward pass has collectives in it; whether the update does. */
bool ds_zero_in_backward(const ds_zero *z);
bool ds_zero_collective(const ds_zero *z);

/* ---- a step */

/* Before the first forward of a micro batch. boundary: its backward completes the gradients of the
 * step. */
DS_MUST_USE ds_status ds_zero_begin(ds_zero *z, bool boundary, ds_error *err);
/* After its backward: what wasn't reduced on the way is. */
DS_MUST_USE ds_status ds_zero_end(ds_zero *z, ds_error *err);
/* Before the update: gradients of parameters that took no part count as zero, and the own parts of
 * gradients are complete. */
DS_MUST_USE ds_status ds_zero_finish_gradients(ds_zero *z, ds_error *err);
/* Gradients so far are forgotten. */
void ds_zero_drop(ds_zero *z);
/* The sum of squares of the gradients' own parts, by the host; and to a device address of an f64, where
 * nothing is offloaded. */
DS_MUST_USE ds_status ds_zero_squares(ds_zero *z, double *sum, ds_error *err);
DS_MUST_USE ds_status ds_zero_sum_squares(ds_zero *z, void *sum, ds_error *err);

/* ---- the update: by slices of the own part, of parameters of one group each, none longer than
 * sub_group */

/* group_of: by parameter. Once, before the others. */
DS_MUST_USE ds_status ds_zero_slice(ds_zero *z, const int *group_of, ds_error *err);
/* The slices; where nothing is offloaded. */
const ds_optimizer_slice *ds_zero_slices(const ds_zero *z, int *n);
typedef ds_status (*ds_zero_update_fn)(void *arg, ds_ctx *ctx, const ds_optimizer_slice *slice,
                                       ds_error *err);
/* fn for each slice, on the context that its memory is of; then weights are made whole. */
DS_MUST_USE ds_status ds_zero_update(ds_zero *z, ds_zero_update_fn fn, void *arg, ds_error *err);
/* The second half alone, after an update that was done by other means. */
DS_MUST_USE ds_status ds_zero_gather(ds_zero *z, ds_error *err);

/* ---- numbers, by piece: what this rank has of a parameter */

typedef struct ds_piece {
  int param;
  int64_t begin, end; /* elements of the parameter (of what is here of it), row by row */
  bool mine;          /* this rank is the one of the group that saves it */
} ds_piece;

enum { DS_ZERO_MASTER = 0, DS_ZERO_STATE = 1 }; /* kinds; states are DS_ZERO_STATE + i */

int ds_zero_n_pieces(const ds_zero *z);
const ds_piece *ds_zero_piece(const ds_zero *z, int piece);
/* Elements [from, from + n) of a piece: from >= 0 counts from the piece's begin. host: n floats. */
DS_MUST_USE ds_status ds_zero_read(ds_zero *z, int kind, int piece, int64_t from, int64_t n,
                                   float *host, ds_error *err);
DS_MUST_USE ds_status ds_zero_write(ds_zero *z, int kind, int piece, int64_t from, int64_t n,
                                    const float *host, ds_error *err);
/* After writes of masters: weights are made from them. Collective over the group. */
DS_MUST_USE ds_status ds_zero_settle(ds_zero *z, ds_error *err);

/* All of a parameter's masters or states (kind), numel floats, on every rank. Collective over the
 * group where it is partitioned. */
DS_MUST_USE ds_status ds_zero_read_all(ds_zero *z, int kind, int param, float *host, ds_error *err);
/* The parameter's gradient so far in this step, reduced over the group at every stage; zero where
 * there is none. Collective over the group. */
DS_MUST_USE ds_status ds_zero_read_grad(ds_zero *z, int param, float *host, ds_error *err);
/* The masters of a parameter: every rank gives all of it. Its weights are made anew. Collective. */
DS_MUST_USE ds_status ds_zero_write_all(ds_zero *z, int param, const float *host, ds_error *err);
/* n floats of the group's rank `root` to the others. Collective. */
DS_MUST_USE ds_status ds_zero_share(ds_zero *z, float *host, int64_t n, int root, ds_error *err);

/* Whether it has a gradient of this step, of any micro batch on this rank. */
bool ds_zero_took_part(const ds_zero *z, int param);

/* The first parameter, by index, whose gradient isn't finite in this rank's own part; -1: none. */
DS_MUST_USE ds_status ds_zero_first_nonfinite(ds_zero *z, int *param, ds_error *err);

/* Bytes held, by what they are. */
typedef struct ds_zero_bytes {
  uint64_t weights, masters, gradients, states; /* on the device, constant */
  uint64_t host, file;                          /* offloaded */
  uint64_t buffers, buffers_peak;               /* gathered units and gradients on their way */
} ds_zero_bytes;
ds_zero_bytes ds_zero_get_bytes(const ds_zero *z);

#endif
