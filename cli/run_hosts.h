/* run_hosts.h - which hosts are there: this machine by its names, others by asking them. */
#ifndef DS_CLI_RUN_HOSTS_H
#define DS_CLI_RUN_HOSTS_H

#include <stdbool.h>

#include "hostfile.h"

/* Whether the name, or an address it has, is this machine's. */
bool run_hosts_is_here(const char *host, const char *this_host);
/* Drops the hosts on which `agent` ("ssh", maybe with options) can't run "true" within some seconds,
 * and tells of each on stderr. This machine is not asked. */
DS_MUST_USE ds_status run_hosts_drop_gone(run_hosts *hosts, const char *agent,
                                          const char *this_host, ds_error *err);

#endif
