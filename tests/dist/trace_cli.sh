#!/bin/sh
# ds train --trace on two ranks: one file that shows both, with the steps' spans and the collectives beside them;
# where a run fails, each rank's own; and the comms logger's table.
#
# usage: trace_cli.sh DS PLUGIN_FOLDER SCRATCH MPIRUN...
set -eu
ds=$1 plugins=$2 scratch=$3
shift 3
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch"

cat >model.json <<'END_MODEL'
{"model_type": "gpt2", "vocab_size": 256, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 2}
END_MODEL
i=0
while [ $i -lt 60 ]; do
  echo "line $i of a text that repeats itself, with a number: $((i * i))"
  i=$((i + 1))
done >text.txt
cat >config.json <<END_CONFIG
{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "comms_logger": {"enabled": true},
 "backend": {"name": "cpu", "plugin_path": "$plugins"},
 "zero_optimization": {"stage": 3, "reduce_bucket_size": 4000, "stage3_prefetch_bucket_size": 20000,
                       "stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 30000},
 "optimizer": {"type": "AdamW", "params": {"lr": 1e-2}}}
END_CONFIG

"$@" -n 2 "$ds" train --model model.json --data text.txt --seq-len 16 --steps 4 --json --config config.json \
  --trace trace.json >out 2>err
python3 - <<'END_CHECK'
import json
trace = json.load(open("trace.json"))["traceEvents"]
tracks = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace if e["name"] == "thread_name"}
spans = [e for e in trace if e["ph"] == "X"]
assert {e["pid"] for e in spans} == {0, 1}
assert sorted(e["args"]["name"].split(",")[0] for e in trace if e["name"] == "process_name") == ["rank 0", "rank 1"]
for e in spans:
    e["end"] = e["ts"] + e["dur"]
    assert e["dur"] >= 0 and tracks[e["pid"], e["tid"]].split()[0] == e["cat"], e
    assert "note" not in e["args"], e

for rank in 0, 1:
    mine = [e for e in spans if e["pid"] == rank]
    steps = sorted({e["args"]["step"] for e in mine if "step" in e["args"]})
    assert steps == [1, 2, 3, 4], steps
    for step in steps:
        compute = sorted((e for e in mine if e["cat"] == "compute" and e["args"].get("step") == step), key=lambda e: e["ts"])
        assert [e["name"] for e in compute] == ["forward", "backward"] * 2 + ["update"], compute
        assert [e["args"].get("micro") for e in compute] == [0, 0, 1, 1, None], compute
        for a, b in zip(compute, compute[1:]):
            assert a["end"] <= b["ts"] + 1, (a, b)
        # Weights are gathered on the way, on a stream beside; so are gradients reduced.
        for pass_ in compute[1], compute[3]:
            beside = [e for e in mine if e["cat"] == "comm" and e["tid"] != pass_["tid"] and
                      tracks[rank, e["tid"]] != "comm" and e["ts"] < pass_["end"] and pass_["ts"] < e["end"]]
            assert {"allgather", "reduce_scatter"} <= {e["name"] for e in beside}, beside
            assert {e["args"]["group"] for e in beside} == {"zero"} and all(e["args"]["bytes"] > 0 for e in beside)
    # What is on one track nests or follows.
    for track in {e["tid"] for e in mine}:
        line = sorted((e for e in mine if e["tid"] == track), key=lambda e: (e["ts"], -e["dur"]))
        open_ = []
        for e in line:
            while open_ and open_[-1]["end"] <= e["ts"] + 1:
                open_.pop()
            assert not open_ or e["end"] <= open_[-1]["end"] + 1, (open_[-1], e)
            open_.append(e)

table = [l.split() for l in open("err") if l.split()[:1] and l.split()[0] in ("allgather", "reduce_scatter")]
assert table and all(row[1] == "2" for row in table), open("err").read()
assert open("err").read().count("sent by this rank in all") == 1 # rank 0 alone
print(len(spans), "spans of 2 ranks")
END_CHECK

# The config may name the file instead: one of all ranks as well.
sed 's/"name": "cpu"/"name": "cpu", "trace": "asked.json"/' config.json >traced.json
"$@" -n 2 "$ds" train --model model.json --data text.txt --seq-len 16 --steps 1 --json --config traced.json >out 2>err
python3 -c "
import json
assert {e['pid'] for e in json.load(open('asked.json'))['traceEvents']} == {0, 1}"
! ls asked.rank* 2>/dev/null || exit 1

# A run that fails: what was traced is kept, by each rank for itself that the launcher lets come to an end.
! "$@" -n 2 "$ds" train --model model.json --data text.txt --seq-len 16 --steps 1 --json --config config.json \
  --output /proc/nowhere --trace part.json >out 2>err || exit 1
python3 - <<'END_CHECK'
import glob, json
parts = glob.glob("part.rank[01].json")
assert parts
for part in parts:
    t = json.load(open(part))["traceEvents"]
    assert {e["pid"] for e in t} == {int(part[9])}, part and any(e["name"] == "broadcast" for e in t)
END_CHECK
test ! -e part.json

# What can't be written is told, and ends.
! "$@" -n 2 "$ds" train --model model.json --data text.txt --seq-len 16 --steps 1 --json --config config.json \
  --trace nowhere/trace.json >out 2>err || exit 1
grep -q 'nowhere/trace.json' err

# One process: the environment's DS_TRACE or the config name the file, which needs no saving.
DS_TRACE=one.json "$ds" train --model model.json --data text.txt --seq-len 16 --steps 1 --json --config config.json >out
sed 's/"name": "cpu"/"name": "cpu", "trace": "two.json"/' config.json >traced.json
"$ds" train --model model.json --data text.txt --seq-len 16 --steps 1 --json --config traced.json >out
for file in one.json two.json; do
  python3 -c "
import json
names = [e['name'] for e in json.load(open('$file'))['traceEvents'] if e['ph'] == 'X']
assert names == ['forward', 'backward'] * 2 + ['update'], names"
done
