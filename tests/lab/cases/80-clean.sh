# Under stress-ng on all CPUs and with a guest that spins, no foreign program runs on a VM's CPUs.
. /usr/lib/lab/lib.sh

tracing=/sys/kernel/tracing
trace=$tracing/instances/case

case_cleanup() { end_load; [ ! -d $trace ] || wait_until 20 'the trace ends' rmdir $trace; }
end_load() { pkill -KILL '^stress-ng' || true; }

# While the load runs, the case itself starts no program: each would take seconds.

# Sets delay: the time in ns that the vCPUs have waited for their CPUs.
read_delay() {
    local tid waited
    delay=0
    for tid in "${tids[@]}"; do
        read -r _ waited _ < "/proc/$tid/schedstat"
        delay=$((delay + waited))
    done
}

# Sets interrupts: those of devices on the CPUs 2-5.
read_interrupts() {
    local fields
    interrupts=0
    while read -ra fields; do
        [[ ${fields[0]} != +([0-9]): ]] || interrupts=$((interrupts + fields[3] + fields[4] + fields[5] + fields[6]))
    done < /proc/interrupts
}

# Tells whether stress-ng has started its workers.
load_is_there() {
    local workers
    read -ra workers < "/proc/$load/task/$load/children" || true # no newline at its end
    [ ${#workers[@]} -ge 12 ]
}

kernel_threads() { ps -e -o pid=,ppid= | awk '$2 == 2 || $1 == 2 { print $1 }'; }

# Prepares a trace of the switches on the CPUs 2-5, but to idle and the vCPUs.
prepare_trace() {
    mkdir $trace
    echo 8192 > $trace/buffer_size_kb
    echo 0 > $trace/tracing_on
    echo 3c > $trace/tracing_cpumask
    printf 'next_pid != 0%s' "$(printf ' && next_pid != %s' "${tids[@]}")" > $trace/events/sched/sched_switch/filter
    echo 1 > $trace/events/sched/sched_switch/enable
    kernel_threads > "$work/kernel"
}

# Loads the host, traces for 8 s, and sets delay and interrupts to what those brought.
trace_under_load() {
    local delay_before interrupts_before
    stress-ng --cpu 8 --timer 1 --hdd 1 --sock 1 --fork 1 --temp-path "$work" --quiet > "$work/stress" 2>&1 &
    load=$!
    disown
    wait_until 60 'the load is there' load_is_there
    read_delay; delay_before=$delay
    read_interrupts; interrupts_before=$interrupts
    echo 1 > $trace/tracing_on
    read -rt 8 -u 7 || true
    echo 0 > $trace/tracing_on
    read_delay; delay=$((delay - delay_before))
    read_interrupts; interrupts=$((interrupts - interrupts_before))
    end_load
}

# Sets foreign and userland: switches to others than the vCPUs, and to programs among them.
count_switches() {
    kernel_threads >> "$work/kernel"
    sed -n 's/.*next_comm=\(.*\) next_pid=\([0-9]*\) .*/\2 \1/p' $trace/trace > "$work/switches"
    rmdir $trace
    awk 'FILENAME == ARGV[1] { kernel[$1]; next } { foreign++ } !($1 in kernel) && $2 !~ /^kworker/ { userland++; name[$2]++ }
        END { print foreign + 0, userland + 0; for (n in name) print "#   | userland:", n, name[n] > "/dev/stderr" }' \
        "$work/kernel" "$work/switches" > "$work/counts" 2> "$work/names"
    read -r foreign userland < "$work/counts"
}

# measure NAME [STANDING]: starts the VM, loads the host, traces, and adds a line to the table.
measure() {
    local tids delay interrupts load
    qm start 100 > "$work/start" 2>&1 || cat "$work/start"
    [ -z "${2:-}" ] || comes_to "$1: the VM stands" "$2" 100
    mapfile -t tids < <(vcpu_tids 100)
    prepare_trace
    trace_under_load
    count_switches
    printf '#   %-16s %8s %9s %11s %14s\n' "$1" "$foreign" "$userland" "$interrupts" "$((delay / 1000000)) ms" >> "$work/table"
    [ -z "${2:-}" ] || cat "$work/names"
    qm stop 100 > /dev/null
}

shopt -s extglob
# Nobody writes to it: a read waits without a program.
mkfifo "$work/nobody"
exec 7<> "$work/nobody"
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
    pin-hook boot > "$work/boot"
    measure $backend "$backend 2-5: 2 3 4 5"
    equal "$backend: no foreign program in 8 s" 0 "$userland"
done
cat "$work/table"
