#!/bin/sh
# Usage: bugs.sh PROGRAM MODE      (MODE: plain, asan or race)
# Every bug of bugs.cpp is found in the modes that stand beside it; the same kernels without bugs are right, in several
# orders of threads. "failed" is the launch's message or the sanitizer's, "wrong" a wrong result; - is not promised.
program=$1
mode=$2
failed=0
export ASAN_OPTIONS=detect_leaks=0 # a process that stopped within a kernel leaves what it had

for order in forward reverse 1 2; do
  out=$(DS_SIMT_ORDER=$order "$program" right 2>&1)
  if [ -z "$out" ] || printf '%s\n' "$out" | grep -qv ': ok$'; then
    printf 'without bugs, order %s:\n%s\n' "$order" "$out"
    failed=1
  fi
done

while read -r bug plain asan race words; do
  case $mode in
    plain) wanted=$plain ;;
    asan) wanted=$asan ;;
    race) wanted=$race ;;
  esac
  out=$("$program" "$bug" 2>&1)
  case $out in
    *": ok") got=missed ;;
    *": wrong") got=wrong ;;
    *": failed: "* | *"ERROR: AddressSanitizer"* | *"runtime error:"*) got=failed ;;
    *) got=nothing ;;
  esac
  if [ "$wanted" != - ] && [ "$got" != "$wanted" ]; then
    printf '%s: wanted %s, got %s: %s\n' "$bug" "$wanted" "$got" "$out"
    failed=1
  fi
  case $out in
    *": failed: "*"$words"*) ;;
    *": failed: "*)
      printf '%s: the message lacks "%s": %s\n' "$bug" "$words" "$out"
      failed=1
      ;;
  esac
done <<'END'
global_end                  failed failed failed behind the 148
global_begin                -      failed -      
static_shared_end           wrong  failed failed of a
dynamic_shared_end          wrong  failed wrong  
misaligned                  wrong  failed failed 
missing_barrier             wrong  wrong  failed gpu_sync in between has
missing_second_barrier      wrong  wrong  failed gpu_sync in between has
shared_race                 -      -      failed of its wave without a gpu_sync_wave
global_race                 -      -      failed of another block
blocks_race                 -      -      failed of another block
wave_race                   wrong  wrong  failed of its wave without a gpu_sync_wave
same_value                  -      -      failed of its wave without a gpu_sync_wave
divergent_barrier           failed failed failed 37 wait there, 27 left
two_barriers                failed failed failed of its block are at gpu_sync
early_exit                  failed failed failed left the kernel
shuffle_beside_vote         failed failed failed of its wave are at
shuffle_width               failed failed failed 24 lanes
shuffle_mask                failed failed failed a mask that leaves the group
uninitialized_shared        wrong  wrong  wrong  
missing_copy_wait           wrong  wrong  wrong  
missing_barrier_after_copy  -      -      failed gpu_sync in between has
copy_too_early              -      -      failed has read
misaligned_copy             failed failed failed must be multiples of 16
partial_wave                failed failed failed no whole number of waves
too_many_threads            failed failed failed beyond the 64 threads
grid_too_large              failed failed failed beyond 2147483647 x 65535 x 65535
shared_too_large            failed failed failed without GPU_ALLOW_SHARED
stack_too_small             failed failed failed its stack overflows
freed_too_early             failed failed failed freed?
host_touches_device         -      failed -      
END
exit $failed
