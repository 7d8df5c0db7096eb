/* pipeline.c - a step of a stage, its beginning and its end. */
#include "ops/sequence.h"
#include "train/pipeline_impl.h"

#include "ops/sequence.h"

#include <stdlib.h>

/* ---- a step */

/* All stages learn the loss, and whether all went well. */
static ds_status conclude(ds_pipeline *p, float *loss, ds_error *err) {
  ds_backend *b = p->a.backend;
  ds_pipeline_verdict *mine = &p->verdicts[p->stage], v = {0, ds_pipeline_sound(p) ? 0 : 1};
  if (ds_pipeline_last(p) && ds_pipeline_sound(p)) /* the loss is there already */
    DS_TRY(ds_backend_upload(b, &mine->failed, &v.failed, sizeof v.failed, err));
  else
    DS_TRY(ds_backend_upload(b, mine, &v, sizeof v, err));
  DS_TRY(ds_group_allgather(p->a.pipe->group, NULL, mine, p->verdicts, 2, DS_F32, err));
  DS_TRY(ds_backend_download(b, p->said, p->verdicts, (size_t)p->stages * sizeof *p->said, err));
  if (!ds_pipeline_sound(p))
    return ds_fail(err, p->failure.status, "pipeline stage %d: %s", p->stage, p->failure.message);
  for (int s = 0; s < p->stages; s++)
    if (p->said[s].failed != 0)
      return ds_fail(err, DS_ERR_STATE,
                     "the step failed on stage %d of the pipeline; its rank says why", s);
  return ds_backend_copy(b, loss, &p->verdicts[p->stages - 1].loss, sizeof *loss, err);
}

static ds_status plan(ds_pipeline *p, int64_t micros, ds_error *err) {
  if (p->micros == micros) return DS_OK;
  free(p->work);
  p->work = NULL;
  p->micros = 0;
  DS_TRY(ds_pipe_schedule(p->stages, p->stage, micros, &p->work, &p->n_work, err));
  p->micros = micros;
  return DS_OK;
}

static ds_status run(ds_pipeline *p, float *loss, ds_error *err) {
  for (size_t i = 0; i < p->n_work; i++) DS_TRY(ds_pipeline_work(p, &p->work[i], err));
  return conclude(p, loss, err);
}

ds_status ds_pipeline_run(ds_pipeline *p, int64_t micros, int64_t step, ds_pipeline_source source,
                          void *source_ctx, float *loss, ds_error *err) {
  for (int i = 0; i < 2; i++) DS_TRY(ds_side_revive(p->sides[i], err));
  DS_TRY(plan(p, micros, err));
  p->step = step;
  p->source = source;
  p->source_ctx = source_ctx;
  p->loaded = -1;
  p->open = p->peak = 0;
  p->failure.status = DS_OK;
  return run(p, loss, err);
}

void ds_pipeline_set_scale(ds_pipeline *p, double scale) {
  p->scale = scale;
}

int ds_pipeline_peak(const ds_pipeline *p) {
  return p->peak;
}
const ds_group *ds_pipeline_group(const ds_pipeline *p, int i) {
  return p->groups[i];
}

/* ---- begin and end */

static ds_status make_flight(ds_pipeline *p, ds_flight *f, ds_error *err) {
  ds_mark **marks[] = {&f->hidden_came, &f->hidden_left, &f->gradient_came, &f->gradient_left};
  for (int i = 0; i < 4; i++) DS_TRY(ds_mark_create(p->a.backend, marks[i], err));
  DS_TRY(ds_ctx_create(p->a.backend, p->a.dtype, &f->ctx, err));
  ds_ctx_bind_params(f->ctx, p->a.slots, p->a.n_slots);
  if (p->a.tensor) ds_ctx_bind_tensor(f->ctx, p->a.tensor, p->a.splits, false);
  ds_ctx_bind_sequence(f->ctx, p->a.sequence);
  ds_ctx_set_training(f->ctx, true);
  return DS_OK;
}

static ds_status make(ds_pipeline *p, ds_error *err) {
  static const char *const names[] = {"pipe (hidden values)", "pipe (gradients)"};
  void *v;
  for (int i = 0; i < 2; i++) {
    DS_TRY(ds_group_split(p->a.pipe->group, names[i], 0, p->stage, &p->groups[i], err));
    DS_TRY(ds_side_create(p->a.backend, &p->sides[i], err));
  }
  p->flights = calloc((size_t)(p->stages - p->stage), sizeof *p->flights);
  if (!p->flights) return ds_fail_memory(err, "a pipeline stage");
  p->n_flights = p->stages - p->stage;
  for (int i = 0; i < p->n_flights; i++) DS_TRY(make_flight(p, &p->flights[i], err));
  p->said = calloc((size_t)p->stages, sizeof *p->said);
  if (!p->said) return ds_fail_memory(err, "a pipeline stage");
  DS_TRY(ds_backend_alloc(p->a.backend, (size_t)p->stages * sizeof *p->verdicts, &v, err));
  p->verdicts = v;
  return DS_OK;
}

ds_status ds_pipeline_create(const ds_pipeline_args *args, ds_pipeline **out, ds_error *err) {
  *out = NULL;
  ds_pipeline *p = calloc(1, sizeof *p);
  if (!p) return ds_fail_memory(err, "a pipeline stage");
  p->a = *args;
  p->scale = 1;
  p->stage = args->pipe->rank;
  p->stages = args->pipe->size;
  ds_status status = make(p, err);
  if (status != DS_OK) {
    ds_pipeline_destroy(p);
    return status;
  }
  *out = p;
  return DS_OK;
}

static void finish_flight(ds_pipeline *p, ds_flight *f) {
  ds_ctx_destroy(f->ctx);
  if (f->hidden) ds_backend_free(p->a.backend, f->hidden, f->hidden_bytes);
  ds_mark_destroy(f->hidden_came);
  ds_mark_destroy(f->hidden_left);
  ds_mark_destroy(f->gradient_came);
  ds_mark_destroy(f->gradient_left);
}

void ds_pipeline_destroy(ds_pipeline *p) {
  if (!p) return;
  /* First: a message that was given up may still write to memory. */
  for (int i = 0; i < 2; i++) ds_group_destroy(p->groups[i]);
  for (int i = 0; i < 2; i++) ds_side_destroy(p->sides[i]);
  for (int i = 0; i < p->n_flights; i++) finish_flight(p, &p->flights[i]);
  if (p->spare) ds_backend_free(p->a.backend, p->spare, p->spare_bytes);
  if (p->verdicts)
    ds_backend_free(p->a.backend, p->verdicts, (size_t)p->stages * sizeof *p->verdicts);
  free(p->said);
  free(p->flights);
  free(p->work);
  free(p);
}
