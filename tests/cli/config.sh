#!/bin/sh
# ds config: what a config resolves to, or all that is wrong with it.
. "${0%/*}/lib.sh"

T=train_batch_size M=train_micro_batch_size_per_gpu G=gradient_accumulation_steps
config() {
  text=$1
  shift
  printf '%s' "$text" >config.json
  run "$DS" config config.json "$@"
}
# sizes TEXT WORLD TRAIN MICRO ACCUMULATION
sizes() {
  config "$1" --world-size "$2" --json
  [ "$code" -eq 0 ] || fail "it should resolve"
  json "value['$T'] == $3 and value['$M'] == $4 and value['$G'] == $5"
}
# mistakes TEXT PATTERN...: all in one pass, nothing on stdout.
mistakes() {
  config "$1" --world-size "${world:-1}"
  shift
  [ "$code" -eq 1 ] || fail "it should be refused"
  [ ! -s .out ] || fail "stdout should be empty"
  [ "$(grep -c '^ds config: config.json: ' .err)" -eq 1 ] || fail "the message should begin once"
  for pattern in "$@"; do
    told "$pattern"
  done
}

# The derivations, by DeepSpeed's rules: any two give the third; one alone is filled up.
sizes "{\"$T\": 32}" 1 32 32 1
sizes "{\"$T\": 32}" 8 32 4 1
sizes "{\"$M\": 4}" 8 32 4 1
sizes "{\"$M\": 4, \"$G\": 3}" 2 24 4 3
sizes "{\"$T\": 32, \"$M\": 2}" 4 32 2 4
sizes "{\"$T\": 32, \"$G\": 2}" 4 32 4 2
sizes "{\"$T\": 32, \"$M\": 2, \"$G\": 4}" 4 32 2 4

# And where they don't come out, what was derived and why it fails.
mistakes '{}' "Either $T or $M needs to be provided"
mistakes "{\"$G\": 2}" "Either $T or $M needs to be provided" "$G alone"
mistakes "{\"$T\": 0}" "$T: 0 has to be greater than 0"
mistakes "{\"$T\": -4}" "$T: -4 has to be greater than 0"
mistakes "{\"$M\": 0}" "$T has to be greater than 0, but comes out as 0: derived .*0 \* 1 \* 1"
mistakes "{\"$M\": 1, \"$G\": 0}" "$T has to be greater than 0, but comes out as 0: derived .*1 \* 0 \* 1"
mistakes "{\"$T\": 8, \"$M\": -1}" "$M: -1 has to be greater than 0"
mistakes "{\"$T\": 8, \"$G\": -1}" "$M has to be greater than 0, but comes out as -8: derived .*8 / 1 / -1"
product="$T is not $M \* $G \* world size"
world=3 mistakes "{\"$T\": 32}" "$product: 32 != 10 \* 1 \* 3"
world=4 mistakes "{\"$T\": 2}" "$M has to be greater than 0, but comes out as 0" 'world size 4'
mistakes "{\"$T\": 7, \"$M\": 2}" "$product: 7 != 2 \* 3 \* 1"
mistakes "{\"$T\": 2, \"$M\": 4}" "$G has to be greater than 0, but comes out as 0" 'derived'
mistakes "{\"$T\": 7, \"$G\": 2}" "$product: 7 != 3 \* 2 \* 1"
mistakes "{\"$T\": 1, \"$G\": 2}" "$M has to be greater than 0, but comes out as 0"
world=2 mistakes "{\"$T\": 8, \"$M\": 2, \"$G\": 4}" "$product: 8 != 2 \* 4 \* 2"
mistakes "{\"$T\": 1.5}" "$T"
mistakes "{\"$T\": \"eight\"}" "$T"
mistakes "{\"$T\": true}" "$T"
mistakes "{\"$T\": 1e40}" "$T"

# Several mistakes at once, each with its key, and the nearest key where one is unknown.
mistakes '{"train_batch_sise": 8, "bf16": {"enabeld": true}, "memory_breakdown": true,
  "optimizer": {"type": "AdamX"}, "gradient_clipping": "no", "zero_optimization": {"stage": 4},
  "scheduler": {"type": "WarmupLR", "params": {"warmup_num_step": 3}}}' \
  'errors$' 'train_batch_sise: unknown key.*did you mean "?train_batch_size' \
  'bf16.enabeld: unknown key.*did you mean "?.*enabled' 'memory_breakdown' 'AdamX' \
  'gradient_clipping' 'zero_optimization.stage' 'warmup_num_step: unknown key.*warmup_num_steps' \
  "Either $T or $M"
mistakes "{\"$T\": 1, \"amp\": {\"enabled\": true}}" 'amp'
mistakes "{\"$T\": 1, \"backend\": 7}" 'backend'
mistakes "{\"$T\": 1, \"backend\": {\"nam\": \"cpu\"}}" 'did you mean "?.*name'
mistakes "{\"$T\": 1, \"backend\": {\"fallback\": \"perhaps\"}}" 'allow' 'warn' 'error'

# Comments and commas, as people write them; a key that exists without effect here; text for a file.
config '// a comment
{
  # another
  "train_batch_size": 16, /* and
  one more */ "gradient_clipping": 0.5,
  "zero_optimization": {"stage": 0, "overlap_comm": true,},
}' --json
[ "$code" -eq 0 ] || fail "comments should pass"
json "value['$T'] == 16 and value['gradient_clipping'] == 0.5"
ok "$DS" config "{\"$M\": 2}" --json
json "value['$M'] == 2"

# Every default stands in it, and what it prints is a config that resolves to itself.
ok "$DS" config ds.json --json --world-size 2
json "value['bf16']['enabled'] is False and value['backend'] == 'auto'"
json "value['optimizer']['params']['betas'] == [0.9, 0.999]"
cp .out resolved.json
ok "$DS" config resolved.json --json --world-size 2
same .out resolved.json
ok "$DS" config ds.json
printed "^$T +4$"
printed '^optimizer.params.lr +0.005$'
printed '^bf16.enabled +false$'

# What keys there are, and why some do nothing.
ok "$DS" config --keys
printed '^zero_optimization.stage +0 +from 0 to 3$'
printed '^optimizer.params.lr .*AdamW'
printed '^zero_optimization.round_robin_gradients .*no effect: every rank'
printed '^zero_optimization.mics_shard_size .*only the default$'
printed '^hybrid_engine .*refused$'

# Files that are no config.
for text in '' ' ' '{' '[1]' '7' '"text"' 'null' "{\"$T\": }" "{\"$T\" 1}" "{\"$T\": 1} more" "{\"$T\": 1" \
  "{\"$T\": 1, \"$T\": 2}"; do
  config "$text"
  [ "$code" -eq 1 ] || fail "it should be refused"
  [ "$(wc -l <.err)" -eq 1 ] && told '^ds config: .*config' || fail "one message wanted"
done
refused 'nowhere.json' "$DS" config nowhere.json
refused 'not a regular file' "$DS" config .
