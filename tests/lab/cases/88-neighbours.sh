# kernels: none
# What a VM that must respond at once notices of another VM: of its start and its stop, of a start that is refused,
# of reconcile, and of a scrub, which is left out for its sake. Counted by a trace of the case's own, timed by measure.
. /usr/lib/lab/lib.sh

tracing=/sys/kernel/tracing
trace=$tracing/instances/case
case_cleanup() { [ ! -d $trace ] || { echo 0 > $trace/tracing_on; wait_until 20 'the trace ends' rmdir $trace; }; }

# One vCPU that spins is what this costs: it takes half of the machine.
hooked_vm 100 'cpus = "2"' 'profile = "low-latency"'
printf '%s\n' 'cores: 1' 'args: -bios /usr/share/lab/spin.bin' >> "$(conf_path 100)"
hooked_vm 101 'cpus = "5-6"'
echo 'cores: 2' >> "$(conf_path 101)"
# The first start has systemd read once what it has to know.
for vmid in 101 100; do qm start $vmid > /dev/null 2>&1; done
wait_until 60 'both have their CPUs' eval '[ "$(vcpu_masks 100)" = 2 ] && [ "$(vcpu_masks 101)" = "5 6" ]'
qm stop 101 > /dev/null 2>&1
units_rest

mkdir $trace
echo 8192 > $trace/buffer_size_kb
echo 0 > $trace/tracing_on
echo 4 > $trace/tracing_cpumask
echo "next_pid != 0 && next_pid != $(vcpu_tid 100 0)" > $trace/events/sched/sched_switch/filter
for event in sched/sched_switch irq/irq_handler_entry irq_vectors/call_function_entry \
    irq_vectors/call_function_single_entry irq_vectors/reschedule_entry; do
    echo 1 > $trace/events/$event/enable
done

# count PATTERN: how many records of the trace match.
count() { grep -cE "$1" "$work/trace" || true; }

# during NAME COMMAND...: adds to the table what comes to the CPU of VM 100 meanwhile.
during() {
    local name=$1 pid stops kernel all
    shift
    pin-hook measure 100 --json --duration 60s > "$work/measured" &
    pid=$!
    wait_until 30 'it is measuring' eval '[ "$(cat $tracing/instances/pin-hook/tracing_on)" = 1 ]'
    echo > $trace/trace
    echo 1 > $trace/tracing_on
    "$@" > "$work/said" 2>&1 || true
    echo 0 > $trace/tracing_on
    kill -INT $pid
    wait $pid || said "$work/measured"
    grep '^ ' $trace/trace > "$work/trace" || true
    stops=$(count 'next_comm=migration/')
    kernel=$(count 'next_comm=(kworker|ksoftirqd)/')
    all=$(count 'sched_switch:')
    echo "$name $((all - stops - kernel)) $kernel $stops $(count 'irq_handler_entry:') \
        $(count '(call_function|call_function_single|reschedule)_entry:') \
        $(jq -r '"\(.duration_ns / 1e6 | floor) \(.taken.total_ns / 1e6 | floor) \(.taken.longest_ns / 1e6 | floor)"' "$work/measured")" >> "$work/table"
}
of() { awk -v name="$1" -v column="$2" '$1 == name { print $column }' "$work/table"; }

during nothing nap 3
during start qm start 101
during stop qm stop 101
table 101 'cpus = "2,5"'
during refused qm start 101
check 'the start is refused' has "$work/said" 'cpu 2 is claimed by vm 100'
table 101 'cpus = "5-6"' '[isolate]' 'hotplug = true'
during no-scrub qm start 101
check 'no CPU is scrubbed for its sake' has "$work/said" 'isolate.hotplug is skipped'
during reconcile pin-hook reconcile
equal 'whatever is done for another VM, no program comes to its CPU' '' "$(awk '$2 > 0' "$work/table")"
equal 'nor the interrupt of a device' '' "$(awk '$5 > 0' "$work/table")"
equal 'and it is never stopped' '' "$(awk '$4 > 0' "$work/table")"

qm stop 101 > /dev/null 2>&1
table 100 'cpus = "2"'
pin-hook apply 100 > /dev/null 2>&1
during scrub qm start 101
check 'a VM that does not ask for low latency is stopped by a scrub' test "$(of scrub 4)" -gt 0
awk 'BEGIN { printf "#   %-10s %8s %7s %6s %8s %6s %8s %6s %8s\n", "", "programs", "workers", "stops", "devices", "calls", "while, ms", "taken", "longest" }
    { printf "#   %-10s %8s %7s %6s %8s %6s %8s %6s %8s\n", $1, $2, $3, $4, $5, $6, $7, $8, $9 }' "$work/table"
