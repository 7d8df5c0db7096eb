#!/bin/sh
# ds run: starts ranks, tells them who they are, ends with them, and starts them again where a checkpoint is.
#
# usage: run.sh DS SCRATCH SOURCE-ROOT
. "${0%/*}/../cli/lib.sh"
unset OMP_NUM_THREADS OMP_WAIT_POLICY GOMP_SPINCOUNT RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
command -v mpirun >/dev/null || { echo "no mpirun here"; exit 77; }
"$DS" backends | grep -q '^cpu .*\(chosen\|available\)' || { echo "no cpu plugin here"; exit 77; }

# Wrong command lines.
wrong 'what is to run' "$DS" run -n 2
wrong 'what is to run' "$DS" run -n 2 --
wrong 'must be positive' "$DS" run -n 0 -- true
wrong 'must be positive' "$DS" run --num_gpus -3 -- true
wrong 'from 0 to 65535' "$DS" run -n 2 --master_port 70000 -- true
wrong 'must not be negative' "$DS" run -n 2 --max-restarts -1 -- true
wrong 'did you mean --hostfile' "$DS" run --hostfiel x -- true
refused 'how many ranks' "$DS" run -- true
refused 'nowhere' "$DS" run --hostfile nowhere -- true
refused 'must be openmpi, slurm or auto' "$DS" run -n 2 --launcher pdsh -- true
refused 'needs --hostfile' "$DS" run -n 2 --exclude a -- true
refused 'MASTER_PORT=x' env MASTER_PORT=x "$DS" run -n 2 -- true
refused 'started by mpirun itself' env OMPI_COMM_WORLD_SIZE=2 "$DS" run -n 2 -- true
refused 'for what mpirun and srun start' "$DS" run --as-rank -- true
refused 'is Open MPI installed' env PATH=/nowhere "$DS" run -n 2 -- true
printf 'A=1\nnonsense\n' >bad_env
refused 'bad_env:2' env DS_ENV_FILE=bad_env "$DS" run -n 2 -- true

# The command as it would be run; the options of the command are its own.
printf 'one slots=2\ntwo slots=4 # big\n' >hosts
ok "$DS" run --hostfile hosts --include one@two:0,2 --dry-run true -n 7 --x 'a b'
printed '^MASTER_ADDR=one MASTER_PORT=0 mpirun .*-np 4 --host one:2,two:2 .* --devices=0,1,0,2 -- true -n 7 --x .a b.$'
ok "$DS" run -n 2 --dry-run -- ds train
printed " -- $DS train\$"
ok env MASTER_ADDR=here MASTER_PORT=1234 "$DS" run -n 2 --dry-run -- true
printed '^MASTER_ADDR=here MASTER_PORT=1234 mpirun .* -x MASTER_ADDR -x MASTER_PORT '

# Who the ranks are; .deepspeed_env; slots of this machine; the exit code; nothing left of a stale launcher.
printf 'TEST_FROM_FILE=yes\n' >.deepspeed_env
# shellcheck disable=SC2016
tell='echo "rank $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $TEST_FROM_FILE restart $DS_RESTART_COUNT $MASTER_ADDR"'
ok env RANK=9 WORLD_SIZE=10 LOCAL_RANK=3 "$DS" run -n 3 -- sh -c "$tell"
sort .out >got
printf 'rank %d/3 %d/3 yes restart 0 \n' 0 0 1 1 2 2 >want
same want got
# shellcheck disable=SC2016
ok env CUDA_VISIBLE_DEVICES=7 "$DS" run --include localhost:1,3 -- \
  sh -c 'echo "$CUDA_VISIBLE_DEVICES $HIP_VISIBLE_DEVICES $LOCAL_RANK"'
sort .out >got
printf '1,3 1,3 0\n1,3 1,3 1\n' >want
same want got
# shellcheck disable=SC2016
ok "$DS" run -n 1 -- sh -c 'echo "$OMP_NUM_THREADS $GOMP_SPINCOUNT"'
printed "^$(nproc) 2000\$"
# shellcheck disable=SC2016
ok env OMP_NUM_THREADS=3 "$DS" run -n 1 -- sh -c 'echo "$OMP_NUM_THREADS"'
printed '^3$'
if [ "$(nproc)" -ge 2 ]; then
  ok "$DS" run -n 2 --bind_cores_to_rank -- nproc
  [ "$(head -n 1 .out)" -eq $(($(nproc) / 2)) ] || fail "each rank should have its part of the cores"
