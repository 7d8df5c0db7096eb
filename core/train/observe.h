/* observe.h - what watches an engine: the trace (config: backend.trace, or DS_TRACE in the
 * environment) and the comms logger. */
#ifndef DS_TRAIN_OBSERVE_H
#define DS_TRAIN_OBSERVE_H

#include "backend/span.h"
#include "train/engine.h"

typedef struct ds_observe {
  char *path; /* of the trace; NULL: nothing is traced */
  ds_trace *trace;
  ds_comms_log *comms; /* NULL: off */
  uint64_t saved;      /* spans that were written */
  int rank, ranks;     /* of the world, which ends first */
} ds_observe;

/* Begins to watch; e->observe stays NULL where the config asks for nothing. Once the world is
 * there. */
DS_MUST_USE ds_status ds_observe_init(ds_engine *e, ds_error *err);
/* When all work is over, before the backend closes. Writes what was not saved. */
void ds_observe_finish(ds_engine *e);

/* comms_logger.c. Mistakes in the config's "comms_logger" that the schema doesn't see. */
void ds_comms_logger_check(const cJSON *root, ds_schema_errors *errors);
/* *out NULL where it isn't enabled. */
DS_MUST_USE ds_status ds_comms_logger_create(ds_engine *e, ds_comms_log **out, ds_error *err);

#endif
