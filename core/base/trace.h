/* trace.h - a recorder of spans of time, and how it writes them: Chrome's trace format.
 *
 * The format is the JSON that chrome://tracing and https://ui.perfetto.dev load ("Trace Event
 * Format", Google 2016): a complete event ("X") for each span, a process for each rank, a thread
 * for each track. Times are of the host's monotonic clock, written as microseconds since 1970 by
 * the system clock as it was when the recorder was made: ranks of one host agree to microseconds,
 * those of several as well as their clocks do.
 *
 * Memory is bounded: spans beyond the limit, or for which there is no memory, are counted and
 * dropped, and the trace says so. Functions may be called from any thread.
 */
#ifndef DS_BASE_TRACE_H
#define DS_BASE_TRACE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { DS_TRACE_SPANS = 1 << 18 }; /* a limit that is some 25 MiB */

typedef struct ds_trace ds_trace;

/* Strings are static. */
typedef struct ds_trace_span {
  const char *name, *category;
  int track;
  int64_t begin, end;         /* nanoseconds of ds_trace_now() */
  const char *group;          /* NULL: none */
  int64_t bytes, step, micro; /* -1: none */
  const char *note;           /* NULL, or what became of it: "failed", "unfinished" */
} ds_trace_span;

/* Nanoseconds of the clock that spans are measured by. */
int64_t ds_trace_now(void);

DS_MUST_USE ds_status ds_trace_create(size_t limit, ds_trace **out, ds_error *err);
void ds_trace_destroy(ds_trace *t); /* NULL is allowed */
/* A new track, that is, a line of the picture: spans on one nest or follow each other. name:
 * static; the second of a name is called "name 2". There are at most 64; more share the last. */
int ds_trace_track(ds_trace *t, const char *name);
void ds_trace_add(ds_trace *t, const ds_trace_span *span);
/* A span that could not be measured. */
void ds_trace_drop(ds_trace *t);
/* Spans kept and dropped. */
void ds_trace_count(ds_trace *t, uint64_t *kept, uint64_t *dropped);

/* Takes a piece of the text. */
typedef ds_status (*ds_trace_put)(void *ctx, const void *data, size_t bytes, ds_error *err);
/* What one file begins with, what stands between the events of two ranks, and its end. */
extern const char ds_trace_head[], ds_trace_comma[], ds_trace_tail[];
/* The events of this recorder as those of `rank`, at least one; in pieces of at most 64 KiB. */
DS_MUST_USE ds_status ds_trace_print(ds_trace *t, int rank, ds_trace_put put, void *ctx,
                                     ds_error *err);
/* A file of this rank alone. */
DS_MUST_USE ds_status ds_trace_write(ds_trace *t, int rank, const char *path, ds_error *err);

#endif
