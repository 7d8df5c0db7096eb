#!/bin/sh
# Several hosts: two network namespaces, each with its own name, addresses and list of hosts, joined by a cable. ds run
# starts ranks on both, and goes on with one when the other dies; the ranks meet over TCP.
#
# usage: run_hosts.sh DS SCRATCH SOURCE-ROOT TEST_STORE_HOSTS [FOLDER OF THE EMULATED PLUGIN]
. "${0%/*}/../cli/lib.sh"
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
unset OMP_WAIT_POLICY
export OMP_NUM_THREADS=1
away() { echo "no namespaces to play hosts here: $*"; exit 77; }
[ "$(id -u)" = 0 ] || away "only root makes them"
for tool in ip nsenter unshare mpirun; do command -v $tool >/dev/null || away "there is no $tool"; done

# Everything that lives on a host.
crash() {
  cable=$(readlink "/proc/$(cat "$1.pid")/ns/net")
  for p in /proc/[0-9]*; do
    [ "$(readlink "$p/ns/net" 2>/dev/null)" = "$cable" ] && kill -9 "${p#/proc/}"
  done
}
away_with() {
  for h in host-a host-b gone; do [ ! -s $h.pid ] || crash $h; done 2>/dev/null
}
trap away_with EXIT

# host-c is at an address where nobody is, and at host-a's.
cat >hosts <<'EOF'
127.0.0.1 localhost
10.77.0.1 host-a
10.77.0.2 host-b
10.77.0.3 host-c
10.77.0.1 host-c
EOF
boot() {
  for h in host-a host-b; do
    unshare -n -u -m sh -c "hostname $h && mount --bind '$WORK/hosts' /etc/hosts && ip link set lo up &&
      echo \$\$ >$h.new && mv $h.new $h.pid; exec sleep 1000" 2>>boot.log &
    tries=0
    until [ -s $h.pid ] || [ $tries -ge 100 ]; do sleep 0.05; tries=$((tries + 1)); done
    [ -s $h.pid ] || away "$(cat boot.log)"
  done
  a=$(cat host-a.pid) b=$(cat host-b.pid)
  ip link add cable netns "$a" type veth peer name cable netns "$b" 2>>boot.log || away "$(cat boot.log)"
  for pair in "$a 1" "$b 2"; do
    # shellcheck disable=SC2086
    set -- $pair
    nsenter -t "$1" -n ip addr add "10.77.0.$2/16" dev cable
    nsenter -t "$1" -n ip link set cable up
  done
}
boot
on() {
  host=$1
  shift
  nsenter -t "$(cat "$host.pid")" -n -u -m --wd="$WORK" "$@"
}
# What ssh is to mpirun and ds run.
cat >agent <<EOF
#!/bin/sh
host=\$1
shift
[ -f "$WORK/\$host.pid" ] || exit 255
exec nsenter -t "\$(cat "$WORK/\$host.pid")" -n -u -m sh -c "\$*"
EOF
chmod +x agent
export OMPI_MCA_plm_rsh_agent="$WORK/agent"

# The store: a rank on each host; at an address, at a name with two of them, and at any port.
for where in 'host-a 23456' 'host-c 23456' 'host-c 0'; do
  # shellcheck disable=SC2086
  on host-b "$4" 1 2 $where >two.out 2>&1 &
  pid=$!
  # shellcheck disable=SC2086
  on host-a "$4" 0 2 $where >one.out 2>&1 || { cat one.out two.out; fail "rank 0 at $where"; }
  wait $pid || { cat one.out two.out; fail "rank 1 at $where"; }
done

# ds run and plain mpirun: slots, addresses, losses.
printf 'host-a slots=2\nhost-b slots=1\n' >hostfile
# shellcheck disable=SC2016
ok on host-a "$DS" run --hostfile hostfile -- sh -c 'echo "$RANK $(hostname) $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT"'
sort .out >got
printf '0 host-a 0/2 host-a:0\n1 host-a 1/2 host-a:0\n2 host-b 0/1 host-a:0\n' >want
same want got
# shellcheck disable=SC2016
DS_FROM_HERE=yes ok on host-a "$DS" run --hostfile hostfile --include host-b -- sh -c 'echo "$(hostname) $DS_FROM_HERE"'
printed '^host-b yes$'

