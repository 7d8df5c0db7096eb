#!/bin/sh
# Files that are missing, cut, damaged or of the wrong kind: a message and exit code 1, and nothing
# that was saved is harmed.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

tokenizers=$SOURCE/tests/golden/tokenizers
sed 's/"vocab_size": 256/"vocab_size": 700/' gpt2.json >wide.json
ok train --model wide.json --tokenizer "$tokenizers/byte_level" --steps 4 --output saved
fingerprint saved >saved.sum
unharmed() {
  fingerprint saved >now.sum
  same saved.sum now.sum
}
# on TEXT... [OPTION]...: trains on these.
on() {
  "$DS" train --model gpt2.json --config ds.json --seq-len 16 --data "$@"
}
generate() {
  "$DS" generate --model "$1" --prompt The --max-new-tokens 2 --temperature 0
}

# ---- what was saved survives a careless command on the same folder
refused 'nosuchkey' train --model wide.json --tokenizer "$tokenizers/gpt2" --output saved \
  --config '{"train_batch_size": 4, "nosuchkey": 1}'
refused 'nowhere' train --model wide.json --tokenizer "$tokenizers/gpt2" --output saved --data nowhere
refused 'data set' train --model wide.json --tokenizer "$tokenizers/gpt2" --output saved --resume
refused 'no optimizer' train --model wide.json --tokenizer "$tokenizers/gpt2" --output saved \
  --config '{"train_batch_size": 4}'
refused 'loss is' train --model wide.json --tokenizer "$tokenizers/gpt2" --output saved --steps 50 \
  --config '{"train_batch_size": 4, "optimizer": {"type": "AdamW", "params": {"lr": 1e30}}}'
unharmed

# ---- texts
: >empty.txt
printf 'fifteen letters' >short.txt
refused 'empty.txt gives 0 tokens' on empty.txt
refused 'short.txt gives 15 tokens.*needs 17' on short.txt
printf 'exactly a sample.' >enough.txt
ok on enough.txt --steps 2
refused 'nowhere.txt' on nowhere.txt
refused 'nowhere.txt' on text.txt nowhere.txt
mkdir folder
refused 'folder is not a regular file' on folder
mkfifo pipe 2>/dev/null && {
  run timeout -k 1 10 "$DS" train --model gpt2.json --data pipe --config ds.json
  [ "$code" -eq 1 ] && told 'pipe' || fail "a pipe should be refused, not waited for"
}
head -c 3000 /dev/urandom >noise.txt # any bytes are a text
ok on noise.txt --steps 2
ok on noise.txt --model wide.json --tokenizer "$tokenizers/byte_level" --steps 2
refused '33|32' train --seq-len 33

# ---- vocabularies that do not fit
refused "model's vocabulary has 256.*tokenizer" train --tokenizer "$tokenizers/byte_level"
sed 's/"vocab_size": 256/"vocab_size": 100/' gpt2.json >narrow.json
refused "model's vocabulary has 100" train --model narrow.json --tokenizer bytes
refused 'no tokenizer.*--tokenizer' train --model narrow.json
refused '.' "$DS" generate --model saved --tokenizer "$tokenizers/nowhere" --prompt The

# ---- model configs
cp -r saved/global_step4 hf
bad_model() {
  wanted=$1
  refused "$wanted" train --model bad.json
  cp bad.json hf/config.json
  rm -f hf/manifest
  refused "$wanted" generate hf
}
key() { sed "s/\"$1\": [^,}]*/\"$1\": $2/" wide.json >bad.json; }
: >bad.json && bad_model 'config.json|bad.json'
for bytes in 1 30 60 90 120 150; do
  head -c $bytes wide.json >bad.json && bad_model 'config.json|bad.json'
done
echo '[]' >bad.json && bad_model 'must be an object'
echo '{}' >bad.json && bad_model 'model_type'
key model_type '"gtp2"' && bad_model 'did you mean "gpt2"'
key model_type 7 && bad_model 'model_type'
for value in 0 -1 1.5 1e30 null '"7"' true '[]'; do
  for name in vocab_size n_embd n_layer n_head n_positions; do
    key $name "$value" && bad_model "$name"
  done
done
key n_head 5 && bad_model 'n_head|heads'
key n_embd 1e15 && bad_model 'n_embd|large|memory|parameters'
key activation_function '"swoosh"' && bad_model 'activation_function'
refused 'nowhere.json' train --model nowhere.json
refused 'config.json' train --model folder
refused 'config.json' generate folder
refused '.' train --model text.txt

# ---- ds_config
refused 'nowhere.json' train --config nowhere.json
refused 'regular file' train --config folder
for bytes in 0 1 20 60 100; do
  head -c $bytes ds.json >bad.json
  refused 'config' train --config bad.json
