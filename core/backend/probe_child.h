/* probe_child.h - what the child of a probe does, and what it reports. Private to probe*.c. */
#ifndef DS_BACKEND_PROBE_CHILD_H
#define DS_BACKEND_PROBE_CHILD_H

#include <sys/types.h>

#include "backend/probe.h"

typedef enum ds_probe_step {
  DS_PROBE_START, /* getting ready; waits for ever on a lock that was another thread's */
  DS_PROBE_LOAD,  /* in the dynamic linker, or in what it runs: constructors */
  DS_PROBE_QUERY, /* in ds_plugin_query */
  DS_PROBE_CHECK, /* reading what it gave */
  DS_PROBE_DONE
} ds_probe_step;

/* Shared by parent and child. The plugin could write anything here, so the parent trusts none of
 * it to be sane. */
typedef struct ds_probe_report {
  volatile int step;
  volatile int signal; /* that it dies of; 0: none that was seen */
  volatile int linker; /* it died inside the linker, not in code of a library */
  volatile int exited; /* it called exit with this status... */
  volatile int exit_status;
  volatile int descriptors;  /* it closed or moved some that aren't its own */
  volatile uint64_t signals; /* bit i-1: it changed the handler of signal i */
  char where[128];           /* "libfoo.so+0x1139" */
  char linker_said[512];
  ds_error error; /* DS_OK, or why it can't be used */
  /* The child's for signal handlers: the usual one may be what is exhausted. Aligned for
   * AddressSanitizer. */
  _Alignas(64) char stack[65536];
} ds_probe_report;

typedef struct ds_probe_job {
  const ds_candidate *candidate;
  ds_probe_check *check;
  void *ctx;
  ds_probe_report *report;
  pid_t parent;
  int out, err; /* descriptors that become 1 and 2 */
} ds_probe_job;

/* Never returns. */
void ds_probe_child(const ds_probe_job *job) __attribute__((noreturn));

#endif
