#!/bin/sh
# What the GPU plugins export and need: one symbol, and nothing of the toolkits that a machine may lack.
# Arguments: the plugins' files.
set -eu
code=0
complain() {
  echo "FAILED: $1: $2"
  code=1
}
for file; do
  exported=$(nm -D --defined-only "$file" | awk '{ print $3 }')
  [ "$exported" = ds_plugin_query ] || complain "$file" "exports $exported"
  readelf -d "$file" | grep -q 'Flags:.*NODELETE' || complain "$file" 'could be unloaded (-z nodelete)'
  readelf -d "$file" | grep -qE 'RPATH|RUNPATH|TEXTREL' && complain "$file" 'has a path or relocations in its code'
  readelf -lW "$file" | grep -q 'GNU_STACK.*RWE' && complain "$file" 'has an executable stack'
  for library in $(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
    case $library in
      libc.so.* | ld-linux* | libm.so.* | libcjson.so.*) ;;
      libpthread.so.* | librt.so.* | libdl.so.*) ;; # before glibc 2.34
      libasan.so.* | libubsan.so.* | libtsan.so.*) ;;
      libamdhip64.so.*) case $file in *rocm.so) ;; *) complain "$file" "needs $library" ;; esac ;;
      *) complain "$file" "needs $library" ;;
    esac
  done
done
exit $code
