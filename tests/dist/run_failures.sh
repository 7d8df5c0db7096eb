#!/bin/sh
# One of three ranks dies: the others end in time and say what happened, and the last checkpoint goes on.
#
# usage: run_failures.sh TEST PLUGIN_FOLDER SCRATCH OPTIONS MORE SCENE VICTIM MPIRUN...
# MORE and SCENE are test_failures.c's, SCENE also kill-any, stop-any: at whatever the victim does at the moment.
set -eu
test=$1 plugins=$2 scratch=$3 options=$4 more=$5 scene=$6 victim=$7
shift 7
rm -rf "$scratch" && mkdir -p "$scratch"
healthy() {
  out=$(timeout 60 "$@" 2>&1) || { echo "$out"; exit 1; }
  [ "$(echo "$out" | grep -c 'survives$')" = 3 ] || { echo "$out"; exit 1; }
}
signal_of() {
  case $1 in kill-any) echo KILL ;; stop-any) echo STOP ;; esac
}

case $scene$more in start* | end* | *unsaved*) saved= ;; *) saved=yes ;; esac
[ ! "$saved" ] || healthy "$@" -n 3 "$test" "$plugins" "$scratch" "$options" "$more" straight

# The launcher must not end the others itself; but a rank that is stopped it must, once they have left.
case $scene in kill*) patient=--enable-recovery ;; *) patient='--mca orte_abort_on_non_zero_status 0' ;; esac
run="timeout 60 $* $patient -n 3"
case $scene in
*-any)
  $run "$test" "$plugins" "$scratch" "$options" "$more" wait "$victim" >"$scratch/out" 2>&1 &
  pid=$!
  i=0
  while [ ! -s "$scratch/victim" ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done
  kill -"$(signal_of "$scene")" "$(cat "$scratch/victim")"
  wait $pid && status=0 || status=$?
  ;;
*)
  $run "$test" "$plugins" "$scratch" "$options" "$more" "$scene" "$victim" >"$scratch/out" 2>&1 &&
    status=0 || status=$?
  ;;
esac
cat "$scratch/out"
[ $status != 124 ] || { echo 'it hung'; exit 1; }
[ "$(grep -c 'survives$' "$scratch/out")" = 2 ] || { echo 'two were to survive'; exit 1; }
if grep -E 'Sanitizer|Segmentation|Signal: (Seg|Abort|Bus)' "$scratch/out"; then exit 1; fi

[ ! "$saved" ] || healthy "$@" -n 3 "$test" "$plugins" "$scratch" "$options" "$more" resume
