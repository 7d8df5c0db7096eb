/* world.h - which rank of how many this process is, as its launcher's environment says. */
#ifndef DS_GPU_WORLD_H
#define DS_GPU_WORLD_H

#include "gpu.h"

/* torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE), else Open MPI's, else Slurm's, else a world
 * of one. The first come first because such a launcher may itself be started by one of the others. Fills all but
 * size. DS_ERR_INVALID for what can't be. [any-thread] */
ds_status gpu_world(ds_comm_world *out, ds_error *err);

#endif
