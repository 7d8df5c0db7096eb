/* run_job.h - one start of mpirun or srun: its life, its signals, its end. */
#ifndef DS_CLI_RUN_JOB_H
#define DS_CLI_RUN_JOB_H

#include "base/status.h"

typedef struct run_end {
  int code;       /* the launcher's exit code; 128 + signal when one killed it */
  int stopped_by; /* the signal that asked us to stop, 0 = none */
} run_end;

/* Blocks the signals that run_job handles; once, before the first. */
void run_job_begin(void);
/* Starts words in a process group of its own and waits for its end. A first SIGINT, SIGTERM or SIGHUP
 * reaches it as SIGUSR2, which launchers pass on to their ranks (run_guard.h); a second one, or half a
 * minute, as SIGTERM; a third, or ten seconds more, kills it. Should this process die, it ends too. */
DS_MUST_USE ds_status run_job(char *const *words, run_end *out, ds_error *err);

#endif
