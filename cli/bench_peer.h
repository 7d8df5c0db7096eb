/* bench_peer.h - another program's speed, measured beside ours: runs its command and reads the
 * figures it prints. */
#ifndef DS_CLI_BENCH_PEER_H
#define DS_CLI_BENCH_PEER_H

#include "base/status.h"

#include <stdbool.h>

typedef struct bench_peer {
  const char *command; /* a shell command; {B}, {T}, {threads} are filled in */
  const char *pattern; /* POSIX extended; group 1 is the number */
  bool milliseconds;   /* the number is ms a step; else tokens a second */
} bench_peer;

/* Tokens a second of a step of batch x seq_len: the median of the figures printed, without the
 * first where there are more. DS_ERR_NOT_FOUND when nothing matched. */
DS_MUST_USE ds_status bench_peer_run(const bench_peer *p, long long batch, long long seq_len,
                                     int threads, double *tokens_per_s, ds_error *err);

#endif
