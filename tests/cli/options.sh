#!/bin/sh
# The command line itself: help that teaches, mistakes that are told, exit codes 0, 1 and 2.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

ok "$DS" --help
for command in train generate backends config bench; do
  printed "^  $command "
done
ok "$DS" help
ok "$DS" --version
printed '^ds [0-9]+\.[0-9]+\.[0-9]+$'
for command in train generate backends config bench; do
  ok "$DS" $command --help
  printed "^usage: ds $command "
done
for option in --model --data --config --tokenizer --seq-len --steps --seed --output --resume --stats --json; do
  ok "$DS" train -h
  printed "^  $option"
done
for option in --model --prompt --max-new-tokens --temperature --top-k --top-p --seed --config --set \
  --stats --json; do
  ok "$DS" generate -h
  printed "^  $option"
done

wrong 'usage: ds COMMAND' "$DS"
wrong 'unknown command "trian"; did you mean train\?' "$DS" trian
wrong 'unknown command "xyzzy"' "$DS" xyzzy
wrong 'unknown command ""' "$DS" ''
wrong 'unknown option --modle; did you mean --model\?' "$DS" train --modle gpt2.json
wrong 'unknown option --temprature; did you mean --temperature\?' "$DS" generate --temprature 1
wrong 'unknown option --jsn; did you mean --json\?' "$DS" backends --jsn
wrong 'unknown option --worldsize; did you mean --world-size\?' "$DS" config ds.json --worldsize 2
wrong 'unknown option -model; did you mean --model\?' train -model gpt2.json
wrong 'unknown option' train --

# Values that are missing: at the end, and where the next option stands.
for option in --model --data --config --tokenizer --seq-len --steps --seed --output --save-every --svg; do
  wrong "^ds train: $option wants a value" train $option
  wrong "^ds train: $option wants a value" train $option --json
done
for option in --model --prompt --max-new-tokens --temperature --top-k --top-p --seed --config --set; do
  wrong "^ds generate: $option wants a value" "$DS" generate $option
  wrong "^ds generate: $option wants a value" "$DS" generate $option --json
done
wrong 'takes no value' train --json=yes
wrong 'whole number, not "ten"' train --steps ten
wrong 'whole number, not "1.5"' train --steps 1.5
wrong 'whole number, not ""' train --steps=
wrong 'whole number, not "99999999999999999999"' train --steps 99999999999999999999
wrong 'steps must be positive' train --steps 0
wrong 'steps must be positive' train --steps -5
wrong 'seed must not be negative' train --seed -1
wrong 'seq-len must be positive' train --seq-len -1
wrong 'save-every' train --save-every -1
wrong 'a number, not "warm"' "$DS" generate --model x --prompt y --temperature warm
wrong 'max-new-tokens must be' "$DS" generate --model x --prompt y --max-new-tokens -1
wrong 'unexpected "more"' train --json more
wrong 'unexpected "more"' "$DS" generate --model x --prompt y more
wrong 'unexpected "more"' "$DS" backends more
wrong 'wanted one FILE' "$DS" config
wrong 'wanted one FILE' "$DS" config ds.json ds.json
wrong 'world-size must be' "$DS" config ds.json --world-size 0

wrong 'model is missing' "$DS" train --data text.txt --config ds.json
wrong 'data is missing' "$DS" train --model gpt2.json --config ds.json
wrong 'config is missing' "$DS" train --model gpt2.json --data text.txt
wrong 'model is missing' "$DS" generate --prompt y
wrong 'prompt is missing' "$DS" generate --model x

# A prompt may begin with dashes; one that looks like an option is given with '='.
ok train --steps 1 --output out
for prompt in '-- a dash' '--a'; do
  ok "$DS" generate --model out --prompt "$prompt" --max-new-tokens 0
  [ "$(cat .out)" = "$prompt" ] || fail "the prompt should come back"
done
ok "$DS" generate --model out --prompt=--json --max-new-tokens 0
[ "$(cat .out)" = '--json' ] || fail "the prompt should come back"

# Results that cannot be written are a failure.
if [ -w /dev/full ]; then
  for command in 'config ds.json' 'config ds.json --json' 'backends' 'backends --json' '--help' \
    '--version' 'train --help' 'generate --model out --prompt The --max-new-tokens 2' \
    'generate --model out --prompt The --max-new-tokens 2 --json' \
    'train --model gpt2.json --data text.txt --config ds.json --seq-len 8 --steps 2 --json'; do
    # shellcheck disable=SC2086
    "$DS" $command >/dev/full 2>.err
    code=$? command_line="ds $command >/dev/full"
    : >.out
    [ $code -eq 1 ] || fail "a full stdout should give exit code 1"
    [ "$(wc -l <.err)" -eq 1 ] && told 'cannot write' || fail "one message wanted"
  done
else
  skip 'a full stdout: no /dev/full'
fi
