/* engine.h - the training engine's state, shared by the files of core/train/. */
#ifndef DS_TRAIN_ENGINE_H
#define DS_TRAIN_ENGINE_H

#include "base/log.h"
#include "model/model.h"
#include "model/params.h"
#include "ops/ctx.h"
#include "ops/parallel.h"
#include "optim/loss_scaler.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "parallel/shard.h"
#include "parallel/topology.h"
#include "train/config.h"
#include "train/pipeline_stages.h"
#include "zero/zero.h"

struct ds_engine {
  ds_logger logger;
  ds_config config; /* batch sizes are the current ones */
  ds_backend *backend;
  ds_backend *host; /* where offloaded parts are computed with; NULL: nothing is; may be backend */
  ds_world world;
  ds_topology topology;
  ds_ctx *ctx;
  uint64_t seed;

  ds_model *model;   /* the caller's */
  ds_params *params; /* whole */
  int n_params;
  ds_params *local;       /* what of them is on this rank; params itself where that is all */
  ds_shard *shards;       /* by parameter: which part that is; NULL where it is all */
  ds_shard **shards_of;   /* of each rank of the tensor group, whatever its stage; NULL as shards */
  ds_stages stages;       /* of a pipeline; without bounds: there is none */
  ds_group *tied;         /* the two stages that have tied parameters; NULL: not this one */
  ds_group *replicas;     /* ranks that have the same key/value heads; NULL: none */
  ds_side *tensor_side;   /* tensor_parallel.tp_overlap_comm; else NULL */
  ds_param_split *splits; /* the context's */
  bool *counted;          /* by parameter: in the gradient norm of this rank; NULL: all are */
  ds_param_slot *slots;   /* by parameter; zero's */
  int *group_of;          /* by parameter; -1 = frozen */
  bool *frozen;           /* by parameter */
  ds_zero *zero;
  struct ds_pipeline *pipeline; /* NULL: the rank has all blocks */

  ds_optimizer *optimizer; /* NULL = none: the engine can only evaluate */
  bool owns_optimizer;
  ds_lr_scheduler *scheduler;
  bool owns_scheduler;
  ds_dataloader *loader;
  double *norm_sum; /* device memory: a ds_step_scalars, of which these are parts */
  float *loss_sum;
  struct ds_recorded *recorded; /* recorded.h; NULL: nothing is recorded */
  struct ds_stretch *stretch;   /* stretch.h; NULL: sequences are whole */
  struct ds_observe *observe;   /* observe.h; NULL: nothing is watched */

  bool training;
  bool begin_next;    /* the next forward starts afresh: the tape was used up, or there was none */
  bool backward_done; /* since the last step() */
  bool applied;       /* the last step() updated */
  int64_t micro_in_step; /* micro steps since the last boundary */
  int64_t global_steps, global_samples, micro_steps, skipped_steps;
  double grad_norm;      /* NAN before the first */
  ds_loss_scaler scaler; /* gradients on the device are multiplied by its scale */

  bool halfway;     /* amid changing parameters: a failure now leaves them undefined */
  bool lost;        /* no stream can be made on the device any more */
  bool parted;      /* from the other ranks: the world's communicator is given up */
  ds_error failure; /* what left the parameters undefined; status DS_OK while they are sound */
  char *saved_dir, *saved_tag; /* the last checkpoint saved or loaded, where one is known */
};

/* What a step leaves on the device and the host reads at its end, at once. */
typedef struct ds_step_scalars {
  double squares; /* of all gradients */
  float loss, factor;
} ds_step_scalars;

/* Updates so far: what the bias correction and the schedule count. */
int64_t ds_engine_updates(const ds_engine *e);
/* Gradients of the micro batches so far are forgotten, the next forward starts afresh. */
void ds_engine_drop_gradients(ds_engine *e);
/* Sets the groups' learning rates (and betas, where the schedule moves them) for the next update.
 */
void ds_engine_apply_schedule(ds_engine *e);

/* failure.c. First in a public function: DS_ERR_STATE while the parameters are undefined. */
DS_MUST_USE ds_status ds_engine_check(const ds_engine *e, const char *who, ds_error *err);
/* Last in a public function, with what it failed with: finds out whether the failure left the
 * parameters undefined (it was amid an update, or the stream died and with it any earlier work),
 * and says so in err too. Returns status. */
DS_MUST_USE ds_status ds_engine_settle(ds_engine *e, ds_status status, const ds_error *from,
                                       ds_error *err);
/* ds_backend_recover; *died: a stream beside the backend's counts, too. */
DS_MUST_USE ds_status ds_engine_recover(ds_engine *e, bool *died, ds_error *err);
/* The engine's numbers are those of this checkpoint. */
void ds_engine_remember(ds_engine *e, const char *dir, const char *tag);

/* step.c. Forward, backward and the sum of losses of a micro batch, as public functions do it: with
 * what they check and say; and the bare work of it. first: of the step. */
DS_MUST_USE ds_status ds_step_micro(ds_engine *e, const ds_batch *batch, bool first, ds_error *err);
DS_MUST_USE ds_status ds_step_micro_work(ds_engine *e, const ds_batch *batch, bool first,
                                         ds_error *err);

#endif
