# lib.sh - what the tests of the ds program share. A test is a script that begins with
#     . "${0%/*}/lib.sh"
# and is called as: test.sh DS SCRATCH SOURCE-ROOT. It then stands in SCRATCH/NAME, a folder of its
# own, with tiny inputs: text.txt, gpt2.json, llama.json (vocabularies of 256), ds.json.
# Any check that fails ends the script and shows the command with what it printed.
set -u
unset DS_BACKEND DS_PLUGIN_PATH DS_LOG MAKEFLAGS
LC_ALL=C
export LC_ALL
# Tiny models among other tests: two threads that do not spin.
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive

DS=$1 SOURCE=$3
case $DS in /*) ;; *) DS=$PWD/$DS ;; esac # meson names it from the build folder
HERE=$(cd "${0%/*}" && pwd)
WORK=$2/$(basename "$0" .sh)
rm -rf "$WORK"
mkdir -p "$WORK"
cd "$WORK" || exit 1
command_line='' code=0

fail() {
  echo "FAILED: $*"
  echo "last command: $command_line (exit code $code)"
  for f in out err; do
    [ -f "$WORK/.$f" ] && { echo "--- std$f"; head -c 3000 "$WORK/.$f"; }
  done
  exit 1
}
skip() {
  echo "SKIPPED: $*"
}

# run COMMAND...: stdout in .out, stderr in .err, exit code in $code. Never a crash.
run() {
  command_line="$*"
  "$@" >"$WORK/.out" 2>"$WORK/.err"
  code=$?
  [ "$code" -lt 126 ] || fail "it crashed"
  ! grep -qE 'Sanitizer|runtime error:' "$WORK/.err" || fail "a sanitizer spoke"
}
# ok COMMAND...: succeeds, silent on stderr but for warnings.
ok() {
  run "$@"
  [ "$code" -eq 0 ] || fail "it should succeed"
  ! grep -v '^warning: ' "$WORK/.err" >/dev/null || fail "stderr should hold only warnings"
}
# refused PATTERN COMMAND...: exit code 1, and one line on stderr that matches.
refused() {
  wanted=$1
  shift
  run "$@"
  [ "$code" -eq 1 ] || fail "it should fail with exit code 1"
  [ "$(grep -vc '^warning: ' "$WORK/.err")" -eq 1 ] || fail "it should say one thing on stderr"
  grep -qE '^ds [a-z]+: ' "$WORK/.err" || fail "the message should begin with the command's name"
  grep -qE -- "$wanted" "$WORK/.err" || fail "the message should match: $wanted"
}
# wrong PATTERN COMMAND...: wrong usage: exit code 2, nothing on stdout, a message that matches.
wrong() {
  wanted=$1
  shift
  run "$@"
  [ "$code" -eq 2 ] || fail "it should fail with exit code 2"
  [ ! -s "$WORK/.out" ] || fail "stdout should be empty"
  grep -qE -- "$wanted" "$WORK/.err" || fail "the message should match: $wanted"
}
# printed PATTERN, told PATTERN: the last command's stdout, stderr has a line that matches.
printed() {
  grep -qE -- "$1" "$WORK/.out" || fail "stdout should match: $1"
}
told() {
  grep -qE -- "$1" "$WORK/.err" || fail "stderr should match: $1"
}
# json EXPRESSION: holds for `lines`, the JSON values that the last command printed, a line each,
# and `value`, the first of them. With isclose, isfinite at hand.
json() {
  python3 - "$WORK/.out" "$1" <<'PYTHON' || fail "stdout should satisfy: $1"
import json, sys
from math import isclose, isfinite
text = open(sys.argv[1], encoding="utf-8").read()
try:
    lines = [json.loads(text)]
except ValueError:
    lines = [json.loads(line) for line in text.splitlines()]
value = lines[0]
sys.exit(0 if eval(sys.argv[2]) else 1)
PYTHON
}
# field NAME FILE: the values of a field in lines of JSON, as they were printed.
field() {
  sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$2"
}
same() {
  cmp -s "$1" "$2" || { diff "$1" "$2" | head -20; fail "$1 and $2 should be the same"; }
}
size_of() {
  wc -c <"$1" | tr -d ' '
}
# flip FILE OFFSET BIT
flip() {
  byte=$(od -An -tu1 -j"$2" -N1 "$1" | tr -d ' ')
  # shellcheck disable=SC2059
  printf "\\$(printf %03o $((byte ^ (1 << $3))))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
# A hash of every name and byte under a folder.
fingerprint() {
  (cd "$1" && find . -type f | sort | xargs cksum)
}

# The sentences differ in length, so that samples differ.
i=0
while [ $i -lt 60 ]; do
  echo 'The quick brown fox jumps over the lazy dog.'
  echo "Pack my box with $i dozen jugs, said the fox, and the dog slept."
  i=$((i + 1))
done >text.txt
cat >gpt2.json <<'EOF'
{"model_type": "gpt2", "vocab_size": 256, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4,
 "activation_function": "gelu_new", "tie_word_embeddings": true}
EOF
cat >llama.json <<'EOF'
{"model_type": "llama", "vocab_size": 256, "max_position_embeddings": 32, "hidden_size": 32,
 "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
 "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false}
EOF
cat >ds.json <<'EOF'
{"train_batch_size": 4, "gradient_clipping": 1.0,
 "optimizer": {"type": "AdamW", "params": {"lr": 5e-3, "weight_decay": 0.01}}}
EOF
# train [OPTION]...: a tiny GPT-2 on the text; options given later win.
train() {
  "$DS" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 "$@"
}
