#include "backend/comms_log.h"

#include "backend/group.h"
#include "base/str.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct ds_comms_row {
  int op;
  ds_comms_stats stats;
  ds_comms_row *next;
};

struct ds_comms_log {
  pthread_mutex_t lock; /* of the numbers in rows */
  ds_comms_log_options options;
  ds_logger logger;
  ds_comms_row *first, **end;
  size_t count;
  uint64_t missing;      /* calls that no row counts */
  ds_comms_stats *shown; /* what was handed out */
  size_t shown_capacity;
};

ds_status ds_comms_log_create(const ds_comms_log_options *options, const ds_logger *logger,
                              ds_comms_log **out, ds_error *err) {
  ds_comms_log *log = *out = calloc(1, sizeof *log);
  if (!log) return ds_fail_memory(err, "the comms logger");
  pthread_mutex_init(&log->lock, NULL);
  log->options = *options;
  log->logger = *logger;
  log->end = &log->first;
  return DS_OK;
}

void ds_comms_log_destroy(ds_comms_log *log) {
  if (!log) return;
  for (ds_comms_row *row = log->first, *next; row; row = next) {
    next = row->next;
    free(row);
  }
  free(log->shown);
  pthread_mutex_destroy(&log->lock);
  free(log);
}

/* ---- counting */

static ds_comms_row *find(ds_comms_log *log, int op, const char *group, int ranks,
                          uint64_t message) {
  for (ds_comms_row *row = log->first; row; row = row->next)
    if (row->op == op && row->stats.message_bytes == message && row->stats.ranks == ranks &&
        (!log->options.by_group || strcmp(row->stats.group, group) == 0))
      return row;
  return NULL;
}

ds_comms_row *ds_comms_log_call(ds_comms_log *log, int op, const char *name, const char *group,
                                int ranks, uint64_t message, uint64_t sent) {
  if (!(log->options.ops >> op & 1)) return NULL;
  ds_comms_row *row = find(log, op, group, ranks, message);
  if (!row) {
    row = calloc(1, sizeof *row);
    if (!row) {
      log->missing++;
      return NULL;
    }
    row->op = op;
    row->stats = (ds_comms_stats){.op = name,
                                  .group = log->options.by_group ? group : "",
                                  .ranks = ranks,
                                  .message_bytes = message};
    *log->end = row;
    log->end = &row->next;
    log->count++;
  }
  pthread_mutex_lock(&log->lock);
  row->stats.calls++;
  row->stats.sent_bytes += sent;
  pthread_mutex_unlock(&log->lock);
  return row;
}

/* Gbit/s of a message that took so long: of the algorithm and of the bus. */
static void bandwidths(int op, int ranks, double bytes, double seconds, double *algorithm,
                       double *bus) {
  double gbits = seconds > 0 ? bytes * 8e-9 / seconds : 0;
  double share = (double)(ranks - 1) / ranks;
  *algorithm = op == DS_GROUP_ALLREDUCE ? 2 * gbits : gbits;
  *bus = op == DS_GROUP_ALLREDUCE ? 2 * share * gbits : gbits;
  if (op == DS_GROUP_REDUCE_SCATTER || op == DS_GROUP_ALLGATHER || op == DS_GROUP_ALLTOALL)
    *bus = share * gbits;
}

void ds_comms_log_time(ds_comms_log *log, ds_comms_row *row, int64_t nanoseconds) {
  double seconds = (double)nanoseconds * 1e-9, algorithm, bus;
  pthread_mutex_lock(&log->lock);
  ds_comms_stats *s = &row->stats;
  if (s->timed == 0 || seconds < s->least_seconds) s->least_seconds = seconds;
  if (s->timed == 0 || seconds > s->most_seconds) s->most_seconds = seconds;
  s->timed++;
  s->seconds += seconds;
  pthread_mutex_unlock(&log->lock);
  if (!log->options.verbose) return;
  bandwidths(row->op, s->ranks, (double)s->message_bytes, seconds, &algorithm, &bus);
  ds_log(&log->logger, DS_LOG_INFO,
         "comm op: %s%s%s | time (ms): %.3f | msg size: %llu | algbw (Gbps): %.2f | busbw (Gbps): "
         "%.2f",
         s->op, s->group[0] ? " of " : "", s->group, seconds * 1e3,
         (unsigned long long)s->message_bytes, algorithm, bus);
}

ds_status ds_comms_log_rows(ds_comms_log *log, const ds_comms_stats **rows, size_t *n,
                            ds_error *err) {
  *n = 0;
  *rows = NULL;
  if (log->missing)
    return ds_fail(err, DS_ERR_MEMORY, "the comms logger had no memory for %llu calls",
                   (unsigned long long)log->missing);
  DS_TRY(ds_reserve(&log->shown, &log->shown_capacity, log->count, sizeof *log->shown,
                    "the comms logger's summary", err));
  pthread_mutex_lock(&log->lock);
  for (ds_comms_row *row = log->first; row; row = row->next) {
    ds_comms_stats *s = &log->shown[(*n)++];
    *s = row->stats;
    double each = s->timed ? s->seconds / (double)s->timed : 0;
    bandwidths(row->op, s->ranks, (double)s->message_bytes, each, &s->algorithm_gbps, &s->bus_gbps);
  }
  pthread_mutex_unlock(&log->lock);
  *rows = log->shown;
  return DS_OK;
}
