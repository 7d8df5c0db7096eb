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

# ranks NAME [VARIABLE=VALUE]...: two, started as a launcher does that makes no MPI of them.
ranks() {
  name=$1 pids=
  shift
  for rank in 1 0; do
    (
      export RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 "$@"
      train two.json >rank$rank
    ) &
    pids="$pids $!"
  done
  for pid in $pids; do wait "$pid"; done
  cat rank0 rank1 >"$name"
}
ranks port MASTER_ADDR=127.0.0.1 MASTER_PORT=$port
# Some free port of a job that has a name. torchrun has a store of its own at MASTER_PORT.
ranks any TORCHELASTIC_RUN_ID=train-cli-$$ MASTER_ADDR=127.0.0.1 MASTER_PORT=0
python3 -c '
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen()
print("listening", flush=True)
time.sleep(600)
' $((port + 1)) >agent &
agent=$!
until [ -s agent ]; do kill -0 $agent && sleep 0.05; done
ranks torchrun TORCHELASTIC_RUN_ID=none TORCHELASTIC_USE_AGENT_STORE=True MASTER_ADDR=127.0.0.1 \
  MASTER_PORT=$((port + 1))
kill $agent
# Port 0 needs a name that the ranks have in common.
if RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=0 train two.json >out 2>&1; then
  echo "port 0 without a name should be refused"
  exit 1
fi
grep -q 'port 0, "any free one"' out || { cat out; exit 1; }
# A rank without a device doesn't train on something else.
sed 's/"name": "[a-z]*"/"name": ["'"$backend"'", "reference"]/' two.json >three.json
if DS_SIMT_DEVICES=2 RANK=2 LOCAL_RANK=2 WORLD_SIZE=3 train three.json >out 2>&1; then
  echo "a rank without a device should be refused"
  exit 1
fi
grep -q 'no device for local rank 2: there are 2' out || { cat out; exit 1; }

python3 - one mpirun port any torchrun <<'END'
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
