/* comm_roll.h - who is missing, when a call on a communicator ran out of time.
 *
 * Where the ranks share memory, who has come to a call stands there, and whether a process is
 * stopped or has ended the system tells.
 *
 * Messages alone don't tell: in a tree or a ring a rank waits for a neighbour that waits itself. So
 * whoever runs out of time tells all the others at which call it is, and hears the same of them for
 * a tenth of the limit (half a second at least, two at most); who waits on the communicator meanwhile
 * answers, and gives up too. Whoever hasn't answered, and has sent nothing in this call, has not come
 * to it. Ranks that all answer are at different calls, or too slow.
 */
#ifndef DS_CPU_COMM_ROLL_H
#define DS_CPU_COMM_ROLL_H

#include "comm.h"

/* After a call w on c, of more than one rank, ended with DS_ERR_TIMEOUT: who is missing, as words that
 * end a message. w: NULL for create and split. */
void ds_cpu_roll(ds_comm *c, const ds_cpu_work *w, char *out, size_t room);

#endif
