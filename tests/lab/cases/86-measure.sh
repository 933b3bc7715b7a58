# kernels: stable
# What measure says is what a trace of somebody else shows, and who disturbs the VM is named, with what helps.
. /usr/lib/lab/lib.sh
. /usr/lib/lab/measuring.sh

trace=$tracing/instances/case
spin='args: -bios /usr/share/lab/spin.bin'

case_cleanup() {
    pkill -KILL '^stress-ng' || true
    [ ! -d $trace ] || { echo 0 > $trace/tracing_on; wait_until 20 'the trace ends' rmdir $trace; }
    rmmod msr 2> /dev/null || true
}

# --- It agrees with a trace of somebody else ---------------------------------------------------

# One vCPU that spins is what this costs: it takes half of the machine.
hooked_vm 100 'cpus = "5"' 'profile = "low-latency"'
printf '%s\n' 'cores: 1' "$spin" >> "$(conf_path 100)"
qm start 100 > /dev/null 2>&1
wait_until 60 'the VM has its CPUs' eval '[ "$(vcpu_masks 100)" = 5 ]'
level() { pin-hook status 100 --json | jq -r '.claims[0].level | "\(.number) \(.next)"'; }
equal 'without a measurement the level is 4' '4 pin-hook measure 100, for 10 s or longer' "$(level)"
stress-ng --cpu 1 --timer 1 --sock 1 --quiet > "$work/stress" 2>&1 &
disown
mkdir $trace
echo 8192 > $trace/buffer_size_kb
echo boot > $trace/trace_clock
echo 20 > $trace/tracing_cpumask
for event in timer/hrtimer_expire_entry csd/csd_function_entry workqueue/workqueue_execute_start; do
    echo 1 > $trace/events/$event/enable
done
measure --duration 10s
echo 0 > $trace/tracing_on
read -r began duration <<< "$(jq -r '"\(.began_ns) \(.duration_ns)"' "$work/json")"
# Seconds with six digits; those of the kernel are cut, not rounded.
awk -v from="$((began / 1000))" -v to="$(((began + duration) / 1000))" '
    match($0, / [0-9]+\.[0-9]+: /) {
        split(substr($0, RSTART + 1, RLENGTH - 3), t, "."); us = t[1] * 1000000 + t[2]
        if (us < from || us >= to) next
        if (/function=tick_(sched_timer|nohz_handler)/) n["tick"]++
        if (/csd_function_entry/) n["call"]++
        if (/workqueue_execute_start/) n["work"]++
    }
    END { print n["tick"] + 0, n["call"] + 0, n["work"] + 0 }' $trace/trace > "$work/counted"
read -r ticks calls works < "$work/counted"
all=$((ticks + calls + works))
ours=$(jq '[.culprits[] | select(.kind | IN("tick", "call", "work")) | .times] | add // 0' "$work/json")
echo "#   the trace has $ticks ticks, $calls calls, $works items of work; measure has $ours of them"
check 'there is something to count' test "$all" -gt 100
check 'its counts are those of the trace, within 1 %' \
    test $(((all - ours) * (all > ours ? 1 : -1) * 100)) -le "$all"
equal 'at least 99 % of the time have a name' true "$(jq '
    ([.culprits[].total_ns] | add) as $all |
    ([.culprits[] | select(.kind != "exit" and (.name | test("^0x|^thread ") | not)) | .total_ns] | add) >= 0.99 * $all' \
    "$work/json")"
equal 'and of the interruptions' true "$(jq '
    ([.culprits[].times] | add) as $all |
    ([.culprits[] | select(.kind != "exit" and (.name | test("^0x|^thread ") | not)) | .times] | add) >= 0.99 * $all' \
    "$work/json")"
equal 'and nothing but what is known to be unseen is missing' 2 "$(jq '.unseen | length' "$work/json")"
check 'the threads of the load are not among them' test "$(by program stress-ng)" -eq 0
rmdir $trace
pkill -KILL '^stress-ng'
check 'no trace is left' no_trace
equal 'and the highest level is earned' '5 null' "$(level)"
table 100 'cpus = "5"' 'profile = "low-latency"' '[power]' 'max-idle-latency = "5us"'
pin-hook apply 100 > /dev/null 2>&1
equal 'until the table changes' '4 pin-hook measure 100, for 10 s or longer' "$(level)"

# --- Who disturbs is named, with what helps ----------------------------------------------------

work_there() { echo 2000 > $tracing/instances/other/per_cpu/cpu5/buffer_size_kb; echo 1400 > $tracing/instances/other/per_cpu/cpu5/buffer_size_kb; }

mkdir $tracing/instances/other
during work_there
rmdir $tracing/instances/other
check 'work of the kernel on a CPU is named by its function' test "$(by work update_pages_handler)" -gt 0
equal 'and by what ends it' 'another tracer runs on these cpus: stop it' "$(help work update_pages_handler)"

modprobe msr
during bash -c 'for n in 1 2 3 4 5 6 7 8; do dd if=/dev/cpu/5/msr of=/dev/null bs=8 count=1 skip=2 iflag=skip_bytes; done'
check 'a call from another CPU is named by its function' test "$(by call __rdmsr_safe_on_cpu)" -gt 0
check 'with the program that asked for it' eval 'jq -e ".culprits[] | select(.kind == \"call\") | .asked_by[] | select(.[0] | startswith(\"dd\") or startswith(\"thread\"))" "$work/json"'

serial=$(awk -F: '/ttyS0/ { print $1 + 0; exit }' /proc/interrupts)
before=$(cat "/proc/irq/$serial/smp_affinity_list")
storm() { echo 5 > "/proc/irq/$serial/smp_affinity_list"; head -c 3000 /dev/zero | tr '\0' '\n' > /dev/ttyS0; }
during storm
check 'an interrupt that was steered there is named by its device' test "$(by interrupt "irq $serial (ttyS0)")" -gt 0
check 'with the key that keeps it off' eval '[[ $(help interrupt irq) = *"irqs = true"* ]]'
pin-hook apply 100 > /dev/null 2>&1
equal 'which it does' "$before" "$(cat "/proc/irq/$serial/smp_affinity_list")"
during eval 'head -c 3000 /dev/zero | tr "\0" "\n" > /dev/ttyS0'
equal 'and it comes no more' 0 "$(by interrupt "irq $serial (ttyS0)")"

qm stop 100 > /dev/null 2>&1
check 'no trace is left' no_trace
