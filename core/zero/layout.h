/* layout.h - where parameters lie in ZeRO's flat buffers, and which rank has what. Pure arithmetic.
 *
 * Parameters are put one after the other into units: runs that are communicated as one. Every unit
 * is padded to a multiple of shards * align elements and falls into equal shards, of which
 * rank r has the r-th. So a unit is reduce-scattered and gathered by one call, in place, and every
 * rank has the same share of every unit (Rajbhandari et al. 2020, sec. 5; units are what FSDP calls
 * flat parameters).
 *
 *     place     0 ................................................. total
 *     unit      |------ 0 ------|---- 1 ----|--- 2 ---|  frozen units last
 *     shard     | 0 | 1 | 2 | 3 |           |         |
 *     own part  of rank r, units one after the other: unit u at place(u) / shards
 *
 * A parameter's module is its name up to the first number, that included, else up to the last dot:
 * "h.3" of "h.3.attn.weight", "wte" of "wte.weight". A unit ends where the next parameter would
 * make it longer than `most`, and where a module ends once it has `least` elements (persistent
 * parameters' units: only the former).
 */
#ifndef DS_ZERO_LAYOUT_H
#define DS_ZERO_LAYOUT_H

#include "model/params.h"
#include "zero/partition.h"

typedef struct ds_layout_rules {
  int shards;
  int64_t least, most; /* elements of a unit; a single parameter may have more than most */
  int64_t align;       /* shards are multiples of it; a multiple of DS_PARAM_ALIGN */
  int64_t persistent;  /* parameters of so many elements and fewer get units of their own, which
                             are not taken apart after use; 0: none */
} ds_layout_rules;

typedef struct ds_unit {
  ds_range place;   /* padded */
  int first, count; /* members: layout.order[first .. first+count) */
  bool frozen, persistent;
} ds_unit;

typedef struct ds_unit_layout {
  int shards, n_params, n_units;
  int64_t align;
  int64_t *offset;        /* by parameter: its place */
  int *unit_of;           /* by parameter */
  int *order;             /* parameters in the order of their places */
  ds_unit *units;         /* trained ones first */
  int64_t total, trained; /* padded elements of all units, and of those that aren't frozen */
} ds_unit_layout;

/* frozen: by parameter. out is finished on failure. */
DS_MUST_USE ds_status ds_layout_init(ds_unit_layout *out, const ds_params *p, const bool *frozen,
                                     const ds_layout_rules *rules, ds_error *err);
void ds_layout_finish(ds_unit_layout *l);

/* Elements of a unit's shard. */
int64_t ds_layout_shard(const ds_unit_layout *l, int unit);
/* The place of rank's shard of a unit, and where it is in rank's own part. */
ds_range ds_layout_own(const ds_unit_layout *l, int unit, int rank);
int64_t ds_layout_local(const ds_unit_layout *l, int unit);
/* Which elements [begin, end) of a parameter rank has; empty: none. */
ds_range ds_layout_part(const ds_unit_layout *l, const ds_params *p, int param, int rank);

#endif
