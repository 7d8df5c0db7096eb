#include "train/groups.h"

#include <stdlib.h>

static ds_status assign_group(ds_engine *e, const ds_param_group *g, int index, int number,
                              int *given_in, ds_error *err) {
  if (g->size != sizeof *g)
    return ds_fail(err, DS_ERR_INVALID,
                   "model_parameters: group %d: set it up with DS_PARAM_GROUP_INIT", index);
  if (g->n_indices < 0 || (g->n_indices > 0 && !g->indices))
    return ds_fail(err, DS_ERR_INVALID, "model_parameters: group %d has %d indices", index,
                   g->n_indices);
  for (int i = 0; i < g->n_indices; i++) {
    int p = g->indices[i];
    if (p < 0 || p >= e->n_params)
      return ds_fail(err, DS_ERR_INVALID,
                     "model_parameters: group %d names parameter %d; the model has %d", index, p,
                     e->n_params);
    if (e->group_of[p] >= 0)
      return ds_fail(err, DS_ERR_INVALID,
                     "model_parameters: parameter \"%s\" is in group %d and again in group %d",
                     ds_params_name(e->params, p), given_in[p], index);
    e->group_of[p] = number;
    given_in[p] = index;
  }
  return DS_OK;
}

ds_status ds_groups_assign(ds_engine *e, const ds_param_group *groups, int n, ds_param_group **kept,
                           int *n_kept, ds_error *err) {
  *kept = NULL;
  *n_kept = 0;
  for (int i = 0; i < e->n_params; i++) e->group_of[i] = groups ? -1 : 0;
  if (!groups) return DS_OK;
  if (n < 1)
    return ds_fail(err, DS_ERR_INVALID, "model_parameters: %d groups; NULL means all parameters",
                   n);
  ds_param_group *some = calloc((size_t)n, sizeof *some);
  int *given_in = calloc((size_t)e->n_params, sizeof *given_in);
  ds_status status = some && given_in ? DS_OK : ds_fail_memory(err, "parameter groups");
  int count = 0;
  for (int i = 0; i < n && status == DS_OK; i++) {
    status = assign_group(e, &groups[i], i, count, given_in, err);
    if (status == DS_OK && groups[i].n_indices > 0) some[count++] = groups[i];
  }
  if (status == DS_OK && count == 0)
    status = ds_fail(err, DS_ERR_INVALID, "model_parameters: all groups are empty");
  free(given_in);
  if (status != DS_OK) {
    free(some);
    return status;
  }
  *kept = some;
  *n_kept = count;
  return DS_OK;
}
