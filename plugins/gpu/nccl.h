/* nccl.h - the functions of NCCL, which RCCL has under the same names, opened at run time: by worlds of more than one
 * rank, and only then.
 *
 * The prototypes are our own, of NCCL 2.14 (2.18 for split), so that nothing is needed to build. Where NCCL's own
 * header was included before this one, they are written in its types: so tests/gpu holds them to it. */
#ifndef DS_GPU_NCCL_H
#define DS_GPU_NCCL_H

#include "runtime.h"

#include <stddef.h>

#if defined(NCCL_MAJOR)
typedef ncclComm_t gpu_nccl_comm;
typedef ncclUniqueId gpu_nccl_id;
typedef ncclConfig_t gpu_nccl_config_arg;
typedef ncclResult_t gpu_nccl_result;
typedef ncclDataType_t gpu_nccl_type;
typedef ncclRedOp_t gpu_nccl_op;
#else
typedef struct ncclComm *gpu_nccl_comm;
typedef struct gpu_nccl_id {
  char internal[128];
} gpu_nccl_id;
typedef struct gpu_nccl_config gpu_nccl_config_arg;
typedef unsigned gpu_nccl_result; /* enums without negative values, as compilers pass them */
typedef unsigned gpu_nccl_type;
typedef unsigned gpu_nccl_op;
#endif

/* The beginning of ncclConfig_t, by its size and version the whole of what 2.14 had: later ones fill in the rest. */
typedef struct gpu_nccl_config {
  size_t size;
  unsigned magic, version;
  int blocking;
  int cluster_size; /* of 2.17; here so that no padding is read */
} gpu_nccl_config;
enum { GPU_NCCL_MAGIC = (int)0xcafebeef, GPU_NCCL_CONFIG_VERSION = 21400 };

enum { /* gpu_nccl_result */
       GPU_NCCL_SUCCESS = 0,
       GPU_NCCL_INVALID_ARGUMENT = 4,
       GPU_NCCL_INVALID_USAGE = 5,
       GPU_NCCL_IN_PROGRESS = 7
};
enum { GPU_NCCL_SUM = 0, GPU_NCCL_MAX = 2, GPU_NCCL_MIN = 3, GPU_NCCL_AVG = 4 }; /* gpu_nccl_op */
enum {                                                                           /* gpu_nccl_type */
       GPU_NCCL_I8 = 0,
       GPU_NCCL_I32 = 2,
       GPU_NCCL_I64 = 4,
       GPU_NCCL_F16 = 6,
       GPU_NCCL_F32 = 7,
       GPU_NCCL_F64 = 8,
       GPU_NCCL_BF16 = 9
};

/* F(name, arguments, required), all returning gpu_nccl_result. */
#define GPU_NCCL_FUNCTIONS(F)                                                                      \
  F(GetVersion, (int *version), 1)                                                                 \
  F(GetUniqueId, (gpu_nccl_id * id), 1)                                                            \
  F(CommInitRankConfig,                                                                            \
    (gpu_nccl_comm * comm, int ranks, gpu_nccl_id id, int rank, gpu_nccl_config_arg *config), 1)   \
  F(CommFinalize, (gpu_nccl_comm comm), 1)                                                         \
  F(CommDestroy, (gpu_nccl_comm comm), 1)                                                          \
  F(CommAbort, (gpu_nccl_comm comm), 1)                                                            \
  F(CommSplit,                                                                                     \
    (gpu_nccl_comm comm, int color, int key, gpu_nccl_comm *out, gpu_nccl_config_arg *config), 0)  \
  F(CommGetAsyncError, (gpu_nccl_comm comm, gpu_nccl_result * result), 1)                          \
  F(CommCount, (const gpu_nccl_comm comm, int *count), 1)                                          \
  F(CommUserRank, (const gpu_nccl_comm comm, int *rank), 1)                                        \
  F(AllReduce,                                                                                     \
    (const void *send, void *recv, size_t count, gpu_nccl_type type, gpu_nccl_op op,               \
     gpu_nccl_comm comm, gpuStream_t s),                                                           \
    1)                                                                                             \
  F(ReduceScatter,                                                                                 \
    (const void *send, void *recv, size_t recv_count, gpu_nccl_type type, gpu_nccl_op op,          \
     gpu_nccl_comm comm, gpuStream_t s),                                                           \
    1)                                                                                             \
  F(AllGather,                                                                                     \
    (const void *send, void *recv, size_t send_count, gpu_nccl_type type, gpu_nccl_comm comm,      \
     gpuStream_t s),                                                                               \
    1)                                                                                             \
  F(Broadcast,                                                                                     \
    (const void *send, void *recv, size_t count, gpu_nccl_type type, int root, gpu_nccl_comm comm, \
     gpuStream_t s),                                                                               \
    1)                                                                                             \
  F(Send,                                                                                          \
    (const void *send, size_t count, gpu_nccl_type type, int peer, gpu_nccl_comm comm,             \
     gpuStream_t s),                                                                               \
    1)                                                                                             \
  F(Recv,                                                                                          \
    (void *recv, size_t count, gpu_nccl_type type, int peer, gpu_nccl_comm comm, gpuStream_t s),   \
    1)                                                                                             \
  F(GroupStart, (void), 1)                                                                         \
  F(GroupEnd, (void), 1)

typedef struct gpu_nccl {
#define F(name, arguments, required) gpu_nccl_result(*name) arguments;
  GPU_NCCL_FUNCTIONS(F)
#undef F
  const char *(*GetErrorString)(gpu_nccl_result result);
  const char *(*GetLastError)(gpu_nccl_comm comm); /* may be NULL */
} gpu_nccl;

/* The library, opened once a process; CommSplit may be NULL. NULL: it isn't there, or too old, and *why, a static
 * string, says which and the cure. [any-thread] */
const gpu_nccl *gpu_nccl_open(const char **why);

#endif
