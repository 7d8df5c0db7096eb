#!/bin/sh
# ds plan: memory, traffic and time of a run on N ranks, and which layout.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

cat >gpt7b.json <<'EOF'
{"model_type": "gpt2", "n_layer": 36, "n_embd": 4096, "n_head": 32, "n_positions": 2048, "vocab_size": 51200}
EOF
cat >gpt1t.json <<'EOF'
{"model_type": "gpt2", "n_layer": 128, "n_embd": 25600, "n_head": 160, "n_positions": 2048, "vocab_size": 51200}
EOF
plan() {
  "$DS" plan --model gpt7b.json --gpus 64 --batch 512 --hardware a100-80gb "$@"
}

# Model states: bf16 weights, f32 gradients, masters and two states of 7.47 B parameters on 64 ranks.
ok plan --json
json "value['model']['parameters'] == 7467786240 and value['model']['blocks'] == 36"
json "[isclose(sum(s['memory'][k] for k in ('weights', 'masters', 'gradients', 'states')) / 7467786240, want, rel_tol=3e-3)
  for s, want in zip([s for s in value['stages'] if s['offload'] == 'none'],
                     (18, 6 + 12 / 64, 2 + 16 / 64, 18 / 64))] == [True] * 4"
json "all(isclose(sum(v for k, v in s['memory'].items() if k not in ('device', 'host', 'nvme')), s['memory']['device'])
  for s in value['stages'] + value['layouts'])"
json "all(isclose(sum(v for k, v in s['time'].items() if k != 'total'), s['time']['total']) for s in value['layouts'])"
json "all(s['tp'] * s['pp'] * s['sp'] * s['dp'] == 64 and s['dp'] * s['micro_batch'] * s['accumulation'] == 512
  for s in value['layouts'])"
# What fits keeps a tenth of 80 GB free, and the recommended one is within 5 % of the fastest.
json "all((s['memory']['device'] <= 72e9) == s['fits'] or s['memory']['host'] > 0 for s in value['stages'])"
json "value['recommended']['fits'] and value['recommended']['time']['total'] <= 1.05 * value['layouts'][0]['time']['total']"
json "sorted(s['time']['total'] for s in value['layouts'])[0] == value['layouts'][0]['time']['total']"
# Bytes of stage 1: a reduce-scatter of f32 gradients, an all-gather of bf16 weights.
json "isclose([s for s in value['stages'] if s['stage'] == 1][0]['sent']['total'], 63 / 64 * 6 * 7467786240, rel_tol=1e-3)"
json "isclose(value['deepspeed_estimators']['stage2'], 4 * 7467786240 + 16 * 7467786240 / 64)"
ok plan
printed '^model .*7\.468 B parameters, 36 blocks; 16-bit'
printed '^machine +64 x a100-80gb, 8 a node: 312 Tflop/s'
printed '^recommended'

# What is fixed stays fixed.
ok plan --tp 4 --pp 2 --stage 1 --offload none --micro-batch 2 --json
json "all((s['tp'], s['pp'], s['stage'], s['offload'], s['micro_batch']) == (4, 2, 1, 'none', 2) for s in value['layouts'])"
json "len(value['layouts']) >= 1"
ok plan --dtype f32 --json
json "value['machine']['flops'] == 19.5e12"
json "isclose(value['stages'][0]['memory']['weights'], 4 * 7467786240, rel_tol=1e-3) and value['stages'][0]['memory']['masters'] == 0"

# The recommended config says what was planned, and the engine takes it.
config_of() {
  python3 -c 'import json, sys; json.dump(json.load(open(".out"))["recommended"]["config"], sys.stdout)' >planned.json
}
for fixed in '--tp 4 --pp 2 --sp 1 --stage 1' '--tp 2 --pp 1 --sp 1 --stage 3' '--tp 1 --sp 1 --pp 1 --stage 3 --offload cpu-all' \
  '--tp 1 --sp 1 --pp 1 --stage 2 --offload nvme'; do
  # shellcheck disable=SC2086
  ok plan --offload none $fixed --json
  config_of
  json "value['recommended']['config']['train_micro_batch_size_per_gpu'] == value['recommended']['micro_batch']"
  ok "$DS" config planned.json --world-size 64 --json
  json "value['train_batch_size'] == 512"
done

