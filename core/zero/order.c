#include "zero/order.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

void ds_order_finish(ds_order *o) {
  free(o->units);
  memset(o, 0, sizeof *o);
}

void ds_order_begin(ds_order *o) {
  if (o->visits > 0 && !o->known) {
    o->n = o->visits;
    o->known = true;
  }
  o->visits = 0;
}

ds_status ds_order_visit(ds_order *o, int unit, ds_error *err) {
  if (o->visits > 0 && o->units[o->visits - 1] == unit) return DS_OK;
  if (o->known && o->visits < o->n && o->units[o->visits] == unit) {
    o->visits++;
    return DS_OK;
  }
  DS_TRY(ds_reserve(&o->units, &o->capacity, (size_t)o->visits + 1, sizeof *o->units,
                    "the order of use", err));
  o->known = false;
  o->units[o->visits++] = unit;
  return DS_OK;
}

bool ds_order_here(const ds_order *o, int unit) {
  return o->visits > 0 && o->units[o->visits - 1] == unit;
}

int ds_order_ahead(const ds_order *o, int ahead) {
  int at = o->visits + ahead - 1;
  return o->known && at < o->n ? o->units[at] : -1;
}

int64_t ds_order_distance(const ds_order *o, const ds_unit_layout *l, int unit) {
  int64_t elements = 0;
  for (int i = o->visits; o->known && i < o->n; i++) {
    if (o->units[i] == unit) return elements;
    const ds_range *place = &l->units[o->units[i]].place;
    elements += place->end - place->begin;
  }
  return -1;
}
