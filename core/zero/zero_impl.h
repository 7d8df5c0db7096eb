/* zero_impl.h - what the files of core/zero/ share. */
#ifndef DS_ZERO_ZERO_IMPL_H
#define DS_ZERO_ZERO_IMPL_H

#include "zero/buffers.h"
#include "zero/order.h"
#include "zero/zero.h"

typedef struct ds_zero_unit {
  ds_buffer *weights; /* gathered; NULL: not here, or in place (at stages 0 to 2), or persistent */
  bool on_way;        /* being gathered: wait for `gathered` */
  ds_mark *gathered;
  uint64_t used;    /* z->uses of the last op that needed it */
  void *persistent; /* stage 3: gathered for good */

  ds_buffer *grad; /* stages 2 and 3: of the micro batch, until it is reduced */
  int complete;    /* members whose gradients are complete in this micro batch */
  bool added;      /* the own part of gradients holds something of this step */
  bool to_add;     /* the reduced part is in `grad`, to be added */
  ds_mark *done;   /* reduced */
} ds_zero_unit;

struct ds_zero {
  ds_zero_rules rules;
  ds_ctx *ctx;
  ds_backend *backend;
  ds_group *group;                     /* NULL: this rank alone */
  int rank;                            /* whose own part of the layout is here; 0 at stage 0 */
  bool partial_weights, partial_grads; /* only the own part is there */
  const ds_params *params;
  const bool *frozen;
  ds_unit_layout layout;
  ds_param_slot *slots;

  int32_t dtype; /* of weights */
  size_t element;
  void *weights;    /* of places, or of the own part */
  float *masters;   /* own part; NULL in f32, where weights are the masters */
  float *grads;     /* of trained places, or of the own part */
  float *states[4]; /* own part, trained */
  ds_zero_bytes bytes;

  ds_side *side; /* NULL: everything goes to the backend's stream */
  ds_zero_unit *units;
  ds_buffers buffers;
  ds_buffer *bounce; /* of ds_zero_share */
  uint64_t uses;
  ds_order orders[2];   /* by whether a backward follows */
  int64_t live, coming; /* elements of units that are gathered, and on their way */
  bool boundary;
  bool summed; /* stages 0 and 1: the gradients of the step are summed over ranks */
  int next;    /* the unit to be reduced next; all behind it are */
  int in_flight[2], n_in_flight;

  ds_piece *pieces;
  int n_pieces;
};

/* The own part of a unit. */
void *ds_zero_own_weights(const ds_zero *z, int unit);
float *ds_zero_own_masters(const ds_zero *z, int unit);
float *ds_zero_own_grads(const ds_zero *z, int unit);

/* gather.c: makes all of a unit's weights at `whole` from every rank's own part, on the side stream. */
DS_MUST_USE ds_status ds_zero_gather_unit(ds_zero *z, int unit, void *whole, ds_error *err);
/* Hooks. */
ds_status ds_zero_need(void *self, const int *params, int n, ds_error *err);
void ds_zero_release_all(ds_zero *z);
DS_MUST_USE ds_status ds_zero_prefetch(ds_zero *z, ds_error *err);
/* reduce.c: hooks */
ds_status ds_zero_want_grad(void *self, int param, ds_error *err);
ds_status ds_zero_done(void *self, int param, ds_error *err);
void ds_zero_bind_hooks(ds_zero *z);

#endif
