# kernels: stable
# Speed and sleep of the owned CPUs and settings of the host, with real governors: as long as VMs wish
# for them, by the rules where they wish for different values, and as before afterwards.
. /usr/lib/lab/lib.sh

cpufreq=/sys/devices/system/cpu/cpufreq
case_cleanup() { pkill -KILL -x kvm || true; }

governors() {
    local policy list=''
    for policy in "$cpufreq"/policy*; do list+="${policy##*policy}:$(< "$policy/scaling_governor") "; done
    echo "${list% }"
}
latency() { cat "/sys/devices/system/cpu/cpu$1/power/pm_qos_resume_latency_us"; }
sysctl_of() { cat "/proc/sys/${1//.//}"; }

# Everything that there is, on CPUs of both sides of the shared policy.
knobs=('[power]' 'governor = "performance"' 'min-frequency = "2200MHz"' 'max-idle-latency = "2us"' 'boost = true'
    '[host]' 'sysctl = { "vm.stat_interval" = 120, "kernel.timer_migration" = 0, "kernel.numa_balancing" = 0, "kernel.sched_rt_runtime_us" = 900000 }'
    'ksm = "stop"' 'transparent-hugepages = "never"')

wishes_100() { hooked_vm 100 'cpus = "2-4"' "${knobs[@]}"; vm_conf 100 'cores: 3' "$hooked"; }
wishes_101() {
    hooked_vm 101 'cpus = "5,7"' '[power]' 'governor = "powersave"' '[host]' 'sysctl = { "vm.stat_interval" = 30 }'
    vm_conf 101 'cores: 2' "$hooked"
}
start() {
    qm start "$1" > "$work/start" 2>&1 || cat "$work/start"
    case $1 in
        100) comes_to "vm 100 stands" 'isolated 2-4: 2 3 4' 100 ;;
        101) comes_to "vm 101 stands" 'isolated 5,7: 5 7' 101 ;;
    esac
}
# governed POLICY GOVERNOR INTERVAL
governed() { [ "$(cat "$cpufreq/policy$1/scaling_governor") $(sysctl_of vm.stat_interval)" = "$2 $3" ]; }
thp=/sys/kernel/mm/transparent_hugepage/enabled
# Somebody else's values: foreign ones, and two that are what was there before the VM.
foreign() {
    echo "$1" > /proc/sys/vm/stat_interval
    echo "$2" > $cpufreq/policy2/scaling_governor
    echo "$3" > $cpufreq/policy3/scaling_governor
    echo "$4" > /sys/kernel/mm/ksm/run
    echo "$5" > $thp
}
values() { echo "$(sysctl_of vm.stat_interval) $(cat $cpufreq/policy{2,3}/scaling_governor /sys/kernel/mm/ksm/run | paste -sd' ') $(sed 's/.*\[\(.*\)\].*/\1/' $thp)"; }
# What reconcile makes of them.
after_foreign() {
    foreign 3 powersave schedutil 1 madvise
    pin-hook reconcile > "$work/drift" 2>&1
    values
}

irq=$(sed -n 's/^ *\([0-9]*\):.*ahci.*/\1/p' /proc/interrupts | head -n 1)
mask=$(< "/proc/irq/$irq/smp_affinity_list")
equal 'two CPUs of the lab change their frequency together' '4 5' "$(cat $cpufreq/policy4/affected_cpus)"
echo 1 > /sys/kernel/mm/ksm/run
wishes_100
wishes_101
capture_before
before=$(governors)
said <(echo "$before")

start 100
said "$work/start"
equal 'the policies with owned CPUs have the governor' \
    '0:schedutil 1:schedutil 2:performance 3:performance 4:performance 6:schedutil 7:schedutil' "$(governors | sed 's/ondemand/schedutil/g')"
equal 'and the lowest frequency' '1200000 2200000' "$(cat $cpufreq/policy{0,4}/scaling_min_freq | paste -sd' ')"
equal 'owned CPUs wake fast enough' '0 2 2 2 0' "$(for cpu in 1 2 3 4 5; do latency $cpu; done | paste -sd' ')"
equal 'sysctls are set' '120 0 0 900000' \
    "$(for name in vm.stat_interval kernel.timer_migration kernel.numa_balancing kernel.sched_rt_runtime_us; do sysctl_of $name; done | paste -sd' ')"
