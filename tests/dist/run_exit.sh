#!/bin/sh
# Runs mpirun ... test_exit: passes when both ranks came to their end and the job ended with them. MPI
# was not finalized then, so the launcher may complain; only a hang, a crash or a failed check is wrong.
out=$(timeout 40 "$@" 2>&1)
status=$?
echo "$out"
[ "$status" != 124 ] || { echo 'it hung'; exit 1; }
case $out in *Signal:* | *"on signal"* | *failed* | *test_exit.c:* | *Sanitizer*) exit 1 ;; esac
[ "$(echo "$out" | grep -c 'leaves$')" = 2 ]
