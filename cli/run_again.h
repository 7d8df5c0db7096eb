/* run_again.h - the plan of a start after a failure: on the hosts that are still there, with fewer ranks
 * where the config's elasticity allows that number. */
#ifndef DS_CLI_RUN_AGAIN_H
#define DS_CLI_RUN_AGAIN_H

#include "run_plan.h"

/* What the first start was made of. */
typedef struct run_before {
  const run_hosts *hosts; /* several, after the filters */
  int ranks;
  const char *this_host;
  const char *config;   /* --deepspeed_config; NULL: the command's */
  char *const *command; /* NULL at the end */
} run_before;

/* Asks the hosts (run_hosts.h). DS_ERR_NOT_FOUND: none is left; DS_ERR_STATE: fewer ranks, and nothing
 * allows them. out is to be finished in any case. */
DS_MUST_USE ds_status run_again(const run_options *options, const run_before *before, run_plan *out,
                                ds_error *err);

#endif
