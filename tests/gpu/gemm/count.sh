#!/bin/sh
# count.sh KIND COMMAND... - the command succeeds, and by its log the double of the library KIND did work of every sort in it,
# and nothing of it was left.
kind=$1
shift
log=$DS_BLAS_DOUBLE_LOG.$$
DS_BLAS_DOUBLE_LOG=$log "$@" || exit 1
[ -f "$log" ] || { echo "the double of $kind was never opened"; exit 1; }
cat "$log"
total() { sed -n "s/.* $1=\([0-9]*\).*/\1/p" "$log" | awk '{n += $1} END {print n + 0}'; }
ok=0
case $kind in
cublaslt) sorts="calls refused unsupported bias relu half batched" ;;
*) sorts="calls unsupported half batched" ;;
esac
for sort in $sorts; do
  [ "$(total "$sort")" -gt 0 ] || { echo "no $sort"; ok=1; }
done
[ "$(total left)" -eq 0 ] || { echo "descriptors are left"; ok=1; }
rm -f "$log"
exit $ok
