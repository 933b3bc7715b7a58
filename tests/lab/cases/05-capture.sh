# A capture sees planted changes of every kind, and nothing when nothing happened.
. /usr/lib/lab/lib.sh

cpu=/sys/devices/system/cpu/cpu3
unit=/run/systemd/system/planted.service
child=$cg/planted

movable_irq() {
    local irq
    for irq in /proc/irq/*/smp_affinity_list; do
        old_mask=$(< "$irq")
        if [ "$old_mask" != 3 ] && echo 3 > "$irq"; then echo "$old_mask" > "$irq"; echo "$irq"; return; fi
    done 2> /dev/null
}

# A kernel thread that may be moved: not bound to one CPU.
movable_kthread() { pgrep -x kswapd0; }

plant() {
    sysctl -q vm.stat_interval=7
    echo 3 > "$irq"
    taskset -pc 2-5 "$kthread" > /dev/null
    renice -n 5 -p "$daemon" > /dev/null
    echo performance > $cpu/cpufreq/scaling_governor
    echo 2 > $cpu/power/pm_qos_resume_latency_us
    echo 3f > /sys/devices/virtual/workqueue/cpumask
    echo 777 > /sys/kernel/mm/ksm/sleep_millisecs
    printf '[Service]\nExecStart=true\n' > $unit
    mkdir -p $child
    echo 1-2 > "$cg/$parent/cpuset.cpus"
    echo 1 > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs
}

unplant() {
    sysctl -q "vm.stat_interval=$interval"
    echo "$irq_before" > "$irq"
    taskset -pc "$kthread_before" "$kthread" > /dev/null
    renice -n 0 -p "$daemon" > /dev/null
    echo "$governor" > $cpu/cpufreq/scaling_governor
    echo 0 > $cpu/power/pm_qos_resume_latency_us
    echo "$workqueue" > /sys/devices/virtual/workqueue/cpumask
    echo "$ksm" > /sys/kernel/mm/ksm/sleep_millisecs
    rm -f $unit
    echo > "$cg/$parent/cpuset.cpus"
    rmdir $child
    echo 0 > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs
}

sees() { check "a changed $1 is seen" grep -qE "^$2" "$work/differences"; }

case_cleanup() { rmdir $cg/parent $cg/planted 2> /dev/null; echo -cpuset > $cg/cgroup.subtree_control; }

parent=parent
echo +cpuset > $cg/cgroup.subtree_control
mkdir -p "$cg/$parent"
irq=$(movable_irq) irq_before=$(< "$irq")
kthread=$(movable_kthread) kthread_before=$(allowed "$kthread")
daemon=$(pgrep -x qmeventd)
interval=$(sysctl -n vm.stat_interval)
governor=$(< $cpu/cpufreq/scaling_governor)
workqueue=$(< /sys/devices/virtual/workqueue/cpumask)
ksm=$(< /sys/kernel/mm/ksm/sleep_millisecs)

capture_before
capture_after_equal 'nothing happened: no difference' 0
plant
if capture_differs; then ok 'planted changes make a difference'; else not_ok 'planted changes make a difference'; fi
sees sysctl 'sysctl .*/vm/stat_interval$'
sees 'interrupt mask' 'irq '
sees 'mask of a kernel thread' "task $kthread:"
sees 'nice value' "task $daemon:"
sees governor 'cpu .*/scaling_governor$'
sees 'latency limit' 'cpu .*/pm_qos_resume_latency_us$'
sees 'workqueue mask' 'workqueue .*/cpumask$'
sees 'memory knob' 'mm .*/ksm/sleep_millisecs$'
sees 'unit file' "file $unit"
sees 'cgroup list' "cgroup $cg/$parent/cpuset.cpus$"
sees 'cgroup tree' "cgroup $child/"
sees 'number of virtual functions' 'pci .* sriov_numvfs$'
sees 'new device' 'pci 0000:01:10'
unplant
capture_after_equal 'taken back: no difference'