fi
# shellcheck disable=SC2016
run "$DS" run -n 3 -- sh -c '[ "$RANK" = 1 ] && exit 7; sleep 100'
[ "$code" -eq 7 ] || fail "the exit code should be that of the rank that failed"
command_line="$DS run -n 2 -- ./nothing" code=0
"$DS" run -n 2 -- ./nothing >.out 2>.err || code=$?
[ "$code" -eq 127 ] || fail "a command that isn't there is 127"
told 'cannot start ./nothing: No such file'

# Asked to end, the ranks are; killed, it leaves none behind. They hold a pipe open, which ends with the last of them.
children() { cat "/proc/$1/task/$1/children" 2>/dev/null; }
for how in TERM INT KILL ALL; do
  mkfifo "fifo.$how"
  "$DS" run -n 3 -- sh -c "exec 9>fifo.$how; : >started.$how.\$RANK; sleep 1000" >/dev/null 2>&1 &
  pid=$!
  exec 3<"fifo.$how"
  until [ -f started.$how.0 ] && [ -f started.$how.1 ] && [ -f started.$how.2 ]; do sleep 0.05; done
  if [ $how = ALL ]; then # mpirun and its children, which clear nothing away then
    mpirun=$(children $pid)
    # shellcheck disable=SC2046,SC2086
    kill -9 $(children $mpirun) $mpirun
  else
    kill -$how $pid
  fi
  code=0
  wait $pid || code=$?
  command_line="ds run, and SIG$how"
  case $how in TERM) want=143 ;; INT) want=130 ;; KILL | ALL) want=137 ;; esac
  [ "$code" -eq $want ] || fail "exit code $want wanted"
  timeout 30 cat <&3 >/dev/null || fail "a rank is still there"
  exec 3<&-
done

# ds train asked to end saves the step that all ranks are at.
cat >two.json <<'EOF'
{"train_batch_size": 4, "gradient_clipping": 1.0, "backend": {"name": "cpu", "fallback": "allow"},
 "optimizer": {"type": "AdamW", "params": {"lr": 5e-3, "weight_decay": 0.01}}}
EOF
set -- --model gpt2.json --data text.txt --config two.json --seq-len 16 --json
"$DS" run -n 2 -- ds train "$@" --steps 1000000 --output polite >.out 2>.err &
pid=$!
until [ -s .out ]; do sleep 0.05; done
kill -TERM $pid
code=0
wait $pid || code=$?
command_line="ds run -- ds train, and SIGTERM"
[ "$code" -eq 143 ] || fail "exit code 143 wanted"
at=$(sed 's/global_step//' polite/latest) || fail "it should have saved"
ok "$DS" run -n 2 -- ds train "$@" --steps $((at + 1)) --output polite --resume

# A rank killed after a checkpoint: with a restart the end is that of an undisturbed run, bit for bit. An older
# training's checkpoint in the same folder is not taken for its own.
ok "$DS" run -n 2 -- ds train "$@" --steps 12 --output straight
cat >mortal.sh <<'EOF'
#!/bin/sh
# mortal.sh WHEN COMMAND...: rank 1's first COMMAND is killed once there is a file WHEN.
when=$1
shift
"$@" &
pid=$!
if [ "$RANK" = 1 ] && [ "$DS_RESTART_COUNT" = 0 ]; then
  until [ -e "$when" ]; do sleep 0.02; done
  kill -9 $pid
fi
wait $pid
EOF
chmod +x mortal.sh
"$DS" run -n 2 -- ds train "$@" --steps 40 --output again >/dev/null 2>&1
touch -d '2 hours ago' again/latest
rm -rf again/global_step8
for when in again/global_step8 started; do
  rm -f started
  [ $when = started ] && { touch -d '2 hours ago' again/latest; : >started; }
  run "$DS" run -n 2 --max-restarts 1 -- ./mortal.sh $when "$DS" train "$@" --steps 12 --save-every 4 --output again
  [ "$code" -eq 0 ] || fail "it should end well after a restart"
  told 'starting again, 1 of 1, with 2 ranks on 1 host'
  printf global_step12 >latest
  same latest again/latest
  for f in model.safetensors optimizer.safetensors; do
    same straight/global_step12/$f again/global_step12/$f
  done
done
# shellcheck disable=SC2016
run "$DS" run -n 2 --max-restarts 2 -- sh -c '[ "$RANK" = 0 ] || exit 5; sleep 100'
[ "$code" -eq 5 ] || fail "the last exit code is given"
[ "$(grep -c 'starting again' .err)" -eq 2 ] || fail "two restarts wanted"
