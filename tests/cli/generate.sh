#!/bin/sh
# ds generate as it is meant to be used.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

ok train --steps 60 --output out
ok train --model llama.json --steps 60 --output llama
generate() {
  "$DS" generate --prompt 'The quick' --max-new-tokens 12 "$@"
}

for model in out llama; do
  ok generate --model $model --temperature 0 --json
  cp .out greedy
  json "{'text', 'tokens', 'tokens_per_s'} <= set(value)"
  json "value['tokens_per_s'] > 0 and len(value['tokens']) == 12"
  json "value['text'] == 'The quick' + bytes(value['tokens']).decode('utf-8', 'replace')"
  field text greedy >first
  ok generate --model $model --temperature 0 --json --seed 5
  field text .out >second
  same first second

  # Text alone is the same text; drawing by seed repeats itself.
  ok generate --model $model --temperature 0
  json_text=$(python3 -c 'import json; print(json.load(open("greedy"))["text"])')
  [ "$(cat .out)" = "$json_text" ] || fail "text and JSON should say the same"
  ok generate --model $model --seed 3 --temperature 0.9 --top-k 40 --top-p 0.9 --json
  field tokens_per_s .out >/dev/null
  sed 's/,"tokens_per_s.*//' .out >drawn
  ok generate --model $model --seed 3 --temperature 0.9 --top-k 40 --top-p 0.9 --json
  sed 's/,"tokens_per_s.*//' .out >again
  same drawn again
  ok generate --model $model --seed 4 --temperature 1.5 --json
  sed 's/,"tokens_per_s.*//' .out >other
  ! cmp -s drawn other || fail "another seed should give other text"
  # The likeliest one of one is the greedy choice.
  ok generate --model $model --seed 9 --top-k 1 --json
  sed 's/,"tokens_per_s.*//' .out >topk
  sed 's/,"tokens_per_s.*//' greedy >likeliest
  same topk likeliest

  # The folder of the checkpoint itself, dtype and backend by --set, by the config, both spellings.
  ok generate --model $model/global_step60 --temperature 0 --json
  sed 's/,"tokens_per_s.*//' .out >folder
  same folder likeliest
  ok generate --model $model --temperature 0 --set dtype=bf16 backend=reference --json
  json "len(value['tokens']) == 12"
  ok generate --model $model --temperature 0 --set dtype=bf16 --set backend.name=reference --json
  ok generate --model $model --temperature 0 --config '{"dtype": "fp32", "backend": "reference"}' --json
  sed 's/,"tokens_per_s.*//' .out >config
  same config likeliest
done

ok generate --model out --max-new-tokens 0
[ "$(cat .out)" = 'The quick' ] || fail "no new tokens: the prompt alone"

# It ends where the positions of the model end.
ok generate --model out --max-new-tokens 10000 --json
json "value['prompt_tokens'] == 9 and len(value['tokens']) in (23, 24)"

# Bad settings are told one by one, and nothing goes to stdout.
refused 'dtype.*fp99|fp99.*dtype' generate --model out --set dtype=fp99
refused 'did you mean.*dtype' generate --model out --set dtpe=fp32
refused 'key=value' generate --model out --set dtype
refused 'key=value' generate --model out --set =bf16
refused 'no section' generate --model out --set backend=reference --set backend.name=reference
refused 'temperature' generate --model out --temperature -1
refused 'temperature' generate --model out --temperature nan
refused 'top_p' generate --model out --top-p 0
refused 'top_p' generate --model out --top-p 1.5
refused 'top_k' generate --model out --top-k -1
refused 'prompt is empty' generate --model out --prompt ''
refused '33|32' generate --model out --prompt 'This prompt is longer than all the positions of the model.'
refused 'nowhere' generate --model nowhere
refused 'config.json' generate --model .
