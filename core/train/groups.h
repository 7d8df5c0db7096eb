/* groups.h - the host app's parameter groups. */
#ifndef DS_TRAIN_GROUPS_H
#define DS_TRAIN_GROUPS_H

#include "train/engine.h"

/* groups as in ds_initialize_args; n = 0: all parameters in one group. Fills e->group_of and gives
 * the groups that are not empty, in order (free() it; NULL when n = 0). The same parameter twice,
 * an index that isn't there, or nothing at all to optimize are errors. */
DS_MUST_USE ds_status ds_groups_assign(ds_engine *e, const ds_param_group *groups, int n,
                                       ds_param_group **kept, int *n_kept, ds_error *err);

#endif
