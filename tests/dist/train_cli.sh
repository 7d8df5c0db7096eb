#!/bin/sh
# ds train on two ranks of a backend gives the losses of one process, whoever starts them: mpirun, or a launcher that sets
# RANK, WORLD_SIZE and MASTER_PORT, as torchrun does.
#
# usage: train_cli.sh DS PLUGIN_FOLDER BACKEND SCRATCH MPIRUN...
set -eu
ds=$1 plugins=$2 backend=$3 scratch=$4
shift 4
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch"

cat >model.json <<'END'
{"model_type": "gpt2", "vocab_size": 256, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2}
END
i=0
while [ $i -lt 60 ]; do
  echo "line $i of a text that repeats itself, with a number: $((i * i))"
  i=$((i + 1))
done >text.txt

# One process takes 4 samples a step; each of two takes 2.
config() {
  cat <<END
{"train_batch_size": 4, "gradient_clipping": 1.0, "backend": {"name": "$1", "plugin_path": "$plugins", "fallback": "allow"},
 "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}}
END
}
config reference >one.json
config "$backend" >two.json
train() {
  "$ds" train --model model.json --data text.txt --seq-len 16 --steps 6 --json --config "$@"
}

train one.json >one
"$@" -n 2 "$ds" train --model model.json --data text.txt --seq-len 16 --steps 6 --json \
  --config two.json >mpirun
port=$((20000 + $$ % 20000))
pids=
for rank in 1 0; do
  RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
    MASTER_PORT=$port train two.json >rank$rank &
  pids="$pids $!"
done
for pid in $pids; do wait "$pid"; done
cat rank0 rank1 >torchrun

python3 - one mpirun torchrun <<'END'
import json, sys
def losses(name):
    lines = [json.loads(l) for l in open(name) if l.startswith("{")]
    return {l["step"]: l["loss"] for l in lines}
one = losses(sys.argv[1])
assert len(one) == 6 and one[6] < one[1], one
for name in sys.argv[2:]:
    two = losses(name)
    assert set(two) == set(one), (name, two)
    for step in one:
        assert abs(one[step] - two[step]) < 2e-4 * one[step], (name, step, one[step], two[step])
print("losses of 6 steps agree:", one[1], "...", one[6])
END