# Messages must take the cable, as between real hosts.
cat >many.json <<'EOF'
{"elasticity": {"enabled": true, "max_train_batch_size": 4, "micro_batch_sizes": [1, 2], "version": 0.1},
 "gradient_clipping": 1.0, "backend": {"name": "cpu", "options": {"shared_memory": false}, "fallback": "allow"},
 "optimizer": {"type": "AdamW", "params": {"lr": 5e-3}}}
EOF
sed 's/"name": "cpu", "options": {"shared_memory": false}/"name": "reference"/' many.json >one.json
steps=16
train() { echo "--model gpt2.json --data text.txt --seq-len 16 --steps $steps --json"; }
# shellcheck disable=SC2046
ok "$DS" train $(train) --config one.json
cp .out one
compare() {
  python3 - one "$1" "$2" <<'PYTHON' || fail "the losses of $1 should be those of one process"
import json, sys
def losses(name):
    lines = [json.loads(l) for l in open(name) if l.startswith("{")]
    return {l["step"]: l["loss"] for l in lines}
one, many = losses(sys.argv[1]), losses(sys.argv[2])
assert set(many) == set(range(int(sys.argv[3]), len(one) + 1)), sorted(many)
assert all(abs(one[s] - many[s]) < 2e-4 * one[s] for s in many), (one, many)
PYTHON
}
printf 'host-a slots=1\nhost-b slots=1\n' >hostfile
# shellcheck disable=SC2046
ok on host-a "$DS" run --hostfile hostfile -- ds train $(train) --config many.json
cp .out run
compare run 1
# shellcheck disable=SC2046
ok on host-a mpirun --allow-run-as-root -n 2 --host host-a:1,host-b:1 "$DS" train $(train) --config many.json
cp .out mpirun
compare mpirun 1

# host-b dies after a checkpoint: the job goes on with host-a alone, which elasticity allows. The ranks wait for that.
cat >wait.sh <<EOF
#!/bin/sh
# The first start trains to step 8, and waits there for its end.
[ "\$DS_RESTART_COUNT" = 0 ] || exec "\$@"
steps=\$(echo "\$*" | sed 's/--steps $steps/--steps 8/')
\$steps || exit
exec sleep 1000
EOF
chmod +x wait.sh
# shellcheck disable=SC2046
on host-a "$DS" run --hostfile hostfile --max-restarts 1 -- ./wait.sh "$DS" train $(train) --config many.json \
  --output out >.out 2>.err &
pid=$!
until [ -d out/global_step8 ] || ! kill -0 $pid 2>/dev/null; do sleep 0.05; done
crash host-b
mv host-b.pid gone.pid
code=0
wait $pid || code=$?
command_line="ds run, and one of two hosts dies"
[ "$code" -eq 0 ] || fail "it should end well on the other host"
told "host host-b doesn't answer"
told 'starting again, 1 of 1, with 1 ranks on 1 host'
grep '"step":9,' .out >/dev/null || fail "it should go on at step 9"
cp .out elastic
compare elastic 1
# Without elasticity it may not.
sed 's/"elasticity".*/"train_batch_size": 4,/' many.json >stiff.json
# shellcheck disable=SC2046
run on host-a "$DS" run --hostfile hostfile --max-restarts 1 -- ds train $(train) --config stiff.json
[ "$code" -eq 1 ] || fail "it can't go on with fewer ranks"
told '1 slots are left for 2 ranks; with fewer it may go on if elasticity is enabled in stiff.json'
crash host-a
rm -f ./*.pid

[ $# -ge 5 ] || exit 0
# A backend that needs only a place to meet, by RANK, WORLD_SIZE and MASTER_ADDR. (Both hosts are one machine to it.)
boot
export DS_SIMT_DEVICES=2 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=host-c MASTER_PORT=23457
for r in 0 1; do
  sed 's#"name": "reference"#"name": "emu", "device": '$r', "plugin_path": "'"$5"'"#' one.json >emu$r.json
done
# shellcheck disable=SC2046
RANK=1 on host-b "$DS" train $(train) --config emu1.json >rank1 2>err1 &
pid=$!
# shellcheck disable=SC2046
RANK=0 ok on host-a "$DS" train $(train) --config emu0.json
cp .out rank0
wait $pid || { cat err1; fail "rank 1"; }
compare rank0 1
[ ! -s rank1 ] || fail "rank 0 speaks for all"
