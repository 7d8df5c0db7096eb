/* test_nccl.c - our prototypes of NCCL (plugins/gpu/nccl.h) are NCCL's: its header is included first, so that ours is written
 * in its types, and assertions at compile time do the rest. Then the library is opened, where there is one. */
#include <nccl.h>

#include "../../plugins/gpu/nccl.h" /* not by a search path, where it would be found for the other */
#include <stddef.h>
#include "unit/test.h"

#define SAME(name)                                                                                 \
  _Static_assert(                                                                                  \
      __builtin_types_compatible_p(__typeof__(&nccl##name), __typeof__(((gpu_nccl *)0)->name)),    \
      "nccl" #name);
#define F(name, arguments, required) SAME(name)
GPU_NCCL_FUNCTIONS(F)
SAME(GetErrorString)
SAME(GetLastError)

_Static_assert(GPU_NCCL_SUCCESS == (int)ncclSuccess &&
                   GPU_NCCL_INVALID_ARGUMENT == (int)ncclInvalidArgument &&
                   GPU_NCCL_INVALID_USAGE == (int)ncclInvalidUsage &&
                   GPU_NCCL_IN_PROGRESS == (int)ncclInProgress,
               "results");
_Static_assert(GPU_NCCL_SUM == (int)ncclSum && GPU_NCCL_MAX == (int)ncclMax &&
                   GPU_NCCL_MIN == (int)ncclMin && GPU_NCCL_AVG == (int)ncclAvg,
               "reductions");
_Static_assert(GPU_NCCL_I8 == (int)ncclInt8 && GPU_NCCL_I32 == (int)ncclInt32 &&
                   GPU_NCCL_I64 == (int)ncclInt64 && GPU_NCCL_F16 == (int)ncclFloat16 &&
                   GPU_NCCL_F32 == (int)ncclFloat32 && GPU_NCCL_F64 == (int)ncclFloat64 &&
                   GPU_NCCL_BF16 == (int)ncclBfloat16,
               "types");
_Static_assert(sizeof(ncclUniqueId) == 128, "the id");
_Static_assert(offsetof(gpu_nccl_config, magic) == offsetof(ncclConfig_t, magic) &&
                   offsetof(gpu_nccl_config, version) == offsetof(ncclConfig_t, version) &&
                   offsetof(gpu_nccl_config, blocking) == offsetof(ncclConfig_t, blocking) &&
                   offsetof(gpu_nccl_config, cluster_size) ==
                       offsetof(ncclConfig_t, cgaClusterSize),
               "the config's beginning");
_Static_assert(sizeof(ncclResult_t) == sizeof(unsigned) &&
                   sizeof(ncclDataType_t) == sizeof(unsigned) &&
                   sizeof(ncclRedOp_t) == sizeof(unsigned),
               "enums pass as unsigned");

int main(void) {
  const char *why = NULL;
  const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
  CHECK(theirs.magic == (unsigned)GPU_NCCL_MAGIC);
  const gpu_nccl *n = gpu_nccl_open(&why);
  if (n == NULL) {
    fprintf(stderr, "%s\n", why);
    CHECK(strstr(why, "libnccl.so.2") != NULL);
    return test_result() == 0 ? 77 : 1;
  }
  int version = 0;
  CHECK(n->GetVersion(&version) == ncclSuccess && version >= GPU_NCCL_CONFIG_VERSION);
  CHECK(n->CommSplit != NULL && n->GetErrorString(ncclRemoteError) != NULL);
  CHECK(gpu_nccl_open(&why) == n && why == NULL);
  return test_result();
}
