#!/bin/sh
# bugs.sh DS BUGS FOLDER SECTION - for each line of BUGS whose check is of SECTION: `ds conform` on the
# plugin with that bug fails, and names that check. Without mpirun, where ranks are started plainly.
set -u
ds=$1 bugs=$2 folder=$3 section=$4
PATH=${TMPDIR:-/tmp}/no-such-folder
export PATH
missed=0 found=0
while read -r bug check options; do
  case $check in "$section"/*) ;; *) continue ;; esac
  case ${SANITIZED-}$bug in yesleaks_pages) continue ;; esac # a sanitizer's own memory hides it
  # shellcheck disable=SC2086
  out=$("$ds" conform "$folder/buggy_$bug.so" --section "$section" --op "${check#*/}" --cases 8 $options 2>&1)
  code=$?
  case $code$out in
  1*"
FAIL        $check "*)
    echo "$bug: found by $check"
    found=$((found + 1))
    ;;
  *)
    echo "$bug: $check should have failed (exit code $code):"
    echo "$out"
    missed=$((missed + 1))
    ;;
  esac
done <"$bugs"
[ $missed -eq 0 ] && [ $found -gt 0 ]
