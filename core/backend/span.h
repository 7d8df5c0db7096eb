/* span.h - spans of a backend's work: how long each piece took on its stream.
 *
 * Work is asynchronous, so a span is bounded by two marks on its stream, and a thread for each
 * stream waits for them and takes the times; where a device has no events, the host's times are
 * taken. A mark that was reached before the thread looked at it is taken for reached when it was
 * set, or when the one before it was, whichever is later: on a backend that computes in the call
 * that is exact, and on others a thread looks in time. What is recorded (record.h) has no spans of
 * its own: put one around its launch.
 *
 * While nothing is traced, a call of these functions is one comparison. One thread, the backend's.
 */
#ifndef DS_BACKEND_SPAN_H
#define DS_BACKEND_SPAN_H

#include "backend/comms_log.h"
#include "backend/side.h"
#include "base/trace.h"

typedef struct ds_span ds_span;

typedef enum ds_span_kind {
  DS_SPAN_COMPUTE,
  DS_SPAN_COMM,
  DS_SPAN_TRANSFER,
  DS_SPAN_KINDS
} ds_span_kind;

/* From now on spans go to trace, and times of collectives to comms; either may be NULL. Both stay
 * the caller's and outlive the tracing. Once a backend. */
DS_MUST_USE ds_status ds_span_start(ds_backend *b, ds_trace *trace, ds_comms_log *comms,
                                    ds_error *err);
/* Waits for the ends of the spans that were ended; those that were not are traced so far, with a
 * note. Closing the backend does it too. */
void ds_span_stop(ds_backend *b);
/* Waits for the ends of the spans so far. */
void ds_span_drain(ds_backend *b);
/* Spans that begin from now on are of this step (from 1) and micro batch (from 0; -1: none). */
void ds_span_at(ds_backend *b, int64_t step, int64_t micro);
/* Between true and false nothing is traced. */
void ds_span_pause(ds_backend *b, bool pause);

/* Work given to `on` (NULL: the backend's stream) from here to the end. name: static. NULL: nothing
 * is traced; ds_span_end takes it. Spans of one stream nest. End it on failure too. */
ds_span *ds_span_begin(ds_backend *b, ds_side *on, ds_span_kind kind, const char *name);
/* The same with a number of bytes. */
ds_span *ds_span_begin_transfer(ds_backend *b, ds_side *on, const char *name, size_t bytes);
/* The same of a collective: op is a ds_group_op, name its name; sent: bytes on the bus. */
ds_span *ds_span_begin_comm(ds_backend *b, ds_side *on, int op, const char *name, const char *group,
                            int ranks, size_t message, size_t sent);
void ds_span_end(ds_span *s);

#endif
