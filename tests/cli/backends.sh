#!/bin/sh
# Choosing a backend: the list, DS_BACKEND, DS_PLUGIN_PATH, files that are no plugins, and no plugin.
# Further argument: the folder of the test plugins.
. "${0%/*}/lib.sh"
PLUGINS=$4

have_cpu=$("$DS" backends | awk '$1 == "cpu" && $2 != "rejected" { print "yes" }')
states="('chosen', 'available', 'rejected')"
ok "$DS" backends
printed '^reference '
ok "$DS" backends --json
json "all(set(b) == {'name', 'state', 'version', 'priority', 'device', 'path', 'reason'} for b in value)"
json "all(b['state'] in $states for b in value)"
json "sum(b['state'] == 'chosen' for b in value) == 1"
json "all((b['reason'] is not None) == (b['state'] == 'rejected') for b in value)" # no two of a name
json "value[-1]['name'] == 'reference' and value[-1]['path'] is None"

# The environment beats the config; the config chooses by name or by a list in order of preference.
DS_BACKEND=reference ok "$DS" backends --json
json "value[-1]['state'] == 'chosen'"
ok "$DS" backends --config '{"backend": "reference"}' --json
json "value[-1]['state'] == 'chosen'"
ok "$DS" backends --config '{"backend": ["nosuch", "reference"]}' --json
json "value[-1]['state'] == 'chosen'"
DS_BACKEND=nosuch,reference ok train --steps 1
if [ "$have_cpu" ]; then
  DS_BACKEND=cpu ok "$DS" backends --config '{"backend": "reference"}' --json
  json "value[0]['name'] == 'cpu' and value[0]['state'] == 'chosen'"
  DS_LOG=info run train --steps 1
  told 'on cpu'
  ok train --steps 1 --config '{"train_batch_size": 1, "optimizer": {"type": "Adam", "params": {}},
    "backend": {"name": "cpu", "options": {"threads": 1}}}'
  run train --steps 1 --config '{"train_batch_size": 1, "optimizer": {"type": "Adam", "params": {}},
    "backend": {"name": "cpu", "options": {"thread": 1}}}'
  [ "$code" -eq 1 ] && told 'thread' || fail "an unknown option of the plugin should be refused"
else
  skip 'the cpu plugin: it was not built here'
fi

# nothing_opens COMMAND...: the candidates and why, one by one.
nothing_opens() {
  run "$@"
  [ "$code" -eq 1 ] || fail "it should fail"
  [ "$(grep -c '^ds ' .err)" -eq 1 ] && told 'nosuch' || fail "one message naming nosuch wanted"
  told '^  reference: '
}
ok train --steps 1 --output out
for name in nosuch nosuch,nosuchtoo; do
  export DS_BACKEND=$name
  nothing_opens train --steps 1
  nothing_opens "$DS" generate --model out --prompt The
  ok "$DS" backends --json
  json "all(b['state'] != 'chosen' for b in value)"
done
DS_BACKEND=referense run train --steps 1
told 'did you mean "?reference'
unset DS_BACKEND
run train --steps 1 --config '{"train_batch_size": 1, "backend": "nosuch"}'
[ "$code" -eq 1 ] && told nosuch || fail "an unknown name in the config should be refused"

# Files that are no plugins are listed with the reason, and never run.
mkdir plugins
echo 'no library at all' >plugins/dscore_text.so
: >plugins/dscore_empty.so
head -c 4096 /dev/urandom >plugins/dscore_noise.so
head -c 1000 "$DS" >plugins/dscore_truncated.so
cp "$DS" plugins/dscore_program.so
ln -s nowhere plugins/dscore_dangling.so
mkdir plugins/dscore_folder.so
for f in text empty noise truncated program dangling folder; do
  DS_PLUGIN_PATH=$WORK/plugins ok "$DS" backends --json
  json "[b for b in value if b['path'] and 'dscore_$f' in b['path'] and b['state'] == 'rejected' and
         len(b['reason']) > 20] or '$f' == 'folder'"
done
DS_PLUGIN_PATH=$WORK/plugins ok train --steps 1
DS_PLUGIN_PATH=$WORK/plugins DS_BACKEND=text run train --steps 1
[ "$code" -eq 1 ] && told 'dscore_text.so' || fail "the rejected file should be among the candidates"
DS_PLUGIN_PATH=relative/plugins ok "$DS" backends --json
json "[b for b in value if b['state'] == 'rejected' and '/' in b['reason']]"
chmod a+w plugins
DS_PLUGIN_PATH=$WORK/plugins ok "$DS" backends --json
json "[b for b in value if b['state'] == 'rejected' and 'writ' in b['reason']]"

