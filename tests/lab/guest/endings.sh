# VMs that come and go with every knob on, and what is born meanwhile: for the cases that compare the host
# afterwards, after lib.sh. Such a case sets owned, how VM 100 has to stand while it runs, and memory_on, its
# NUMA node, if it has one.
# shellcheck shell=bash disable=SC2154

case_cleanup() { births_undone; }

# births_possible: before a capture; interrupts that are born have the same numbers from then on.
births_possible() {
    nvme=$(basename "$(readlink -f /sys/class/nvme/nvme0/device)")
    knobs_in_use 1
    rebind_nvme
}

rebind_nvme() {
    echo "$nvme" > /sys/bus/pci/drivers/nvme/unbind
    echo "$nvme" > /sys/bus/pci/drivers/nvme/bind
    wait_until 20 'the disk is back' test -b /dev/nvme0n1
    udevadm settle
}

# Has interrupts and kernel threads born; as_before compares them with a capture, and ends the threads.
births() {
    rebind_nvme
    modprobe jfs
}

births_undone() {
    modprobe -r jfs
    [ -e "/sys/bus/pci/drivers/nvme/$nvme" ] || echo "$nvme" > /sys/bus/pci/drivers/nvme/bind
    knobs_in_use 0
} 2> /dev/null

# as_before TEXT
as_before() {
    capture_after_equal "as before after: $1" 60
    modprobe -r jfs
}

# --- endings of VM 100 -----------------------------------------------------------------------

# ends_with TEXT COMMAND...: starts the VM, has something born, ends it, and compares. What the command has to
# say for the reader goes to 3.
ends_with() {
    local text=$1
    shift
    qm start 100 > "$work/start" 2>&1 || said "$work/start"
    comes_to "has its CPUs before: $text" "${owned:?}" 100
    births
    "$@" 3>&1 > "$work/end" 2>&1 || { not_ok "$text: $*"; said "$work/end"; }
    wait_until 40 "$text: QEMU ends" gone 100
    as_before "$text"
}

# What the lab has of all_knobs, but for masks: those of the frequency, of memory, and the sysctls.
knob_values() {
    local policy=/sys/devices/system/cpu/cpufreq/policy2 mm=/sys/kernel/mm
    cat $policy/scaling_{governor,min_freq,max_freq} /sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us \
        $mm/ksm/run /sys/module/kvm/parameters/halt_poll_ns{,_grow} /proc/sys/vm/{stat_interval,compaction_proactiveness} \
        /proc/sys/kernel/{timer_migration,numa_balancing,sched_rt_runtime_us,watchdog_thresh,soft_watchdog} \
        /proc/sys/net/core/busy_read
    sed 's/.*\[\(.*\)\].*/\1/' $mm/transparent_hugepage/enabled
}
knobs_set='performance 2200000 2200000 2 0 100000 2 120 0 0 0 900000 30 0 50 never'
knob_values_in_line() { knob_values | paste -sd' '; }

see_knobs_and_stop() {
    comes_to_print 'every knob is set' "$knobs_set" knob_values_in_line >&3
    [ -z "${memory_on:-}" ] || equal 'its memory is bound' "$memory_on" "$(scope 100 cpuset.mems.effective)" >&3
    qm stop 100
}

crash() { kill -SEGV "$(qemu_pid 100)"; }
migrate_away() { qm migrate-away 100; mv /etc/pve/nodes/pve2/qemu-server/100.conf "$(conf_path 100)"; vm_conf 100 "$hooked"; }
unhook_and_stop() { vm_conf 100; qm stop 100; vm_conf 100 "$hooked"; }

rebooted() { qemu_alive 100 && [ "$(qemu_pid 100)" != "$first" ] && stands 100 "$owned" && cleaned_up; }
reboot_and_stop() {
    first=$(qemu_pid 100)
    qm reboot 100
    check 'has its CPUs again after a reboot' wait_until 60 'a new QEMU has its CPUs' rebooted >&3
    qm stop 100
}

release_and_stop() {
    released 100
    equal 'release leaves the VM running as any other' 'none: 0-7 0-7 0-7 0-7' "$(standing 100)" >&3
    equal 'and the host has all CPUs' 0-7 "$(housekeeping)" >&3
    qm stop 100
}

# The endings where another part of the program or of PVE sees to it.
endings_in_brief() {
    ends_with 'qm stop' see_knobs_and_stop
    said "$work/start"
    ends_with 'kill -9 of QEMU' qm kill9 100
    ends_with 'a stop without the hookscript' unhook_and_stop
    ends_with 'release of the running VM, and stop' release_and_stop
}

endings_by_guest_and_pve() {
    ends_with 'qm shutdown' qm shutdown 100
    ends_with 'power-off by the guest' qm guest-poweroff 100
    ends_with 'a crash of QEMU' crash
    ends_with 'reboot and stop' reboot_and_stop
    ends_with 'migration to another node' migrate_away
    vm_conf 100 "$hooked" 'args: -no-such-option'
    refuses 'a start that fails' qm start 100
    as_before 'a start that fails'
    vm_conf 100 "$hooked"
}

# --- pairs of VMs ----------------------------------------------------------------------------

# How the VMs of a case stand, by their ids; what "settings", a function of the case, prints when one of them
# runs, by its id, or both, where it looks at that.
declare -A standings merged

# stand ID TEXT
stand() {
    local who=$1
    comes_to "$2: vm $1 stands" "${standings[$1]}" "$1"
    ! { qemu_alive 100 && qemu_alive 101; } || who=both
    [ -z "${merged[$who]:-}" ] || comes_to_print "$2: settings of $who" "${merged[$who]}" settings
}

# pair ORDER: two ids in the order of their starts and two in that of their stops.
pair() {
    local one two three four text
    read -r one two three four <<< "$1"
    text="start $one, $two, stop $three, $four"
    qm start "$one" > "$work/start" 2>&1 || said "$work/start"
    stand "$one" "$text"
    births
    qm start "$two" > "$work/start" 2>&1 || said "$work/start"
    stand "$two" "$text"
    stand "$one" "$text"
    qm stop "$three" > /dev/null
    stand "$four" "$text"
    qm stop "$four" > /dev/null
    as_before "$text"
}
