/* order.h - the order in which a micro batch uses units, learnt from the one before: what comes
 * next, and when something is needed again (DeepSpeed's PartitionedParameterCoordinator). Touches no
 * data.
 */
#ifndef DS_ZERO_ORDER_H
#define DS_ZERO_ORDER_H

#include "zero/layout.h"

/* Zero-initialize. */
typedef struct ds_order {
  int *units; /* visited one after the other; the same one twice in a row is one visit */
  size_t capacity;
  int n;      /* of a whole micro batch, where that is known */
  int visits; /* of this micro batch so far; the last is under way */
  bool known; /* all of units is a micro batch's; else only the visits are */
} ds_order;

void ds_order_finish(ds_order *o);
/* Another micro batch begins. */
void ds_order_begin(ds_order *o);
/* This unit is used now. Where it isn't what was expected, the order is learnt anew from here. */
DS_MUST_USE ds_status ds_order_visit(ds_order *o, int unit, ds_error *err);
/* Whether the visit under way is of this unit: ops that need none come in between. */
bool ds_order_here(const ds_order *o, int unit);
/* The unit of the visit `ahead` (>= 1) after this one; -1: not known, or none. */
int ds_order_ahead(const ds_order *o, int ahead);
/* Elements of units that are visited before `unit` is again; -1: it isn't again in this micro
 * batch, or that isn't known. */
int64_t ds_order_distance(const ds_order *o, const ds_unit_layout *l, int unit);

#endif
