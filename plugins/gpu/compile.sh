#!/bin/sh
# Runs a compiler of kernels: compile.sh USAGE COMMAND...
# What it says of the kernels' registers and spills goes into the file USAGE (tests/gpu/resources.py reads it), its warnings
# and errors to stderr as ever.
usage=$1
shift
"$@" 2>"$usage"
code=$?
if [ $code -ne 0 ]; then
  cat "$usage" >&2
else
  grep -E 'warning' "$usage" >&2
fi
exit $code
