/* pipeline_impl.h - what pipeline.c and pipeline_work.c share: a stage's insides. */
#ifndef DS_TRAIN_PIPELINE_IMPL_H
#define DS_TRAIN_PIPELINE_IMPL_H

#include "parallel/pipe_schedule.h"
#include "train/pipeline.h"

/* A micro batch between its forward and backward pass. */
typedef struct ds_flight {
  ds_ctx *ctx;
  ds_tensor shape; /* of hidden values, without data */
  void *hidden;    /* received ones; not in the arena, which is in use until the gradient that was
                       computed in it is sent */
  size_t hidden_bytes;
  ds_value *in, *out; /* hidden values, or out the loss; NULL where the pass failed */
  ds_mark *hidden_came, *hidden_left, *gradient_came, *gradient_left;
} ds_flight;

/* What a stage tells the others at the end of a step. */
typedef struct ds_pipeline_verdict {
  float loss; /* of the last stage; 0 on others */
  float failed;
} ds_pipeline_verdict;

struct ds_pipeline {
  ds_pipeline_args a;
  int stage, stages;
  ds_group *groups[2]; /* for hidden values, for gradients */
  ds_side *sides[2];
  ds_flight *flights;
  int n_flights;
  ds_pipe_work *work;
  size_t n_work;
  int64_t micros; /* that work is for */
  void *spare;    /* what a stage sends and receives that has no values of its own */
  size_t spare_bytes;
  ds_pipeline_verdict *verdicts; /* of all stages, in device memory */
  ds_pipeline_verdict *said;     /* the same on the host */

  /* a step's */
  int64_t step;
  double scale;
  ds_pipeline_source source;
  void *source_ctx;
  ds_batch batch; /* of micro batch `loaded` */
  int64_t loaded;
  ds_tensor shape; /* of its hidden values; rank 0: none known yet */
  int open, peak;
  ds_error failure; /* of the computation; status DS_OK: none */
};

enum { DS_PIPELINE_HIDDEN, DS_PIPELINE_GRADIENT };

/* Does one piece of work. Failures of the computation are kept in p->failure, and messages go on;
 * what is returned are failures of messages, and of what they can't do without. */
DS_MUST_USE ds_status ds_pipeline_work(ds_pipeline *p, const ds_pipe_work *w, ds_error *err);

static inline bool ds_pipeline_last(const ds_pipeline *p) {
  return p->stage == p->stages - 1;
}

static inline bool ds_pipeline_sound(const ds_pipeline *p) {
  return p->failure.status == DS_OK;
}

#endif
