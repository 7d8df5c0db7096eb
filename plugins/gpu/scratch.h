/* scratch.h - the blocks behind gpu_scratch. */
#ifndef DS_GPU_SCRATCH_H
#define DS_GPU_SCRATCH_H

#include "gpu.h"

/* With those before it; no work may use them any more. NULL is allowed. */
void gpu_block_free(gpu_block *b);

#endif
