#!/bin/sh
# Runs mpirun ... test_exit, or another test: passes when all RANKS (2) ranks came to their end and the job
# ended with them. MPI was not finalized then, so the launcher may complain; only a hang, a crash or a failed
# check is wrong.
out=$(timeout 100 "$@" 2>&1)
status=$?
echo "$out"
[ "$status" != 124 ] || { echo 'it hung'; exit 1; }
case $out in *Signal:* | *"on signal"* | *failed* | *test_*.c:[0-9]* | *Sanitizer*) exit 1 ;; esac
[ "$(echo "$out" | grep -c 'leaves$')" = "${RANKS:-2}" ]
