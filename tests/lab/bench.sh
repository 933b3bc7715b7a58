# In the lab's machine: how long bringing a VM's claim into force takes, next to a plain shell that
# writes the same partition and the same pins. "make bench" runs it.
. /usr/lib/lab/lib.sh

rounds=5
scope=$cg/qemu.slice/100.scope
ms() { echo $((($(date +%s%N) - $1) / 1000000)); }

# What the kernel demands at least: the partition, the threads in it, one CPU for each.
plain_shell() {
    local cpu=2 tid
    mkdir "$scope/vcpu"
    echo threaded > "$scope/vcpu/cgroup.type"
    echo +cpuset > "$scope/cgroup.subtree_control"
    echo 2-5 > "$cg/qemu.slice/cpuset.cpus.exclusive"
    echo 2-5 > "$scope/cpuset.cpus.exclusive"
    echo 2-5 > "$scope/vcpu/cpuset.cpus.exclusive"
    echo 2-5 > "$scope/vcpu/cpuset.cpus"
    echo isolated > "$scope/vcpu/cpuset.cpus.partition"
    for tid in $(vcpu_tids 100); do
        echo "$tid" > "$scope/vcpu/cgroup.threads"
        taskset -pc $cpu "$tid" > /dev/null
        cpu=$((cpu + 1))
    done
}

undo_shell() {
    local tid
    echo member > "$scope/vcpu/cpuset.cpus.partition"
    for tid in $(vcpu_tids 100); do
        echo "$tid" > "$scope/cgroup.threads"
        taskset -pc 0-7 "$tid" > /dev/null
    done
    rmdir "$scope/vcpu"
    echo > "$scope/cpuset.cpus.exclusive"
    echo > "$cg/qemu.slice/cpuset.cpus.exclusive"
    echo -cpuset > "$scope/cgroup.subtree_control"
}

line() { printf '  %-58s %s\n' "$1" "$2"; }

# A hooked VM's scope stays delegated, so that no round has systemd read its unit files.
hooked_vm 100 'cpus = "2-5"' '[isolate]' 'kthreads = false' 'irqs = false'
qm start 100 > /dev/null
equal 'the vCPUs have their CPUs' '2 3 4 5' "$(vcpu_masks 100)"

hook=() bare=() shell=()
for ((round = 0; round < rounds; round++)); do
    pin-hook release 100 > /dev/null
    plain=$(date +%s%N); plain_shell; shell+=("$(ms "$plain")")
    equal 'the shell makes an isolated partition' isolated "$(cat "$scope/vcpu/cpuset.cpus.partition")"
    undo_shell
    begin=$(date +%s%N); pin-hook post-start 100 > /dev/null; bare+=("$(ms "$begin")")
    equal 'pin-hook makes an isolated partition' isolated "$(cat "$scope/vcpu/cpuset.cpus.partition")"
    begin=$(date +%s%N); pin-hook post-start 100 > /dev/null; hook+=("$(ms "$begin")")
done
printf '\n4 vCPUs, milliseconds on the emulated host, %s rounds\n\n' "$rounds"
line 'shell: partition and pins' "${shell[*]}"
line 'pin-hook post-start: partition and pins, read back, journal' "${bare[*]}"
line 'pin-hook post-start again: nothing to change' "${hook[*]}"
