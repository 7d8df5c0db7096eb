#!/bin/sh
# A disk that fills during a save: the save is told to have failed, and the earlier checkpoint loads.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference

ok train --steps 4 --output straight --json
field loss .out | sed -n '3,4p' >rest
earlier_is_whole() { # earlier_is_whole FOLDER
  [ "$(cat "$1/latest")" = global_step2 ] || fail "latest should still name step 2"
  for f in "$1"/.tmp* "$1"/*.tmp*; do
    [ ! -e "$f" ] || fail "a leftover: $f"
  done
  ok "$DS" generate --model "$1" --prompt The --max-new-tokens 2 --temperature 0
  rm -rf again && cp -r "$1" again
  ok train --steps 4 --output again --resume --json
  field loss .out >parts
  same parts rest
}

# No file may grow beyond a limit (in blocks of 512 bytes): below the tensors, and within them.
ok train --steps 2 --output limited
size=$(size_of limited/global_step2/model.safetensors)
for blocks in 0 1 8 $((size / 1024)) $((size / 512)) $((size / 512 + 2)); do
  # Its messages go through a pipe: the limit holds for files.
  message=$(
    trap '' XFSZ
    ulimit -f "$blocks" 2>/dev/null || exit 99
    exec "$DS" train --model gpt2.json --data text.txt --config ds.json --seq-len 16 --steps 3 \
      --output limited --resume 2>&1 >/dev/null
  )
  code=$? command_line="ds train with ulimit -f $blocks"
  echo "$message" >.err
  [ $code -ne 99 ] || { skip 'a limit on the size of files: ulimit -f is refused'; break; }
  [ $code -eq 1 ] || fail "the save should fail"
  [ "$(wc -l <.err)" -eq 1 ] || fail "one message wanted"
  told '^ds train: checkpoint "global_step3" was not saved: .*safetensors: File too large'
  earlier_is_whole limited
done

# A file system that is full.
mkdir small
if mount -t tmpfs -o size=600k none small 2>/dev/null; then
  trap 'umount -l "$WORK/small"' EXIT
  ok train --steps 2 --output small/out
  refused 'was not saved.*No space left' train --steps 3 --output small/out --resume
  earlier_is_whole small/out
  # Room again: it goes on.
  mount -o remount,size=4m none small && ok train --steps 4 --output small/out --resume --json
else
  skip 'a full file system: tmpfs cannot be mounted here'
fi
