/* comms_log.h - what the collectives of a backend took: calls, bytes and time, by op, group and
 * size of message.
 *
 * The names and the arithmetic are those of DeepSpeed's comms logger. Bandwidths, of a message of S
 * bytes that took t among n ranks, where S is the whole of what ranks have parts of:
 *
 *                                               algorithm      bus
 *     allreduce                                 2 S / t        2(n-1)/n S / t
 *     reduce_scatter, allgather, alltoall       S / t          (n-1)/n S / t
 *     broadcast, send, recv                     S / t          S / t
 *
 * Rows are made by the backend's thread; times come from any thread.
 */
#ifndef DS_BACKEND_COMMS_LOG_H
#define DS_BACKEND_COMMS_LOG_H

#include "base/log.h"
#include "base/status.h"
#include "ds.h"

#include <stdbool.h>

typedef struct ds_comms_log ds_comms_log;
typedef struct ds_comms_row ds_comms_row;

typedef struct ds_comms_log_options {
  uint32_t ops;  /* bit 1 << ds_group_op: is logged */
  bool verbose;  /* each call, when it is done */
  bool by_group; /* what different groups did stays apart */
} ds_comms_log_options;

DS_MUST_USE ds_status ds_comms_log_create(const ds_comms_log_options *options,
                                          const ds_logger *logger, ds_comms_log **out,
                                          ds_error *err);
void ds_comms_log_destroy(ds_comms_log *log); /* NULL is allowed */
/* Counts a call. op: a ds_group_op, its name and the group's are static. message and sent in bytes.
 * NULL: the op isn't logged, or there is no memory for its row, which is then counted as
 * missing. */
ds_comms_row *ds_comms_log_call(ds_comms_log *log, int op, const char *name, const char *group,
                                int ranks, uint64_t message, uint64_t sent);
/* It took that long. Any thread. */
void ds_comms_log_time(ds_comms_log *log, ds_comms_row *row, int64_t nanoseconds);
/* The rows in the order of their first call; valid until the next call of this function. */
DS_MUST_USE ds_status ds_comms_log_rows(ds_comms_log *log, const ds_comms_stats **rows, size_t *n,
                                        ds_error *err);

#endif
