/* hostfile.h - the hosts and slots of `ds run`, in the formats of DeepSpeed's launcher.
 *
 * A hostfile has a line "NAME slots=N" for each host; blank lines and what follows a # don't count. A
 * slot is a place for a rank, and the number of the device that the rank gets. Filters are
 * "NAME[:SLOT[,SLOT...]]", several of them by "@".
 */
#ifndef DS_CLI_HOSTFILE_H
#define DS_CLI_HOSTFILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { HOSTFILE_SLOTS_MAX = 4096 };

typedef struct run_host {
  char *name;
  int *slots; /* ascending */
  int n_slots;
} run_host;

/* Zero-initialize; hostfile_finish. */
typedef struct run_hosts {
  run_host *at;
  size_t room;
  int count;
} run_hosts;

/* Adds a host with slots 0 to n - 1. */
DS_MUST_USE ds_status hostfile_add(run_hosts *hosts, const char *name, size_t length, int n,
                                   ds_error *err);
/* name: for messages, which give the line. A host that stands twice is an error, and so is a file
 * without any. hosts is to be finished in any case. */
DS_MUST_USE ds_status hostfile_parse(const char *text, const char *name, run_hosts *hosts,
                                     ds_error *err);
/* Keeps what `include` names, or drops what `exclude` names; NULL or "": no such filter; both is an
 * error. The hosts' order stays. Unknown hosts and slots are errors, and that nothing is left. */
DS_MUST_USE ds_status hostfile_filter(run_hosts *hosts, const char *include, const char *exclude,
                                      ds_error *err);
/* Their slots together. */
int hostfile_slots(const run_hosts *hosts);
DS_MUST_USE ds_status hostfile_copy(const run_hosts *from, run_hosts *to, ds_error *err);
/* Removes the i-th host. */
void hostfile_drop(run_hosts *hosts, int i);
void hostfile_finish(run_hosts *hosts);

#endif
