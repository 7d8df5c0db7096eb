/* stats.h - what ran on the backend, as a table for people: the --stats of ds train and ds
 * generate. */
#ifndef DS_CLI_STATS_H
#define DS_CLI_STATS_H

#include "ds.h"

/* For the help of an option --stats. */
#define STATS_HELP                                                                                 \
  "tell on stderr, at the end, what ran where: calls, fallbacks (what the\nbackend lacks and "     \
  "core "                                                                                          \
  "did instead) and share of the time, by op"

/* The table, to stderr: the longest first. */
void stats_print(const ds_backend_stats *stats);
/* The comms logger's, to stderr, as DeepSpeed's log_summary. */
void comms_print(const ds_comms_stats *rows, size_t n);

#endif
