#!/bin/sh
# ds train with a pipeline of four stages: the losses of one process, and a timeline whose passes are
# those of Narayanan et al. 2021, figure 4 (top): four devices, eight micro batches.
#
# usage: pipeline_cli.sh DS PLUGIN_FOLDER SCRATCH MPIRUN...
set -eu
ds=$1 plugins=$2 scratch=$3
shift 3
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch"

cat >model.json <<'END_MODEL'
{"model_type": "gpt2", "vocab_size": 256, "n_positions": 32, "n_embd": 32, "n_layer": 4, "n_head": 2}
END_MODEL
i=0
while [ $i -lt 60 ]; do
  echo "line $i of a text that repeats itself, with a number: $((i * i))"
  i=$((i + 1))
done >text.txt
config() {
  cat <<END_CONFIG
{"train_batch_size": 16, "gradient_accumulation_steps": 8, $2
 "backend": {"name": "$1", "plugin_path": "$plugins", "fallback": "allow"},
 "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}}
END_CONFIG
}
config reference "" >one.json
config cpu '"pipeline": {"stages": 4},' >four.json
train() {
  "$ds" train --model model.json --data text.txt --seq-len 16 --steps 4 --json "$@"
}

train --config one.json >one
"$@" -n 4 "$ds" train --model model.json --data text.txt --seq-len 16 --steps 4 --json \
  --config four.json --trace trace.json >four

python3 - <<'END_CHECK'
import json

one = [json.loads(line) for line in open("one")]
four = [json.loads(line) for line in open("four") if line.startswith("{")]
assert len(one) == 4 and {s["step"] for s in four} == {1, 2, 3, 4}
for s in four:
    want = one[s["step"] - 1]
    assert abs(s["loss"] - want["loss"]) <= 2e-6 * want["loss"], (s, want)
    assert abs(s["grad_norm"] - want["grad_norm"]) <= 1e-4 * want["grad_norm"], (s, want)

figure = ["F1 F2 F3 F4 B1 F5 B2 F6 B3 F7 B4 F8 B5 B6 B7 B8",
          "F1 F2 F3 B1 F4 B2 F5 B3 F6 B4 F7 B5 F8 B6 B7 B8",
          "F1 F2 B1 F3 B2 F4 B3 F5 B4 F6 B5 F7 B6 F8 B7 B8",
          "F1 B1 F2 B2 F3 B3 F4 B4 F5 B5 F6 B6 F7 B7 F8 B8"]
spans = [e for e in json.load(open("trace.json"))["traceEvents"] if e["ph"] == "X"]
for rank in range(4):
    for step in range(1, 5):
        mine = sorted((e for e in spans if e["pid"] == rank and e["args"].get("step") == step),
                      key=lambda e: e["ts"])
        passes = [e for e in mine if e["name"] in ("forward", "backward")]
        text = " ".join(f"{e['name'][0].upper()}{e['args']['micro'] + 1}" for e in passes)
        assert text == figure[rank], (rank, step, text)
        # Messages have tracks of their own, one for each direction.
        for group, name in ("pipe (hidden values)", "send"), ("pipe (gradients)", "recv"):
            sent = [e for e in mine if e["args"].get("group") == group and e["name"] == name]
            assert len(sent) == (8 if rank < 3 else 0), (rank, step, group, len(sent))
            assert all(e["tid"] != passes[0]["tid"] for e in sent)
END_CHECK
