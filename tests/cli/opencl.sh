#!/bin/sh
# The OpenCL example, built outside of this tree, where OpenCL's headers and a device are at hand.
. "${0%/*}/lib.sh"
command -v pkg-config >/dev/null && pkg-config --exists OpenCL ||
  { skip 'there are no OpenCL headers; scripts/install-deps installs them'; exit 77; }
. "${0%/*}/out_of_tree.sh"

# Kernels that the device's compiler caches stay here. Being in the process, it also keeps memory
# until the end, which is not ours to check.
POCL_CACHE_DIR=$WORK/pocl
ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
# PoCL sets this one for itself; a process's environment is none of a plugin's business.
HWLOC_PLUGINS_PATH=/dev/null
export POCL_CACHE_DIR ASAN_OPTIONS HWLOC_PLUGINS_PATH
mkdir "$POCL_CACHE_DIR"

cp -r "$SOURCE/examples/plugin-opencl" opencl
build_plugin opencl opencl
DS_PLUGIN_PATH=$folder
export DS_PLUGIN_PATH
ok "$installed" backends
unset DS_PLUGIN_PATH
grep -q 'no OpenCL device found' .out && { skip 'there is no OpenCL device'; exit 77; }

fallback=error # it offers everything that these models need
check_plugin
# Whole models against another framework's numbers; in bf16 everything falls back.
for dtype in f32 bf16; do
  ok "$build/tests/golden/test_models" "$SOURCE/tests/golden/models" opencl "$folder" $dtype
done

# Work that fails on the device after its call has returned: the 300th that is asked about.
case $* in *-fsanitize*) exit 0 ;; esac # its runtime wants to be first
cat >fails.c <<'EOF'
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
cl_int clGetEventInfo(cl_event e, cl_event_info what, size_t room, void *out, size_t *size) {
  static int asked;
  void *library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_NOLOAD);
  cl_int (*real)(cl_event, cl_event_info, size_t, void *, size_t *);
  *(void **)&real = dlsym(library, "clGetEventInfo");
  cl_int code = real(e, what, room, out, size);
  if (what == CL_EVENT_COMMAND_EXECUTION_STATUS && ++asked == 300) *(cl_int *)out = -5;
  return code;
}
EOF
ok "$@" -shared -fPIC fails.c -o fails.so -ldl
DS_PLUGIN_PATH=$folder LD_PRELOAD=$WORK/fails.so
export DS_PLUGIN_PATH LD_PRELOAD
refused 'opencl.*: [a-z_]+ failed on the device .OpenCL error -5.' "$installed" train \
  --model gpt2.json --data text.txt --config opencl.json --seq-len 16 --steps 50
