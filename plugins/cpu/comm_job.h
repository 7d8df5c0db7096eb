/* comm_job.h - one collective under way, by messages: what comm_run.c and comm_rounds.c share. */
#ifndef DS_CPU_COMM_JOB_H
#define DS_CPU_COMM_JOB_H

#include "comm.h"

enum { DS_CPU_PIECE = 4 << 20, DS_CPU_LINE = 64 };

typedef struct ds_cpu_job {
  const ds_comm *c;
  ds_stream *s;
  const ds_cpu_work *w;
  const ds_cpu_limit *limit;
  enum ds_cpu_channel channel;
  size_t one;               /* bytes of an element */
  int count;                /* of messages */
  ds_cpu_message *messages; /* room for 2 a rank */
  void **requests;
  const void **part; /* by rank */
  size_t *start;     /* a place more than ranks */
  char *data;        /* all that MPI writes to: DS_CPU_PIECE + DS_CPU_LINE * ranks bytes */
} ds_cpu_job;

/* Adds a message of this piece; 0 bytes are none. data is in j->data where it is to be received. */
void ds_cpu_job_add(ds_cpu_job *j, bool send, int peer, const void *data, size_t bytes);
/* Exchanges what was added, all at once. */
ds_status ds_cpu_job_exchange(ds_cpu_job *j, ds_error *err);

/* The other ranks, in an order that differs from rank to rank, so that not all begin with one. */
static inline int ds_cpu_job_after(const ds_cpu_job *j, int step) {
  return (j->c->rank + step) % j->c->size;
}

static inline int ds_cpu_job_before(const ds_cpu_job *j, int step) {
  return (j->c->rank - step + j->c->size) % j->c->size;
}

static inline size_t ds_cpu_min_size(size_t a, size_t b) {
  return a < b ? a : b;
}

/* For many ranks, each in log2 of their number of rounds a piece: comm_rounds.c. */
ds_status ds_cpu_rounds_allreduce(ds_cpu_job *j, ds_error *err);
ds_status ds_cpu_rounds_reduce_scatter(ds_cpu_job *j, ds_error *err);
ds_status ds_cpu_rounds_allgather(ds_cpu_job *j, ds_error *err);
/* n bytes of each rank to j->data, the next rank's after this one's and so on; n times ranks bytes are at
 * most DS_CPU_PIECE. */
ds_status ds_cpu_rounds_gather(ds_cpu_job *j, const void *send, size_t n, ds_error *err);

#endif
