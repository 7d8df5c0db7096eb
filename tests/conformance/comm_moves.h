/* comm_moves.h - the collectives' units; see section_comm.c. */
#ifndef CONFORMANCE_COMM_MOVES_H
#define CONFORMANCE_COMM_MOVES_H

#include "group.h"

void comm_allreduce(conformance *k);
void comm_reduce_scatter(conformance *k);
void comm_allgather(conformance *k);
void comm_broadcast(conformance *k);
void comm_alltoall(conformance *k);
void comm_send_recv(conformance *k);
void comm_sums(conformance *k);
/* Collective over g: whether its members are whom g says, in that order. */
bool comm_is_group(conformance *k, const group *g, tally *t);

#endif
