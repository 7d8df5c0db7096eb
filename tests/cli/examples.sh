#!/bin/sh
# The examples run as their comments say. Arguments after the usual three: own_model, embed.
. "${0%/*}/lib.sh"
export DS_BACKEND=reference
own_model=$4 embed=$5

ok "$own_model" text.txt 200
awk '$1 == "step" && NF == 4 { loss[n++] = $4 } END { exit !(n == 3 && loss[2] < loss[0] / 2) }' .out ||
  fail "its loss should fall"
run "$own_model" nowhere.txt
[ $code -eq 1 ] && told 'nowhere.txt' || fail "a missing text should be told"
DS_BACKEND=nosuch run "$own_model" text.txt 2
[ $code -eq 1 ] && told 'nosuch' || fail "a missing backend should be told"

ok train --steps 30 --output out
ok "$embed" out 'The quick'
printed '^The quick.'
cp .out first
ok "$embed" out/global_step30 'The quick'
same first .out
run "$embed" nowhere 'The quick'
[ $code -eq 1 ] && told 'nowhere' || fail "a missing folder should be told"
run "$embed"
[ $code -eq 2 ] && told '^usage: ' || fail "wrong usage should be told"
