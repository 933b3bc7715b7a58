# Who runs on a VM's CPUs under load: for the cases that measure it, after lib.sh. The VM is 100, its CPUs are 2-5.
# shellcheck shell=bash disable=SC2154

tracing=/sys/kernel/tracing
trace=$tracing/instances/case
# How long a measurement takes: 8 s show that nothing happens, 2 are enough where a lot does.
seconds=8
spin='args: -bios /usr/share/lab/spin.bin'

case_cleanup() {
    end_load
    knobs_in_use 0
    [ ! -d $trace ] || wait_until 20 'the trace ends' rmdir $trace
}
end_load() { pkill -KILL '^stress-ng' || true; }

# While the load runs, the case itself starts no program: each would take seconds.

# Sets ran and delay: the time in ns that the vCPUs have run and have waited for their CPUs.
read_times() {
    local tid run waited
    ran=0 delay=0
    for tid in "${tids[@]}"; do
        read -r run waited _ < "/proc/$tid/schedstat"
        ran=$((ran + run)) delay=$((delay + waited))
    done
}

# Tells whether stress-ng has started its workers.
load_is_there() {
    local workers
    read -ra workers < "/proc/$load/task/$load/children" || true # no newline at its end
    [ ${#workers[@]} -ge 12 ]
}

kernel_threads() { ps -e -o pid=,ppid= | awk '$2 == 2 || $1 == 2 { print $1 }'; }

# Prepares a trace of what happens on the CPUs 2-5: switches, but to idle and the vCPUs, interrupts of devices, and
# softirqs but those that a CPU's own tick raises: timers (1, 8), balancing (7) and RCU (9).
prepare_trace() {
    mkdir $trace
    echo 8192 > $trace/buffer_size_kb
    echo 0 > $trace/tracing_on
    echo 3c > $trace/tracing_cpumask
    printf 'next_pid != 0%s' "$(printf ' && next_pid != %s' "${tids[@]}")" > $trace/events/sched/sched_switch/filter
    echo 1 > $trace/events/sched/sched_switch/enable
    echo 1 > $trace/events/irq/irq_handler_entry/enable
    echo 1 > $trace/events/workqueue/workqueue_execute_start/enable
    echo 'vec != 1 && vec != 7 && vec != 8 && vec != 9' > $trace/events/irq/softirq_entry/filter
    echo 1 > $trace/events/irq/softirq_entry/enable
    kernel_threads > "$work/kernel"
}

# trace_for SECONDS FILE
trace_for() {
    echo > $trace/trace
    echo 1 > $trace/tracing_on
    [ "$1" -eq 0 ] || nap "$1"
    echo 0 > $trace/tracing_on
}

# Loads the host, traces, and sets ran and delay to what that brought, in ms.
trace_under_load() {
    local ran_before delay_before
    stress-ng --cpu 8 --timer 1 --hdd 1 --sock 1 --fork 1 --temp-path "$work" --quiet > "$work/stress" 2>&1 &
    load=$!
    disown
    wait_until 60 'the load is there' load_is_there
    read_times; ran_before=$ran delay_before=$delay
    trace_for $seconds
    read_times; ran=$(((ran - ran_before) / 1000000)) delay=$(((delay - delay_before) / 1000000))
    load_is_there || not_ok 'the load stays'
    end_load
}

# The interrupts that the kernel spreads itself, queue by queue: it refuses their masks.
fixed_irqs() {
    local dir mask
    for dir in /proc/irq/[0-9]*; do
        read -r mask < "$dir/smp_affinity"
        { echo "$mask" > "$dir/smp_affinity"; } 2> /dev/null || echo "${dir##*/}"
    done
}

# sum_up FILE: the trace as lines "N WHAT", WHAT being "device interrupts", "userland switches" or the name
# of a kernel thread without its numbers.
sum_up() {
    kernel_threads >> "$work/kernel"
    sed -n -e 's/.*next_comm=\(.*\) next_pid=\([0-9]*\) .*/\2 \1/p' -e 's/.* irq_handler_entry: irq=\([0-9]*\) .*/irq \1/p' \
        -e 's/.* workqueue_execute_start: .* function \([^ ]*\).*/work \1/p' \
        -e 's/.* softirq_entry: .*action=\([A-Z_]*\).*/softirq \1/p' $trace/trace > "$work/events"
    fixed_irqs > "$work/fixed"
    awk 'FILENAME == ARGV[1] { kernel[$1]; next }
        FILENAME == ARGV[2] { fixed[$1]; next }
        $1 == "work" { n["~ work " $2]++; next }
        $1 == "softirq" { n["~ softirq " $2]++; next }
        $1 == "irq" { n["device interrupts"]++; if ($2 in fixed) n["~ that nobody can move"]++; next }
        { name = $2; gsub(/[0-9]+/, "N", name) }
        $1 in kernel || name ~ /^kworker/ { n["  " name]++; next }
        { n["userland switches"]++ }
        END { for (what in n) print n[what], what }' "$work/kernel" "$work/fixed" "$work/events" > "$1"
}

# Sets the counts of this measurement: of userland, of device interrupts and of kernel threads beyond what the
# beginning and the end of a trace bring by themselves, compared name by name; of the work among those that
# the kernel's pressure accounting (PSI) does, which nothing but psi=0 at boot ends; and of softirqs that are not the
# tick's.
count() {
    awk 'FILENAME == ARGV[1] { own[substr($0, length($1) + 2)] = $1; next }
        { what = substr($0, length($1) + 2); n = $1 }
        what ~ /^  / { n -= own[what]; if (n > 0) foreign += n; next }
        what ~ /^~ softirq/ { softirqs += n }
        what == "~ work psi_avgs_work" { psi = n }
        what ~ /^~ that nobody/ { fixed = n }
        what ~ /^dev/ { irqs = n } what ~ /^user/ { userland = n }
        END { print userland + 0, irqs + 0, foreign + 0, psi + 0, fixed + 0, softirqs + 0 }' "$work/own" "$work/loaded" > "$work/counts"
    read -r userland irqs foreign psi fixed softirqs < "$work/counts"
}

# Tells how many events of the CPUs 2-5 found no room.
n_lost() { awk '/^(overrun|commit overrun|dropped events):/ { n += $NF } END { print n }' $trace/per_cpu/cpu[2-5]/stats; }

# How many interrupts are still delivered to the CPUs 2-5, although they are asked for elsewhere: without remapping
# one moves when it next occurs (arch/x86/kernel/apic/msi.c), so each of them comes once more.
n_late() {
    local dir asked given n=0
    for dir in /proc/irq/[0-9]*; do
        asked=$(cat "$dir/smp_affinity") given=$(cat "$dir/effective_affinity")
        if [ $((16#${asked//,/} & 0x3c)) -eq 0 ] && [ $((16#${given//,/} & 0x3c)) -ne 0 ]; then n=$((n + 1)); fi
    done
    echo $n
}

# measure NAME [STANDING]: loads the host while the VM runs, traces, and ends the VM.
measure() {
    local tids delay load
    if [ -n "${2:-}" ]; then
        comes_to "$1: the VM stands" "$2" 100
        # On a busy machine a phase leaves the rest to the units.
        wait_until 60 "$1: every knob is set" at_rest || true
    fi
    mapfile -t tids < <(vcpu_tids 100)
    late=$(n_late)
    qmp 100 cont > /dev/null
    prepare_trace
    trace_for 0
    sum_up "$work/own"
    trace_under_load
    qmp 100 stop > /dev/null
    sum_up "$work/loaded"
    count
    equal "$1: no event is lost" 0 "$(n_lost)"
    sed "s/^/$1 /" "$work/loaded" >> "$work/all"
    printf '%s %s\n' "$1 $seconds" seconds "$1 $foreign" 'kernel switches but own' "$1 $delay" 'run delay, ms' >> "$work/all"
    [ -s "$work/own" ] && { echo "#   the measurement's own:"; said "$work/own"; }
    rmdir $trace
    qm stop 100 > "$work/stop" 2>&1 || said "$work/stop"
}

# A guest that spins is paused but for the measurement: all the lab's CPUs share one of the machine's.
start() {
    qm start 100 > "$work/start" 2>&1 || said "$work/start"
    qmp 100 stop > /dev/null
}

# The column to compare with. Who reads a disk on one of the CPUs has interrupts come to it.
measure_nothing() {
    local reader
    seconds=2
    vm_conf 100 "$spin"
    start
    while taskset -c 3 dd if=/dev/nvme0n1 of=/dev/null bs=4k iflag=direct; do :; done 2> "$work/dd" &
    reader=$!
    measure nothing
    kill $reader
    wait $reader || true
    check 'without anything the load runs on the VM'\''s CPUs' test "$userland" -gt 0
    check 'and interrupts of devices come to them' test "$irqs" -gt 0
}

# The table: a column for each setup, a row for each kind of event; the digit before a row is its place.
table_of_all() {
    awk 'function row(place, what,  line, i) {
            line = sprintf("%d#   %-24s", place, what)
            for (i = 1; i <= setups; i++) line = line sprintf("%9s", place ? n[name[i], what] + 0 : name[i])
            print line
        }
        !($1 in seen) { seen[$1]; name[++setups] = $1 }
        { what = substr($0, length($1) + length($2) + 3); n[$1, what] = $2; if (what ~ /^  /) kernel[what]; if (what ~ /^~/) does[what] }
        END {
            row(0, "under load"); row(1, "seconds"); row(1, "userland switches"); row(2, "device interrupts")
            row(3, "kernel switches but own")
            for (what in kernel) row(4, what)
            for (what in does) row(5, what)
            row(6, "run delay, ms")
        }' "$work/all" | sort | cut -c 2-
}

# column NAME BACKEND STANDING [TABLE-LINE]
column() {
    local knobs
    mapfile -t knobs < <(all_knobs "$2")
    hooked_vm 100 'cpus = "2-5"' ${4:+"$4"} "${knobs[@]}"
    vm_conf 100 "$spin" "$hooked"
    prepared
    start
    measure "$1" "$3"
}

# isolated SCHEDULER: the column of the default, the guest spinning, and what has to be nothing in it.
isolated() {
    column "${1/other/isolated}" isolated 'isolated 2-5: 2 3 4 5' "pin.scheduler = \"$1\""
    check "isolated, $1: the guest spins" test "$ran" -gt $((seconds * 4 * 1000 * 9 / 10))
    equal "isolated, $1: no program in 8 s" 0 "$userland"
    equal "isolated, $1: no interrupt of a device" 0 "$irqs"
    equal "isolated, $1: no softirq but those of the CPUs' own tick" 0 "$softirqs"
}
