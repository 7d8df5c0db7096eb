#!/bin/sh
# Killed at any moment of training that saves after every step, it goes on from a whole checkpoint;
# asked to stop, it saves first.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

ok train --steps 400 --json
field loss .out >straight

step_of() { sed 's/global_step//' out/latest; }

# Delays from an arithmetic sequence modulo a prime spread over startup, steps and saves.
reached=0 k=0
resume=''
while [ $k -lt 25 ]; do
  # exec: the process killed is ds itself, not a shell around it.
  (exec "$DS" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 --steps 400 \
    --save-every 1 --output out --json $resume) >.out 2>.err &
  pid=$!
  sleep "0.$(printf %03d $(((k * 37 + 20) % 211)))"
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
  code=$?
  [ $code -eq 137 ] || [ $code -eq 0 ] || fail "killed or done, not: round $k"
  [ ! -s .err ] || ! grep -vq 'are done already' .err || fail "no message wanted: round $k"
  if [ -f out/latest ]; then
    resume=--resume
    now=$(step_of)
    [ "$now" -ge $reached ] || fail "step $now after step $reached: round $k"
    reached=$now
    # What latest names can be loaded, at each such moment.
    ok "$DS" generate --model out --prompt The --max-new-tokens 1 --temperature 0 --json
  fi
  k=$((k + 1))
done
[ "$reached" -gt 0 ] || fail "no checkpoint in 25 rounds"

# The next steps are those of an undisturbed run.
[ "$reached" -le 395 ] || { printf global_step390 >out/latest && reached=390; }
last=$((reached + 5))
ok train --steps $last --output out --resume --json
field loss .out >parts
sed -n "$((reached + 1)),${last}p" straight >rest
same rest parts
for f in out/.* out/*; do
  case ${f#out/} in
  . | .. | latest | global_step*) ;;
  *) fail "leftover of a killed process: $f" ;;
  esac
done

# A polite request to end saves the step it is at, ends with 128 + the signal, and can be resumed.
for signal in TERM INT; do
  rm -rf polite .out
  (exec "$DS" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 --steps 100000 \
    --output polite --json) >.out 2>.err &
  pid=$!
  tries=0
  until [ -s .out ] || [ $tries -ge 200 ]; do sleep 0.05; tries=$((tries + 1)); done
  kill -$signal $pid
  wait $pid
  code=$?
  [ $signal = INT ] && wanted=130 || wanted=143
  [ $code -eq $wanted ] || fail "exit code $code after SIG$signal, not $wanted"
  at=$(sed 's/global_step//' polite/latest) || fail "SIG$signal should save"
  [ "$at" -eq "$(field step .out | tail -n 1)" ] || fail "the last step shown should be saved"
  ok train --steps $((at + 1)) --output polite --resume --json
done
