#!/bin/sh
# A training run that changes its layout of ranks at every checkpoint has the losses of one that doesn't.
#
# usage: elastic.sh TEST_ELASTIC PLUGIN_FOLDER SCRATCH CHAIN TOLERANCE KEYS MPIRUN...
# TOLERANCE: of losses, relative; of gradient norms ten times that. KEYS: more of the config, for all. Layouts stand below: number of ranks and keys of the config.
set -u
link=$1 plugins=$2 scratch=$3 chain=$4 tolerance=$5 keys=$6
shift 6
model=gpt2
[ "$chain" = llama ] && model=llama
rm -rf "$scratch" && mkdir -p "$scratch/one" "$scratch/chain" || exit 1

fail() {
  echo "FAILED: $*"
  exit 1
}
zero() { echo "\"zero_optimization\": {\"stage\": $1}${keys:+, $keys}"; }

from=- at=0
# go RANKS CONFIG...: two steps on so many ranks
go() {
  ranks=$1 at=$((at + 2))
  shift
  to="step$at-of-$ranks"
  if [ "$ranks" = 1 ]; then
    "$link" "$plugins" "$scratch/chain" $model "$from" 2 "$to" "$1" || fail "$to from $from: $1"
  else
    $MPIRUN -n "$ranks" $EXTRA "$link" "$plugins" "$scratch/chain" $model "$from" 2 "$to" "$1" ||
      fail "$to from $from: $1"
  fi
  from=$to
}
MPIRUN=$1
shift
EXTRA=$*

offload() { # offload STAGE DEVICE
  to_device="{\"device\": \"$2\", \"nvme_path\": \"$scratch\"}"
  params=
  [ "$1" = 3 ] && params=", \"offload_param\": $to_device"
  echo "\"zero_optimization\": {\"stage\": $1, \"offload_optimizer\": $to_device$params}${keys:+, $keys}"
}
tensor() { echo "\"tensor_parallel\": {\"autotp_size\": $1}"; }
pipe() { echo "\"pipeline\": {\"stages\": $1}, \"gradient_accumulation_steps\": 3"; }

case $chain in
gpt2)
  go 2 "$(zero 3)"
  go 1 "$keys"
  go 3 "$(zero 1)"
  go 4 "$(zero 3), \"gradient_accumulation_steps\": 3"
  go 2 "$(zero 2)"
  go 4 "$(zero 0)"
  go 2 "$(zero 0), $(tensor 2)"
  go 3 "$(zero 3)"
  go 4 "$(zero 3), $(tensor 2)"
  go 2 "$(zero 0), $(pipe 2)"
  go 3 "$(zero 1), $(tensor 3)"
  go 4 "$(zero 1), $(pipe 2)"
  go 4 "$(zero 1), $(tensor 2), $(pipe 2)"
  go 2 "$(offload 2 cpu)"
  go 2 "$(offload 3 nvme)"
  go 2 "$(zero 3), \"sequence_parallel_size\": 2"
  go 4 "$(zero 1), $(tensor 2), \"sequence_parallel_size\": 2"
  go 1 "$(zero 3)"
  ;;
short)
  go 2 "$(zero 3)"
  go 1 "$keys"
  go 4 "$(zero 1), $(tensor 2)"
  go 3 "$(zero 2)"
  go 4 "$(zero 1), $(pipe 2)"
  go 2 "$(offload 3 cpu)"
  ;;
fp16)
  go 2 "$(zero 3)"
  go 1 "$keys"
  go 3 "$(zero 2)"
  go 4 "$(zero 1), $(pipe 2)"
  ;;
llama) # two key/value heads, which three and four ranks have to share
  go 3 "$(zero 0), $(tensor 3)"
  go 1 "$keys"
  go 4 "$(zero 1), $(tensor 4)"
  go 2 "$(zero 3)"
  go 4 "$(zero 3), $(tensor 2)"
  go 3 "$(zero 0), $(pipe 3)"
  ;;
esac

"$link" "$plugins" "$scratch/one" $model - $at end "$keys" || fail "one process"
[ "$(wc -l <"$scratch/chain/losses")" = $at ] || fail "$at losses wanted"
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
