/* group.h - ranks that communicate on a backend: a communicator of its comm table, counted.
 *
 * Collectives are those of ds_comm_table (ds_abi.h), with their rules: every rank of the group
 * calls in the same order with the same count, dtype and reduce; buffers are device memory; counts
 * are in elements. Each runs on a side stream, or with `on` NULL on the backend's stream, and is
 * asynchronous there. A group's calls go to one stream, or their streams are ordered by marks
 * (side.h). A group of one needs no comm table: what moves is copied, the rest is nothing.
 *
 * Bytes are counted by the call: what a rank has to send and receive at least, by any algorithm
 * that doesn't use the network for sums: for n ranks and a buffer of S bytes, all-reduce
 * 2(n-1)/n S, reduce-scatter and all-gather and all-to-all (n-1)/n S of the whole, broadcast S,
 * send and recv S (the "bus" bytes of nccl-tests).
 */
#ifndef DS_BACKEND_GROUP_H
#define DS_BACKEND_GROUP_H

#include "backend/side.h"

typedef struct ds_group ds_group;

typedef enum ds_group_op {
  DS_GROUP_ALLREDUCE,
  DS_GROUP_REDUCE_SCATTER,
  DS_GROUP_ALLGATHER,
  DS_GROUP_BROADCAST,
  DS_GROUP_ALLTOALL,
  DS_GROUP_SEND,
  DS_GROUP_RECV,
  DS_GROUP_OPS
} ds_group_op;

typedef struct ds_group_counter {
  uint64_t calls;
  uint64_t payload; /* bytes of the buffer: of the whole where ranks have parts */
  uint64_t bus;     /* bytes a rank sends, as above */
} ds_group_counter;

/* name: static, in messages ("data", "tensor", ...). comm: taken, also on failure; NULL: a group of
 * one. */
DS_MUST_USE ds_status ds_group_create(ds_backend *b, const char *name, ds_comm *comm,
                                      ds_group **out, ds_error *err);
/* As the comm table's split: collective over g. *out NULL where color is -1. Ranks of one color that
 * are alone get a group of one. */
DS_MUST_USE ds_status ds_group_split(ds_group *g, const char *name, int color, int key,
                                     ds_group **out, ds_error *err);
/* Waits for the work in flight unless it was aborted. NULL is allowed. */
void ds_group_destroy(ds_group *g);
/* Calls that wait, and all later ones, fail. Any thread. */
void ds_group_abort(ds_group *g);
/* The same for all groups on the backend: this rank is out of step with the others. Not while another
 * thread makes or destroys one. */
void ds_group_abort_all(ds_backend *b);

int ds_group_rank(const ds_group *g); /* NULL: 0 */
int ds_group_size(const ds_group *g); /* NULL: 1 */
const char *ds_group_name(const ds_group *g);
ds_backend *ds_group_backend(const ds_group *g);
/* Since the group began. op < DS_GROUP_OPS. */
ds_group_counter ds_group_count(const ds_group *g, ds_group_op op);
const char *ds_group_op_name(ds_group_op op);

DS_MUST_USE ds_status ds_group_allreduce(ds_group *g, ds_side *on, const void *send, void *recv,
                                         int64_t count, int32_t dtype, ds_reduce op, ds_error *err);
/* send [ranks,recv_count] -> recv [recv_count] */
DS_MUST_USE ds_status ds_group_reduce_scatter(ds_group *g, ds_side *on, const void *send,
                                              void *recv, int64_t recv_count, int32_t dtype,
                                              ds_reduce op, ds_error *err);
/* send [send_count] -> recv [ranks,send_count] */
DS_MUST_USE ds_status ds_group_allgather(ds_group *g, ds_side *on, const void *send, void *recv,
                                         int64_t send_count, int32_t dtype, ds_error *err);
DS_MUST_USE ds_status ds_group_broadcast(ds_group *g, ds_side *on, void *buffer, int64_t count,
                                         int32_t dtype, int root, ds_error *err);
/* send [ranks,count_per_rank] -> recv [ranks,count_per_rank] */
DS_MUST_USE ds_status ds_group_alltoall(ds_group *g, ds_side *on, const void *send, void *recv,
                                        int64_t count_per_rank, int32_t dtype, ds_error *err);
/* peer: a rank of the group, not this one. */
DS_MUST_USE ds_status ds_group_send(ds_group *g, ds_side *on, const void *buffer, int64_t count,
                                    int32_t dtype, int peer, ds_error *err);
DS_MUST_USE ds_status ds_group_recv(ds_group *g, ds_side *on, void *buffer, int64_t count,
                                    int32_t dtype, int peer, ds_error *err);

#endif
