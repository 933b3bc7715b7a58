# kernels: stable
# Containers beside a VM that owns CPUs, while PVE goes on balancing them: each keeps its share of
# what is left, nobody fights, and afterwards each has the list that it had.
. /usr/lib/lab/lib.sh

rounds=$work/rounds

# container ID LIST CONF-LINE...: as LXC makes it, with a process inside and the one that made it.
container() {
    local id=$1 list=$2 group=$cg/lxc/$1
    shift 2
    printf '%s\n' "$@" > "/etc/pve/lxc/$id.conf"
    mkdir -p $cg/lxc "$cg/lxc.monitor/$id"
    echo +cpuset > $cg/cgroup.subtree_control
    echo +cpuset > $cg/lxc/cgroup.subtree_control
    mkdir "$group"
    echo +cpuset > "$group/cgroup.subtree_control"
    mkdir "$group/ns"
    [ -z "$list" ] || echo "$list" > "$group/cpuset.cpus"
    setsid sleep 1000 &
    echo $! > "$cg/lxc.monitor/$id/cgroup.procs"
    setsid sleep 1000 &
    echo $! > "$group/ns/cgroup.procs"
}

empty() { [ -z "$(cat "$@")" ]; }

end_container() {
    local groups=("$cg/lxc/$1/ns" "$cg/lxc/$1" "$cg/lxc.monitor/$1") group pid
    for group in "${groups[@]}"; do
        for pid in $(cat "$group/cgroup.procs"); do kill -KILL "$pid"; done
        wait_until 20 "the processes of container $1 end" empty "$group/cgroup.procs"
        rmdir "$group"
    done
    rm "/etc/pve/lxc/$1.conf"
}

case_cleanup() {
    local conf
    kill "$pvestatd"
    for conf in /etc/pve/lxc/*.conf; do end_container "$(basename "$conf" .conf)"; done
    rmdir $cg/lxc $cg/lxc.monitor
}

# lists ID: the CPUs that the cgroup of a container and the one inside ask for.
lists() { cat "$cg/lxc/$1/cpuset.cpus" "$cg/lxc/$1/ns/cpuset.cpus" | paste -sd' '; }
lists_are() { [ "$(lists "$1")" = "$2" ]; }
# lists_come_to TEXT LISTS ID: as "equal", but on a busy machine a phase may leave the end to the units.
lists_come_to() {
    local end=$((SECONDS + 60))
    until lists_are "$3" "$2" || [ $SECONDS -ge $end ]; do sleep 0.1; done
    equal "$1" "$2" "$(lists "$3")"
}
inside() { allowed "$(head -n 1 "$cg/lxc/$1/ns/cgroup.procs")"; }

# n_cpus LIST: how many CPUs a list has.
n_cpus() {
    local part
    for part in ${1//,/ }; do seq "${part%-*}" "${part#*-}"; done | wc -l
}

n_rounds() { grep -c '^round' "$rounds"; }
came() { [ "$(n_rounds)" -ge "$1" ]; }
three_rounds() { wait_until 60 'PVE balances containers' came $(($(n_rounds) + 4)); }

hooked_vm 100 'cpus = "2-5"'
container 201 2-3 'cores: 2'
echo 2-3 > $cg/lxc/201/ns/cpuset.cpus
container 202 '' 'memory: 512'
setsid "$lab/pvestatd" "$rounds" &
pvestatd=$!
wait_until 60 'PVE gives a container without cores: all CPUs' lists_are 202 '0-7 0-7'
three_rounds
equal 'PVE leaves the other one alone' '2-3 2-3' "$(lists 201)"
capture_before

qm start 100 > /dev/null
comes_to 'the VM is isolated' 'isolated 2-5: 2 3 4 5' 100
# Which two of them, PVE may have decided before us.
two_others() {
    local list
    list=$(inside 201)
    lists_are 201 "$list $list" && [ "$(n_cpus "$list")" = 2 ] && [[ $list != *[2-5]* ]]
}
check 'a container that had its CPUs has as many others' wait_until 60 'two others' two_others
lists_come_to 'a container that had all CPUs has all that are left' '0-1,6-7 0-1,6-7' 202
equal 'its processes run there' 0-1,6-7 "$(inside 202)"
: > "$rounds"
three_rounds
check 'PVE finds nothing to correct' lacks "$rounds" lxc/
check 'status finds nothing' pin-hook status
pin-hook 100 post-start > "$work/again"
check 'pin-hook finds nothing to correct' has "$work/again" ' 0 changes'

container 203 6-7 'cores: 2'
container 204 '' 'memory: 512'
wait_until 60 'PVE gives a container that is born all CPUs that are left' lists_are 204 '0-1,6-7 0-1,6-7'
pin-hook reconcile
: > "$rounds"
three_rounds
check 'nobody fights for those that are born either' lacks "$rounds" lxc/
equal 'one keeps what PVE chose' '6-7 ' "$(lists 203)"
check 'status finds nothing' pin-hook status

echo 'cores: 3' > /etc/pve/lxc/201.conf
wait_until 60 'PVE gives a container one more' grep -q '^lxc/201' "$rounds"
three_rounds
pin-hook reconcile
equal 'which is left to it' 3 "$(n_cpus "$(inside 201)")"
echo 'cores: 2' > /etc/pve/lxc/201.conf
three_rounds
# As the timer does: a list of another number than the last one seen is somebody's decision.
pin-hook reconcile

qm stop 100 > /dev/null
wait_until 30 'the VM is gone' gone 100
lists_come_to 'the container has its CPUs again' '2-3 2-3' 201
lists_come_to 'the other one has all again' '0-7 0-7' 202
lists_come_to 'one that was born has what it would have had' '0-7 0-7' 204
end_container 203
end_container 204
: > "$rounds"
three_rounds
check 'PVE finds nothing to correct' lacks "$rounds" lxc/
capture_after_equal 'the host is as before'

# The other backends: a partition whose CPUs the kernel balances, and none. Without a partition PVE knows of all
# CPUs, and gives them; the group around the containers has only those that are left.
for backend in root slices; do
    standing='root 2-5: 2 3 4 5' list='0-1,6-7 0-1,6-7'
    [ $backend = root ] || { standing='none: 2 3 4 5' list='0-7 0-7'; lists_may_stay; }
    hooked_vm 100 'cpus = "2-5"' '[isolate]' "backend = \"$backend\""
    capture_before
    qm start 100 > /dev/null
    comes_to "$backend: the VM stands" "$standing" 100
    check "$backend: a container that had its CPUs has as many others" wait_until 60 'two others' two_others
    lists_come_to "$backend: one that had all has all that PVE knows of" "$list" 202
    equal "$backend: and runs off the VM's" 0-1,6-7 "$(inside 202)"
    : > "$rounds"
    three_rounds
    check "$backend: PVE finds nothing to correct" lacks "$rounds" lxc/
    check "$backend: status finds nothing" pin-hook status
    qm stop 100 > /dev/null
    lists_come_to "$backend: the container has its CPUs again" '2-3 2-3' 201
    lists_come_to "$backend: and the other one all" '0-7 0-7' 202
    : > "$rounds"
    three_rounds
    check "$backend: PVE finds nothing to correct afterwards" lacks "$rounds" lxc/
    capture_after_equal "$backend: the host is as before" 60
done