equal 'no pages are merged' 0 "$(cat /sys/kernel/mm/ksm/run)"
check 'nobody gets huge pages' has /sys/kernel/mm/transparent_hugepage/enabled '[never]'
pin-hook post-start 100 > "$work/again"
check 'a second post-start changes nothing' has "$work/again" ' 0 changes'
check 'status agrees' pin-hook status 100
pin-hook plan 101 > "$work/plan" 2>&1 || true
check 'the plan of another VM tells who decides' has "$work/plan" 'the highest value wins'
said <(grep holds "$work/plan")

start 101
equal 'of two wishes for a policy the stronger holds' performance "$(cat $cpufreq/policy4/scaling_governor)"
equal 'a policy of its own has what the VM wishes' powersave "$(cat $cpufreq/policy7/scaling_governor)"
equal 'the higher interval holds' 120 "$(sysctl_of vm.stat_interval)"
qm stop 100 > /dev/null
check 'when it has gone, the other wish holds' wait_until 40 'given back' governed 4 powersave 30
start 100
qm kill9 101
own=$(tr ' ' '\n' <<< "$before" | sed -n 's/^7://p')
check 'killed, its own policy is as before' wait_until 40 'given back' governed 7 "$own" 120
qm stop 100 > /dev/null
capture_after_equal 'as before after 100, 101, -100, 100, -101, -100' 60

# The other order, and the other ways to end.
start 101
start 100
qm stop 101 > /dev/null
released 100
equal 'release gives the settings back' "$before" "$(governors)"
qm stop 100 > /dev/null
capture_after_equal 'as before after 101, 100, -101, release' 60

# Somebody else's values.
start 100
for n in 1 2 3; do
    equal "foreign values are set again ($n)" '120 performance performance 0 never' "$(after_foreign)"
done
equal 'the fourth time they are left' '3 powersave schedutil 1 madvise' "$(after_foreign)"
for name in vm/stat_interval policy2/scaling_governor policy3/scaling_governor ksm/run transparent_hugepage/enabled; do
    check "and named: $name" grep -q "$name.*set again three times, now left alone" "$work/drift"
done
refuses 'status says that it has drifted' pin-hook status 100
foreign 120 performance performance 0 never
systemd-run --quiet --unit=irqbalance sleep 1000
for n in 1 2 3 4; do
    echo 2-3 > "/proc/irq/$irq/smp_affinity_list"
    pin-hook reconcile > "$work/drift" 2>&1
done
check 'a service that moves interrupts back is named' has "$work/drift" 'now left alone (irqbalance is running)'
systemctl stop irqbalance
qm stop 100 > /dev/null
echo "$mask" > "/proc/irq/$irq/smp_affinity_list"
capture_after_equal 'as before after that' 60

# A file that nobody can read keeps nothing else from being given back.
start 100
systemctl stop pin-hook-reconcile.{timer,path,service} # it is told once, to the case
echo 0 > /sys/devices/system/cpu/cpu3/online
refuses 'the kernel lets nobody read a policy without a CPU' cat $cpufreq/policy3/scaling_governor
pin-hook reconcile > "$work/reconcile" 2>&1 || true
said "$work/reconcile"
check 'which is told' has "$work/reconcile" 'policy3/scaling_governor: reading it failed: Device or resource busy'
systemctl start pin-hook-reconcile.{timer,path}
qm stop 100 > /dev/null
no_partition() { [ -z "$(< $cg/cpuset.cpus.isolated)" ]; }
wait_until 60 'the partition is given back all the same' no_partition && ok 'the partition is given back all the same'
has_own_governor() { [ "$(< $cpufreq/policy2/scaling_governor)" = schedutil ]; }
wait_until 60 'and the governor of another policy' has_own_governor && ok 'and the governor of another policy'
echo 1 > /sys/devices/system/cpu/cpu3/online
# The kernel leaves programs without a CPU that was away when the controller went, until it comes and goes again.
start 100
qm stop 100 > /dev/null
capture_after_equal 'as before when its CPU is back' 60

# A profile is nothing else than its keys.
hooked_vm 100 'cpus = "2-5"' 'profile = "low-latency"'
start_profile() { qm start 100 > "$work/start" 2>&1; }
check 'a VM with a profile starts' start_profile
comes_to 'and stands' 'isolated 2-5: 2 3 4 5' 100
equal 'with the settings of the profile' 'performance 10 120' \
    "$(cat $cpufreq/policy2/scaling_governor) $(latency 3) $(sysctl_of vm.stat_interval)"
qm stop 100 > /dev/null
capture_after_equal 'as before after a profile' 60
echo 0 > /sys/kernel/mm/ksm/run
