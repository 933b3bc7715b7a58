# kernels: none
# Prints how long post-start takes, next to a plain shell that does the same partition and pin writes.
. /usr/lib/lab/lib.sh

now() { echo "${EPOCHREALTIME/./}"; }

# The writes that pin-hook's partition consists of, in one shell without a fork but the pins'.
by_hand() {
    local slice=$cg/qemu.slice scope=$cg/qemu.slice/100.scope cpu=2 tid
    echo +cpuset > $cg/cgroup.subtree_control
    echo +cpuset > "$slice/cgroup.subtree_control"
    mkdir "$scope/vcpu"
    echo threaded > "$scope/vcpu/cgroup.type"
    echo +cpuset > "$scope/cgroup.subtree_control"
    echo 2-5 > "$slice/cpuset.cpus.exclusive"
    echo 2-5 > "$scope/cpuset.cpus.exclusive"
    echo 2-5 > "$scope/vcpu/cpuset.cpus.exclusive"
    echo 2-5 > "$scope/vcpu/cpuset.cpus"
    echo isolated > "$scope/vcpu/cpuset.cpus.partition"
    for tid in "$@"; do
        echo "$tid" > "$scope/vcpu/cgroup.threads"
        taskset -pc $cpu "$tid" > /dev/null
        cpu=$((cpu + 1))
    done
}

hooked_vm 100 'cpus = "2-5"'
vm_conf 100
prepared
qm start 100 > /dev/null
mapfile -t tids < <(vcpu_tids 100)
bash -c 'pin-hook 100 pre-start; true' > /dev/null
begin=$(now)
pin-hook 100 post-start > "$work/post-start"
ours=$(($(now) - begin))
said "$work/post-start"
comes_to 'pin-hook isolates the VM' 'isolated 2-5: 2 3 4 5' 100
released 100
comes_to 'and lets it go' 'none: 0-7 0-7 0-7 0-7' 100
begin=$(now)
by_hand "${tids[@]}"
shell=$(($(now) - begin))
equal 'so does a shell' 'isolated 2-5: 2 3 4 5' "$(standing 100)"
echo "#   post-start, 4 vCPUs, with interrupts and kernel threads:  $((ours / 1000)) ms"
echo "#   a shell, the partition and the 4 pins alone:              $((shell / 1000)) ms"
echo "#   ratio:                                                    $((ours * 100 / shell)) %"
