#!/bin/sh
# A host that is cut off amid training: two network namespaces play hosts, and the cable between them goes down. The two
# ranks on this side end in time, naming the one on the other; and that one ends, too.
#
# usage: run_cut_off.sh TEST_FAILURES PLUGIN_FOLDER SCRATCH
set -eu
test=$1 plugins=$2 scratch=$3
case $test in /*) ;; *) test=$PWD/$test ;; esac
away() { echo "no namespaces to play hosts here: $*"; exit 77; }
[ "$(id -u)" = 0 ] || away "only root makes them"
for tool in ip nsenter unshare mpirun; do command -v $tool >/dev/null || away "there is no $tool"; done
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch"
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=1

living_on() { # the processes of a host but its first
  cable=$(readlink "/proc/$(cat "$1.pid")/ns/net")
  for p in /proc/[0-9]*; do
    [ "$(readlink "$p/ns/net" 2>/dev/null)" != "$cable" ] || [ "${p#/proc/}" = "$(cat "$1.pid")" ] ||
      echo "${p#/proc/}"
  done
}
clean_up() {
  for h in one two; do
    # shellcheck disable=SC2046
    [ ! -s $h.pid ] || kill -9 $(living_on $h) "$(cat $h.pid)"
  done 2>/dev/null
}
trap clean_up EXIT

printf '127.0.0.1 localhost\n10.78.0.1 one\n10.78.0.2 two\n' >hosts
for h in one two; do
  unshare -n -u -m sh -c "hostname $h && mount --bind '$scratch/hosts' /etc/hosts && ip link set lo up &&
    echo \$\$ >$h.new && mv $h.new $h.pid; exec sleep 600" 2>>boot.log &
  tries=0
  until [ -s $h.pid ] || [ $tries -ge 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  [ -s $h.pid ] || away "$(cat boot.log)"
done
on() {
  host=$1
  shift
  nsenter -t "$(cat "$host.pid")" -n -u -m --wd="$scratch" "$@"
}
ip link add cable netns "$(cat one.pid)" type veth peer name cable netns "$(cat two.pid)" 2>>boot.log ||
  away "$(cat boot.log)"
on one ip addr add 10.78.0.1/16 dev cable
on two ip addr add 10.78.0.2/16 dev cable
on one ip link set cable up
on two ip link set cable up
cat >agent <<EOF
#!/bin/sh
pid=\$(cat "$scratch/\$1.pid")
shift
exec nsenter -t "\$pid" -n -u -m sh -c "\$*"
EOF
chmod +x agent

# Messages must take the cable, as between real hosts.
on one mpirun --allow-run-as-root --mca plm_rsh_agent "$scratch/agent" --mca orte_abort_on_non_zero_status 0 -n 3 \
  --host one:2,two:1 "$test" "$plugins" "$scratch" '{"threads": 1, "shared_memory": false}' '' wait 2 >out 2>&1 &
tries=0
until [ -s victim ] || [ $tries -ge 300 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -s victim ] || { cat out; echo 'it did not train'; exit 1; }
on one ip link set cable down
tries=0
until [ "$(grep -c 'survives$' out)" = 2 ] || [ $tries -ge 300 ]; do sleep 0.1; tries=$((tries + 1)); done
cat out
[ "$(grep -c 'survives$' out)" = 2 ] || { echo 'two were to survive'; exit 1; }
until [ ! -d "/proc/$(cat victim)" ] || [ $tries -ge 600 ]; do sleep 0.1; tries=$((tries + 1)); done
[ ! -d "/proc/$(cat victim)" ] || { echo 'the one that was cut off did not end'; exit 1; }