# A trillion parameters need tensor parallelism or a pipeline; tensor parallel ranks stay in a node.
ok "$DS" plan --model gpt1t.json --gpus 3072 --batch 3072 --hardware a100-80gb --json
json "not any(s['fits'] for s in value['stages']) and value['recommended']['fits']"
json "1 < value['recommended']['tp'] <= 8"

# Nothing fits: which memory is short of how much, and what would help.
refused 'nothing fits: the nearest of [0-9]+ layouts \(tp .*\) is short of [0-9.]+ GB of device memory.*What would help: --stage [0-3] --tp' \
  plan --stage 0 --tp 1 --pp 1 --sp 1 --offload none
told 'of its [0-9.]+ GB on the device optimizer states are'
printed '^ZeRO stages' # the table stands all the same
refused 'short of .* What would help: [0-9]+ ranks' \
  "$DS" plan --model gpt1t.json --gpus 64 --batch 64 --hardware a100-80gb --offload none
refused 'What would help: .*--offload cpu' "$DS" plan --model gpt7b.json --gpus 8 --batch 8 --hardware h100 \
  --offload none --tp 1 --pp 1 --sp 1 --stage 1
refused 'What would help: .*devices with more memory' "$DS" plan --model gpt1t.json --gpus 1 --batch 1 \
  --flops 1 --memory 0.001 --bandwidth 1
refused 'no layout of 64 ranks' plan --tp 3
refused 'no layout of 64 ranks' plan --pp 2 --stage 3

# A config gives batch sizes, dtype and the optimizer; the command line wins.
ok "$DS" plan --model gpt2.json --gpus 4 --config ds.json --hardware h100 --json
json "all(s['dp'] * s['micro_batch'] * s['accumulation'] == 4 for s in value['layouts'])"
json "value['stages'][0]['memory']['masters'] == 0" # f32
ok "$DS" plan --model gpt2.json --gpus 4 --config '{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}' \
  --hardware h100 --json
json "all((s['micro_batch'], s['accumulation']) == (2, 3) for s in value['layouts'])"
refused 'did you mean' "$DS" plan --model gpt2.json --gpus 4 --config '{"train_batch_sise": 2}' --hardware h100
refused 'nowhere.json' "$DS" plan --model nowhere.json --gpus 4 --batch 4 --hardware h100
refused '40 is more than the model.s 32 positions' "$DS" plan --model gpt2.json --gpus 4 --batch 4 --hardware h100 --seq-len 40

# The machine: given, measured, or from the table.
ok "$DS" plan --model llama.json --gpus 2 --batch 4 --flops 100 --memory 16 --bandwidth 200,10 --per-node 1 --json
json "value['machine']['near_rate'] == 2e11 and value['machine']['far_rate'] == 1e10 and value['machine']['memory'] == 1.6e10"
ok "$DS" plan --model "$(cat llama.json)" --gpus 1 --batch 4 --measure --json
json "value['machine']['flops'] > 0 and value['machine']['memory'] > 0 and value['machine']['memory_rate'] > 0"
run env -u DS_BACKEND "$DS" plan --model llama.json --gpus 1 --batch 4 --measure --backend nosuch
[ "$code" -eq 1 ] || fail "it should be refused"
told '^ds plan: .*there is no plugin "nosuch"'

wrong 'model is missing' "$DS" plan --gpus 2
wrong 'gpus is missing' "$DS" plan --model gpt2.json
wrong 'batch is missing' "$DS" plan --model gpt2.json --gpus 2 --hardware h100
wrong 'flops is missing' "$DS" plan --model gpt2.json --gpus 2 --batch 2
wrong 'memory is missing' "$DS" plan --model gpt2.json --gpus 2 --batch 2 --flops 1
wrong 'bandwidth is missing' "$DS" plan --model gpt2.json --gpus 2 --batch 2 --flops 1 --memory 1
wrong 'no --hardware "h1000"; there are .*h100' "$DS" plan --model gpt2.json --gpus 2 --batch 2 --hardware h1000
wrong 'one of them' plan --measure
wrong 'bandwidth wants' plan --bandwidth fast
wrong 'bandwidth wants' plan --bandwidth 1,2,3
wrong 'offload may be' plan --offload disk
wrong 'dtype may be' plan --dtype fp8
wrong 'stage must be' plan --stage 4
wrong 'gpus must be' plan --gpus -1
wrong 'headroom must be' plan --headroom 1
wrong 'tp, --pp and --sp must be' plan --tp 65
wrong 'unexpected "more"' plan more
wrong 'did you mean --micro-batch' plan --micro-bacth 2
