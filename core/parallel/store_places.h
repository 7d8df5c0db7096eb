/* store_places.h - where rank 0 may be found: the addresses of its host, at the port given; without
 * one, at the ports that follow from the job's word, which are the same for all of its ranks.
 */
#ifndef DS_PARALLEL_STORE_PLACES_H
#define DS_PARALLEL_STORE_PLACES_H

#include "parallel/store_wire.h"

enum {
  DS_STORE_PORTS = 8,     /* how many follow from a job's word */
  DS_STORE_ADDRESSES = 8, /* of a host; more are not tried */
  DS_STORE_PORT_FIRST = 20000,
  DS_STORE_PORT_END = 32768 /* from here on Linux gives ports to whoever connects */
};

typedef struct ds_store_places {
  ds_store_address at[DS_STORE_PORTS * DS_STORE_ADDRESSES]; /* in the order to try them */
  int count;
} ds_store_places;

/* The i-th port of a job; i from 0 to DS_STORE_PORTS - 1. They differ. */
int ds_store_job_port(uint64_t job, int i);

/* This host's socket of the job: a name in Linux's abstract namespace. */
void ds_store_places_here(ds_store_places *out, uint64_t job);
/* host: a name or an address; port 0: the job's ports. A name server that doesn't answer is asked
 * again until deadline (ds_store_now()). DS_ERR_NOT_FOUND: no such host; the message begins with
 * `where`. */
DS_MUST_USE ds_status ds_store_places_find(ds_store_places *out, const char *host, int port,
                                           uint64_t job, const char *where, int64_t deadline,
                                           ds_error *err);

#endif
