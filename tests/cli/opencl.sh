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
