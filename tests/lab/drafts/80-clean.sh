# Under stress-ng on all CPUs and with a guest that spins, no foreign program runs on a VM's CPUs.
. /usr/lib/lab/lib.sh

tracing=/sys/kernel/tracing
trace=$tracing/instances/case

case_cleanup() { end_load; [ ! -d $trace ] || wait_until 20 'the trace ends' rmdir $trace; }
end_load() { pkill -KILL '^stress-ng' || true; }

run_delay() {
    local tid
    for tid in $(vcpu_tids 100); do cut -d' ' -f2 "/proc/$tid/schedstat"; done | awk '{ s += $1 } END { printf "%d", s / 1e6 }'
}
device_interrupts() { awk '$1 ~ /^[0-9]+:$/ { s += $4 + $5 + $6 + $7 } END { print s + 0 }' /proc/interrupts; }
kernel_threads() { ps -e -o pid=,ppid= | awk '$2 == 2 || $1 == 2 { print $1 }'; }

# trace_8s: 8 s of switches on the CPUs 2-5, but to idle and the vCPUs; ends the load; sets foreign and userland.
trace_8s() {
    mkdir $trace
    echo 8192 > $trace/buffer_size_kb
    echo 3c > $trace/tracing_cpumask
    kernel_threads > "$work/kernel"
    printf 'next_pid != 0%s' "$(vcpu_tids 100 | sed 's/^/ \&\& next_pid != /' | tr -d '\n')" \
        > $trace/events/sched/sched_switch/filter
    echo 1 > $trace/events/sched/sched_switch/enable
    sleep 8
    echo 0 > $trace/tracing_on
    delay=$(($(run_delay) - delay)) interrupts=$(($(device_interrupts) - interrupts))
    kernel_threads >> "$work/kernel"
    end_load
    sed -n 's/.*next_comm=\(.*\) next_pid=\([0-9]*\) .*/\2 \1/p' $trace/trace > "$work/switches"
    rmdir $trace
    awk 'FILENAME == ARGV[1] { kernel[$1]; next } { foreign++ } !($1 in kernel) && $2 !~ /^kworker/ { userland++; name[$2]++ }
        END { print foreign + 0, userland + 0; for (n in name) print "#   | userland:", n, name[n] > "/dev/stderr" }' \
        "$work/kernel" "$work/switches" > "$work/counts" 2> "$work/names"
    read -r foreign userland < "$work/counts"
}

# measure NAME: starts the VM, then the load, traces, and adds a line to the table.
measure() {
    qm start 100 > "$work/start" 2>&1 || cat "$work/start"
    standing 100 > "$work/standing"
    stress-ng --cpu 8 --timer 1 --hdd 1 --sock 1 --fork 2 --switch 1 --temp-path "$work" --quiet 2> "$work/stress" &
    local delay interrupts
    disown
    wait_until 60 'the load is there' pgrep -f stress-ng-cpu
    delay=$(run_delay) interrupts=$(device_interrupts)
    trace_8s
    printf '#   %-16s %8s %9s %11s %14s\n' "$1" "$foreign" "$userland" "$interrupts" "$delay ms" >> "$work/table"
    [ "$1" = nothing ] || [ "$1" = 'PVE affinity' ] || cat "$work/names"
    qm stop 100 > /dev/null
}

spin='args: -bios /usr/share/lab/spin.bin'
printf '#   %-16s %8s %9s %11s %14s\n' setup foreign userland 'device irqs' 'run delay' > "$work/table"
vm_conf 100 "$spin"
measure nothing
check 'without anything the load runs on the VM'\''s CPUs' test "$userland" -gt 0
vm_conf 100 "$spin" 'affinity: 2-5'
measure 'PVE affinity'
check 'with PVE'\''s affinity it does too' test "$userland" -gt 0
for backend in root isolated; do
    hooked_vm 100 'cpus = "2-5"' '[isolate]' "backend = \"$backend\""
    vm_conf 100 "$spin" 'hookscript: local:snippets/pin-hook'
    measure $backend
    equal "$backend: the VM stands" "$backend 2-5: 2 3 4 5" "$(cat "$work/standing")"
    equal "$backend: no foreign program in 8 s" 0 "$userland"
done
cat "$work/table"
