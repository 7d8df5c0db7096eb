#!/bin/sh
# The GPU plugins on a machine without a card: listed, with the reason and the cure, and in nobody's way.
# Further arguments: the CUDA Toolkit's stub of the driver (or ''), the plugins' files.
. "${0%/*}/../cli/lib.sh"
STUB=$4
shift 4

has_library() {
  python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null
}
# rejected NAME PATTERN: the plugin of that name is listed as rejected, for a reason that matches.
rejected() {
  json "[b for b in value if b['name'] == '$1' and b['state'] == 'rejected' and
         __import__('re').search(r'''$2''', b['reason'])]"
}
# others_work: the engines run on whatever else there is.
others_work() {
  ok train --steps 1
}

mkdir plugins missing stub
for file; do ln -s "$file" plugins/; done
DS_PLUGIN_PATH=$WORK/plugins
export DS_PLUGIN_PATH

for file; do
  name=$(basename "$file" .so)
  name=${name#dscore_}
  case $name in
    rocm)
      if [ -e /dev/kfd ]; then
        skip "rocm: this machine has the amdgpu driver"
        continue
      fi
      reason='amdgpu.*rocminfo'
      ;;
    *)
      if has_library libcuda.so.1; then
        skip "$name: this machine has the NVIDIA driver"
        continue
      fi
      reason='no NVIDIA driver: libcuda.so.1 not found; install'
      if [ -n "$STUB" ]; then
        ln -sf "$STUB" stub/libcuda.so.1
        LD_LIBRARY_PATH=$WORK/stub ok "$DS" backends --json
        rejected "$name" 'stub.*LD_LIBRARY_PATH'
      fi
      ;;
  esac
  ok "$DS" backends --json
  rejected "$name" "$reason"
  DS_BACKEND=$name run train --steps 1
  [ "$code" -eq 1 ] || fail "training on $name should fail"
  told "$reason"
  DS_BACKEND=$name,reference ok train --steps 1
  run "$DS" conform "$file"
  [ "$code" -ne 0 ] || fail "there is nothing to conform"
  told "$reason"
  others_work

  # Without the vendor's library it can't even be loaded: as if libamdhip64 were named otherwise.
  if [ "$name" = rocm ]; then
    sed 's/libamdhip64\.so\.[0-9]/libamdhip64.so.X/g' "$file" >missing/dscore_rocm.so
    DS_PLUGIN_PATH=$WORK/missing ok "$DS" backends --json
    json "[b for b in value if b['path'] == '$WORK/missing/dscore_rocm.so' and b['state'] == 'rejected' and
           'libamdhip64.so.X, which is not on this machine; install it' in b['reason']]"
    DS_PLUGIN_PATH=$WORK/missing others_work
  fi
done
