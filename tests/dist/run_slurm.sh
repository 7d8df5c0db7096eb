#!/bin/sh
# Under Slurm, which a script stands for: ds run goes through srun, and a program started by srun alone finds its ranks.
#
# usage: run_slurm.sh DS SCRATCH SOURCE-ROOT [FOLDER OF THE EMULATED PLUGIN]
. "${0%/*}/../cli/lib.sh"
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT SLURM_MPI_TYPE
unset OMP_NUM_THREADS OMP_WAIT_POLICY
mkdir bin
cp "$HERE/fake-srun" bin/srun
PATH=$WORK/bin:$PATH
export SLURM_JOB_ID=4711 FAKE_LOG="$WORK/log"

# shellcheck disable=SC2016
tell='echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE restart $DS_RESTART_COUNT at $MASTER_ADDR:$MASTER_PORT"'
ok "$DS" run -n 2 -- sh -c "$tell"
sort .out >got
printf '0/2 0/2 restart 0 at :0\n1/2 1/2 restart 0 at :0\n' >want
same want got
grep -q -- '^--ntasks 2 --kill-on-bad-exit=1 --cpu-bind=none --mpi=pmix .*ds run --as-rank -- sh' log ||
  fail "srun's command line: $(cat log)"
# Three hosts, unevenly.
ok env FAKE_TASKS_PER_NODE='2(x2),1' FAKE_EACH=2 FAKE_NODELIST='n[01-03]' \
  "$DS" run -n 5 --include n01@n02@n03 -- sh -c "$tell"
sort .out >got
for r in '0/5 0/2' '1/5 1/2' '2/5 0/2' '3/5 1/2' '4/5 0/1'; do echo "$r restart 0 at n01:0"; done >want
same want got
tail -n 1 log | grep -q -- '^--ntasks 5 --nodelist=n01,n02,n03 ' || fail "srun's command line: $(tail -n 1 log)"
refused 'Slurm knows the hosts' "$DS" run --launcher slurm --hostfile x -- true
refused 'name whole hosts' "$DS" run -n 2 --include n01:1 -- true
# shellcheck disable=SC2016
run "$DS" run -n 2 --max-restarts 1 -- sh -c '[ "$RANK" = 0 ] || [ "$DS_RESTART_COUNT" = 1 ] || exit 6; true'
[ "$code" -eq 0 ] || fail "it should end well after a restart"
# shellcheck disable=SC2016
run "$DS" run -n 2 -- sh -c '[ "$RANK" = 0 ] && exec sleep 1000; exit 6'
[ "$code" -eq 6 ] || fail "a rank that fails ends all, with its exit code"
"$DS" run -n 2 -- sh -c ": >started.\$RANK; exec sleep 1000" &
pid=$!
until [ -f started.0 ] && [ -f started.1 ]; do sleep 0.05; done
kill -TERM $pid
code=0
wait $pid || code=$?
[ "$code" -eq 143 ] || fail "asked to end, it should: exit code $code"

[ $# -ge 4 ] || exit 0
# Training: the ranks meet by the name of Slurm's job.
export DS_SIMT_DEVICES=2
cat >two.json <<EOF
{"train_batch_size": 4, "backend": {"name": "emu", "plugin_path": "$4", "fallback": "allow"},
 "optimizer": {"type": "AdamW", "params": {"lr": 5e-3}}}
EOF
sed 's/"name": "emu"/"name": "reference"/' two.json >one.json
set -- --model gpt2.json --data text.txt --seq-len 16 --steps 4 --json
ok env -u SLURM_JOB_ID "$DS" train "$@" --config one.json
cp .out one
ok "$DS" run -n 2 -- ds train "$@" --config two.json
cp .out run
ok srun "$DS" train "$@" --config two.json
cp .out srun
ok env MASTER_PORT=0 MASTER_ADDR=localhost FAKE_TASKS=2 srun "$DS" train "$@" --config two.json
cp .out any
python3 - one run srun any <<'PYTHON' || fail "the losses should be those of one process"
import json, sys
def losses(name):
    lines = [json.loads(l) for l in open(name) if l.startswith("{")]
    return {l["step"]: l["loss"] for l in lines}
one = losses(sys.argv[1])
for name in sys.argv[2:]:
    two = losses(name)
    assert set(two) == set(one) == {1, 2, 3, 4}, (name, two)
    assert all(abs(one[s] - two[s]) < 2e-4 * one[s] for s in one), (name, one, two)
PYTHON
