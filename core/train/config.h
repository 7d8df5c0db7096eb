/* config.h - a training config, read, checked and resolved.
 *
 * The rules are those of base/schema.h. "auto" (and null) stands for a key's default. For the
 * three batch sizes "auto" is: derive it from the others; when neither the train batch nor the
 * micro batch is given and one of the three is "auto", the micro batch is 1.
 */
#ifndef DS_TRAIN_CONFIG_H
#define DS_TRAIN_CONFIG_H

#include "backend/backend.h"
#include "base/schema.h"
#include "ds.h"
#include "optim/loss_scaler.h"
#include "train/batch.h"
#include "zero/zero.h"
#include "train/elasticity.h"

typedef struct ds_config {
  char *name;  /* for messages: the path, or "config" */
  cJSON *root; /* resolved: defaults filled in, every value of the right type */
  ds_backend_config backend;
  ds_batch_sizes batch; /* as given; resolved by ds_config_set_world */
  bool batch_auto;
  double gradient_clipping; /* 0 = off */
  int64_t steps_per_print;  /* 0 = never */
  bool fp16, bf16, check_grad_overflow, drop_last, sum_gradients;
  bool ignore_unused;              /* zero_optimization.ignore_unused_parameters */
  ds_loss_scaler_rules loss_scale; /* with fp16 */
  ds_zero_rules zero;              /* without the optimizer's n_states */
  int tensor, sequence, pipe; /* ranks that share a model, or a sequence (parallel/topology.h) */
  bool tensor_overlap;        /* tensor_parallel.tp_overlap_comm */
  bool sequence_parallel;     /* tensor_parallel.sequence_parallel: norms on parts of the rows */
  bool elastic;               /* elasticity chooses the batch sizes */
  ds_elasticity elasticity;   /* checked; without micro batches when it is wrong */
  bool pipe_uniform;          /* stages of as many blocks each, not of as many parameters */
} ds_config;

/* config: a path, or JSON text (it then begins with '{', '[' or a comment, or has a brace or a line
 * break in it). All mistakes that don't depend on the world are collected into `errors` (DS_OK is
 * returned then too); only what leaves nothing to check (no such file, no JSON, no memory) fails.
 * out is always to be finished. */
DS_MUST_USE ds_status ds_config_read(const char *config, const ds_logger *logger, ds_config *out,
                                     ds_schema_errors *errors, ds_error *err);
/* Resolves the batch sizes for a data-parallel world; a mistake goes to errors. origin says where
 * the size came from. False when out of memory. */
bool ds_config_set_world(ds_config *config, int world, const char *origin,
                         ds_schema_errors *errors);
/* The same for a world of that many ranks, of whom several may share a model or a sequence. */
bool ds_config_set_ranks(ds_config *config, int ranks, const char *origin,
                         ds_schema_errors *errors);
void ds_config_finish(ds_config *config);

/* config_fp16.c: "fp16" of the resolved tree; before config_zero.c's. */
void ds_config_read_fp16(ds_config *config, ds_schema_errors *errors);
/* config_zero.c: "zero_optimization" of the resolved tree into config->zero; what doesn't go together
 * goes to errors. */
void ds_config_read_zero(ds_config *config, ds_schema_errors *errors);
/* config_elastic.c. The first is the last part of ds_config_read, the second the first of
 * ds_config_set_world. */
void ds_config_read_elastic(ds_config *config, ds_schema_errors *errors);
DS_MUST_USE ds_status ds_config_resolve_elastic(ds_config *config, int world, ds_error *err);
/* The largest number of ranks, `most` at most, with the config's elastic train batch; 0 where elasticity
 * is not enabled. DS_ERR_INVALID: there is none. */
DS_MUST_USE ds_status ds_config_elastic_ranks(const char *config, int most, int *ranks,
                                              ds_error *err);
/* config_tensor.c: "tensor_parallel", after the former; contradictions go to errors. */
void ds_config_read_tensor(ds_config *config, ds_schema_errors *errors);
/* config_pipeline.c: "pipeline", after the former; what doesn't go together goes to errors. */
void ds_config_read_pipeline(ds_config *config, ds_schema_errors *errors);

/* The optimizer and the schedule that the config asks for; *out NULL where it asks for none. base:
 * the optimizer that the schedule will drive. */
DS_MUST_USE ds_status ds_config_make_optimizer(const ds_config *config, ds_optimizer **out,
                                               ds_error *err);
DS_MUST_USE ds_status ds_config_make_scheduler(const ds_config *config, const ds_optimizer *base,
                                               ds_lr_scheduler **out, ds_error *err);

/* The pseudo section of optimizer.params and scheduler.params (base/schema.h) for a type, whose
 * canonical name is put in *type; adds to errors and returns NULL for a type that isn't there. */
const char *ds_config_optimizer_section(const char **type, ds_schema_errors *errors);
const char *ds_config_scheduler_section(const char **type, ds_schema_errors *errors);

#endif
