/* start.h - the start of the launcher's runtime, with a time limit.
 *
 * A plugin's world() may start MPI, which waits for every process of the launcher and can't be given
 * up. So where a launcher started several, it runs in a thread of its own, which is left behind, with
 * the little memory it has, when the limit passes: the process can then only report it and end.
 */
#ifndef DS_PARALLEL_START_H
#define DS_PARALLEL_START_H

#include <stdbool.h>

#include "base/status.h"

/* table->world() within timeout_ms (above 0); several: a launcher is known to have started several
 * processes, else it is called on this thread. DS_ERR_TIMEOUT says what to look for. */
DS_MUST_USE ds_status ds_start_world(const ds_comm_table *table, bool several, int64_t timeout_ms,
                                     ds_comm_world *out, ds_error *err);

#endif
