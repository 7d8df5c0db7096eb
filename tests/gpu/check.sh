#!/bin/sh
# scripts/gpu-check from a folder that it packed itself, on an emulated card: so that time with a real one isn't spent
# on mistakes of the script. Further arguments: the build folder, and the emulated plugin.
. "${0%/*}/../cli/lib.sh"
BUILD=$4 PLUGIN=$5
CHECK=scripts/gpu-check

mkdir plugins elsewhere
ln -s "$PLUGIN" plugins/
run python3 "$SOURCE/$CHECK" --build "$BUILD" --pack elsewhere/tree
[ "$code" -eq 0 ] || fail "it should pack"
check() {
  run python3 elsewhere/tree/gpu-check --tree elsewhere/tree --plugin-path plugins --small --results results "$@"
}

check --backend emu --only golden,train,generate
[ "$code" -eq 0 ] || fail "it should pass"
cp results/emulated*.json .out
json "[s['step'] for s in value['steps'] if s['state'] == 'passed'] == ['list', 'golden', 'train', 'generate']"

check --backend nothing
[ "$code" -eq 1 ] || fail "a backend that isn't there should fail"
told 'no device for nothing'
check --backend emu --only golden,nothing
[ "$code" -eq 2 ] || fail "an unknown step is wrong usage"
# A wrong golden is found, and the rest goes on.
rm elsewhere/tree/golden/models/gpt2/golden.safetensors
check --backend emu --only golden
[ "$code" -eq 1 ] || fail "it should have failed"
printed '1 steps good, 1 failed'
