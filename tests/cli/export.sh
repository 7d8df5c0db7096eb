#!/bin/sh
# ds export: a Hugging Face folder of a checkpoint, without engine or device.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

for family in gpt2 llama; do
  ok train --model $family.json --steps 3 --output $family
  ok "$DS" export $family $family-32
  [ ! -s .out ] || fail "nothing to print wanted"
  # f32 is what the checkpoint has, byte for byte; a folder generates what the checkpoint does.
  same $family/global_step3/model.safetensors $family-32/model.safetensors
  same $family/global_step3/config.json $family-32/config.json
  ok "$DS" generate --model $family --prompt The --max-new-tokens 12 --temperature 0
  cp .out from_checkpoint
  ok "$DS" generate --model $family-32 --prompt The --max-new-tokens 12 --temperature 0
  same .out from_checkpoint
  # One checkpoint by its own folder or by its tag is the same.
  ok "$DS" export $family/global_step3 $family-own
  ok "$DS" export $family $family-tag --tag global_step3
  fingerprint $family-32 >32.sum
  for f in own tag; do
    fingerprint $family-$f >other.sum
    same 32.sum other.sum
  done

  # bf16: every number is the f32 one rounded to nearest even, by another program.
  ok "$DS" export $family $family-16 --bits16
  grep -q '"bfloat16"' $family-16/config.json || fail "config.json should say bfloat16"
  python3 - $family-32/model.safetensors $family-16/model.safetensors <<'PYTHON' || fail "bf16 differs"
import json, struct, sys
def load(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    assert head.pop("__metadata__") == {"format": "pt"}
    return head, data[8 + n:]
(a, x), (b, y) = load(sys.argv[1]), load(sys.argv[2])
assert list(a) == list(b)
for name in a:
    assert a[name]["shape"] == b[name]["shape"] and a[name]["dtype"] == "F32" and b[name]["dtype"] == "BF16"
    p, q = a[name]["data_offsets"], b[name]["data_offsets"]
    full = struct.unpack("<%dI" % ((p[1] - p[0]) // 4), x[p[0]:p[1]])
    half = struct.unpack("<%dH" % ((q[1] - q[0]) // 2), y[q[0]:q[1]])
    for u, h in zip(full, half, strict=True):
        assert (u + 0x7fff + (u >> 16 & 1)) >> 16 == h
PYTHON
  ok "$DS" generate --model $family-16 --prompt The --max-new-tokens 2 --temperature 0
done

# The tokenizer goes along, from beside the checkpoints.
sed 's/"vocab_size": 256/"vocab_size": 700/' gpt2.json >wide.json
tokenizer=$SOURCE/tests/golden/tokenizers/byte_level/tokenizer.json
ok train --model wide.json --tokenizer "$tokenizer" --steps 1 --output wide
ok "$DS" export wide wide-hf
ok "$DS" export wide/global_step1 wide-own
for f in wide-hf wide-own; do
  same "$tokenizer" $f/tokenizer.json
  ok "$DS" generate --model $f --prompt The --max-new-tokens 2 --temperature 0
done

# What isn't there, isn't whole or can't be written is told; nothing half made is left.
refused 'latest is missing' "$DS" export nowhere out
refused 'gone is not there' "$DS" export gpt2 out --tag gone
refused 'cannot create' "$DS" export gpt2 ds.json/out
refused 'is a checkpoint' "$DS" export gpt2 llama/global_step3
flip gpt2/global_step3/model.safetensors 3000 4
refused 'model.safetensors is damaged' "$DS" export gpt2 out
[ ! -e out ] || fail "a damaged checkpoint should leave nothing"
wrong 'CHECKPOINT and OUT' "$DS" export gpt2
wrong 'CHECKPOINT and OUT' "$DS" export a b c
wrong 'bits16' "$DS" export gpt2 out --bits
