# kernels: none
# Two VMs with common policies and settings and different wishes, with every knob on, come and go in every
# order: each has its own meanwhile, and afterwards the host is as before, with what was born in between.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/endings.sh

standings=([100]='isolated 2-4,6: 2 3 4' [101]='root 5,7: 5 7')
# Governor and frequency of CPU 2, of 4 and 5, which change it together, and of 7; latencies of 2 and 5; KSM;
# vm.stat_interval.
settings() {
    local dir=/sys/devices/system/cpu
    cat $dir/cpufreq/policy{2,4,7}/scaling_{governor,max_freq} $dir/cpu{2,5}/power/pm_qos_resume_latency_us \
        /sys/kernel/mm/ksm/run /proc/sys/vm/stat_interval | paste -sd' '
}
usual=$(cat /sys/devices/system/cpu/cpufreq/policy2/scaling_{governor,max_freq} | paste -sd' ')
merged=(
    [100]="performance 2200000 performance 2200000 $usual 2 0 0 120"
    [101]="$usual powersave 1200000 powersave 1200000 0 n/a 2 30"
    [both]='performance 2200000 performance 2200000 powersave 1200000 2 n/a 2 120'
)

births_possible
equal 'two CPUs of the lab change their frequency together' '4 5' "$(cat /sys/devices/system/cpu/cpufreq/policy4/affected_cpus)"
mapfile -t knobs < <(all_knobs isolated)
hooked_vm 100 'cpus = "2-4"' 'pin.emulator = "0-1"' 'pin.scheduler = "fifo:1"' \
    "${knobs[0]}" 'also = "6"' "${knobs[@]:1}"
vm_conf 100 'cores: 3' "$hooked"
mapfile -t knobs < <(all_knobs root | sed 's/"2200MHz"/"1200MHz"/; s/"performance"/"powersave"/; s/ = 120/ = 30/; s/"stop"/"unmerge"/; s/"2us"/"0us"/')
hooked_vm 101 'cpus = "5,7"' "${knobs[@]}"
vm_conf 101 'cores: 2' "$hooked"
capture_before
pair '100 101 100 101'
pair '100 101 101 100'
pair '101 100 100 101'
pair '101 100 101 100'
