/* slurm.h - Slurm's lists of hosts: "n[001-004,9],login". */
#ifndef DS_PARALLEL_SLURM_H
#define DS_PARALLEL_SLURM_H

#include <stdbool.h>
#include <stddef.h>

/* The first host of the list, where a step's rank 0 is. False for what is no list, or has no room. */
bool ds_slurm_first_host(const char *list, char *out, size_t size);

#endif
