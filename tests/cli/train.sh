#!/bin/sh
# ds train as it is meant to be used: both families, every tokenizer, every backend; what it prints.
. "${0%/*}/lib.sh"

fields="['step', 'loss', 'lr', 'grad_norm', 'tokens_per_s']"
learned="lines[-1]['loss'] < lines[0]['loss'] - 1"
sane="all(list(l) == $fields and isfinite(l['loss']) and l['tokens_per_s'] > 0 for l in lines)"
backends="reference $("$DS" backends | awk '$1 == "cpu" && $2 != "rejected" { print $1 }')"

for backend in $backends; do
  for family in gpt2 llama; do
    for bf16 in false true; do
      cat >config.json <<EOF
{"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0,
 "bf16": {"enabled": $bf16}, "backend": "$backend",
 "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}},
 "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1e-2, "warmup_num_steps": 3,
                                              "warmup_type": "linear"}}}
EOF
      ok train --model $family.json --config config.json --steps 24 --json
      json "$sane and [l['step'] for l in lines] == list(range(1, 25))"
      json "$learned"
      json "lines[0]['lr'] < lines[-1]['lr'] and isclose(lines[-1]['lr'], 1e-2, rel_tol=1e-6)"
    done
  done
done

export DS_BACKEND=reference

# Without --json: plain lines, no escape sequences, the first and the last step; where it was saved.
ok train --steps 3 --output out --svg loss.svg
printed '^step 1/3  loss [0-9.]+  lr [0-9.e-]+  [0-9]+ tokens/s  ETA '
printed '^step 3/3 '
printed '^saved step 3 in out$'
! grep -q "$(printf '\033')" .out || fail "escape sequences without a terminal"
python3 -c 'import sys, xml.dom.minidom as m; d = m.parse("loss.svg"); sys.exit(not d.getElementsByTagName("polyline"))' ||
  fail "loss.svg should be an SVG with a curve"
ok train --steps 1 --svg one.svg # a curve of one point

# The same seed gives the same losses, another seed others; one thread is the reference's.
ok train --steps 3 --seed 7 --json
field loss .out >seven
ok train --steps 3 --seed 7 --json
field loss .out >again
ok train --steps 3 --seed 8 --json
field loss .out >eight
same seven again
! cmp -s seven eight || fail "another seed should give other losses"

# Without --steps it is one epoch.
samples=$((($(size_of text.txt) - 1) / 32 / 4))
ok train --seq-len 32 --json
json "len(lines) == $samples"

# Several texts; options with '='; the config as text; the model as a folder, which is the output.
ok "$DS" train --model=gpt2.json --data text.txt text.txt --data text.txt --steps=1 --seq-len=8 \
  --config '{"train_batch_size": 2, "optimizer": {"type": "Adam", "params": {"lr": 0.001}}}' --json
json "len(lines) == 1"
ok train --model out/global_step3 --steps 2 --json
json "lines[0]['loss'] < 5.5" # the weights came along: ln 256 is 5.55

# Tokenizers of every kind, whose files go along into the output.
for name in byte_level gpt2 metaspace sentencepiece; do
  tokenizer=$SOURCE/tests/golden/tokenizers/$name
  sed 's/"vocab_size": 256/"vocab_size": 700/' gpt2.json >wide.json
  ok train --model wide.json --tokenizer "$tokenizer" --steps 6 --output "tok-$name" --json
  json "$sane and lines[-1]['loss'] < lines[0]['loss']"
  for f in "$tokenizer"/*; do
    [ -f "tok-$name/${f##*/}" ] || fail "tok-$name should hold ${f##*/}"
  done
  ok "$DS" generate --model "tok-$name" --prompt 'The' --max-new-tokens 4 --temperature 0 --json
  json "value['text'].startswith('The') and len(value['tokens']) <= 4"
  # Its folder is enough to go on with.
  ok train --model wide.json --tokenizer "tok-$name" --steps 7 --output "tok-$name" --resume --json
  json "len(lines) == 1 and value['step'] == 7"
done
