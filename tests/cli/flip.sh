#!/bin/sh
# One flipped bit anywhere in a checkpoint: it is told, and never loaded as if nothing had happened.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

ok train --steps 3 --output saved
fingerprint saved >saved.sum
ok "$DS" generate --model saved --prompt The --max-new-tokens 4 --temperature 0
cp .out greedy

# Both engines hold all five files against the manifest first.
for f in config.json engine.json manifest model.safetensors optimizer.safetensors; do
  size=$(size_of saved/global_step3/$f)
  i=0
  while [ $i -lt 40 ]; do
    offset=$((i * (size - 1) / 39)) bit=$(((i * 5 + size) % 8))
    rm -rf c && cp -r saved c
    flip c/global_step3/$f $offset $bit
    ! cmp -s c/global_step3/$f saved/global_step3/$f || fail "the bit should have flipped"
    refused "$f" train --steps 4 --output c --resume
    [ ! -d c/global_step4 ] || fail "it went on from a damaged $f"
    run "$DS" generate --model c --prompt The --max-new-tokens 4 --temperature 0
    case $code in
    1) [ "$(grep -c '^ds generate: ' .err)" -eq 1 ] && told "$f" || fail "one message wanted" ;;
    *) fail "a flipped bit must be refused" ;;
    esac
    i=$((i + 1))
  done
done

# `latest` holds a name: another one is refused, or harmless where only white space follows it.
size=$(size_of saved/latest)
i=0
while [ $i -lt $((size * 8)) ]; do
  rm -rf c && cp -r saved c
  flip c/latest $((i / 8)) $((i % 8))
  refused 'latest|checkpoint' train --steps 4 --output c --resume
  refused 'latest|config.json|checkpoint' "$DS" generate --model c --prompt The --max-new-tokens 4
  i=$((i + 1))
done

# A tokenizer, the config of training: told, or a file that means the same or something else valid.
flips() { # flips FILE COMMAND...: sixty bits
  file=$1 size=$(size_of "$1") told=0 i=0
  shift
  cp "$file" whole
  while [ $i -lt 60 ]; do
    cp whole "$file"
    flip "$file" $((i * (size - 1) / 59)) $(((i * 3 + 1) % 8))
    run "$@"
    [ $code -le 1 ] || fail "exit code 0 or 1 wanted"
    if [ $code -eq 1 ]; then
      told=$((told + 1))
      [ "$(grep -c '^ds ' .err)" -eq 1 ] || fail "one message wanted"
    fi
    i=$((i + 1))
  done
  cp whole "$file"
  [ $told -gt 5 ] || fail "only $told of 60 flips were told"
}
sed 's/"vocab_size": 256/"vocab_size": 700/' gpt2.json >wide.json
cp "$SOURCE/tests/golden/tokenizers/byte_level/tokenizer.json" byte_level.json
cp "$SOURCE/tests/golden/tokenizers/sentencepiece/tokenizer.json" sentencepiece.json
flips byte_level.json train --model wide.json --tokenizer byte_level.json --steps 1
flips sentencepiece.json train --model wide.json --tokenizer sentencepiece.json --steps 1
flips ds.json train --steps 1
flips gpt2.json train --steps 1

fingerprint saved >now.sum
same saved.sum now.sum
