/* world.c - rank and world size from the environment. */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What each launcher calls them. */
typedef struct launcher {
  const char *rank, *size, *local_rank, *local_size;
} launcher;
static const launcher launchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"}};

static bool is_set(const char *name) {
  const char *text = getenv(name);
  return text != NULL && text[0] != '\0';
}

static ds_status number(const char *name, int32_t least, int32_t most, int32_t *out,
                        ds_error *err) {
  const char *text = getenv(name);
  char *end;
  errno = 0;
  const long v = strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || v < least || v > most)
    return gpu_fail(err, DS_ERR_INVALID,
                    "comm: the environment's %s=%.64s must be a whole number from %d to %d", name,
                    text, least, most);
  *out = (int32_t)v;
  return DS_OK;
}

/* Slurm's "4", or "4(x2),3": as many on each of 2 nodes, and 3 on the next. Of this node only the first is told
 * without looking its name up; it is the same for all but uneven jobs. */
static ds_status tasks_here(const char *name, int32_t least, int32_t most, int32_t *out,
                            ds_error *err) {
  const char *text = getenv(name);
  const long v = strtol(text, NULL, 10);
  if (v < 1 || v > most)
    return gpu_fail(err, DS_ERR_INVALID, "comm: the environment's %s=%.64s is no list of tasks",
                    name, text);
  *out = v < least ? least : (int32_t)v;
  return DS_OK;
}

ds_status gpu_world(ds_comm_world *out, ds_error *err) {
  enum { MOST = 1 << 24 };
  const launcher *l = NULL;
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers && l == NULL; i++)
    if (is_set(launchers[i].size)) l = &launchers[i];
  out->rank = out->local_rank = 0;
  out->world_size = out->local_size = 1;
  if (l == NULL) return DS_OK;
  ds_status st = number(l->size, 1, MOST, &out->world_size, err);
  if (st != DS_OK) return st;
  if (!is_set(l->rank)) {
    if (out->world_size == 1) return DS_OK;
    return gpu_fail(err, DS_ERR_INVALID, "comm: the environment has %s=%d but no %s", l->size,
                    out->world_size, l->rank);
  }
  st = number(l->rank, 0, out->world_size - 1, &out->rank, err);
  /* A launcher that doesn't say has all on one host. */
  out->local_rank = out->rank;
  if (st == DS_OK && is_set(l->local_rank))
    st = number(l->local_rank, 0, out->world_size - 1, &out->local_rank, err);
  out->local_size = out->world_size;
  if (st == DS_OK && is_set(l->local_size))
    st = (strncmp(l->size, "SLURM", 5) == 0 ? tasks_here : number)(
        l->local_size, out->local_rank + 1, out->world_size, &out->local_size, err);
  return st;
}
