#!/bin/sh
# The command line of ds conform: wrong usage, what can't be run, the report of a crash.
# Argument after the usual three: the folder of test plugins.
. "${0%/*}/../cli/lib.sh"
plugins=$4
none=$plugins/buggy_none.so

wrong 'wanted one PLUGIN.so' "$DS" conform
wrong 'wanted one PLUGIN.so' "$DS" conform reference reference
wrong 'no file ./nowhere.so' "$DS" conform ./nowhere.so
wrong 'no section nonsense' "$DS" conform reference --section nonsense
wrong 'no check "nonsense"' "$DS" conform reference --section ops --op nonsense --json
wrong '--cases must' "$DS" conform reference --cases 0
wrong '--limit must' "$DS" conform reference --limit 0
wrong '--ranks wants' "$DS" conform reference --ranks 1,x
wrong '--ranks wants' "$DS" conform reference --ranks 99
wrong 'unknown option --sectoin; did you mean --section' "$DS" conform reference --sectoin ops
wrong '--seed wants a whole number' "$DS" conform reference --seed x
wrong 'cannot be read' "$DS" conform reference --section device --expect nowhere
printf 'ops/argmax\n' >short.expect
wrong 'line 1: wanted' "$DS" conform reference --section device --expect short.expect
wrong "can't be loaded" "$DS" conform text.txt --json
wrong 'no driver: libvendor.so.1' "$DS" conform "$plugins/unavailable.so" --json
wrong 'no card in any slot' "$DS" conform "$plugins/no_device.so" --json
wrong 'is no folder that ds conform made' "$DS" conform reference --rank-folder nowhere

ok "$DS" conform --help
printed 'section/name'
printed '^  lifetime '

# What a section reports, and how to see a failure again: by the command that it prints.
ok "$DS" conform reference --section ops --op softmax --cases 3
printed '^PASS  *ops/softmax  *f32  *3 '
printed '^3 passed, 0 failed, 0 unsupported$'
ok "$DS" conform "$none" --section device --options '{}'
run "$DS" conform "$plugins/buggy_ties.so" --section ops --op argmax --seed 5 --cases 9
[ "$code" -eq 1 ] || fail "a failed check should be exit code 1"
again=$(sed -n 's/^ *again: ds //p' .out | head -n 1)
[ "$again" ] || fail "a failure should say how to see it again"
cp .out first
# shellcheck disable=SC2086
run "$DS" $again
same first .out

# A crash, an exit and a hang are lines like any other, and the rest goes on.
run "$DS" conform "$plugins/buggy_crashes_odd.so" --section ops --cases 4
printed '^FAIL  *ops/swiglu  *process '
printed '(ended by signal 11 \(Segmentation fault\)|exited with code 1); it was at: swiglu, case' # or by ASan
printed '^PASS  *ops/mean_backward'
run "$DS" conform "$plugins/buggy_exits.so" --section device
printed 'exited with code 0; it was at: device open'
run "$DS" conform "$plugins/buggy_hangs.so" --section ops --op reduce_rows --limit 3
printed 'hangs: not done after 3 seconds; it was at: reduce_rows, case 0'

# One that can't even be asked is told of once, not by every check.
run "$DS" conform "$plugins/query_segv.so"
[ "$code" -eq 1 ] || fail "a plugin whose query crashes should be exit code 1"
printed '^FAIL  *abi/tables  *process '
! grep -q '^FAIL  *\(ops\|gemm\|engine\)/' .out || fail "sections that can't run should not be run"
told "only section abi was run"

ok "$DS" conform reference --time --op softmax
printed '^softmax .* GB/s$'
[ -z "$(find . -name '*ds-conform*')" ] || fail "temporary folders should be gone"
exit 0
