/* pipeline_stages.h - which blocks and parameters a pipeline stage has. */
#ifndef DS_TRAIN_PIPELINE_STAGES_H
#define DS_TRAIN_PIPELINE_STAGES_H

#include "model/model.h"
#include "model/params.h"
#include "parallel/shard.h"
#include "parallel/topology.h"

typedef struct ds_stages {
  int blocks;  /* of the model */
  int *bounds; /* stage s has blocks [bounds[s],bounds[s+1]) */
} ds_stages;

/* uniform: as many blocks each; else as many elements of parameters, trained or not, where what
 * comes before the first block and after the last one counts with these. The same on every rank.
 * DS_ERR_UNSUPPORTED for a model that can't be split, DS_ERR_INVALID where it has fewer blocks than
 * there are stages. out is finished on failure. */
DS_MUST_USE ds_status ds_stages_init(ds_stages *out, ds_model *m, const ds_params *whole,
                                     int stages, bool uniform, ds_error *err);
void ds_stages_finish(ds_stages *s);

/* Marks in shards, by parameter, what stage `stage` lacks (present), and that of what two stages have
 * the later one doesn't count it (counted). */
DS_MUST_USE ds_status ds_stages_shard(const ds_stages *s, ds_model *m, const ds_params *whole,
                                      int stage, ds_shard *shards, ds_error *err);
/* The two stages that have tied parameters get a group, over which their gradients are to be summed;
 * *out NULL: this stage has none. Collective over the stages. DS_ERR_UNSUPPORTED where more than one
 * pair of stages has such. */
DS_MUST_USE ds_status ds_stages_connect(const ds_stages *s, ds_model *m, const ds_params *whole,
                                        const ds_axis *pipe, ds_group **out, ds_error *err);
/* The stage that has the parameter, of two the first. */
DS_MUST_USE ds_status ds_stages_first(const ds_stages *s, ds_model *m, int param, int *stage,
                                      ds_error *err);
/* Whether two stages have the parameter. */
DS_MUST_USE ds_status ds_stages_tied(const ds_stages *s, ds_model *m, int param, bool *tied,
                                     ds_error *err);

#endif
