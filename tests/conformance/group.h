/* group.h - a communicator under test: who is in it, and buffers with guard zones. */
#ifndef CONFORMANCE_GROUP_H
#define CONFORMANCE_GROUP_H

#include "kv_folder.h"
#include "suite.h"

enum { GROUP_TIMEOUT_MS = 20000 };

/* One rank's view of the run. */
typedef struct rank_state {
  const char *folder;
  kv_folder kv;
  int seat, size; /* of the run; who sits where is the launcher's affair */
  int rank;       /* as the plugin's world says */
  int limit;      /* seconds */
  int gates;
} rank_state;

/* Member i has world rank of[i]. */
typedef struct group {
  ds_comm *comm;
  int32_t of[RANKS_MAX], size, own;
} group;

static inline rank_state *rank_of(conformance *k) {
  return k->of_section;
}

/* All ranks of the run, in the given order of world ranks (NULL: 0, 1, ...). Collective. */
bool group_create(conformance *k, group *g, const int32_t *of, int size, int64_t timeout_ms,
                  tally *t);
void group_destroy(conformance *k, group *g);
/* Until all ranks of the run are here; not by way of the plugin. */
void group_meet(conformance *k, tally *t);

/* Element i of what world rank r sends. */
double group_value(const conformance *k, int32_t dtype, int r, int64_t i);
/* n elements in device memory; with r >= 0 those of rank r, else junk. */
bool group_room(conformance *k, guarded *b, int32_t dtype, int64_t n, int r, tally *t);
/* Downloads and compares with want(ctx, i) to within bound(ctx, i); the guard zones too. */
typedef struct expectation {
  double (*want)(const void *ctx, int64_t i, double *bound);
  const void *ctx;
} expectation;
bool group_check(conformance *k, const guarded *b, int32_t dtype, int64_t n, expectation e,
                 const char *what, tally *t);

/* The units that ranks run, ended by one without a name. */
extern const unit comm_units[];

#endif