# Files in bad places, and what isn't a file: told, and never waited for.
mkfifo plugins/dscore_pipe.so
chmod o-w plugins
DS_PLUGIN_PATH=$WORK/plugins ok "$DS" backends
printed 'not a regular file but a pipe'
printed 'not a regular file but a folder'
printed "can't be reached"
mkdir -p open/inner
echo text >open/inner/dscore_x.so
chmod a+w open
DS_PLUGIN_PATH=$WORK/open/inner ok "$DS" backends
printed '/open above it may be written by anybody; run: chmod o-w'
chmod o-w open
DS_PLUGIN_PATH=$WORK/open/inner ok "$DS" backends
printed 'not a shared object'

# The current folder, however it comes in: a program started by a relative path, empty parts,
# relative ones. What lies there would end the program.
mkdir here
cp "$PLUGINS/constructor_exit_now.so" here/dscore_here.so
cp "$DS" here/ds
(cd here && DS_PLUGIN_PATH=.:./:::here: ok ./ds backends && printf '%s' "$code" >../.code) || exit 1
printed 'must be absolute'
! grep -q dscore_here .out || fail "the current folder was searched"
(cd here && PATH=.:$PATH && ok ds backends) || exit 1
! grep -q dscore_here .out || fail "the current folder was searched"

# Plugins that do harm: the program lives, says which and why, and trains on another.
for harm in constructor_segv constructor_exit_now query_segv answer_unmapped constructor_print; do
  mkdir -p "harm/$harm"
  cp "$PLUGINS/$harm.so" "harm/$harm/dscore_$harm.so"
  DS_PLUGIN_PATH=$WORK/harm/$harm ok "$DS" backends --json
  json "[b for b in value if b['name'] == '$harm' and b['state'] == 'rejected' and ';' in b['reason']]"
  DS_PLUGIN_PATH=$WORK/harm/$harm DS_BACKEND=$harm,reference ok train --steps 1
  told "$harm is not usable: "
  ! grep -q 'hello from a plugin' .out || fail "a plugin printed"
done
mkdir hang
cp "$PLUGINS/constructor_hang.so" hang/dscore_hang.so
DS_PLUGIN_PATH=$WORK/hang ok "$DS" backends --config '{"backend": {"probe_timeout": 1}}'
printed 'did not finish within 1 s: it hangs in its constructor'
refused 'probe_timeout' train --steps 1 --config '{"train_batch_size": 1, "backend": {"probe_timeout": "long"}}'

# Two versions of one plugin: both are shown, and why the other was not taken.
mkdir versions
for v in 1 2; do cp "$PLUGINS/version_$v.so" "versions/dscore_$v.so"; done
DS_PLUGIN_PATH=$WORK/versions DS_BACKEND=versions ok "$DS" backends
printed '^versions +chosen +1.0.0'
printed '^versions +available +2.0.0'
printed 'versions 1.0.0 at .*/dscore_1.so is taken: it is found first'

# No plugin at all: the program alone in an empty folder runs the same engines.
mkdir -p alone/bin none
cp "$DS" alone/bin/ds
alone=$WORK/alone/bin/ds
DS_PLUGIN_PATH=$WORK/none
export DS_PLUGIN_PATH
ok "$alone" backends --json
installed=$(grep -c '"path":"/' .out)
if [ "$installed" -eq 0 ]; then
  json "len(value) == 1 and value[0]['name'] == 'reference' and value[0]['state'] == 'chosen'"
else
  skip "the list of one: a plugin is installed on this machine"
  DS_BACKEND=reference
  export DS_BACKEND
fi
ok "$alone" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 --steps 10 \
  --output alone/out --json
json "lines[-1]['loss'] < lines[0]['loss']"
ok "$alone" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 --steps 12 \
  --output alone/out --resume --json
json "len(lines) == 2"
ok "$alone" generate --model alone/out --prompt The --max-new-tokens 5 --temperature 0 --json
json "len(value['tokens']) == 5"
ok "$alone" train --model llama.json --data text.txt --seq-len 16 --steps 2 --json \
  --config '{"train_batch_size": 2, "bf16": {"enabled": true},
             "optimizer": {"type": "AdamW", "params": {"lr": 0.01}}}'
