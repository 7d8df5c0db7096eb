#!/bin/sh
# A training run that changes its layout of ranks at every checkpoint has the losses of one that doesn't.
#
# usage: elastic.sh TEST_ELASTIC PLUGIN_FOLDER SCRATCH TOLERANCE KEYS MPIRUN...
# TOLERANCE: of losses, relative; of gradient norms ten times that. KEYS: more of the config, for all. Layouts stand below: number of ranks and keys of the config.
set -u
link=$1 plugins=$2 scratch=$3 tolerance=$4 keys=$5
shift 5
rm -rf "$scratch" && mkdir -p "$scratch/one" "$scratch/chain" || exit 1

fail() {
  echo "FAILED: $*"
  exit 1
}
zero() { echo "\"zero_optimization\": {\"stage\": $1}${keys:+, $keys}"; }

"$link" "$plugins" "$scratch/one" - 16 end "$keys" || fail "one process"

from=- at=0
# go RANKS CONFIG...: two steps on so many ranks
go() {
  ranks=$1 at=$((at + 2))
  shift
  to="step$at-of-$ranks"
  if [ "$ranks" = 1 ]; then
    "$link" "$plugins" "$scratch/chain" "$from" 2 "$to" "$1" || fail "$to from $from: $1"
  else
    $MPIRUN -n "$ranks" $EXTRA "$link" "$plugins" "$scratch/chain" "$from" 2 "$to" "$1" ||
      fail "$to from $from: $1"
  fi
  from=$to
}
MPIRUN=$1
shift
EXTRA=$*

go 2 "$(zero 3)"
go 1 "$keys"
go 3 "$(zero 1)"
go 4 "$(zero 3), \"gradient_accumulation_steps\": 3"
go 2 "$(zero 2)"
go 4 "$(zero 0)"
go 3 "$(zero 3)"
go 1 "$(zero 3)"

[ "$(wc -l <"$scratch/chain/losses")" = 16 ] || fail "16 losses wanted"
paste -d ' ' "$scratch/one/losses" "$scratch/chain/losses" | awk -v most="$tolerance" '
  function far(a, b, x) { d = a - b; if (d < 0) d = -d; return !(d <= x * (a < 0 ? -a : a)) }
  far($1, $3, most) || far($2, $4, 10 * most) { print "step " NR ": " $0; bad = 1 }
  NR == 1 { first = $1 }
  END { if (!($3 < first)) { print "it should learn"; bad = 1 } exit bad }' ||
  fail "losses differ from those of one process"
# Two files whatever the number of ranks was, and nothing half made.
for folder in "$scratch"/chain/step*; do
  [ "$(ls -A "$folder" | tr '\n' ' ')" = 'config.json engine.json manifest model.safetensors optimizer.safetensors ' ] ||
    fail "$folder: $(ls -A "$folder")"
done
ls -A "$scratch/chain" | grep -q tmp && fail "a leftover"
exit 0
