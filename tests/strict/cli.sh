#!/bin/sh
# ds train and ds generate on the strict plugin, and when the device fails.
# Called as: cli.sh DS SCRATCH SOURCE-ROOT PLUGIN-FOLDER
. "${0%/*}/../cli/lib.sh"

# No option: the environment's, so that the commands are as a user's.
strict() {
  export DS_BACKEND=strict DS_PLUGIN_PATH="$PLUGINS" DS_STRICT="{\"abort\": true, $1}"
}
reference() {
  export DS_BACKEND=reference
}
PLUGINS=$4
generate() {
  "$DS" generate --prompt 'The quick' --max-new-tokens 8 --temperature 0 --json "$@"
}

# The same losses, weights and tokens as on the reference.
for model in gpt2 llama; do
  reference
  ok train --model $model.json --steps 5 --output $model --json
  field loss .out >losses
  ok generate --model $model
  field tokens .out >tokens
  for options in '"seed": 3' '"seed": 4, "tables": "none"' '"seed": 5, "accessible": true'; do
    strict "$options"
    rm -rf strict
    ok train --model $model.json --steps 5 --output strict --save-every 2 --json --trace trace.json
    field loss .out >strict_losses
    same losses strict_losses
    cmp -s $model/global_step5/model.safetensors strict/global_step5/model.safetensors ||
      fail "the weights should be the same"
    ok generate --model strict
    field tokens .out >strict_tokens
    same tokens strict_tokens
  done
done

# A device that fails in the middle of a step: what, where, and which checkpoint to go on from.
rm -rf strict
strict '"seed": 6, "fail_work": 500'
refused 'strict:0, stream 0: .*\(work 500\): injected failure; .*dir "strict", tag global_step[0-9]+' \
  train --steps 40 --output strict --save-every 1 --trace failed.json
python3 -c "
import json
spans = [e for e in json.load(open('failed.json'))['traceEvents'] if e['ph'] == 'X']
assert 'failed' in [e['args'].get('note') for e in spans] and len(spans) > 3" || fail "the trace should tell the failure"
strict '"seed": 6, "hang_work": 500'
refused 'strict:0, stream 0: .*\(work 500\): not done after 20 ms' \
  train --steps 40 --output strict --save-every 1
strict '"seed": 6, "fail_work": 500, "lost": true'
refused 'strict:0, stream 0: .*the device is lost: .*tag global_step' \
  train --steps 40 --output strict --save-every 1

# The last checkpoint is whole, and the run goes on from it as if nothing had been.
reference
ok train --steps 9 --json --output good
field loss .out | tail -1 >want
ok train --steps 9 --json --output strict --resume
field loss .out | tail -1 >have
same want have

# Generating.
strict '"fail_work": 150'
refused 'strict:0, stream 0: .*\(work 150\): injected failure' generate --model good
strict '"fail_call": 150, "lost": true'
refused 'injected failure of call 150' generate --model good
