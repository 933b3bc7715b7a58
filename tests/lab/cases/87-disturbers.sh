# kernels: none
# Who is planted on a VM's CPU is named with what helps, and is gone after that. What the guest sees as steal is what
# measure says.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/measuring.sh

thresh=/proc/sys/kernel/watchdog_thresh pids=()

case_cleanup() {
    end_intruders
    echo 10 > $thresh
    echo 1 > /sys/devices/system/cpu/cpu3/online
}

# A real-time program that works in bursts: the timer that wakes it is on the same CPU.
intrude() { exec chrt -f 1 perl -e '$0 = "intruder"; while (1) { my $n = 0; $n++ while $n < 100000; select undef, undef, undef, 0.02 }'; }
# A disk whose queue for that CPU has an interrupt there.
read_disk() { while dd if=/dev/nvme0n1 of=/dev/null bs=256k iflag=direct; do :; done; }
# on_its_cpu COMMAND...: in the background, where the VM is.
on_its_cpu() {
    (taskset -pc 5 $BASHPID; "$@") > /dev/null 2>&1 &
    pids+=($!)
    disown
}
intruders() {
    pids=()
    on_its_cpu intrude
    on_its_cpu read_disk
    wait_until 30 'the intruders are there' intruding
}
intruding() { kill -0 "${pids[@]}" && pgrep -x intruder; }
end_intruders() {
    kill -KILL "${pids[@]}" 2> /dev/null || true
    pkill -KILL -x 'intruder|dd' || true
}

# gone KIND NAME
gone() { equal "$1 $2 is gone" 0 "$(by "$1" "$2")"; }
# named KIND NAME REMEDY
named() {
    check "$1 $2 is named" test "$(by "$1" "$2")" -gt 0
    help "$1" "$2" > "$work/help"
    check "$1 $2: and what helps" has "$work/help" "$3"
}

# The guest is no Linux (89-steal has one). It tells what KVM has written for it (MSR_KVM_STEAL_TIME), as a Linux does
# in /proc/stat.
modprobe kvm_amd
serial_port
vm_conf 100 "$hooked" 'cores: 1' 'kvm: 1' 'affinity: 5' "$count"
qm start 100 > /dev/null 2>&1
check 'the guest answers' ask_guest

# --- A VM without CPUs of its own --------------------------------------------------------------

# The guest is asked while nobody disturbs it: so it does not matter when exactly.
disturbed() {
    ask_guest
    before=$stolen
    intruders
    read -rt 2 -u 8 || true # the guest says nothing by itself
    end_intruders
    ask_guest
}
during disturbed
stolen=$((stolen - before))
traced=$(jq .waited_ns "$work/json") counted=$(jq .steal_ns "$work/json")
echo "#   the guest sees $stolen ns of steal, measure $traced in its trace, and $counted by the scheduler's count"
check 'there is steal to compare with' test $stolen -gt 1000000000
check 'what was taken is what the guest sees as steal, within 5 %' near "$traced" $stolen
check 'and so is what the scheduler has counted' near "$counted" $stolen
named program intruder 'give the vm cpus of its own'
named program dd 'give the vm cpus of its own'
named timer hrtimer_wakeup 'it stays where it was set until it has run once'
disk=$(jq -r '[.culprits[].name | select(test("nvme0q"))][0]' "$work/json")
named interrupt "$disk" 'isolcpus=managed_irq'

intruders
table 100 'cpus = "5"' 'profile = "low-latency"' '[isolate]' 'watchdog = false'
pin-hook apply 100 > "$work/apply" 2>&1 || said "$work/apply"
comes_to 'with CPUs of its own' 'isolated 5: 5' 100
check 'while they are still there' intruding
echo 2 > $thresh # the watchdog's timer expires every 0.8 s then
during read -rt 2 -u 8
echo 10 > $thresh
for who in 'program intruder' 'program dd' 'timer hrtimer_wakeup' "interrupt $disk"; do gone "${who%% *}" "${who#* }"; done
end_intruders

# --- One that has them -------------------------------------------------------------------------

# The watchdog was on during that: its timer and the thread that it wakes up.
named timer watchdog_timer_fn 'isolate.watchdog = true'
named kernel-thread migration/5 'isolate.watchdog = true'

# The partition keeps programs out, also those of root, and kernel threads that can be moved. Who wants to be there has
# to be put into the VM's own cgroup.
refuses 'no program can be pinned there from outside' taskset -c 5 true
invade() {
    echo $BASHPID > "$(scope 100)/cgroup.procs"
    echo $BASHPID > "$(scope 100)/vcpu/cgroup.threads"
    intrude
}
invader() { pgrep -x intruder; }
# On this kernel who writes a message prints it to the console as well: a storm of them does not leave its CPU. What
# can be had there is the kernel's report of what each CPU does, which the CPU itself writes in an NMI.
plants() {
    (invade) > /dev/null 2>&1 &
    disown
    for n in 1 2 3; do cat /proc/sys/vm/stat_refresh; done
    for n in {1..200}; do echo "<3>case: message $n" > /dev/kmsg; done
    echo l > /proc/sysrq-trigger
    wait_until 20 'the invader is there' invader
    read -rt 1 -u 8 || true
}
table 100 'cpus = "5"' 'profile = "low-latency"'
pin-hook apply 100 > "$work/apply" 2>&1 || said "$work/apply"
during plants
gone timer watchdog_timer_fn
gone kernel-thread migration/5
named program 'intruder (100.scope)' 'have to leave its cgroup'
named work refresh_vm_stats 'stop it'
named nmi nmi_cpu_backtrace_handler 'see dmesg'
equal 'messages from elsewhere have nothing run there' '0 0' "$(by vector 'irq work') $(by kernel-thread pr/)"

invader > "$cg/cgroup.procs"
toggle() { for n in 1 2 3; do echo 0 > /sys/devices/system/cpu/cpu3/online; echo 1 > /sys/devices/system/cpu/cpu3/online; done; }
during toggle
named kernel-thread migration/5 'a change of affinities or cpus'
check 'the invader is still there' invader
gone program intruder
gone work refresh_vm_stats
gone nmi nmi_cpu_backtrace_handler
during read -rt 1 -u 8
gone kernel-thread migration/5
check 'no trace is left' no_trace
