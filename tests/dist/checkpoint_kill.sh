#!/bin/sh
# One rank of several is killed at any moment of training that saves after every step: what `latest`
# names loads, at another layout, and nothing of the unfinished one is left after the next save.
#
# usage: checkpoint_kill.sh TEST_ELASTIC PLUGIN_FOLDER SCRATCH MPIRUN...
set -u
link=$1 plugins=$2 scratch=$3
shift 3
fail() {
  echo "FAILED: $*"
  exit 1
}
stage() { echo "\"zero_optimization\": {\"stage\": $1}"; }

rm -rf "$scratch"
for round in 1 2 3; do
  folder=$scratch/$round
  mkdir -p "$folder"
  timeout 60 "$@" -n 3 "$link" "$plugins" "$folder" gpt2 - 100000 every "$(stage $round)" \
    >"$folder/out" 2>&1 &
  job=$!
  tries=0
  until [ -f "$folder/odd/manifest" ]; do # it saves, and replaces
    sleep 0.05
    tries=$((tries + 1))
    [ $tries -lt 600 ] || fail "nothing was saved: $(cat "$folder/out")"
  done
  sleep "0.0$(((round * 37 + 11) % 90 + 10))"
  kill -9 "$(cat "$folder/pid.$((round % 3))")"
  wait $job && fail "the job should have failed"
  for pid in "$folder"/pid.*; do # the launcher may end before them
    tries=0
    while kill -0 "$(cat "$pid")" 2>/dev/null && [ $tries -lt 400 ]; do
      sleep 0.05
      tries=$((tries + 1))
    done
  done
  "$link" "$plugins" "$folder" gpt2 "$(cat "$folder/latest")" 1 after "" ||
    fail "round $round: what is left: $(ls -A "$folder")"
  for f in "$folder"/.tmp* "$folder"/.old*; do
    [ ! -e "$f" ] || fail "round $round: a leftover: $f"
  done
done
