# kernels: stable
# Kernel work, the watchdog, real-time vCPUs and interrupts that the kernel manages.
. /usr/lib/lab/lib.sh

queues=/sys/devices/virtual/workqueue
watchdog=/proc/sys/kernel/watchdog_cpumask

kswapd=$(pgrep -x kswapd0)
kswapd_cpus=$(allowed "$kswapd")

case_cleanup() {
    sysctl -q kernel.sched_rt_runtime_us=950000
    modprobe -r jfs 2> /dev/null
    taskset -pc "$kswapd_cpus" "$kswapd" > /dev/null
}

# Masks of unbound workqueues that have CPUs 2-5 in them, by name.
queues_on_them() {
    local file
    for file in $queues/*/cpumask; do
        [ $((0x$(tr -d , < "$file") & 0x3c)) -eq 0 ] || basename "$(dirname "$file")"
    done
}

# Class and priority of the vCPU threads.
classes() {
    local tid
    for tid in $(vcpu_tids "$1"); do
        chrt -p "$tid" | sed -n 's/.*\(policy\|priority\): //p' | paste -sd' '
    done | sort -u | paste -sd,
}

# Kernel threads that may be moved and may run on CPUs 2-5: PF_KTHREAD without PF_NO_SETAFFINITY.
movable_threads() {
    local dir flags
    for dir in /proc/[0-9]*; do
        flags=$(sed 's/.*) //' "$dir/stat" 2> /dev/null | cut -d' ' -f7) || continue
        [ $((flags & 0x200000)) -ne 0 ] && [ $((flags & 0x4000000)) -eq 0 ] || continue
        case $(cat "$dir/comm") in irq/*) continue ;; esac
        if [[ $(allowed "${dir##*/}") = *[2-5]* ]]; then cat "$dir/comm"; fi
    done
}

hooked_vm 100 'cpus = "2-5"' 'pin.scheduler = "fifo:1"'
# Not what the kernel gives it, which moves it to its node when a partition comes or goes.
taskset -pc 0-6 "$kswapd" > /dev/null
capture_before
qm start 100 > "$work/start"
comes_to 'a VM with real-time vCPUs is isolated' 'isolated 2-5: 2 3 4 5' 100
equal 'its vCPUs have their class' 'SCHED_FIFO|SCHED_RESET_ON_FORK 1' "$(classes 100)"
equal 'the mask of all work is left to the kernel' ff "$(cat $queues/cpumask_requested)"
equal 'which narrows it' c3 "$(cat $queues/cpumask)"
equal 'no workqueue has the CPUs' '' "$(queues_on_them)"
equal 'the watchdog is off them' 0-1,6-7 "$(cat $watchdog)"
equal 'kernel threads that can be moved are off them' '' "$(movable_threads)"
check 'managed interrupts are told by device' has "$work/start" 'isolcpus=managed_irq'
pin-hook status 100 > "$work/status" 2>&1 || true
check 'and by status' has "$work/status" 'isolcpus=managed_irq'
modprobe jfs
pin-hook reconcile > /dev/null
equal 'kernel threads that come later are off them' '' "$(movable_threads)"
released 100
equal 'released, the vCPUs have the ordinary class' 'SCHED_OTHER 0' "$(classes 100)"
equal 'the watchdog is everywhere' 0-7 "$(cat $watchdog)"
qm stop 100 > /dev/null
modprobe -r jfs
capture_after_equal 'the host is as before'
table 100 'cpus = "2-5"' 'pin.scheduler = "rr:5"'
sysctl -q kernel.sched_rt_runtime_us=-1
refuses 'no real-time vCPUs without a limit of their time' qm start 100
check 'with the reason' has "$work/refused" 'kernel.sched_rt_runtime_us is -1'
sysctl -q kernel.sched_rt_runtime_us=950000

# One VM whose unbound work the kernel moves, and one whose work we move, in both orders.
table 100 'cpus = "2-3"' '[isolate]' 'backend = "root"'
sed -i 's/^cores: .*/cores: 2/' "$(conf_path 100)"
hooked_vm 101 'cpus = "4-5"'
sed -i 's/^cores: .*/cores: 2/' "$(conf_path 101)"
capture_before
for first in 100 101; do
    qm start 100 > /dev/null
    qm start 101 > /dev/null
    comes_to "$first: the one is of type root" 'root 2-3: 2 3' 100
    comes_to "$first: the other isolated" 'isolated 4-5: 4 5' 101
    equal "$first: unbound work is off both" c3 "$(cat $queues/cpumask)"
    equal "$first: so are the workqueues" '' "$(queues_on_them)"
    qm stop $first > /dev/null
    if [ $first = 100 ]; then left=cf last=101; else left=f3 last=100; fi
    equal "$first: unbound work is off the other still" $left "$(cat $queues/cpumask)"
    qm stop $last > /dev/null
    capture_after_equal "$first: the host is as before"
done
