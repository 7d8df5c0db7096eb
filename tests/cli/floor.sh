#!/bin/sh
# The least that a plugin can be (tests/plugins/floor.c) under ds train and ds generate: the same
# losses and the same text as on the reference, all of it by fallbacks, which --stats tells.
#
# Arguments after the common ones: the folder with dscore_floor.so.
. "${0%/*}/lib.sh"
DS_PLUGIN_PATH=$4
export DS_PLUGIN_PATH

# At most 300 lines make a plugin, with the headers of its own.
lines=$(cat "$SOURCE/tests/plugins/floor.c" "$SOURCE/tests/plugins/device.h" | wc -l)
headers=$(cd "$SOURCE/tests/plugins" && sed -n 's/^#include "\(.*\)"/\1/p' floor.c device.h | sort -u | tr '\n' ' ')
[ "$headers" = 'device.h ds_abi.h ' ] || fail "floor.c should include device.h and ds_abi.h, not $headers"
[ "$lines" -le 300 ] || fail "$lines lines are more than the least that a plugin can be"

# on BACKEND COMMAND...: without warnings.
on() {
  backend=$1
  shift
  "$@" --config "{\"backend\": {\"name\": \"$backend\", \"fallback\": \"allow\"}$more}"
}
for bf16 in false true; do
  more=", \"train_batch_size\": 4, \"gradient_clipping\": 1.0, \"bf16\": {\"enabled\": $bf16},
    \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 0.005}}"
  for family in gpt2 llama; do
    for backend in reference floor; do
      ok on $backend train --model $family.json --steps 8 --output $family-$backend --json
      field loss .out >$backend
    done
    same reference floor
  done
done
more=''
for family in gpt2 llama; do
  for backend in reference floor; do
    ok on $backend "$DS" generate --model $family-reference --prompt 'The quick' --max-new-tokens 9 --temperature 0
    cp .out $backend
  done
  same reference floor
  cmp -s $family-reference/global_step8/model.safetensors $family-floor/global_step8/model.safetensors ||
    fail "the weights should be the same, bit for bit"
done

# rows BACKEND: whether the table on stderr adds up; ops, gemm and their fallbacks.
rows() {
  python3 - "$1" "$WORK/.err" <<'PYTHON' || fail "the table should add up"
import sys
name, lines = sys.argv[1], open(sys.argv[2], encoding="utf-8").read().splitlines()
at = next(i for i, line in enumerate(lines) if line.startswith(name + " on "))
head, *rows = [line.rsplit(None, 4) for line in lines[at + 1:]]
assert [w.strip() for w in head] == ["op", "calls", "fallbacks", "ms", "time"], head
table = {r[0].strip(): (int(r[1]), int(r[2]), float(r[3]), float(r[4].rstrip("%"))) for r in rows}
total = table.pop("total")
assert len(table) == len(rows) - 1 > 8
for i in (0, 1):
    assert sum(r[i] for r in table.values()) == total[i], table
assert abs(sum(r[2] for r in table.values()) - total[2]) < 0.05 + 0.01 * total[2], table
assert abs(sum(r[3] for r in table.values()) - 100) < 2
times = [float(r[3]) for r in rows[:-1]]
assert times == sorted(times, reverse=True)
moves = {"upload", "download", "sync"}
for op, (calls, fallbacks, ms, share) in table.items():
    assert calls > 0 and fallbacks == (calls if name == "floor" and op not in moves else 0), op
assert table["gemm"][0] > 0 and table["layer_norm"][0] > 0
PYTHON
}
for backend in floor reference; do
  run on $backend "$DS" generate --model gpt2-reference --prompt The --max-new-tokens 3 --stats --json
  [ "$code" -eq 0 ] || fail "it should succeed"
  json "len(value['tokens']) == 3"
  rows $backend
  more=', "train_batch_size": 4, "optimizer": {"type": "AdamW", "params": {}}'
  run on $backend train --steps 2 --stats --json
  [ "$code" -eq 0 ] || fail "it should succeed"
  json "[l['step'] for l in lines] == [1, 2]"
  rows $backend
  more=''
done
ok on floor "$DS" generate --model gpt2-reference --prompt The --max-new-tokens 3 # no table unasked

# The default policy warns once for each op; "error" refuses the first, by name, dtypes and shapes.
export DS_BACKEND=floor
ok "$DS" generate --model gpt2-reference --prompt The --max-new-tokens 3
told '^warning: floor:0: embedding \(in i32\[1,3\] f32\[32,32\] out f32\[1,3,32\]\) runs on the reference'
[ "$(grep -c 'floor:0: layer_norm (' .err)" -eq 1 ] || fail "one warning for layer_norm wanted"
strict='{"backend": {"fallback": "error"}, "train_batch_size": 4, "optimizer": {"type": "AdamW", "params": {}}}'
refused 'floor:0: device fill \(u8\[[0-9]+\]\): the plugin.s device table has no fill.*"fallback"' \
  train --steps 1 --config "$strict"
refused 'floor:0: embedding \(in i32\[1,3\] f32\[32,32\] out f32\[1,3,32\]\): the plugin has no ops table.*"fallback"' \
  "$DS" generate --model gpt2-reference --prompt The --config '{"backend": {"fallback": "error"}}'

# Several processes need collectives, however they were started.
more=', "train_batch_size": 4, "optimizer": {"type": "AdamW", "params": {}}'
RANK=0 WORLD_SIZE=2 refused 'WORLD_SIZE is 2, but backend "floor" has no collectives' on floor train --steps 1
OMPI_COMM_WORLD_SIZE=2 refused 'started 2 processes \(OMPI_COMM_WORLD_SIZE\), but backend "floor" has no collectives' \
  on floor train --steps 1