done
refused 'config' train --config ''

# ---- tokenizers
cp -r saved tok
for bytes in 0 1 100 1000 3000 5800; do
  head -c $bytes "$tokenizers/byte_level/tokenizer.json" >tok/tokenizer.json
  refused 'tokenizer.json' generate tok
  refused 'tokenizer.json' train --model wide.json --tokenizer tok/tokenizer.json
done
for bytes in 0 1 100 1000; do
  rm -rf bpe && mkdir bpe && cp "$tokenizers"/gpt2/*.* bpe
  head -c $bytes "$tokenizers/gpt2/vocab.json" >bpe/vocab.json
  refused 'vocab.json' train --model wide.json --tokenizer bpe
done
rm -rf bpe && mkdir bpe && cp "$tokenizers/gpt2/vocab.json" bpe
refused 'merges.txt' train --model wide.json --tokenizer bpe
echo 'no such merge here' >bpe/merges.txt
refused 'merges.txt' train --model wide.json --tokenizer bpe
refused 'nowhere' train --model wide.json --tokenizer nowhere
refused '.' train --model wide.json --tokenizer folder
rm tok/tokenizer.json
refused 'no tokenizer.*--tokenizer' generate tok
mkdir tok/tokenizer.json
refused 'tokenizer.json' generate tok

# ---- safetensors
rm -rf hf && cp -r saved/global_step4 hf
cp saved/tokenizer.json hf
rm hf/manifest
ok generate hf
size=$(size_of hf/model.safetensors)
for bytes in 0 1 7 8 9 100 1000 $((size / 2)) $((size - 1)); do
  head -c "$bytes" saved/global_step4/model.safetensors >hf/model.safetensors
  refused 'model.safetensors' generate hf
  refused 'model.safetensors' train --model hf
done
{ cat saved/global_step4/model.safetensors && printf x; } >hf/model.safetensors
refused 'model.safetensors' generate hf
printf '\377\377\377\377\377\377\377\177{}' >hf/model.safetensors
refused 'model.safetensors' generate hf
rm hf/model.safetensors && mkdir hf/model.safetensors
refused 'model.safetensors' generate hf
rmdir hf/model.safetensors
refused 'model.safetensors|weights' generate hf
ok train --model hf --tokenizer "$tokenizers/byte_level" --steps 1 # no weights: from random ones
cp saved/global_step4/model.safetensors hf
sed 's/"n_embd":[^,]*/"n_embd": 64/' saved/global_step4/config.json >hf/config.json
refused 'shape|\[' generate hf
sed 's/"n_layer":[^,]*/"n_layer": 3/' saved/global_step4/config.json >hf/config.json
refused 'h\.2\.' generate hf

# ---- output folders
refused 'text.txt' train --steps 1 --output text.txt
refused 'text.txt' train --steps 1 --output text.txt/below
refused '.' train --steps 1 --output /proc/nowhere/below
refused 'svg' train --steps 1 --svg nowhere/loss.svg
if [ "$(id -u)" -ne 0 ]; then
  mkdir locked && chmod 555 locked
  refused 'locked' train --steps 1 --output locked
else
  skip 'a folder without write permission: root writes everywhere'
fi

# ---- a loss that is no number
refused 'loss is -?nan.*"transformer.*no parameter was changed' train --steps 50 --json --output nan \
  --config '{"train_batch_size": 4, "optimizer": {"type": "AdamW", "params": {"lr": 1e30}}}'
json "all(l['loss'] == l['loss'] for l in lines)"
[ ! -f nan/latest ] || fail "nothing should be saved of it"

# ---- checkpoints
rm -rf c && cp -r saved c && rm c/latest
refused 'latest' train --model wide.json --tokenizer saved --steps 5 --output c --resume
damaged_latest() {
  printf "$1" >c/latest
  refused 'latest|checkpoint' train --model wide.json --tokenizer saved --steps 5 --output c --resume
  refused 'latest|checkpoint' generate c
}
damaged_latest ''
damaged_latest 'global_step5'
damaged_latest '../saved/global_step4'
damaged_latest '..'
damaged_latest 'a\000b'
for f in config.json engine.json manifest model.safetensors optimizer.safetensors; do
  for how in missing empty cut folder; do
    rm -rf c && cp -r saved c
    victim=c/global_step4/$f
    case $how in
    missing) rm $victim ;;
    empty) : >$victim ;;
    cut) head -c $(($(size_of $victim) - 1)) saved/global_step4/$f >$victim ;;
    folder) rm $victim && mkdir $victim ;;
    esac
    refused "$f" train --model wide.json --tokenizer saved --steps 5 --output c --resume
    case $f in
    config.json | model.safetensors | manifest) refused "$f" generate c ;;
    esac
  done
done
unharmed
